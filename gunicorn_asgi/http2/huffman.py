"""Pure: strings in the Huffman code (RFC 7541, 5.2 and appendix B), decoded a byte at a time.

The code comes from the hpack package. Its own function reads half a byte at a time, and takes twice
as long for a path.
"""

from __future__ import annotations

from hpack import HPACKError
from hpack.huffman_table import HUFFMAN_COMPLETE, HUFFMAN_EMIT_SYMBOL, HUFFMAN_FAIL, HUFFMAN_TABLE

HALVES = 16
STATES = len(HUFFMAN_TABLE) // HALVES
"""States of hpack's machine: the bits read of the next symbol."""
FAILED_STATE = STATES * 256
"""An additional state, for invalid input; no byte leads out of it."""


def _whole_bytes() -> tuple[list[int], list[bytes], frozenset[int]]:
    """Three tables: the next state and the completed symbols, both by state and byte; and the
    states in which a string may end.

    A state is 256 times its number, so that state and byte together are an index.
    """
    # Shared by all entries: other int objects would take four times the memory.
    states = [state * 256 for state in range(STATES)]
    following: list[int] = []
    symbols: list[bytes] = []
    ends = {0}
    texts: dict[tuple[int, ...], bytes] = {}
    rows = [HUFFMAN_TABLE[start : start + HALVES] for start in range(0, len(HUFFMAN_TABLE), HALVES)]
    for row in rows:
        for middle, flags, symbol in row:
            if flags & HUFFMAN_FAIL:
                following += [FAILED_STATE] * HALVES
                symbols += [b""] * HALVES
                continue
            begun = (symbol,) if flags & HUFFMAN_EMIT_SYMBOL else ()
            for state, last_flags, last in rows[middle]:
                failed = last_flags & HUFFMAN_FAIL
                following.append(FAILED_STATE if failed else states[state])
                text = (*begun, last) if last_flags & HUFFMAN_EMIT_SYMBOL else begun
                symbols.append(b"" if failed else texts.setdefault(text, bytes(text)))
                if last_flags & HUFFMAN_COMPLETE:
                    ends.add(states[state])
    following += [FAILED_STATE] * 256
    symbols += [b""] * 256
    return following, symbols, frozenset(ends)


_FOLLOWING, _SYMBOLS, _ENDS = _whole_bytes()


def decode(text: bytes) -> bytes:
    """Decode `text`. Raises HPACKError where it, or its padding, is invalid."""
    following, symbols = _FOLLOWING, _SYMBOLS
    decoded = bytearray()
    state = 0
    for byte in text:
        place = state | byte
        decoded += symbols[place]
        state = following[place]
    if state not in _ENDS:
        raise HPACKError("a string that is not Huffman-coded")
    return bytes(decoded)

"""Pure: strings in the Huffman code (RFC 7541, 5.2 and appendix B), read a byte at a time.

The code is that of the hpack package, whose own function takes half a byte at a time, and twice as long for a path.
"""

from __future__ import annotations

from hpack import HPACKError
from hpack.huffman_table import HUFFMAN_COMPLETE, HUFFMAN_EMIT_SYMBOL, HUFFMAN_FAIL, HUFFMAN_TABLE

HALVES = 16
STATES = len(HUFFMAN_TABLE) // HALVES
"""Of hpack's machine: which bits of the next symbol have been read."""
FAILED = STATES * 256
"""Another one, that nothing leads out of."""


def _whole_bytes() -> tuple[list[int], list[bytes], frozenset[int]]:
    """By state and byte: the next state, and the symbols that are complete then; and the states in which a string may end.

    A state is 256 times its number, so that state and byte together are an index.
    """
    states = [
        state * 256 for state in range(STATES)
    ]  # shared by all entries: a table of other numbers would take four times the memory
    following: list[int] = []
    symbols: list[bytes] = []
    ends = {0}
    texts: dict[tuple[int, ...], bytes] = {}
    rows = [HUFFMAN_TABLE[start : start + HALVES] for start in range(0, len(HUFFMAN_TABLE), HALVES)]
    for row in rows:
        for middle, flags, symbol in row:
            if flags & HUFFMAN_FAIL:
                following += [FAILED] * HALVES
                symbols += [b""] * HALVES
                continue
            begun = (symbol,) if flags & HUFFMAN_EMIT_SYMBOL else ()
            for state, last_flags, last in rows[middle]:
                failed = last_flags & HUFFMAN_FAIL
                following.append(FAILED if failed else states[state])
                text = (*begun, last) if last_flags & HUFFMAN_EMIT_SYMBOL else begun
                symbols.append(b"" if failed else texts.setdefault(text, bytes(text)))
                if last_flags & HUFFMAN_COMPLETE:
                    ends.add(states[state])
    following += [FAILED] * 256
    symbols += [b""] * 256
    return following, symbols, frozenset(ends)


_FOLLOWING, _SYMBOLS, _ENDS = _whole_bytes()


def decode(text: bytes) -> bytes:
    """What `text` stands for. Raises HPACKError where that is no string, or its padding is none."""
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

"""Pure: strings in the Huffman code (RFC 7541, 5.2 and appendix B), decoded a byte at a time.

The code comes from the hpack package. Its own function reads half a byte at a time, and takes twice
as long for a path.
"""

from __future__ import annotations

from typing import Any

from hpack import HPACKError
from hpack.huffman_table import HUFFMAN_COMPLETE, HUFFMAN_EMIT_SYMBOL, HUFFMAN_FAIL, HUFFMAN_TABLE

HALVES = 16

State = tuple[list[bytes], list[Any]]
"""The bits read of the next symbol. Two lists by the next byte: the symbols that it completes, and
the state after it."""


def _whole_bytes() -> tuple[State, set[int]]:
    """The first state, which leads to all others, and the ids of those where strings may end."""
    rows = [HUFFMAN_TABLE[start : start + HALVES] for start in range(0, len(HUFFMAN_TABLE), HALVES)]
    states: list[State] = [([], []) for _ in rows]
    # An additional state, for invalid input; no byte leads out of it.
    failed: State = [b""] * 256, []
    failed[1].extend([failed] * 256)
    ends = {id(states[0])}
    texts: dict[tuple[int, ...], bytes] = {}  # equal symbols are the same object
    for row, (symbols, following) in zip(rows, states, strict=True):
        for middle, flags, symbol in row:
            begun = (symbol,) if flags & HUFFMAN_EMIT_SYMBOL else ()
            for state, last_flags, last in rows[middle]:
                if (flags | last_flags) & HUFFMAN_FAIL:
                    symbols.append(b"")
                    following.append(failed)
                    continue
                text = (*begun, last) if last_flags & HUFFMAN_EMIT_SYMBOL else begun
                symbols.append(texts.setdefault(text, bytes(text)))
                following.append(states[state])
                if last_flags & HUFFMAN_COMPLETE:
                    ends.add(id(states[state]))
    return states[0], ends


_START, _ENDS = _whole_bytes()


def decode(text: bytes) -> bytes:
    """Decode `text`. Raises HPACKError where it, or its padding, is invalid."""
    state = _START
    decoded: list[bytes] = []
    for byte in text:
        symbols, following = state
        decoded.append(symbols[byte])
        state = following[byte]
    if id(state) not in _ENDS:
        raise HPACKError("a string that is not Huffman-coded")
    return b"".join(decoded)

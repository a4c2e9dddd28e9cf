"""The Huffman code (`gunicorn_asgi.http2.huffman`; RFC 7541, 5.2 and appendix B), beside hpack's own."""

from __future__ import annotations

import hpack
import pytest
from conftest import examples
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import each

from gunicorn_asgi.http2.huffman import decode

ENCODER = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


def outcome(function: object, text: bytes) -> bytes | None:
    """None for what is no string."""
    assert callable(function)
    try:
        return bytes(function(text))
    except hpack.HPACKError:
        return None


# RFC 7541, C.4 and C.6.
@pytest.mark.parametrize(
    ("coded", "text"),
    [
        ("f1e3c2e5f23a6ba0ab90f4ff", b"www.example.com"),
        ("a8eb10649cbf", b"no-cache"),
        ("25a849e95ba97d7f", b"custom-key"),
        ("9d29ad171863c78f0b97c8e9ae82ae43d3", b"https://www.example.com"),
        ("", b""),
    ],
)
def test_the_examples_of_the_rfc_are_read(coded: str, text: bytes) -> None:
    assert decode(bytes.fromhex(coded)) == text


def test_any_two_bytes_are_what_hpack_takes_them_for() -> None:
    """Each state that one byte leads to, with each byte that may follow."""
    texts = [number.to_bytes(2, "big") for number in range(1 << 16)]
    assert [outcome(decode, text) for text in texts] == [
        outcome(decode_huffman, text) for text in texts
    ]


@settings(max_examples=examples(300), deadline=None)
@given(
    st.one_of(
        st.binary(max_size=40),
        st.tuples(
            st.binary(max_size=40).map(ENCODER.encode), st.sampled_from([b"", b"\xff", b"\0"])
        ).map(b"".join),
    )
)
def test_any_bytes_are_what_hpack_takes_them_for(text: bytes) -> None:
    assert outcome(decode, text) == outcome(decode_huffman, text)


@each("byte", range(256))
def test_every_symbol_is_read_wherever_it_begins(byte: int) -> None:
    """Behind up to seven symbols of five bits each, which shift it through the byte."""
    for shift in range(8):
        text = b"a" * shift + bytes([byte]) + b"a"
        assert decode(ENCODER.encode(text)) == text

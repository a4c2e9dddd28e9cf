"""Field blocks as functions: RFC 9113, 4.3 and 8.2; RFC 7541; docs/asgi.md, 52 to 57. hpack reads what is written here, and writes what is read."""

from __future__ import annotations

import contextlib
from typing import Any

import hpack
import pytest
from conftest import examples
from costs import are_kept, living
from h2raw import integer, literal
from hpack.hpack import encode_integer
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import INVALID_FIELDS, each

from gunicorn_asgi.errors import ApplicationError
from gunicorn_asgi.http.fields import DATE, SERVER
from gunicorn_asgi.http2 import blocks, literals
from gunicorn_asgi.http2.blocks import (
    ENTRY_SIZE,
    LEAST_MAX_FIELDS,
    MAX_MEMO,
    TOLERANCE,
    Block,
    BlockReader,
)
from gunicorn_asgi.http2.frames import ConnectionFailure, ErrorCode
from gunicorn_asgi.http2.literals import (
    STATUS_FIELDS,
    TABLE_SIZE_0,
    encode_defaults,
    encode_fields,
    encode_length,
)

Header = tuple[bytes, bytes]
MAX_LIST = 65536


def decode(block: bytes) -> list[Header]:
    """What hpack makes of it, which must not have changed a table by it."""
    decoder = hpack.Decoder()
    found = [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    assert len(decoder.header_table.dynamic_entries) == 0
    return found


# Writing.


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], []),
        ((), []),
        ([(b"a", b"b")], [(b"a", b"b")]),
        ([[b"a", b"b"]], [(b"a", b"b")]),
        (((b"a", b"b"), (b"c", b"")), [(b"a", b"b"), (b"c", b"")]),
        ([(b"X-Caps", b"Kept")], [(b"x-caps", b"Kept")]),
        ([(b"a", b"\xe9\x80\xff \t b")], [(b"a", b"\xe9\x80\xff \t b")]),
        ([(b"a", b" \tb\t ")], [(b"a", b"b")]),
        ([(b"a", b" \t ")], [(b"a", b"")]),
        ([(b"set-cookie", b"a"), (b"x", b"y"), (b"set-cookie", b"b")], [(b"set-cookie", b"a"), (b"x", b"y"), (b"set-cookie", b"b")]),
        ([(b"!#$%&'*+-.^_`|~", b"x")], [(b"!#$%&'*+-.^_`|~", b"x")]),
        ([(b"a", bytearray(b"b"))], [(b"a", b"b")]),
        ([(b"a", memoryview(b"b"))], [(b"a", b"b")]),
        ([(b"a", memoryview(bytearray(b"b")))], [(b"a", b"b")]),
        ([(b"a", memoryview(b"abcd").cast("I"))], [(b"a", b"abcd")]),
        ([(b"Content-Type", b"text/html"), (b"CACHE-control", b"no-store")], [(b"content-type", b"text/html"), (b"cache-control", b"no-store")]),
    ],
)  # fmt: skip
def test_fields_are_literals_in_their_order(headers: Any, expected: list[Header]) -> None:
    """docs/asgi.md, 54. RFC 9113, 8.2: names in lower case; 8.2.1: no white space around values."""
    for given_headers in (headers, iter(headers), headers):
        block, length, found = encode_fields(given_headers)
        assert decode(block) == expected
        assert (length, found) == (-1, 0)


@pytest.mark.parametrize(
    ("headers", "expected", "length", "found"),
    [
        ([(b"date", b"x")], [(b"date", b"x")], -1, DATE),
        ([(b"Server", b"x")], [(b"server", b"x")], -1, SERVER),
        ([(b"DATE", b"x"), (b"server", b"y")], [(b"date", b"x"), (b"server", b"y")], -1, DATE | SERVER),
        ([(b"content-length", b"0")], [], 0, 0),
        ([(b"Content-Length", b"12")], [], 12, 0),
        ([(b"content-length", bytearray(b"12"))], [], 12, 0),
        ([(b"content-length", b"5"), (b"a", b"b"), (b"Content-Length", b"5")], [(b"a", b"b")], 5, 0),
        ([(b"content-length", b"5"), (b"content-length", b"05")], [], 5, 0),
        # RFC 9113, 8.2.2: what belongs to a connection of HTTP/1.1.
        ([(b"transfer-encoding", b"chunked")], [], -1, 0),
        ([(b"Connection", b"close")], [], -1, 0),
        ([(b"Keep-Alive", b"timeout=5"), (b"a", b"b")], [(b"a", b"b")], -1, 0),
        ([(b"proxy-connection", b"close"), (b"upgrade", b"h2c")], [], -1, 0),
        ([(b"a", b"b"), (b"connection", bytearray(b"close"))], [(b"a", b"b")], -1, 0),
        ([(b"TE", b"trailers")], [], -1, 0),
    ],
)  # fmt: skip
def test_what_means_something(
    headers: Any, expected: list[Header], length: int, found: int
) -> None:
    """docs/asgi.md, 56, 72 and 73: the length is told apart, and nothing of a connection."""
    for _ in range(2):
        block, *rest = encode_fields(headers)
        assert decode(block) == expected
        assert rest == [length, found]


@each("headers", INVALID_FIELDS)
@pytest.mark.parametrize("before", [False, True], ids=["first", "second"])
def test_invalid_fields_raise_as_in_http_1(headers: Any, before: bool) -> None:
    """docs/asgi.md, 11 and 55. Twice, for what was seen once must not pass for checked."""
    if before and isinstance(headers, list):
        headers = [(b"x", b"y"), *headers]
    for _ in range(2):
        with pytest.raises(ApplicationError):
            encode_fields(headers)
    if isinstance(headers, (list, dict)):
        with pytest.raises(ApplicationError):
            encode_fields(field for field in headers)


@pytest.mark.parametrize("name", [b"connection", b"transfer-encoding", b"upgrade", b"keep-alive"])
def test_a_field_that_is_left_out_is_checked_all_the_same(name: bytes) -> None:
    """As strict as it can be without breaking an application that sends these over HTTP/1.1."""
    for value in (b"a\nb", "str", 1):
        with pytest.raises(ApplicationError):
            encode_fields([(name, value)])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ([(b"x", b"y"), ("Content-Type", b"b")], ["name", "str", "'Content-Type'"]),
        ([(b"x", b"y"), (b"a", "value")], ["value", "str", "'value'"]),
        ([(b"x", b"y"), (b"bad name", b"b")], ["name", "b'bad name'"]),
        ([(b"x", b"y"), (b"location", b"/\r\nfoo")], ["b'location'", "control", r"b'/\r\nfoo'"]),
        ([(b"content-length", b"5x")], ["content-length", "b'5x'"]),
        ([(b"content-length", b"5"), (b"content-length", b"6")], ["content-length", "5", "6"]),
    ],
)
def test_the_error_names_the_field(headers: Any, words: list[str]) -> None:
    with pytest.raises(ApplicationError) as caught:
        encode_fields(headers)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "name", [b"set-cookie", b"authorization", b"proxy-authorization", b"Set-Cookie"]
)
def test_what_is_secret_is_never_indexed_and_never_kept(name: bytes) -> None:
    """RFC 7541, 6.2.3 and 7.1.3."""
    block, _, _ = encode_fields([(name, b"secret")])
    assert block[0] & 0xF0 == 0x10
    (field,) = hpack.Decoder().decode(block, raw=True)
    assert isinstance(field, hpack.NeverIndexedHeaderTuple)
    secrets = [b"secret %d" % number for number in range(2)]
    for number in range(2):
        encode_fields([(name, secrets[number])])
    assert are_kept(secrets) == [False, False]
    assert encode_fields([(b"x-plain", b"a")])[0][0] & 0xF0 == 0


def test_a_value_that_may_change_is_read_each_time() -> None:
    value = bytearray(b"a")
    view = memoryview(value).toreadonly()
    shared = [b"x-name", b"a"]
    for letter in b"abc":
        value[0] = letter
        shared[1] = bytes((letter,))
        for field in ((b"x-changing", value), (b"x-changing", view), shared):
            assert decode(encode_fields([field])[0])[0][1] == bytes((letter,))  # type: ignore[list-item]
    value[0] = 10
    with pytest.raises(ApplicationError):
        encode_fields([(b"x-changing", value)])


def test_short_fields_are_remembered_up_to_a_number() -> None:
    """2048 fields of at most 256 bytes, so that their memory has a bound."""
    values = [b"%05d" % number for number in range(5000)]
    for index in range(len(values)):
        encode_fields([(b"x-many", values[index])])
    kept = are_kept(values)
    assert kept[-1]
    assert sum(kept) <= 2048
    # All are forgotten at once. So this number is reached where there is one for each row.
    encode_fields((b"x-%d" % number, b"a") for number in range(2048))
    values = [b"v" * size for size in (255, 256)]
    for index in range(len(values)):
        encode_fields([(b"y", values[index])])
    assert are_kept(values) == [True, False]


def test_names_are_remembered_up_to_a_number() -> None:
    names = [b"x-name-%05d" % number for number in range(5000)]
    for index in range(len(names)):
        encode_fields([(names[index], b"v" * 300)])
    assert sum(are_kept(names)) <= 1024


ANY = st.binary(max_size=12) | st.sampled_from(
    [
        b"connection",
        b"date",
        b"content-length",
        b"a",
        b"5",
        b"05",
        b"close",
        b"x\r\ny: z",
        b"\n",
        b"set-cookie",
        b"Te",
        b" a ",
        b":path",
    ]
)
LONG = st.sampled_from([126, 127, 128, 254, 255, 256, 20000]).map(lambda size: b"v" * size)


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(st.tuples(ANY, ANY | LONG), max_size=5))
def test_every_block_is_read_as_the_fields_that_are_in_it(headers: list[Header]) -> None:
    try:
        block, length, _ = encode_fields(headers)
    except ApplicationError:
        return
    expected = [(name.lower(), value.strip(b" \t")) for name, value in headers]
    expected = [field for field in expected if field[0] not in blocks.CONNECTION_SPECIFIC | {b"te"}]
    kept = []
    for field in expected:
        if field[0] == b"content-length":
            assert int(field[1]) == length  # and whoever writes the head adds it
            continue
        kept.append(field)
    assert decode(block) == kept


@pytest.mark.parametrize(
    "size", [0, 1, 126, 127, 127 + 127, 127 + 128, 127 + 2**14 - 1, 127 + 2**14]
)
def test_lengths_are_the_integers_of_the_package(size: int) -> None:
    """RFC 7541, 5.1, in a prefix of 7 bits."""
    block, _, _ = encode_fields([(b"x-size", b"v" * size)])
    assert block == b"\0\6x-size" + bytes(encode_integer(size, 7)) + b"v" * size


@pytest.mark.parametrize("name", [name for name in literals.NAMES if name[:1] != b":"])
def test_rows_are_the_integers_of_the_package(name: bytes) -> None:
    """RFC 7541, 5.1, in a prefix of 4 bits."""
    block = encode_defaults(((name, b"v"),))
    row = encode_integer(literals.NAMES[name], 4)
    row[0] |= 0x10 if name in literals.NEVER_INDEXED else 0
    assert block == bytes(row) + b"\1v"


def test_every_status_from_100_to_999_has_a_field() -> None:
    """docs/asgi.md, 74; RFC 9113, 8.3.2."""
    assert sorted(STATUS_FIELDS) == list(range(100, 1000))
    for status, block in STATUS_FIELDS.items():
        assert decode(block) == [(b":status", b"%d" % status)]
    assert STATUS_FIELDS[200] == b"\x88"  # RFC 7541, C.6.2 has it so


def test_the_first_block_makes_the_table_small_for_good() -> None:
    """RFC 7541, 4.2 and 6.3: whatever SETTINGS_HEADER_TABLE_SIZE a client has, or changes to."""
    decoder = hpack.Decoder()
    decoder.max_allowed_table_size = 0
    assert [
        tuple(field) for field in decoder.decode(TABLE_SIZE_0 + STATUS_FIELDS[200], raw=True)
    ] == [(b":status", b"200")]
    assert decoder.header_table_size == 0


def test_the_servers_own_fields() -> None:
    defaults = ((b"date", b"now"), (b"server", b"gunicorn"))
    assert decode(encode_defaults(defaults)) == list(defaults)
    assert decode(encode_length(0) + encode_length(12345)) == [
        (b"content-length", b"0"),
        (b"content-length", b"12345"),
    ]


# Reading.


def failure(reader: BlockReader, block: bytes) -> ErrorCode:
    with pytest.raises(ConnectionFailure) as caught:
        reader.read(block)
    return caught.value.code


REQUEST = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":path", b"/"),
    (b":authority", b"a"),
    (b"x-custom", b"y"),
    (b"cookie", b"a=b"),
]


def test_the_size_of_a_list_is_the_one_of_the_setting() -> None:
    """RFC 9113, 6.5.2: with 32 bytes more for each field."""
    block = BlockReader(MAX_LIST).read(hpack.Encoder().encode(REQUEST))
    assert block.fields == REQUEST
    assert all(
        type(field) is tuple and type(field[0]) is bytes is type(field[1]) for field in block.fields
    )
    assert block.size == sum(len(name) + len(value) + 32 for name, value in REQUEST)
    assert BlockReader(MAX_LIST).read(b"").fields == []


def test_equal_bytes_are_the_same_block_while_the_table_is_the_same() -> None:
    encoder, reader = hpack.Encoder(), BlockReader(MAX_LIST)
    first = encoder.encode(REQUEST)
    second = encoder.encode(REQUEST)
    reader.read(first)  # has changed the table
    block = reader.read(second)
    assert reader.read(second) is block
    assert block.fields == REQUEST
    # The index of x-custom moves when something is put before it.
    reader.read(encoder.encode([(b"x-new", b"z")]))
    assert reader.read(second) is not block
    moved = reader.read(second)
    assert moved.fields != REQUEST


BEFORE = b"\x82\x87\x04"
"""GET, https, and a :path whose value follows (RFC 7541, 6.2.2)."""


def test_where_only_the_path_is_another_the_other_fields_are_the_same_ones() -> None:
    reader = BlockReader(MAX_LIST)
    others = ((b":method", b"GET"), (b":scheme", b"https"), (b"x", b"y"))
    first = reader.read(BEFORE + b"\x02/a" + literal(b"x", b"y"))
    second = reader.read(BEFORE + b"\x04/bcd" + literal(b"x", b"y"))
    assert second.others is first.others
    assert second.others.fields == others
    assert second.fields == [*others[:2], (b":path", b"/bcd"), others[2]]
    assert second.size == first.size + 2
    assert first.fields == [*others[:2], (b":path", b"/a"), others[2]]
    # What stands behind or before it is another: read anew.
    assert reader.read(BEFORE + b"\x02/a" + literal(b"x", b"z")).fields[3] == (b"x", b"z")
    assert reader.read(b"\x83" + BEFORE[1:] + b"\x02/a" + literal(b"x", b"y")).fields[0] == (
        b":method",
        b"POST",
    )


def test_another_path_is_read_anew_where_the_table_is_another() -> None:
    reader = BlockReader(MAX_LIST)
    reader.read(b"\x40\x01a\x01b")
    assert reader.read(BEFORE + b"\x02/a\xbe").fields[3] == (b"a", b"b")
    reader.read(b"\x40\x01c\x01d")
    assert reader.read(BEFORE + b"\x02/b\xbe").fields[3] == (b"c", b"d")


@pytest.mark.parametrize(
    "path",
    [b"", b"\x05/b", b"\xff", b"\xff\xff\xff\xff\xff\xff", b"\x81\x00"],
    ids=["none", "short", "integer", "long", "Huffman"],
)
def test_another_path_that_cannot_be_read_ends_the_connection(path: bytes) -> None:
    reader = BlockReader(MAX_LIST)
    reader.read(BEFORE + b"\x02/a")
    assert failure(reader, BEFORE + path) is ErrorCode.COMPRESSION_ERROR


def test_another_path_does_not_get_around_the_bound_of_a_list() -> None:
    reader = BlockReader(100)
    reader.read(BEFORE + b"\x02/a")
    size = reader.read(BEFORE + b"\x04/bcd").size
    within = 100 * TOLERANCE - size + 4
    assert reader.read(BEFORE + integer(within, 7) + b"/" * within).size == 100 * TOLERANCE
    assert (
        failure(reader, BEFORE + integer(within + 1, 7) + b"/" * (within + 1))
        is ErrorCode.ENHANCE_YOUR_CALM
    )


@pytest.mark.parametrize(
    "second",
    [b"\x04\x02/b", b"\x84", b"\x40\x05:path\x02/b"],
    ids=["literal", "static", "for the table"],
)
@pytest.mark.parametrize(
    "first",
    [b"\x04\x02/a", b"\x84", b"\x40\x05:path\x02/a"],
    ids=["literal", "static", "for the table"],
)
def test_the_first_of_two_paths_is_the_one_that_stands_apart(first: bytes, second: bytes) -> None:
    """Whoever reads the fields refuses both; here they must not be mixed up."""
    reader, plain = BlockReader(MAX_LIST), hpack.Decoder()
    for block in (
        first + second,
        first + second,
        first.replace(b"/a", b"/c") + second,
        first + second.replace(b"/b", b"/c"),
    ):
        assert reader.read(block).fields == plain.decode(block, raw=True)
        assert reader.read(block).others.place == 0
        plain.decode(block)


def test_a_block_that_changes_the_table_is_read_each_time() -> None:
    reader = BlockReader(MAX_LIST)
    adds = b"\x40\x01a\x01b"  # RFC 7541, 6.2.1: with incremental indexing
    assert reader.read(b"\x82\x87").fields == reader.read(b"\x82\x87").fields
    assert reader.read(adds) is not reader.read(adds)
    assert reader.read(b"\xbe\xbf").fields == [(b"a", b"b")] * 2


def test_a_table_that_is_made_smaller_is_forgotten_too() -> None:
    """RFC 7541, 4.3 and 6.3."""
    reader = BlockReader(MAX_LIST)
    reader.read(b"\x40\x01a\x01b")
    assert reader.read(b"\xbe").fields == [(b"a", b"b")]
    reader.read(b"\x20\x82")
    assert failure(reader, b"\xbe") is ErrorCode.COMPRESSION_ERROR


def test_a_name_too_long_for_the_table_empties_it() -> None:
    """RFC 7541, 4.4: "an attempt to add an entry larger than the maximum size causes the table to be emptied"."""
    reader = BlockReader(MAX_LIST)
    reader.read(b"\x40\x01a\x01b")
    assert reader.read(b"\xbe").fields == [(b"a", b"b")]
    reader.read(b"\x40\x01a" + integer(5000, 7) + b"v" * 5000)
    assert failure(reader, b"\xbe") is ErrorCode.COMPRESSION_ERROR


def test_what_is_remembered_of_a_connection_has_a_bound() -> None:
    """Of blocks, of their bytes, and of what they stand for: one byte may be a field of 4 KB."""
    before = living(Block)
    reader = BlockReader(MAX_LIST)
    reader.read(b"\x40\x01a" + integer(4000, 7) + b"v" * 4000)
    for number in range(100):
        reader.read(b"\xbe" * (number % 50) + literal(b"x", b"%d" % number))
        reader.read(literal(b"y", bytes(2000) + b"%d" % number))
        reader.read(literal(b":path", b"/%d" % number) + literal(b"x", b"%d" % (number % 50)))
        reader.read(
            b"\x82" * (number % 10) + literal(b":path", b"/") + literal(b"x", b"%d" % number)
        )
    kept = living(Block, before)
    assert 0 < len(kept) <= MAX_MEMO + blocks.MAX_SIMILAR**2
    assert all(block.size <= blocks.MAX_MEMO_LIST for block in kept)


@pytest.mark.parametrize(
    ("block", "is_kept"),
    [
        (literal(b"x", b"v" * 1018), True),
        (literal(b"x", b"v" * 1019), False),
        (b"\x82" * 194 + b"\x87", True),
        (b"\x82" * 193 + b"\x86\x87", False),
    ],
    ids=["1024 bytes", "1025 bytes", "a list of 8192 bytes", "a list of 8193 bytes"],
)
def test_a_block_is_remembered_up_to_two_lengths(block: bytes, is_kept: bool) -> None:
    """Its own, and that of the list in it."""
    reader = BlockReader(MAX_LIST)
    read = reader.read(block)
    assert (reader.read(block) is read) == is_kept


def test_the_last_blocks_are_remembered_and_no_more_than_a_few() -> None:
    reader = BlockReader(MAX_LIST)
    several = [literal(b"x", b"%d" % number) for number in range(17)]
    read = [reader.read(block) for block in several[:16]]
    assert all(reader.read(block) is one for block, one in zip(several, read, strict=False))
    last = reader.read(several[16])
    assert reader.read(several[16]) is last
    assert not any(reader.read(block) is one for block, one in zip(several, read, strict=False))


def test_what_stands_around_a_path_is_remembered_for_a_few() -> None:
    """Of what stands before it as of what stands behind it."""
    for around in (lambda path, more: more + path, lambda path, more: path + more):
        for count in (4, 5):
            reader = BlockReader(MAX_LIST)
            more = [b"\x82" * number for number in range(1, count + 1)]
            first = [reader.read(around(b"\x04\x02/a", each)) for each in more]
            again = [reader.read(around(b"\x04\x02/b", each)) for each in reversed(more)]
            known = [
                one.others is other.others
                for one, other in zip(again, reversed(first), strict=True)
            ]
            assert known == ([True] * 4 if count == 4 else [True] + [False] * 4)


def test_every_row_of_a_long_table_is_read() -> None:
    """RFC 7541, 5.1 and 6.1: from 127 on, its number takes more than a byte."""
    reader = BlockReader(MAX_LIST)
    fields = [(b"a", b"%03d" % number) for number in range(100)]
    reader.read(b"".join(b"\x40\x01a\x03" + value for _, value in fields))
    for index, field in enumerate(reversed(fields), 62):
        block = bytes((0x80 | index,) if index < 127 else (0xFF, index - 127))
        assert reader.read(block).fields == [field]
        assert reader.read(block + b"\x82").fields == [field, (b":method", b"GET")]


BROKEN: dict[str, bytes] = {
    "index 0": b"\x80",
    "an index behind the tables": b"\xbe",
    "a name's index behind the tables": b"\x7e\x01a",
    "an integer without its end": b"\xff\x80",
    "an integer that is too long": b"\xff" + b"\x80" * 30 + b"\x01",
    "an integer that is too large": b"\x7f" + b"\xff" * 9 + b"\x01",
    "a name without its end": b"\x00\x05ab",
    "a value without its end": b"\x00\x01a\x05b",
    "no value": b"\x00\x01a",
    "Huffman: padding of more than 7 bits": b"\x00\x01a\x83\x1c\xff\xff",
    "Huffman: padding of zeros": b"\x00\x01a\x81\x00",
    "Huffman: EOS": b"\x00\x01a\x84\xff\xff\xff\xff",
    "a table above what was allowed": b"\x3f\xe2\x1f",
    "a table size behind a field": b"\x82\x20",
    "three table sizes": b"\x20\x21\x22\x82",
}


@pytest.mark.parametrize("block", BROKEN.values(), ids=BROKEN.keys())
def test_what_cannot_be_read_ends_the_connection(block: bytes) -> None:
    """RFC 9113, 4.3; RFC 7541, 2.3.3, 4.2, 5.1, 5.2 and 6.1."""
    assert failure(BlockReader(MAX_LIST), block) is ErrorCode.COMPRESSION_ERROR


def test_the_reason_is_short_however_long_the_block() -> None:
    """It goes into a GOAWAY, whose length the client limits, and into the log."""
    with pytest.raises(ConnectionFailure) as caught:
        BlockReader(MAX_LIST).read(b"\x7f" + b"\xff" * 10000)
    assert 0 < len(str(caught.value)) < 200


@pytest.mark.parametrize("size", [1, 100, 5000])
def test_a_list_may_be_somewhat_too_long_and_not_a_bomb(size: int) -> None:
    """RFC 9113, 10.5.1: what is read for the sake of the tables, and refused on its stream, has a bound, too."""
    bound = size * TOLERANCE or 0
    reader = BlockReader(size)
    within = max(0, bound - ENTRY_SIZE - 1)
    if bound >= ENTRY_SIZE + 1:
        assert reader.read(literal(b"x", b"v" * within)).size == bound
    if bound:
        assert (
            failure(reader, literal(b"x", b"v" * (within + 1 if bound >= ENTRY_SIZE else 100)))
            is ErrorCode.ENHANCE_YOUR_CALM
        )


def test_two_table_sizes_may_begin_a_block() -> None:
    """RFC 7541, 4.2: the smallest that the table had in between, and the last."""
    reader = BlockReader(MAX_LIST)
    assert reader.read(b"\x20\x3f\xe1\x1f\x82").fields == [(b":method", b"GET")]
    assert reader.read(b"\x20\x3f\xe1\x1f\x82").fields == [(b":method", b"GET")]


@pytest.mark.parametrize("size", [1, MAX_LIST, 100 * ENTRY_SIZE * LEAST_MAX_FIELDS])
def test_a_list_may_have_as_many_fields_as_an_accepted_list_can(size: int) -> None:
    """Also for a short one, so that a request is refused, and not its connection."""
    many = max(LEAST_MAX_FIELDS, size // ENTRY_SIZE)
    field = b"\0\0\0"  # of ENTRY_SIZE
    for within in (min(many, size * TOLERANCE // ENTRY_SIZE), many + 1):
        block = field * within
        if within <= many:
            assert len(BlockReader(size).read(block).fields) == within
        else:
            assert failure(BlockReader(size), block) is ErrorCode.ENHANCE_YOUR_CALM


def test_a_bomb_of_indices_is_not_read_to_its_end() -> None:
    """RFC 7541, 7.3, and CVE-2016-6581."""
    reader = BlockReader(MAX_LIST)
    reader.read(b"\x40\x01a" + integer(4000, 7) + b"v" * 4000)
    assert failure(reader, b"\xbe" * 16000) is ErrorCode.ENHANCE_YOUR_CALM


@settings(max_examples=examples(200), deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_fields_or_a_failure(block: bytes) -> None:
    reader = BlockReader(MAX_LIST)
    with contextlib.suppress(ConnectionFailure):
        reader.read(block)
        reader.read(block)


FIELDS = st.tuples(
    st.sampled_from([b":path", b"cookie", b"x-a", b"x-b", b"x-c", b"accept", b"authorization"]),
    st.sampled_from([b"", b"1", b"2", b"/", b"long" * 300, b"longer" * 300, b"*/*"]),
)


@settings(max_examples=examples(150), deadline=None)
@given(st.data(), st.sampled_from([4096, 4096, 0, 100, 2000]))
def test_a_connections_blocks_are_read_as_without_a_memo(
    data: st.DataObject, table_size: int
) -> None:
    """Over any blocks of an encoder that indexes, repeated at any time, with tables that are made smaller and larger."""
    encoder, plain, reader = hpack.Encoder(), hpack.Decoder(), BlockReader(MAX_LIST)
    encoder.header_table_size = table_size
    sent: list[bytes] = []
    for _ in range(data.draw(st.integers(1, 12))):
        what = data.draw(st.sampled_from(["new", "new", "again", "again", "again", "resize"]))
        if what == "resize":
            encoder.header_table_size = data.draw(st.sampled_from([0, 60, 4096]))
        if what == "again" and sent:
            block = data.draw(
                st.sampled_from(sent)
            )  # an encoder would not always, but a client may
        else:
            drawn = data.draw(st.lists(FIELDS, max_size=4))
            if data.draw(st.booleans()):  # as browsers have it
                path = data.draw(st.sampled_from([b"/", b"/a", b"/bc"]))
                drawn = [
                    (b":method", b"GET"),
                    hpack.NeverIndexedHeaderTuple(b":path", path),
                    *drawn[: data.draw(st.integers(0, 2))],
                ]
            block = encoder.encode(drawn, huffman=data.draw(st.booleans()))
            sent.append(block)
        try:
            expected: Any = [
                (bytes(name), bytes(value)) for name, value in plain.decode(block, raw=True)
            ]
        except hpack.HPACKError:
            failure(reader, block)
            return
        assert reader.read(block).fields == expected
    for row, entry in enumerate(plain.header_table.dynamic_entries, blocks.STATIC_ROWS + 1):
        assert reader.read(integer(row, 7, 0x80)).fields == [entry]

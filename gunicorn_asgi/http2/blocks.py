"""Pure: field blocks, read with the static table and the Huffman code of the hpack package, and written as literals (RFC 9113, 4.3; RFC 7541).

With `huffman`, the only room that knows the package. Its decoder is not used: it takes ten calls and some objects for a field that is one byte,
the number of its row. What is written here never refers to a table: an application sends the same few fields again and again, and the bytes of a
literal can be kept, while an index into the table of one connection cannot.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from hpack import HPACKError
from hpack.table import HeaderTable

from ..errors import ApplicationError
from ..http.contract import Header
from ..http.fields import (
    CODING,
    CONNECTION,
    DATE,
    LENGTH,
    SERVER,
    VISIBLE,
    check_name,
    contradict,
    explain,
    read_length,
)
from . import huffman
from .frames import Code, ConnectionFailure

if TYPE_CHECKING:
    from ..http.request import Request

ENTRY_SIZE = 32
"""What each field counts besides its bytes in the size of a list (RFC 9113, 6.5.2; RFC 7541, 4.1)."""
MAX_TABLE_SIZE = HeaderTable.DEFAULT_SIZE
"""SETTINGS_HEADER_TABLE_SIZE, of which nothing is said to the client."""
STATIC_ROWS = HeaderTable.STATIC_TABLE_LENGTH
TOLERANCE = 4
"""How many times the largest list that is answered may be read: it has to be, or the tables of the two sides would differ."""
MAX_INTEGER_BITS = 28
"""Behind the prefix of an integer. Whatever counts something here is smaller (RFC 7541, 5.1)."""
MAX_MEMO = 16
"""Blocks that are remembered for a connection."""
MAX_MEMO_SIZE = 1024
"""Bytes of the longest of them..."""
MAX_MEMO_LIST = 8192
"""...and of what it stands for, as ENTRY_SIZE counts: a byte may be a field of several thousand."""
MAX_ALIKE = 4
"""What may stand before a path, and how many things behind each of those, that are remembered."""


class Block:
    """A field block that has been read."""

    __slots__ = ("fields", "others", "place", "request", "size")

    def __init__(self, fields: list[Header], size: int, like: Block | None = None) -> None:
        """`like`: one with the same fields but for the value of the path."""
        self.fields = fields
        self.size = size
        """As SETTINGS_MAX_HEADER_LIST_SIZE counts it."""
        if like is None:
            self.place = _place_of_path(fields)
            """Of the first ``:path`` among the pseudo-header fields; -1 where there is none."""
            self.others = (
                (*fields[: self.place], *fields[self.place + 1 :])
                if self.place >= 0
                else tuple(fields)
            )
            """All fields but that one."""
        else:
            self.place, self.others = like.place, like.others
        self.request: Request | None = None
        """What it means, once that is known: room for whoever reads it."""

    def with_path(self, target: bytes) -> Block:
        """The same with the path `target`, where there is one."""
        place, fields = self.place, self.fields.copy()
        size = self.size + len(target) - len(fields[place][1])
        fields[place] = b":path", target
        return Block(fields, size, self)


def _place_of_path(fields: list[Header]) -> int:
    for place, (name, _) in enumerate(fields):
        if name == b":path":
            return place
        if name[:1] != b":":
            break
    return -1


class _Table:
    """The static and the dynamic table as one list (RFC 7541, 2.3.3), and how often that has changed."""

    __slots__ = ("_limit", "_size", "changes", "rows")

    def __init__(self) -> None:
        self.rows: list[Header] = list(HeaderTable.STATIC_TABLE)
        """What is at which index, the first one at 0 instead of 1."""
        self.changes = 0
        self._size = 0
        """Of the dynamic table, as 4.1 counts it."""
        self._limit = MAX_TABLE_SIZE

    def add(self, field: Header, size: int) -> None:
        """2.3.2: in front of the others. `size` is that of the entry."""
        self.rows.insert(STATIC_ROWS, field)
        self._size += size
        self._evict()

    def resize(self, limit: int) -> None:
        """4.3."""
        self._limit = limit
        self._evict()

    def _evict(self) -> None:
        """4.4: the oldest, down to a new one that is larger than the table."""
        self.changes += 1
        while self._size > self._limit:
            name, value = self.rows.pop()
            self._size -= len(name) + len(value) + ENTRY_SIZE


class BlockReader:
    """Reads the blocks of one connection in their order.

    A client repeats itself: where the table has not changed, equal bytes are equal fields, and the same Block is returned. And where only the
    path is another, written as a literal that is not for the table (as browsers, nghttp2 and so Node and curl do), only that is read.
    """

    __slots__ = ("_alike", "_max_size", "_memo", "_path", "_table")

    def __init__(self, max_list_size: int) -> None:
        """`max_list_size`: bytes of the largest list that is answered. One that is several times that long ends the connection."""
        self._max_size = max_list_size * TOLERANCE
        self._table = _Table()
        self._memo: dict[bytes, Block] = {}
        self._alike: dict[bytes, dict[bytes, Block]] = {}
        """By what stands before the value of the path, and by what stands behind it."""
        self._path: tuple[int, int, int] | None = None
        """Of the block that was read last: where the value of its path begins and ends, and which field that is."""

    def read(self, block: bytes) -> Block:
        """Raises ConnectionFailure."""
        found = self._memo.get(block)
        if found is not None:
            return found
        changes = self._table.changes
        try:
            read = self._read_alike(block) or self._decode(block)
        except (HPACKError, IndexError) as error:
            # 4.3: "A decoding error in a field block MUST be treated as a connection error of type COMPRESSION_ERROR."
            raise ConnectionFailure(
                Code.COMPRESSION_ERROR, f"a field block that cannot be read: {error}"
            ) from None
        if self._table.changes != changes:
            self._memo.clear()
            self._alike.clear()
        elif len(block) <= MAX_MEMO_SIZE and read.size <= MAX_MEMO_LIST:
            if len(self._memo) >= MAX_MEMO:
                self._memo.clear()
            self._memo[block] = read
            if self._path is not None and self._path[2] == read.place:
                self._remember_alike(block, read, *self._path)
        return read

    def _read_alike(self, block: bytes) -> Block | None:
        """Read what but for its path has been read before; None for anything else. Raises as `_decode` does."""
        self._path = None
        for before, known in self._alike.items():
            # At most one can be it: as long as the table is the same, equal bytes are the same fields.
            if block.startswith(before):
                length, position = _read_integer(block, len(before), 0x7F)
                like = known.get(block[position + length :])
                if like is None:
                    break
                read = like.with_path(_read_string(block, len(before))[0])
                self._check_size(read.size)
                return read
        return None

    def _remember_alike(self, block: bytes, read: Block, start: int, end: int, _place: int) -> None:
        before = block[:start]
        known = self._alike.get(before)
        if known is None:
            if len(self._alike) >= MAX_ALIKE:
                self._alike.clear()
            known = self._alike[before] = {}
        elif len(known) >= MAX_ALIKE:
            known.clear()
        known[block[end:]] = read

    def _check_size(self, size: int) -> None:
        if size > self._max_size:
            raise ConnectionFailure(Code.ENHANCE_YOUR_CALM, "a header list that is far too large")

    def _decode(self, block: bytes) -> Block:
        """Raises ConnectionFailure; HPACKError or IndexError for what is none, or ends in the midst of a field."""
        table = self._table
        rows = table.rows
        fields: list[Header] = []
        position = size = 0
        while position < len(block):
            first = block[position]
            if first & 0x80:  # RFC 7541, 6.1: a field of the table
                index = first & 0x7F
                position += 1
                if index == 0x7F:
                    index, position = _read_integer(block, position - 1, 0x7F)
                elif not index:
                    raise HPACKError("a field without a row")
                field = rows[index - 1]
            elif first & 0xE0 == 0x20:  # 6.3: the size of the table
                table_size, position = _read_integer(block, position, 0x1F)
                if fields or table_size > MAX_TABLE_SIZE:
                    raise HPACKError("a table size behind a field, or above the limit")  # 4.2
                table.resize(table_size)
                continue
            else:  # 6.2: a literal, for the table (6.2.1) or not
                is_for_table = first & 0x40
                index, position = _read_integer(block, position, 0x3F if is_for_table else 0x0F)
                if index:
                    name = rows[index - 1][0]
                else:
                    name, position = _read_string(block, position)
                start = position
                value, position = _read_string(block, start)
                field = name, value
                if is_for_table:
                    table.add(field, len(name) + len(value) + ENTRY_SIZE)
                elif name == b":path":
                    self._path = start, position, len(fields)
            fields.append(field)
            size += len(field[0]) + len(field[1]) + ENTRY_SIZE
            self._check_size(size)
        return Block(fields, size)


def _read_integer(block: bytes, position: int, most: int) -> tuple[int, int]:
    """RFC 7541, 5.1: the number whose prefix is the bits `most` of the byte at `position`, and the position behind it."""
    number = block[position] & most
    position += 1
    if number < most:
        return number, position
    for shift in range(0, MAX_INTEGER_BITS, 7):
        byte = block[position]
        position += 1
        number += (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise HPACKError("an integer that is too long")


def _read_string(block: bytes, position: int) -> tuple[bytes, int]:
    """RFC 7541, 5.2: the string at `position`, and the position behind it."""
    is_huffman = block[position] & 0x80
    length, start = _read_integer(block, position, 0x7F)
    end = start + length
    if end > len(block):
        raise HPACKError("a string that is not whole")
    text = block[start:end]
    return huffman.decode(text) if is_huffman else text, end


# Writing.

TABLE_SIZE_0 = b"\x20"
"""Begins the first block of a connection: no dynamic table is used, so that none has ever to be made smaller (RFC 7541, 4.2)."""
NAMES = {name: index for index, (name, _) in reversed(list(enumerate(HeaderTable.STATIC_TABLE, 1)))}
STATUSES = {
    int(value): index
    for index, (name, value) in enumerate(HeaderTable.STATIC_TABLE, 1)
    if name == b":status"
}
NEVER_INDEXED = frozenset({b"set-cookie", b"authorization", b"proxy-authorization"})
"""What nobody on the way may put into a table that others can probe (RFC 7541, 7.1.3)."""
CONNECTION_SPECIFIC = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
)
"""RFC 9113, 8.2.2."""

Head = tuple[bytes, int, int]
"""(block without status and length, ``content-length`` or -1, bit mask of DATE and SERVER)."""

_OMITTED = -2
_Known = tuple[bytes, int, int]
"""The same for one field; with _OMITTED as its length for one that is never sent."""
_FIELDS: dict[Header, _Known] = {}
"""Fields that were checked before."""
_MAX_FIELDS = 2048
_MAX_FIELD = 256
"""Bytes of the name and the value of the longest that is remembered."""


def _integer(number: int, bits: int, pattern: int) -> bytes:
    """RFC 7541, 5.1: `number` in a prefix of so many `bits`, behind `pattern`."""
    most = (1 << bits) - 1
    if number < most:
        return bytes((pattern | number,))
    encoded = bytearray((pattern | most,))
    number -= most
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _literal(name: bytes, value: bytes) -> bytes:
    """A field that nobody puts into a table (RFC 7541, 6.2.2 and 6.2.3)."""
    pattern = 0x10 if name in NEVER_INDEXED else 0
    index = NAMES.get(name)
    start = (
        _integer(index, 4, pattern)
        if index
        else bytes((pattern,)) + _integer(len(name), 7, 0) + name
    )
    return start + _integer(len(value), 7, 0) + value


STATUS_FIELDS = {
    status: bytes((0x80 | STATUSES[status],))
    if status in STATUSES
    else _literal(b":status", b"%d" % status)
    for status in range(100, 1000)
}


def encode_fields(headers: Iterable[Header]) -> Head:
    """The application's fields as literals, in their order.

    Left out are those of the connection, which HTTP/2 does not have, and the ``content-length``: whether that is sent depends on the status.
    Raises ApplicationError naming the field that is not valid.
    """
    parts = []
    length = -1
    found = 0
    try:
        for field in headers:
            try:
                known = _FIELDS.get(field) or _check(field)
            except (TypeError, ValueError):
                known = _check(
                    field
                )  # a list, or a view of bytes that may change: what has no hash
            literal, declared, kind = known
            if declared != -1:
                if declared != _OMITTED:
                    if length not in (-1, declared):
                        contradict(length, declared)
                    length = declared
                continue
            found |= kind
            parts.append(literal)
        return b"".join(parts), length, found
    except (TypeError, ValueError):
        explain(headers)


def _check(field: Any) -> _Known:
    """Check one field, and remember it if it is short. Raises TypeError or ValueError where it is no pair of bytes, or ApplicationError."""
    name, value = field
    kind = check_name(name)
    may_change = type(value) is not bytes or type(field) is not tuple
    if may_change:
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise TypeError
        value = bytes(value)
    if value.translate(None, VISIBLE):
        raise ApplicationError(f"the value of header {name!r} has a control character: {value!r}")
    name = name.lower()  # RFC 9113, 8.2
    known: _Known
    # 8.2.2: nothing of a connection; TE is the one that requests may have, and no response.
    if kind in (CONNECTION, CODING) or name in CONNECTION_SPECIFIC or name == b"te":
        known = b"", _OMITTED, 0
    elif kind == LENGTH:
        known = b"", read_length(value, -1), 0
    else:
        # 8.2.1: no white space around a value, which would change nothing in HTTP/1.1.
        known = _literal(name, value.strip(b" \t")), -1, kind if kind in (DATE, SERVER) else 0
    if len(name) + len(value) <= _MAX_FIELD and name not in NEVER_INDEXED and not may_change:
        if len(_FIELDS) >= _MAX_FIELDS:
            _FIELDS.clear()
        _FIELDS[field] = known
    return known


@lru_cache(maxsize=64)
def encode_defaults(headers: tuple[Header, ...]) -> bytes:
    """The server's own fields as literals."""
    return b"".join(_literal(name, value) for name, value in headers)


@lru_cache(maxsize=1024)
def encode_length(length: int) -> bytes:
    """A ``content-length`` as a literal."""
    return _literal(b"content-length", b"%d" % length)

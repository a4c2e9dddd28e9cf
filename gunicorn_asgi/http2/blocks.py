"""Pure: field blocks of a client, decoded (RFC 9113, 4.3; RFC 7541).

The static table and the Huffman code come from the hpack package; only this module and `huffman`
know it. Its decoder is not used: for a field of one byte, which is the number of a row, it takes
ten calls and some objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpack import HPACKError
from hpack.table import HeaderTable

from ..http.contract import Header
from . import huffman
from .frames import ConnectionFailure, ErrorCode

if TYPE_CHECKING:
    from ..http.request import Fields, Request

ENTRY_SIZE = 32
"""Bytes added to each field in the size of a list (RFC 9113, 6.5.2; RFC 7541, 4.1)."""
MAX_TABLE_SIZE = HeaderTable.DEFAULT_SIZE
"""SETTINGS_HEADER_TABLE_SIZE: the default, for we do not send the setting."""
STATIC_TABLE: tuple[Header, ...] = HeaderTable.STATIC_TABLE
STATIC_ROWS = HeaderTable.STATIC_TABLE_LENGTH
TOLERANCE = 4
"""A list may be so many times longer than the longest accepted list. It is decoded before the
request is refused, or the tables of the two sides would differ."""
LEAST_MAX_FIELDS = 1024
"""Fields that a list may have, however short the longest accepted list is. A list may also have as
many fields as an accepted list can. With more it ends the connection: they take long to decode."""
MAX_TABLE_SIZES = 2
"""Changes of the table's size in a block: the smallest size since the last block, and the last."""
MAX_INTEGER_BITS = 28
"""Bits of an integer after its prefix. All sizes and indices here are smaller (RFC 7541, 5.1)."""
CONNECTION_SPECIFIC = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
)
"""Fields of HTTP/1.1, forbidden in HTTP/2 (RFC 9113, 8.2.2)."""

# Memory of earlier blocks, for each connection.
MAX_MEMO = 16
"""Blocks."""
MAX_MEMO_SIZE = 1024
"""Bytes of the longest block..."""
MAX_MEMO_LIST = 8192
"""...and of its fields, as ENTRY_SIZE counts: a byte may be a field of several thousand."""
MAX_SIMILAR = 4
"""Beginnings of blocks before a path, and for each the ends of blocks after it."""


class OtherFields:
    """All fields of a block except its path. Blocks that differ only in their path share them."""

    __slots__ = ("fields", "meaning", "place")

    def __init__(self, fields: tuple[Header, ...], place: int) -> None:
        self.fields = fields
        self.place = place
        """The index of the first ``:path`` among the pseudo-header fields, or -1."""
        self.meaning: tuple[str, bytes, Fields] | None = None
        """See `request.RequestReader`, which sets it."""


class Block:
    """A decoded field block."""

    __slots__ = ("others", "request", "size", "target")

    def __init__(self, others: OtherFields, target: bytes, size: int) -> None:
        self.others = others
        self.target = target
        """The path, if ``others.place`` tells that there is one."""
        self.size = size
        """As SETTINGS_MAX_HEADER_LIST_SIZE counts it."""
        self.request: Request | None = None
        """The request made of the fields; set by the reader of requests."""

    @classmethod
    def of(cls, fields: list[Header], size: int) -> Block:
        """A block with these fields, in their order."""
        place = _place_of_path(fields)
        if place < 0:
            return cls(OtherFields(tuple(fields), place), b"", size)
        others = fields.copy()
        _, target = others.pop(place)
        return cls(OtherFields(tuple(others), place), target, size)

    @property
    def fields(self) -> list[Header]:
        """All fields in their order, in a new list."""
        place, fields = self.others.place, list(self.others.fields)
        if place >= 0:
            fields.insert(place, (b":path", self.target))
        return fields


def _place_of_path(fields: list[Header]) -> int:
    for place, (name, _) in enumerate(fields):
        if name == b":path":
            return place
        if not name.startswith(b":"):
            break
    return -1


class FieldTable:
    """The static and the dynamic table in a single list (RFC 7541, 2.3.3)."""

    __slots__ = ("_limit", "_size", "changes", "rows")

    def __init__(self) -> None:
        self.rows: list[Header] = list(STATIC_TABLE)
        """The fields by their index less 1."""
        self.changes = 0
        """How often the table has changed."""
        self._size = 0
        """The size of the dynamic table, as RFC 7541, 4.1 counts it."""
        self._limit = MAX_TABLE_SIZE

    def add(self, field: Header, size: int) -> None:
        """Add `field`, an entry of `size`, at the beginning of the dynamic table (2.3.2)."""
        self.rows.insert(STATIC_ROWS, field)
        self._size += size
        self._evict()

    def resize(self, limit: int) -> None:
        """Change the size of the dynamic table (4.3)."""
        self._limit = limit
        self._evict()

    def _evict(self) -> None:
        """Remove the oldest entries (4.4), even a new entry if it is larger than the table."""
        self.changes += 1
        while self._size > self._limit:
            name, value = self.rows.pop()
            self._size -= len(name) + len(value) + ENTRY_SIZE


class BlockReader:
    """Decodes the blocks of a connection in their order.

    Clients repeat themselves. As long as the table has not changed, equal bytes are equal fields,
    and the same Block is returned. Where only the path differs, only the path is decoded. It has to
    be a literal without indexing: browsers, curl and Node (nghttp2) send it so.
    """

    __slots__ = ("_max_fields", "_max_size", "_path", "memo", "similar", "table")

    def __init__(self, max_list_size: int) -> None:
        """`max_list_size`: bytes of the longest accepted list.

        A list of more than TOLERANCE times that size ends the connection.
        """
        self._max_size = max_list_size * TOLERANCE
        self._max_fields = max(LEAST_MAX_FIELDS, max_list_size // ENTRY_SIZE)
        self.table = FieldTable()
        self.memo: dict[bytes, Block] = {}
        """Decoded blocks by their bytes."""
        self.similar: dict[bytes, dict[bytes, Block]] = {}
        """The same by the bytes before the value of the path, then by the bytes after it."""
        self._path: tuple[int, int, int] | None = None
        """In the last block: where the value of the path begins and ends, and the field's index."""

    def read(self, block: bytes) -> Block:
        """Decode `block`. Raises ConnectionFailure."""
        found = self.memo.get(block)
        if found is not None:
            return found
        changes = self.table.changes
        try:
            read = self._read_similar(block) or self._decode(block)
        except (HPACKError, IndexError) as error:
            # 4.3: "A decoding error in a field block MUST be treated as a connection error of type
            # COMPRESSION_ERROR."
            raise ConnectionFailure(
                ErrorCode.COMPRESSION_ERROR, f"a field block that cannot be read: {error}"
            ) from None
        if self.table.changes != changes:
            self.memo.clear()
            self.similar.clear()
        elif len(block) <= MAX_MEMO_SIZE and read.size <= MAX_MEMO_LIST:
            memo = self.memo
            if len(memo) >= MAX_MEMO:
                memo.clear()
            memo[block] = read
            if self._path is not None and self._path[2] == read.others.place:
                self._remember_similar(block, read, *self._path)
        return read

    def _read_similar(self, block: bytes) -> Block | None:
        """Decode a block if it is known except for its path; otherwise return None.

        Raises as `_decode` does.
        """
        self._path = None
        for before, known in self.similar.items():
            # At most one can match: equal bytes are the same fields while the table is the same.
            if block.startswith(before):
                start = len(before)
                first = block[start]
                length, start = first & 0x7F, start + 1
                if length == 0x7F:
                    length, start = _read_integer(block, start - 1, 0x7F)
                end = start + length
                similar = known.get(block[end:])
                if similar is None or end > len(block):
                    break
                target = block[start:end]
                if first & 0x80:
                    target = huffman.decode(target)
                size = similar.size + len(target) - len(similar.target)
                if size > self._max_size:
                    raise _too_large()
                return Block(similar.others, target, size)
        return None

    def _remember_similar(
        self, block: bytes, read: Block, start: int, end: int, _place: int
    ) -> None:
        before = block[:start]
        known = self.similar.get(before)
        if known is None:
            if len(self.similar) >= MAX_SIMILAR:
                self.similar.clear()
            known = self.similar[before] = {}
        elif len(known) >= MAX_SIMILAR:
            known.clear()
        known[block[end:]] = read

    def _decode(self, block: bytes) -> Block:
        """Decode any block.

        Raises ConnectionFailure for its size; HPACKError, or IndexError where it ends too early.
        """
        table = self.table
        rows, max_size = table.rows, self._max_size
        fields: list[Header] = []
        position = size = table_sizes = 0
        end, fields_left = len(block), self._max_fields
        while position < end:
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
                table_sizes += 1
                if fields or table_size > MAX_TABLE_SIZE or table_sizes > MAX_TABLE_SIZES:
                    # 4.2
                    raise HPACKError("a table size after a field or two others, or above the limit")
                table.resize(table_size)
                continue
            else:  # 6.2: a literal, which goes into the table (6.2.1) or not
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
            fields_left -= 1
            if size > max_size or fields_left < 0:
                raise _too_large()
        return Block.of(fields, size)


def _too_large() -> ConnectionFailure:
    return ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, "a header list that is far too large")


def _read_integer(block: bytes, position: int, mask: int) -> tuple[int, int]:
    """The integer at `position`, and the position after it (RFC 7541, 5.1).

    `mask`: the bits of its prefix.
    """
    number = block[position] & mask
    position += 1
    if number < mask:
        return number, position
    for shift in range(0, MAX_INTEGER_BITS, 7):
        byte = block[position]
        position += 1
        number += (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise HPACKError("an integer that is too long")


def _read_string(block: bytes, position: int) -> tuple[bytes, int]:
    """The string at `position`, and the position after it (RFC 7541, 5.2)."""
    is_huffman = block[position] & 0x80
    length, start = _read_integer(block, position, 0x7F)
    end = start + length
    if end > len(block):
        raise HPACKError("a string that is not whole")
    text = block[start:end]
    return huffman.decode(text) if is_huffman else text, end

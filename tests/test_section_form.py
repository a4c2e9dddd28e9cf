"""The form of a connection's last field section: which lines may change, and which sections fit."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rules import make_rules

from gunicorn_asgi.errors import RequestError
from gunicorn_asgi.http.request import Fields
from gunicorn_asgi.http1.request import read_head
from gunicorn_asgi.http1.section_form import SectionForm


def section(*lines: bytes, version: str = "1.1") -> bytes:
    return b"\r\n".join((b"HTTP/" + version.encode(), *lines, b"", b""))


def form_of(lines: list[bytes], new: set[int], version: str = "1.1") -> SectionForm | None:
    """The form of a section of `lines`, of which those at the indices `new` may change."""
    pattern = tuple(None if index in new else (b"a", b"b") for index in range(len(lines)))
    missing = sorted(new)
    return SectionForm.of(version, lines, pattern, (Fields(b"", version, []), [], missing, None))


FORM = [b"Host: a", b"Cookie: b", b"Accept: c", b"X-Id: d"]


def split(data: bytes, *new: int) -> list[bytes] | None:
    form = form_of(FORM, {*new})
    assert form is not None
    return form.split(data)


@pytest.mark.parametrize(
    ("lines", "new", "found"),
    [
        (FORM, (1, 3), [b"Cookie: b", b"X-Id: d"]),
        ([b"Host: a", b"Cookie: longer", b"Accept: c", b"Y:"], (1, 3), [b"Cookie: longer", b"Y:"]),
        ([b"Host: a", b"Accept: c", b"Accept: c", b"Z: z"], (1, 3), [b"Accept: c", b"Z: z"]),
        ([b"x", b"Cookie: b", b"Accept: c", b"X-Id: d"], (0,), [b"x"]),
        ([b"1", b"2", b"3", b"4"], (0, 1, 2, 3), [b"1", b"2", b"3", b"4"]),
    ],
)
def test_the_lines_that_may_change_are_found(
    lines: list[bytes], new: tuple[int, ...], found: list[bytes]
) -> None:
    assert split(section(*lines), *new) == found


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [b"Host: a"],
        [b"Host: a", b"Cookie: b"],
        [b"Host: a", b"Cookie: b", b"Accept: c"],
        [b"Host: a", b"Cookie: b", b"Accept: c", b"X-Id: d", b"Y: z"],
        [b"Host: a", b"Cookie: b", b"Y: z", b"Accept: c", b"X-Id: d"],
        [b"Host: b", b"Cookie: b", b"Accept: c", b"X-Id: d"],
        [b"host: a", b"Cookie: b", b"Accept: c", b"X-Id: d"],
        [b"Host: a", b"Cookie: b", b"Accept: cc", b"X-Id: d"],
        [b"Host: aa", b"Cookie: b", b"Accept: c", b"X-Id: d"],
        [b"Cookie: b", b"Host: a", b"Accept: c", b"X-Id: d"],
        [b"Host: a", b"Cookie: b", b"Accept: c\n", b"X-Id: d"],
    ],
)
@pytest.mark.parametrize("new", [(1, 3), (1,), (3,)])
def test_a_section_of_another_form_does_not_fit(lines: list[bytes], new: tuple[int, ...]) -> None:
    fits = new == (3,) and lines[:3] == FORM[:3] and len(lines) == 4
    assert (split(section(*lines), *new) is not None) == fits


def test_a_section_of_another_version_does_not_fit() -> None:
    form = form_of(FORM, {1})
    assert form is not None
    assert form.split(section(*FORM, version="1.0")) is None
    assert form.split(section(*FORM)) == [FORM[1]]


def test_a_section_without_changes_needs_no_form() -> None:
    """The memory of sections is as fast."""
    assert form_of(FORM, set()) is None


WORDS = st.sampled_from([b"a", b"b: c", b"", b"\r", b"\n", b"a: \r", b"HTTP/1.1"])
SECTION = st.lists(WORDS, min_size=1, max_size=5)


@given(
    before=st.tuples(SECTION, st.sets(st.integers(0, 4), min_size=1)),
    lines=SECTION,
    changes=st.dictionaries(st.integers(0, 4), WORDS),
)
@example(before=([b"", b""], {0, 1}), lines=[b""], changes={})
def test_lines_are_found_in_their_places_or_not_at_all(
    before: tuple[list[bytes], set[int]], lines: list[bytes], changes: dict[int, bytes]
) -> None:
    old, places = before
    new = {index for index in places if index < len(old)} or {0}
    form = form_of(old, new)
    assert form is not None
    similar = [changes.get(index, line) for index, line in enumerate(old)]
    for data in (section(*lines), section(*similar)):
        split_lines = data[:-4].split(b"\r\n")[1:]
        fits = len(split_lines) == len(old) and all(
            index in new or split_lines[index] == line for index, line in enumerate(old)
        )
        assert form.split(data) == ([split_lines[index] for index in sorted(new)] if fits else None)


def test_a_connection_that_repeats_itself_has_a_form_and_its_limits_hold(parser: str) -> None:
    rules = make_rules(parser, limit_field_size=60)
    last = None
    for number in range(4):
        data = b"GET / %b" % section(b"Host: a", b"X-Id: %d" % number)
        last = read_head(data, last, rules)[4]
        assert last.headers == [(b"host", b"a"), (b"x-id", b"%d" % number)]
    assert last is not None
    assert last.form is not None
    for size in (52, 53):
        data = b"GET / %b" % section(b"Host: a", b"X-Id: " + b"x" * size)
        if size == 52:
            assert read_head(data, last, rules)[4].headers[1][1] == b"x" * size
        else:
            with pytest.raises(RequestError) as caught:
                read_head(data, last, rules)
            assert caught.value.status == 431

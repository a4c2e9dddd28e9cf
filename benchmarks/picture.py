"""Draw the CPU time per request that RESULTS.md has: ``python3 benchmarks/picture.py``. Needs nothing but the standard library."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "RESULTS.md"
OUTPUT = HERE.parent / "docs" / "cpu-per-request.svg"

OURS = "gunicorn_asgi"
BASELINE = "uvicorn"
LEFT_OUT = ", Python "
"""Servers on another interpreter have this in their names."""

LABELS = {"gunicorn asgi": "gunicorn -k asgi"}
"""How a server is called here, where its name in RESULTS.md is too much like ours."""

PANELS = {
    "hello": "Hello, world!",
    "varying": "Ten browser headers, another cookie each time",
    "proxied": "The same behind a trusted proxy",
    "post": "POST of 1 KiB, echoed",
    "large": "64 KiB response",
    "streamed": "16 parts of 1 KiB",
    "close": "A new connection each time",
    "logged": "Hello, world! with an access log",
    "tls": "Hello, world! over TLS",
    "fastapi": "FastAPI, a JSON route",
}
"""Titles of the scenarios that are drawn, where RESULTS.md has them."""

TITLE = "CPU time per request, in microseconds: less is better"
NOTE = "One worker on one core. Each panel has a scale of its own. Bars with a gap are longer than there is room for."
DESCRIPTION = (
    "Bar charts of {servers} in {count} scenarios. The numbers are in benchmarks/RESULTS.md."
)

WIDTH, MARGIN, GAP = 880, 24, 32
COLUMNS = 2
NAMES_WIDTH, NUMBERS_WIDTH = 104, 52
ROW, BAR, PANEL_HEAD, PANEL_FOOT = 19, 13, 26, 18
HEAD, FOOT = 56, 34
LONGEST = 2.0
"""The scale of a panel ends at so many times Uvicorn's time. Slow servers would make the others alike."""

# The picture has a ground of its own, so that its text is readable wherever it stands.
STYLE = """\
text { font-size: 12px; font-family: system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #24292f; }
.title { font-size: 16px; font-weight: 600; }
.panel { font-size: 13px; font-weight: 600; }
.note { fill: #57606a; }
.ours { font-weight: 600; }
.ground { fill: #ffffff; stroke: #d0d7de; }
.gap { fill: #ffffff; }
.bar { fill: #afb8c1; }
.bar.ours { fill: #0969da; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .note { fill: #9198a1; }
  .ground { fill: #0d1117; stroke: #3d444d; }
  .gap { fill: #0d1117; }
  .bar { fill: #59636e; }
  .bar.ours { fill: #4493f8; }
}"""


@dataclass(frozen=True)
class Panel:
    """One scenario."""

    title: str
    times: dict[str, float]
    """Microseconds, by server."""

    @property
    def height(self) -> int:
        """In the picture's units."""
        return PANEL_HEAD + ROW * len(self.times) + PANEL_FOOT


class NoResultsError(Exception):
    """The page has no tables that can be drawn."""


def read(page: str) -> list[Panel]:
    """The panels of RESULTS.md. Raises NoResultsError."""
    found: dict[str, Panel] = {}
    for section in page.split("\n## ")[1:]:
        heading, _, rest = section.partition("\n")
        name = re.search(r"\(`([\w-]+)`\)$", heading)
        if name and name[1] in PANELS:
            times = dict(_times(rest))
            if times:
                found[name[1]] = Panel(PANELS[name[1]], times)
    if not found:
        raise NoResultsError("there are no tables with the CPU time of requests")
    return [found[name] for name in PANELS if name in found]


def _times(text: str) -> Iterator[tuple[str, float]]:
    """Server and microseconds of each row that has them, in the first table of a section."""
    rows = [
        [cell.strip(" *") for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    if not rows or "CPU us/request" not in rows[0]:
        return
    column = rows[0].index("CPU us/request")
    for row in rows[2:]:
        number = row[column].replace(",", "")
        if LEFT_OUT not in row[0] and re.fullmatch(r"\d+(\.\d+)?", number):
            yield row[0], float(number)


def draw(panels: Sequence[Panel]) -> str:
    """An SVG."""
    width = (WIDTH - 2 * MARGIN - GAP * (COLUMNS - 1)) // COLUMNS
    drawn = []
    y = HEAD
    for first in range(0, len(panels), COLUMNS):
        row = panels[first : first + COLUMNS]
        for number, panel in enumerate(row):
            drawn += _panel(panel, MARGIN + number * (width + GAP), y, width)
        y += max(panel.height for panel in row)
    height = y + FOOT
    names = dict.fromkeys(name for panel in panels for name in panel.times)
    servers = ", ".join(LABELS.get(name, name) for name in names)
    description = DESCRIPTION.format(servers=servers, count=len(panels))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" aria-labelledby="title description">',
            f'<title id="title">{escape(TITLE)}</title>',
            f'<desc id="description">{escape(description)}</desc>',
            f"<style>\n{STYLE}\n</style>",
            f'<rect class="ground" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>',
            _text(MARGIN, 34, TITLE, "title"),
            *drawn,
            _text(MARGIN, height - 18, NOTE, "note"),
            "</svg>\n",
        ]
    )


def _panel(panel: Panel, x: int, y: int, width: int) -> list[str]:
    room = width - NAMES_WIDTH - NUMBERS_WIDTH
    longest = max(panel.times.values())
    if BASELINE in panel.times:
        longest = min(longest, LONGEST * panel.times[BASELINE])
    drawn = [_text(x, y + 14, panel.title, "panel")]
    for number, (server, time) in enumerate(panel.times.items()):
        top = y + PANEL_HEAD + number * ROW
        middle, left = top + BAR - 3, x + NAMES_WIDTH
        length = min(time / longest, 1.0) * room
        style = "ours" if server == OURS else ""
        drawn += [
            _text(left - 8, middle, LABELS.get(server, server), style, end=True),
            f'<rect class="{f"bar {style}".strip()}" x="{left}" y="{top}" width="{length:.1f}" height="{BAR}" rx="2"/>',
        ]
        if time > longest:
            gap = left + room - 14
            drawn.append(f'<path class="gap" d="M{gap + 4} {top - 1}h4l-4 {BAR + 2}h-4z"/>')
        number_text = f"{time:.1f}" if time < 100 else f"{time:,.0f}"
        drawn.append(_text(round(left + length + 6), middle, number_text, style))
    return drawn


def _text(x: int, y: int, content: str, style: str, end: bool = False) -> str:
    name = f' class="{style}"' if style else ""
    anchor = ' text-anchor="end"' if end else ""
    return f'<text{name}{anchor} x="{x}" y="{y}">{escape(content)}</text>'


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="Draw the CPU time per request of RESULTS.md.")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="the page that run.py has written"
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the SVG to write")
    options = parser.parse_args(arguments)
    try:
        options.output.write_text(draw(read(options.results.read_text())))
    except (OSError, NoResultsError) as error:
        print(f"{options.results}: {error}", file=sys.stderr)
        return 1
    print(f"Written to {options.output}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

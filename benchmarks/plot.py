"""`python -m benchmarks.plot`: pictures and tables out of the JSON that a run wrote.

Without arguments it draws what is kept in benchmarks/results/, and puts tables and pictures into
README.md. With files and `--to`, it draws those into another folder and prints the tables.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import readme
from .bars import Bar, Panel, picture
from .machine import ROOT
from .peers import FLOOR, OURS
from .results import Part, Report, Row
from .tables import FAILS, duration, times

RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
SUBTITLE = "Shorter is better; 2x is twice what ours takes. "


@dataclass(frozen=True)
class Choice:
    """A row that is drawn as a panel."""

    part: str
    case: str  # how its name begins
    load: int
    metric: str
    detail: str


@dataclass(frozen=True)
class Drawing:
    """A picture: its file, and what is to be seen in it."""

    file: str
    title: str
    choices: Sequence[Choice]


DRAWINGS = (
    Drawing(
        "wsgi_on_asgi.svg",
        "What a request to a WSGI app costs on an ASGI server",
        (
            Choice("in-process-w", "hello", 10, "seconds", ", 10 in flight"),
            Choice("in-process-w", "1,000 x 100 B", 1, "seconds", ", streamed"),
            Choice("in-process-w", "upload", 1, "seconds", ""),
            Choice("wire-w", "uvicorn + Flask hello", 32, "cpu_seconds", ", CPU"),
        ),
    ),
    Drawing(
        "asgi_on_wsgi.svg",
        "What a request to an ASGI app costs on a WSGI server",
        (
            Choice("in-process-a", "hello", 4, "seconds", ", 4 threads calling"),
            Choice("in-process-a", "1,000 x 100 B", 1, "seconds", ", streamed"),
            Choice("in-process-a", "upload", 1, "seconds", ""),
            Choice("wire-a", "gunicorn gthread + FastAPI hello", 32, "cpu_seconds", ", CPU"),
        ),
    ),
)


def drawn(drawing: Drawing, reports: Sequence[Report]) -> str:
    """The SVG document of one picture."""
    parts = [part for report in reports for part in report.parts]
    rows = {choice: chosen_row(choice, parts) for choice in drawing.choices}
    panels = [panel(choice, row) for choice, row in rows.items() if row]
    dates = sorted({report.date[:10] for report in reports})
    return picture(drawing.title, SUBTITLE + ", ".join(dates), panels)


def chosen_row(choice: Choice, parts: Iterable[Part]) -> Row | None:
    """The row, on uvloop where that was measured; None where nothing of it was."""
    rows = [
        row
        for part in parts
        for row in part.rows
        if part.name == choice.part and row.case.startswith(choice.case) and row.load == choice.load
    ]
    return max(rows, key=lambda row: row.loop == "uvloop", default=None)


def panel(choice: Choice, row: Row) -> Panel:
    """The floor and ours first, then the others from the best to the worst, then who failed."""
    peers = [name for name in row.samples if name not in (FLOOR, OURS)]
    peers.sort(key=lambda name: row.median(name, choice.metric) or 0.0)
    first = [name for name in (FLOOR, OURS) if name in row.samples]
    bars = [bar(name, row, choice.metric) for name in (*first, *peers)]
    failed = [Bar(name, None, FAILS, "peer") for name in row.failed]
    loop = f", {row.loop}" if row.loop else ""
    return Panel(f"{row.case}{choice.detail}{loop}", [*bars, *failed])


def bar(name: str, row: Row, metric: str) -> Bar:
    value = row.median(name, metric)
    text = duration(value)
    if name != OURS:
        text += f", {times(row.advantage(name, metric))}"
    return Bar(name, value, text, name if name in (OURS, FLOOR) else "peer")


# Files


def read_reports(files: Iterable[Path]) -> list[Report]:
    """Raises ValueError when two of them have the same part: which of them would count?"""
    reports = [Report.from_text(file.read_text(encoding="utf-8")) for file in files]
    names = Counter(part.name for report in reports for part in report.parts)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ValueError(f"in more than one file: {', '.join(twice)}")
    return reports


def pictures(reports: Sequence[Report]) -> dict[str, str]:
    """The SVG documents by their file names."""
    return {drawing.file: drawn(drawing, reports) for drawing in DRAWINGS}


def block(reports: Sequence[Report], folder: str) -> str:
    """The README's part that is made here; `folder` is where the pictures are, as seen from it."""
    images = [f"![{drawing.title}]({folder}/{drawing.file})" for drawing in DRAWINGS]
    return "\n\n".join([*images, readme.tables(reports)])


def kept() -> dict[Path, str]:
    """What the kept results make of the files that are made out of them, README.md included."""
    reports = read_reports(sorted(RESULTS.glob("*.json")))
    made = {RESULTS / file: svg for file, svg in pictures(reports).items()}
    text = README.read_text(encoding="utf-8")
    folder = RESULTS.relative_to(ROOT).as_posix()
    return {**made, README: readme.with_block(text, block(reports, folder))}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="JSON of a run")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="where the pictures go")
    given = parser.parse_args()
    if bool(given.files) != bool(given.to):
        parser.error("FILE and --to go together")
    if given.files:
        reports = read_reports(given.files)
        made = {given.to / file: svg for file, svg in pictures(reports).items()}
    else:
        reports = read_reports(sorted(RESULTS.glob("*.json")))
        made = kept()
    for path, text in made.items():
        path.write_text(text, encoding="utf-8")
    sys.stdout.write(readme.tables(reports) + "\n")


if __name__ == "__main__":
    main()

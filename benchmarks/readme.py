"""What README.md shows of the results: three tables, and when and how they were measured."""

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence

from .peers import INCUMBENT, NATIVES, OURS
from .results import Part, Report, Row
from .tables import NOTHING, Line, aligned, duration, environment, missing, refusals, times

BEGIN = "<!-- made by python -m benchmarks.plot -->"
END = "<!-- made until here -->"

KINDS = {"w": "WSGI app", "a": "ASGI app"}
LOOPS = ("asyncio", "uvloop")
CHUNK = "a chunk's way to the server"


def with_block(text: str, block: str) -> str:
    """The text with the block between the marks; raises ValueError when it has no such place."""
    between = re.compile(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.DOTALL)
    made, count = between.subn(lambda _: f"{BEGIN}\n\n{block}\n\n{END}", text)
    if count != 1:
        raise ValueError(f"{count} places between {BEGIN} and {END}")
    return made


def tables(reports: Sequence[Report]) -> str:
    """Each table that there are results for, why somebody failed, where all of it comes from."""
    parts = [part for report in reports for part in report.parts]
    shown = [in_process_table(parts), wire_table(parts), hostile_table(parts)]
    blocks = [aligned(table) for table in shown if len(table) > 1]
    why = [f"- {line}" for line in refusals([row for part in parts for row in part.rows])]
    return "\n\n".join(["\n".join(lines) for lines in (*blocks, why) if lines] + [origin(reports)])


def origin(reports: Sequence[Report]) -> str:
    """Machine and versions once, then the commands with their dates."""
    commands: dict[str, list[str]] = {}
    for report in reports:
        made = f"- {report.date[:10]}: `{shlex.join(report.command)}`"
        commands.setdefault(environment(report), []).append(made)
    return "\n\n".join(
        "\n".join([f"Measured with {where}:", "", *lines]) for where, lines in commands.items()
    )


def rows_of(parts: Iterable[Part], family: str) -> Iterator[tuple[str, Row]]:
    """The rows of the parts of one family, each with what kind of app it is about."""
    for part in parts:
        name, _, direction = part.name.rpartition("-")
        if name == family:
            for row in part.rows:
                yield KINDS[direction], row


# In process


def in_process_table(parts: Sequence[Part]) -> list[Line]:
    """A line a case; for each loop ours, how much of the floor that is, and how a2wsgi compares."""
    header = ["In process"]
    for loop in LOOPS:
        header += [f"{loop}: ours", "of the floor", f"{INCUMBENT} / ours"]
    lines: dict[str, dict[str | None, Line]] = {}
    for kind, row in rows_of(parts, "in-process"):
        label = f"{kind}: {row.case}, {row.load} at once"
        lines.setdefault(label, {})[row.loop] = in_process_cells(row, "seconds")
    for part in parts:
        for row in part.rows if part.name == "latency" else []:
            for metric, word in (("median_seconds", "median"), ("p95_seconds", "95th percentile")):
                label = f"{row.case}: {CHUNK}, {word}"
                lines.setdefault(label, {})[row.loop] = in_process_cells(row, metric)
    nothing = [NOTHING] * 3
    return [
        header,
        *(
            [label, *(cell for loop in LOOPS for cell in cells.get(loop, nothing))]
            for label, cells in lines.items()
        ),
    ]


def in_process_cells(row: Row, metric: str) -> Line:
    return [
        duration(row.median(OURS, metric)),
        times(row.against_floor(metric)),
        times(row.advantage(INCUMBENT, metric)),
    ]


# On the wire, and among hostile clients: beside the incumbent and one native server


def wire_table(parts: Sequence[Part]) -> list[Line]:
    header = ["On the wire", "requests/s", f"ours / {INCUMBENT}", "ours / native"]
    header += ["CPU a request", "of the floor", f"{INCUMBENT} / ours", "native / ours"]
    lines = [header]
    for _, row in rows_of(parts, "wire"):
        rate, beside = row.median(OURS, "requests_per_second"), (INCUMBENT, native_of(row))
        line = [f"{row.case}, {row.load} connections", f"{rate:,.0f}" if rate else NOTHING]
        line += [times(row.advantage(name, "requests_per_second")) for name in beside]
        line.append(duration(row.median(OURS, "cpu_seconds")))
        line.append(times(row.against_floor("cpu_seconds")))
        lines.append(line + [times(row.advantage(name, "cpu_seconds")) for name in beside])
    return lines


def hostile_table(parts: Sequence[Part]) -> list[Line]:
    lines = [["Ordinary requests beside", "ours", INCUMBENT, "native"]]
    for kind, row in rows_of(parts, "hostile"):
        beside = (OURS, INCUMBENT, native_of(row))
        lines.append([f"{kind}: {row.case}", *(hostile_cell(row, name) for name in beside)])
    return lines


def hostile_cell(row: Row, name: str) -> str:
    """How many were answered, and their median time as a multiple of that without an attack."""
    answered, slower = row.median(name, "answered"), row.median(name, "times_idle")
    if answered is None:
        return missing(row, name)
    return f"{answered:.0%}" if slower is None else f"{answered:.0%}, {slower:.1f}x"


def native_of(row: Row) -> str:
    """The native server that the row is compared with: the first that took part."""
    return next((name for name in NATIVES if name in row.samples), NATIVES[0])

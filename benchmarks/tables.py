"""Results as markdown: one table a part."""

import shlex
from collections.abc import Callable, Iterable, Sequence

from .measuring import Ratio
from .peers import FLOOR, INCUMBENT, OURS
from .results import Part, Report, Row

NOTHING = "-"
FAILS = "fails"
LATENCY_METRICS = ("median_seconds", "p95_seconds")

Line = list[str]


def markdown(part: Part) -> str:
    """The part's heading, table, notes, and who was refused."""
    header, lines = TABLES[part.name.partition("-")[0]](part)
    shown = [f"## {part.name}: {part.title}", "", *aligned([header, *lines]), ""]
    shown += [*part.notes, *refusals(part.rows)]
    return "\n".join(shown).rstrip() + "\n"


def provenance(report: Report) -> str:
    """When, by which command, where and with what."""
    return f"{report.date[:10]}, `{shlex.join(report.command)}`, {environment(report)}"


def environment(report: Report) -> str:
    machine = report.machine
    interpreter = f"{machine['implementation']} {machine['python']}"
    versions = [f"{name} {version}" for name, version in report.versions.items() if version]
    cores = f"{machine['cores']} cores ({machine['processor']})"
    return ", ".join([f"{interpreter} on {cores}", *versions])


def aligned(lines: Sequence[Line]) -> list[str]:
    """Markdown that is a table to the eye as well; numbers to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    rows = [
        "| "
        + " | ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    ]
    rule = "|".join(
        "-" * (width + 2) if number == 0 else "-" * (width + 1) + ":"
        for number, width in enumerate(widths)
    )
    return [rows[0], f"|{rule}|", *rows[1:]]


def refusals(rows: Sequence[Row]) -> list[str]:
    """Who is not in the table, and why; once for each reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, reason in row.refused.items():
            where = " ".join(str(word) for word in (row.case, row.load, row.loop) if word)
            reasons.setdefault((name, reason), []).append(where)
    return [
        f"Not measured: {name} ({'all' if len(cases) == len(rows) else ', '.join(cases)}): {reason}"
        for (name, reason), cases in reasons.items()
    ]


def contenders(rows: Iterable[Row]) -> list[str]:
    """The peers of all rows: the incumbent first, ours and the floor left out."""
    names = [name for row in rows for name in (*row.samples, *row.failed)]
    peers = [name for name in dict.fromkeys(names) if name not in (OURS, FLOOR)]
    return sorted(peers, key=lambda name: name != INCUMBENT)


# Cells


def micro(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    value = seconds * 1e6
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """With its unit, for those who read no heading."""
    if seconds is None:
        return NOTHING
    if seconds < 1e-3:
        return f"{figure(seconds * 1e6)} \N{MICRO SIGN}s"
    return f"{figure(seconds * 1e3)} ms" if seconds < 1 else f"{figure(seconds)} s"


def times(ratio: Ratio | None) -> str:
    return NOTHING if ratio is None else f"{figure(ratio.median)}x"


def times_spread(ratio: Ratio | None) -> str:
    """The median and the quartiles around it."""
    if ratio is None:
        return NOTHING
    return f"{figure(ratio.median)}x ({figure(ratio.low)}..{figure(ratio.high)})"


def figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def peer_cell(row: Row, name: str, metric: str) -> str:
    if name not in row.samples:
        return missing(row, name)
    return f"{micro(row.median(name, metric))} = {times(row.advantage(name, metric))}"


def missing(row: Row, name: str) -> str:
    """In place of a figure."""
    return FAILS if name in row.failed else NOTHING


# Tables


def in_process_table(part: Part) -> tuple[Line, list[Line]]:
    peers = contenders(part.rows)
    incumbent, others = peers[:1], peers[1:]
    header = ["case", "load", "loop", "ours", "floor", "ours / floor"]
    for name in incumbent:
        header += [name, f"{name} / ours", "by CPU time"]
    header += others
    lines = []
    for row in part.rows:
        line = [row.case, str(row.load), str(row.loop)]
        line += [micro(row.median(name, "seconds")) for name in (OURS, FLOOR)]
        line.append(times_spread(row.against_floor("seconds")))
        for name in incumbent:
            line.append(micro(row.median(name, "seconds")))
            line.append(times_spread(row.advantage(name, "seconds")))
            line.append(times(row.advantage(name, "cpu_seconds")))
        line += [peer_cell(row, name, "seconds") for name in others]
        lines.append(line)
    return header, lines


def latency_table(part: Part) -> tuple[Line, list[Line]]:
    header = ["case", "loop", "contender", "p50", "is of ours", "p95", "is of ours"]
    lines = []
    for row in part.rows:
        for name in (*row.samples, *row.failed):
            line = [row.case, str(row.loop), name]
            for metric in LATENCY_METRICS:
                line.append(micro(row.median(name, metric)))
                line.append("" if name == OURS else times(row.advantage(name, metric)))
            lines.append(line)
    return header, lines


def wire_table(part: Part) -> tuple[Line, list[Line]]:
    header = ["case", "connections", "server", "requests/s", "ours is", "CPU us/request", "ours is"]
    lines = []
    for row in part.rows:
        for name in (*row.samples, *row.failed):
            is_ours = name == OURS
            rate = row.median(name, "requests_per_second")
            lines.append(
                [
                    row.case,
                    str(row.load),
                    name,
                    missing(row, name) if rate is None else f"{rate:,.0f}",
                    "" if is_ours else times_spread(row.advantage(name, "requests_per_second")),
                    micro(row.median(name, "cpu_seconds")),
                    "" if is_ours else times_spread(row.advantage(name, "cpu_seconds")),
                ]
            )
    return header, lines


def mebibytes(value: float) -> str:
    return f"{value / 1024 / 1024:,.1f}"


def whole(value: float | None) -> str:
    return NOTHING if value is None else f"{value:+.0f}"


def memory_table(part: Part) -> tuple[Line, list[Line]]:
    header = ["case", "server", "MiB grown", "seconds", "tasks left", "threads left", "files left"]
    lines = []
    for row in part.rows:
        for name in (*row.samples, *row.failed):
            grown, seconds = row.median(name, "growth_bytes"), row.median(name, "seconds")
            line = [row.case, name, missing(row, name) if grown is None else mebibytes(grown)]
            line.append(NOTHING if seconds is None else f"{seconds:.1f}")
            for left in ("tasks_left", "threads_left", "open_files_left"):
                line.append(whole(row.median(name, left)))
            lines.append(line)
    return header, lines


def milli(seconds: float | None) -> str:
    return NOTHING if seconds is None else f"{seconds * 1000:,.1f}"


def hostile_table(part: Part) -> tuple[Line, list[Line]]:
    header = ["case", "server", "answered", "idle p50 ms", "p50 ms", "of idle", "longest ms"]
    header += ["tasks left", "threads left", "files left", "CPU afterwards"]
    lines = []
    for row in part.rows:
        for name in (*row.samples, *row.failed):
            answered = row.median(name, "answered")
            line = [row.case, name, missing(row, name) if answered is None else f"{answered:.0%}"]
            line.append(milli(row.median(name, "idle_seconds")))
            line.append(milli(row.median(name, "attacked_seconds")))
            times_idle = row.median(name, "times_idle")
            line.append(NOTHING if times_idle is None else f"{times_idle:.2f}x")
            line.append(milli(row.median(name, "longest_seconds")))
            for left in ("tasks_left", "threads_left", "open_files_left"):
                line.append(whole(row.median(name, left)))
            cpu = row.median(name, "cpu_afterwards")
            line.append(NOTHING if cpu is None else f"{cpu:.0%}")
            lines.append(line)
    return header, lines


TABLES: dict[str, Callable[[Part], tuple[Line, list[Line]]]] = {
    "in": in_process_table,
    "latency": latency_table,
    "wire": wire_table,
    "memory": memory_table,
    "hostile": hostile_table,
}

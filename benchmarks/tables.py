"""Results as markdown: a line for each case, ours as it is, and how many times that the others are.

What is not here (context switches, the spread of each figure) is in the JSON.
"""

from collections.abc import Iterable, Sequence

from .peers import NATIVES, OURS
from .results import Part, Row

METRICS = {  # of each part, with what is said of it; docs/benchmarks.md shows the first
    "in-process": {"seconds": "", "cpu_seconds": ", CPU"},
    "latency": {"median_seconds": "", "p95_seconds": ", 95th percentile"},
    "wire": {"cpu_seconds": ", CPU a request", "requests_per_second": ", requests/s"},
    "websockets": {"trips_per_second": ", trips/s", "cpu_seconds": ", CPU a trip"}
    | {"socket_bytes": ", memory each", "descriptors": ", descriptors each"},
    "hostile": {"answered": "", "longest_seconds": ", longest"},
    "memory": {"growth_bytes": "", "transfer_seconds": ", time"},
    "scale": {"opening_seconds": ", opened in", "socket_bytes": ", memory each"}
    | {"threads": ", threads", "times_idle": ", a request beside them / without"}
    | {"broadcast_seconds": ", a message to all", "closed": ", closed in good order"}
    | {"gone_seconds": ", from SIGTERM to the end"},
    "stress": {"visits": ", visits", "bytes": ", compared", "anomalies": ", anomalies"},
}
AS_IT_IS = {"growth_bytes", "longest_seconds", *METRICS["scale"]}
KINDS = {"w": "WSGI app", "a": "ASGI app"}


def markdown(part: Part) -> str:
    """All of the part, and who was refused."""
    names = [*dict.fromkeys(name for row in part.rows for name in (*row.figures, *row.refused))]
    names.sort(key=lambda name: name != OURS)
    lines = [["", *names]]
    for row in part.rows:
        there = {metric for figures in row.figures.values() for metric in figures}
        for metric, said in METRICS[part.name[:-2]].items():
            if metric in there or not there:
                cells = [cell(row, name, metric) for name in names]
                lines.append([f"{title(part, row)}{said}", *cells])
    heading = f"## {part.name}: {part.title}"
    return "\n".join([heading, "", *aligned(lines), "", *refusals(part.rows)]).rstrip() + "\n"


def summary(parts: Sequence[Part], names: Sequence[str]) -> str:
    """One metric of each part, in process on one loop; "native" is the first of its kind."""
    lines = [["", *names]]
    for part in parts:
        for row in shown(part):
            native = next((name for name in NATIVES if name in row.figures), NATIVES[0])
            metric, said = next(iter(METRICS[part.name[:-2]].items()))
            cells = [cell(row, native if name == "native" else name, metric) for name in names]
            lines.append([f"{KINDS[part.name[-1]]}, {title(part, row)}{said}", *cells])
    why = refusals(row for part in parts for row in part.rows)
    return "\n".join([*aligned(lines), "", *why]).rstrip()


def shown(part: Part) -> list[Row]:
    """Where two loops were measured, the rows of uvloop."""
    loop = max(row.loop or "" for row in part.rows)
    return [row for row in part.rows if row.loop in (loop, None)]


def title(part: Part, row: Row) -> str:
    load = f", {row.load} at once" if (row.load or 1) > 1 and part.name[:-2] != "hostile" else ""
    return f"{row.case}{load}{f', {row.loop}' if row.loop else ''}"


def cell(row: Row, name: str, metric: str) -> str:
    if (figure := row.figures.get(name, {}).get(metric)) is None:
        return "fails" if name in row.refused else "-"
    if metric == "answered":
        slower = row.figures[name].get("times_idle")
        return f"{figure.median:.0%}" + (f", {slower.median:.2g}x" if slower else "")
    as_it_is = name == OURS or not figure.of_ours or metric in AS_IT_IS
    return quantity(figure.median, metric) if as_it_is else times(figure.of_ours or 0.0)


def quantity(value: float, metric: str) -> str:
    """With its unit."""
    if metric.endswith("bytes"):
        small = 0 < value < 2**20
        return f"{value / 2**10:,.0f} KiB" if small else f"{value / 2**20:,.1f} MiB"
    if not metric.endswith("seconds"):
        return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"
    scale, unit = (1e6, "\N{MICRO SIGN}s") if value < 1e-3 else (1e3, "ms")
    return f"{value * scale:,.0f} {unit}" if value * scale >= 100 else f"{value * scale:.3g} {unit}"


def times(ratio: float) -> str:
    return f"{ratio:.0f}x" if ratio >= 100 else f"{ratio:.3g}x" if ratio >= 10 else f"{ratio:.2f}x"


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Markdown that is a table to the eye as well."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [[c.ljust(width) for c, width in zip(line, widths, strict=True)] for line in lines]
    padded.insert(1, ["-" * width for width in widths])
    return [f"| {' | '.join(line)} |" for line in padded]


def refusals(rows: Iterable[Row]) -> list[str]:
    """Who fails, and why; once for each reason."""
    cases: dict[tuple[str, str], dict[str, None]] = {}
    for case, refused in ((row.case, refused) for row in rows for refused in row.refused.items()):
        cases.setdefault(refused, {})[case] = None
    return [f"- {name} ({', '.join(where)}): {why}" for (name, why), where in cases.items()]

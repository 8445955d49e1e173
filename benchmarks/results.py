"""What a run finds out: parts, their rows, and in each row the figures of every contender.

Kept as JSON with a line a row; each part has its own date, command and versions, so that a file may
hold parts of several runs.
"""

import json
import os
import platform
import re
import shlex
import statistics
import sys
from collections.abc import Callable, Container, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple

from .peers import OURS

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "benchmarks" / "results.json"  # what docs/benchmarks.md shows
PACKAGES = "a2wsgi anyio asgiref fastapi flask granian gunicorn hypercorn starlette uvicorn uvloop"

Progress = Callable[[str], None]
Samples = dict[str, dict[str, list[float]]]  # by contender and metric, a number a round


class Figure(NamedTuple):
    """One metric of one contender."""

    median: float
    of_ours: float | None  # the median over the rounds of theirs / ours
    spread: float  # between the quartiles, as a share of the median: how noisy it was


@dataclass
class Row:
    """One case, on one loop, with one load: requests in flight, calling threads or connections."""

    case: str
    loop: str | None
    load: int | None
    figures: dict[str, dict[str, Figure]]
    refused: dict[str, str]  # who was wrong, absent or hung, and why


@dataclass
class Part:
    """One table, and where it comes from."""

    name: str
    title: str
    rows: list[Row]
    date: str = ""
    command: str = ""
    environment: str = ""


def figures_of(samples: Samples, refused: Container[str] = ()) -> dict[str, dict[str, Figure]]:
    """Those of whoever was not refused."""
    figures: dict[str, dict[str, Figure]] = {name: {} for name in samples if name not in refused}
    for name in figures:
        for metric, values in samples[name].items():
            ours = samples.get(OURS, {}).get(metric, [])
            ratios = [theirs / our for theirs, our in zip(values, ours, strict=False) if our]
            low, middle, high = statistics.quantiles(values * 2, n=4, method="inclusive")
            spread = (high - low) / middle if middle else 0.0
            ratio = rounded(statistics.median(ratios)) if ratios else None
            figures[name][metric] = Figure(rounded(middle), ratio, rounded(spread, 2))
    return figures


def rounded(value: float, digits: int = 4) -> float:
    return float(f"{value:.{digits}g}")


def signed(part: Part) -> Part:
    """With when, by which command, where and with what it was measured."""
    part.date = datetime.now(UTC).isoformat(timespec="seconds")
    part.command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    cpus = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpus.read_text() if cpus.exists() else "")
    processor = found[1] if found else platform.processor()
    python = f"{platform.python_implementation()} {platform.python_version()}"
    installed = {(known.name or "").lower(): known.version for known in distributions()}
    versions = [f"{name} {installed[name]}" for name in PACKAGES.split() if name in installed]
    part.environment = f"{python} on {os.cpu_count()} cores ({processor}), {', '.join(versions)}"
    return part


def read(path: Path) -> list[Part]:
    parts = json.loads(path.read_text("utf-8"))
    return [Part(**{**part, "rows": [*map(row_of, part["rows"])]}) for part in parts]


def row_of(row: dict[str, Any]) -> Row:
    for figures in row["figures"].values():
        figures |= {metric: Figure(*figure) for metric, figure in figures.items()}
    return Row(**row)


def write(path: Path, parts: Sequence[Part]) -> None:
    """The parts, with those of the file that are not among them."""
    names, texts = {part.name for part in parts}, []
    kept = [part for part in read(path) if part.name not in names] if path.exists() else []
    for part in (*kept, *parts):
        rows = ",\n".join(json.dumps(asdict(row)) for row in part.rows)
        texts.append(json.dumps({**asdict(part), "rows": "ROWS"}).replace('"ROWS"', f"[\n{rows}]"))
    path.write_text("[" + ",\n".join(texts) + "]\n", "utf-8")

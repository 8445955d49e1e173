"""What a run found out: parts, their rows of contenders with the samples, and who failed and why.

A run is kept as JSON and read again, so `Report.from_text(report.as_text())` is the same report, up
to `SAMPLE_DIGITS`.
"""

import json
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .measuring import Ratio, ratio_of
from .peers import FLOOR, OURS

FORMAT = 1  # of the JSON; raised when a reader of the old one would misread the new
SAMPLE_DIGITS = 5

# A metric is a name of samples; these are the ones of which more is better.
MORE_IS_BETTER = frozenset({"requests_per_second", "answered"})

ABSENT = "absent: "  # how the reason begins of a peer that is not installed

Progress = Callable[[str], None]


@dataclass
class Row:
    """One case (on one loop, with one load) and what each contender's samples were, by metric."""

    case: str
    loop: str | None = None
    load: int | None = None  # requests in flight, calling threads or connections
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # wrong, absent or hung: why

    def refuse(self, name: str, reason: str) -> None:
        """Who fails is named with the reason, and nothing of it counts."""
        self.refused[name] = reason
        self.samples.pop(name, None)

    @property
    def failed(self) -> list[str]:
        """Who was there and could not do it."""
        return [name for name, reason in self.refused.items() if not reason.startswith(ABSENT)]

    def median(self, name: str, metric: str) -> float | None:
        values = self.samples.get(name, {}).get(metric)
        return statistics.median(values) if values else None

    def advantage(self, name: str, metric: str) -> Ratio | None:
        """How many times better ours is than this contender (over 1: better)."""
        ours, theirs = (self.samples.get(who, {}).get(metric) for who in (OURS, name))
        if not ours or not theirs:
            return None
        if metric in MORE_IS_BETTER:
            return ratio_of(ours, theirs)
        return ratio_of(theirs, ours)

    def against_floor(self, metric: str) -> Ratio | None:
        """Ours divided by the floor: smaller is better, 1 is the bare hand-off."""
        ours, floor = (self.samples.get(who, {}).get(metric) for who in (OURS, FLOOR))
        return ratio_of(ours, floor) if ours and floor else None

    def as_json(self) -> dict[str, Any]:
        contenders = {
            name: {
                metric: self._summary(name, metric) | {"samples": [rounded(v) for v in values]}
                for metric, values in metrics.items()
            }
            for name, metrics in self.samples.items()
        }
        return {
            "case": self.case,
            "loop": self.loop,
            "load": self.load,
            "contenders": contenders,
            "refused": self.refused,
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "Row":
        samples = {
            name: {metric: summary["samples"] for metric, summary in metrics.items()}
            for name, metrics in row["contenders"].items()
        }
        return cls(row["case"], row["loop"], row["load"], samples, row["refused"])

    def _summary(self, name: str, metric: str) -> dict[str, Any]:
        median, better = self.median(name, metric), self.advantage(name, metric)
        shown = [rounded(v) for v in (better.median, better.low, better.high)] if better else None
        return {
            "median": None if median is None else rounded(median),
            "ours_is_better_by": shown,
        }


@dataclass
class Part:
    """One table: its name, what it shows in a sentence, its notes and its rows."""

    name: str
    title: str
    notes: list[str]
    rows: list[Row]

    def as_json(self) -> dict[str, Any]:
        return {
            "part": self.name,
            "title": self.title,
            "notes": self.notes,
            "rows": [row.as_json() for row in self.rows],
        }

    @classmethod
    def from_json(cls, part: dict[str, Any]) -> "Part":
        rows = [Row.from_json(row) for row in part["rows"]]
        return cls(part["part"], part["title"], part["notes"], rows)


@dataclass
class Report:
    """One run: when, by which command, where, with what, and its parts."""

    date: str  # ISO 8601, UTC
    command: list[str]
    machine: dict[str, Any]
    versions: dict[str, str | None]
    parts: list[Part] = field(default_factory=list)

    def rows_where_failed(self, name: str) -> list[Row]:
        return [row for part in self.parts for row in part.rows if name in row.failed]

    def as_text(self) -> str:
        """The JSON, with each list of numbers in a line."""
        report = (
            {"format": FORMAT} | vars(self) | {"parts": [part.as_json() for part in self.parts]}
        )
        indented = json.dumps(report, indent=1)
        numbers = re.compile(r"\[\n[-+\d.e,\s]*\]")  # a line's end is in no string
        return numbers.sub(lambda found: " ".join(found[0].split()), indented) + "\n"

    @classmethod
    def from_text(cls, text: str) -> "Report":
        """Raises ValueError when the text is no report of this format."""
        report = json.loads(text)
        if report.pop("format", None) != FORMAT:
            raise ValueError(f"not a report of format {FORMAT}")
        parts = [Part.from_json(part) for part in report.pop("parts")]
        return cls(**report, parts=parts)


def rounded(value: float) -> float:
    return float(f"{value:.{SAMPLE_DIGITS}g}")

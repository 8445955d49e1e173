"""What a part found out: rows of contenders with their samples, and who was refused and why."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .measuring import Ratio, ratio_of
from .peers import OURS

# A metric is a name of samples; these are the ones of which more is better.
MORE_IS_BETTER = frozenset({"requests_per_second", "answered"})

Progress = Callable[[str], None]


@dataclass
class Row:
    """One case (on one loop, with one load) and what each contender's samples were, by metric."""

    case: str
    loop: str | None = None
    load: int | None = None  # requests in flight, calling threads or connections
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # wrong, absent or hung: why

    def median(self, name: str, metric: str) -> float | None:
        values = self.samples.get(name, {}).get(metric)
        return statistics.median(values) if values else None

    def advantage(self, name: str, metric: str) -> Ratio | None:
        """How many times better ours is than this contender (over 1: better)."""
        ours, theirs = self.samples.get(OURS, {}).get(metric), self.samples[name].get(metric)
        if not ours or not theirs:
            return None
        if metric in MORE_IS_BETTER:
            return ratio_of(ours, theirs)
        return ratio_of(theirs, ours)

    def as_json(self) -> dict[str, Any]:
        contenders = {
            name: {
                metric: self._summary(name, metric) | {"samples": values}
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

    def _summary(self, name: str, metric: str) -> dict[str, Any]:
        advantage = self.advantage(name, metric)
        shown = [advantage.median, advantage.low, advantage.high] if advantage else None
        return {"median": self.median(name, metric), "ours_is_better_by": shown}


@dataclass
class Part:
    """One table: its name, what it shows in a sentence, its rows and its table's lines."""

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

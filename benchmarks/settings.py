"""How long and how much: the full measure, the quick one, and the smallest that runs every line."""

from dataclasses import dataclass

from .peers import FLOOR, INCUMBENT, NATIVE_GTHREAD, OURS, contender_names


@dataclass(frozen=True)
class Settings:
    """The amounts of one run; times in seconds."""

    rounds: int = 11
    sample_seconds: float = 0.1
    upload_mebibytes: int = 64
    latency_chunks: int = 400
    latency_rounds: int = 7
    wire_rounds: int = 5
    wire_seconds: float = 3.0
    floor_on_the_wire: bool = True
    memory_mebibytes: int = 512
    memory_requests: int = 20_000
    memory_dropped: int = 500
    hostile_requests: int = 200
    answer_seconds: float = 10.0  # how long an ordinary request may take among hostile ones
    settle_seconds: float = 35.0  # longer than our idle threads live
    only_contenders: frozenset[str] | None = None  # None: every peer
    client: str = "auto"  # "wrk", "own", or wrk where it is installed
    pinned: bool = True

    def takes(self, name: str) -> bool:
        """Whether this contender takes part: asked for by its name, or by the first word of it."""
        only = self.only_contenders
        return only is None or name in only or name.partition(" ")[0] in only


def contenders_named(words: str) -> frozenset[str]:
    """What `--peers` means; raises ValueError at a word that names nobody."""
    if words == "all":
        return frozenset(contender_names())
    only = frozenset(word.strip() for word in words.split(","))
    known = {alias for name in contender_names() for alias in (name, name.partition(" ")[0])}
    if only - known:
        raise ValueError(f"{', '.join(sorted(only - known))}: not among {', '.join(sorted(known))}")
    return only


ESSENTIAL = frozenset({OURS, FLOOR, INCUMBENT, NATIVE_GTHREAD})

FULL = Settings()
QUICK = Settings(
    rounds=5,
    sample_seconds=0.012,
    latency_chunks=80,
    latency_rounds=3,
    wire_rounds=2,
    wire_seconds=0.8,
    floor_on_the_wire=False,  # or it would take more than a minute
    memory_mebibytes=64,
    memory_requests=1000,
    memory_dropped=50,
    hostile_requests=40,
    settle_seconds=5.0,
    only_contenders=ESSENTIAL,
)
SMOKE = Settings(
    rounds=2,
    sample_seconds=0.001,
    upload_mebibytes=1,
    latency_chunks=5,
    latency_rounds=2,
    wire_rounds=1,
    wire_seconds=0.2,
    memory_mebibytes=1,
    memory_requests=20,
    memory_dropped=2,
    hostile_requests=3,
    answer_seconds=0.5,
    settle_seconds=1.0,
    only_contenders=ESSENTIAL,
)

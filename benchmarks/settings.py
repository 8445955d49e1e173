"""How long and how much: the full measure and the quick one."""

from dataclasses import dataclass
from typing import Any

from .peers import ASGI_TO_WSGI, BEFORE, FLOOR, INCUMBENT, NATIVES, OURS, WSGI_TO_ASGI


@dataclass(frozen=True)
class Settings:
    """The amounts of one run; times in seconds."""

    rounds: int = 11
    sample_seconds: float = 0.1  # of one turn in process
    latency_rounds: int = 7
    latency_chunks: int = 400
    wire_rounds: int = 5
    wire_seconds: float = 3.0
    memory: tuple[int, int, int] = (512, 20_000, 500)  # MiB, requests, dropped streams
    hostile_requests: int = 200
    stress_seconds: float = 60.0
    seed: int = 0
    peers: frozenset[str] | None = None  # None: all of them

    def chosen(self, contenders: dict[str, Any]) -> dict[str, Any]:
        """Those that take part: named, or by the first word of the name."""
        named = self.peers or contenders.keys()
        return {n: c for n, c in contenders.items() if n in named or n.split()[0] in named}


def peers_named(words: str) -> frozenset[str] | None:
    """What `--peers` means. Raises ValueError at a word that names nobody."""
    known = {FLOOR, BEFORE, "native", *WSGI_TO_ASGI, *ASGI_TO_WSGI, *NATIVES}
    peers = frozenset(word.strip() for word in words.split(","))
    if words != "all" and peers - known:
        raise ValueError(f"{', '.join(peers - known)}: not among {', '.join(sorted(known))}")
    return None if words == "all" else peers


FULL = Settings()
QUICK = Settings(
    rounds=5,
    sample_seconds=0.012,
    latency_rounds=3,
    latency_chunks=80,
    wire_rounds=2,
    wire_seconds=0.8,
    memory=(64, 1000, 50),
    hostile_requests=40,
    stress_seconds=10.0,
    peers=frozenset({OURS, FLOOR, INCUMBENT, BEFORE, "native gthread", "native uvicorn"}),
)

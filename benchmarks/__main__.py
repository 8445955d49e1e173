"""`python -m benchmarks`: runs the parts, shows progress, prints tables, writes the JSON."""

import argparse
import os
import signal
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from . import peers, results
from .peers import OURS
from .settings import FULL, QUICK, Settings, peers_named
from .tables import markdown

SIDES = ("w", "a")  # a WSGI app on ASGI, an ASGI app on WSGI
# The modules, and with each: whether it is pinned to one CPU, as are the servers that it starts,
# where ratios repeat; and the runs without --only that it is in. Its entry is measure().
STEPS = {
    "in_process": ("pinned", "quick", "full"),
    "latency": ("pinned", "quick", "full"),
    "wire": ("quick", "full"),
    "websockets": ("pinned", "full"),
    "hostile": ("full",),
    "memory": ("full",),
    "scale": ("full",),
    "stress": (),
}
PARTS = {f"{step.replace('_', '-')}-{side}": (step, side) for step in STEPS for side in SIDES}
PARTS.pop("scale-w")  # under an ASGI server each of them has a thread of the app


def arguments() -> argparse.Namespace:
    about = "Measures the bridges beside their peers; all of it takes more than an hour. Parts: "
    parser = argparse.ArgumentParser("python -m benchmarks", None, about + ", ".join(PARTS))
    add = parser.add_argument
    add("--quick", action="store_true", help="small amounts; without hostile and memory")
    add("--only", action="append", metavar="PART", help="parts that begin so; may be repeated")
    add("--peers", help="only these, as in ours,floor,a2wsgi,native; or all")
    add("--beside", type=Path, metavar="FOLDER", help="measure that checkout too, as `before`")
    add("--rounds", type=int, help="of the parts that take turns")
    add("--seconds", type=float, help="how long the stress goes on, a server")
    seed = int.from_bytes(os.urandom(3))
    add("--seed", type=int, default=seed, help="of the stress; a random one otherwise")
    add("--json", type=Path, metavar="FILE", help="put the parts there, in place of older ones")
    return parser.parse_args()


def settings_of(given: argparse.Namespace) -> Settings:
    settings = replace(QUICK if given.quick else FULL, seed=given.seed)
    if given.peers:
        settings = replace(settings, peers=peers_named(given.peers))
    if given.rounds:
        some = dict.fromkeys(("rounds", "latency_rounds", "wire_rounds"), given.rounds)
        settings = replace(settings, **some)
    return replace(settings, stress_seconds=given.seconds or settings.stress_seconds)


def chosen(given: argparse.Namespace) -> list[str]:
    if given.only:
        parts = [part for part in PARTS if part.startswith(tuple(given.only))]
        return parts or sys.exit(f"no part begins with {' or '.join(given.only)}")
    size = "quick" if given.quick else "full"
    return [part for part, (step, _) in PARTS.items() if size in STEPS[step]]


def measured(name: str, settings: Settings, started: float) -> results.Part:
    def progress(what: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - started:5.0f} s] {name}: {what}\n")

    (step, side), allowed = PARTS[name], os.sched_getaffinity(0)
    if "pinned" in STEPS[step]:
        os.sched_setaffinity(0, {max(allowed)})
    part: results.Part = import_module(f"benchmarks.{step}").measure(side, settings, progress)
    os.sched_setaffinity(0, allowed)
    return results.signed(part)


def main() -> None:
    given = arguments()
    settings, started, parts = settings_of(given), time.monotonic(), []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that servers are ended too
    if given.beside:
        peers.add_before(given.beside)
    for name in chosen(given):
        parts.append(measured(name, settings, started))
        sys.stdout.write(markdown(parts[-1]) + "\n")
        sys.stdout.flush()
        if given.json:  # after each part: an interrupted run keeps what it has
            results.write(given.json, parts)
    failed = any(OURS in row.refused for part in parts for row in part.rows)
    os._exit(int(failed))  # at once: a bridge that hung has left threads behind


if __name__ == "__main__":
    main()

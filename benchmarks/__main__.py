"""`python -m benchmarks`: runs the parts, shows progress, prints tables, writes the JSON."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Timer
from typing import Any

from . import (
    chunk_latency,
    hostile,
    in_process_a,
    in_process_w,
    machine,
    memory,
    on_the_wire,
)
from .peers import OURS
from .results import Part, Progress, Report
from .settings import FULL, QUICK, SMOKE, Settings, contenders_named
from .tables import markdown, provenance

EXIT_SECONDS = 10.0

Measure = Callable[[Settings, Progress], Part]


@dataclass(frozen=True)
class Step:
    """One part of a run."""

    name: str
    measure: Measure
    pinned: bool  # in one process: there the ratios repeat only on one CPU
    quick: bool  # whether --quick takes it


STEPS = [
    Step("in-process-w", in_process_w.measure, pinned=True, quick=True),
    Step("in-process-a", in_process_a.measure, pinned=True, quick=True),
    Step("latency", chunk_latency.measure, pinned=True, quick=True),
    Step("wire-w", on_the_wire.measure_w, pinned=False, quick=True),
    Step("wire-a", on_the_wire.measure_a, pinned=False, quick=True),
    Step("memory-w", memory.measure_w, pinned=False, quick=False),
    Step("memory-a", memory.measure_a, pinned=False, quick=False),
    Step("hostile-w", hostile.measure_w, pinned=False, quick=False),
    Step("hostile-a", hostile.measure_a, pinned=False, quick=False),
]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures the bridges beside their peers and beside the bare hand-off; "
        "all of it takes more than an hour, without memory and hostile about a quarter.",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--quick",
        action="store_true",
        help="small, in under a minute: ours, the floor, a2wsgi and gthread; without memory and "
        "hostile clients, unless --only names them",
    )
    size.add_argument("--smoke", action="store_true", help="every line once; figures mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    parser.add_argument(
        "--only",
        action="append",
        metavar="PART",
        help=f"only parts that begin so (may be repeated): {', '.join(s.name for s in STEPS)}",
    )
    parser.add_argument(
        "--peers",
        type=peers,
        help="only these contenders, as in ours,floor,a2wsgi,native; or all, with --quick too",
    )
    parser.add_argument("--rounds", type=int, help="rounds of the in-process parts")
    parser.add_argument("--unpinned", action="store_true", help="leave the process on all CPUs")
    parser.add_argument("--client", choices=["auto", "own", "wrk"], default="auto")
    return parser.parse_args()


def peers(words: str) -> frozenset[str]:
    try:
        return contenders_named(words)
    except ValueError as error:  # argparse shows the words of its own error only
        raise argparse.ArgumentTypeError(str(error)) from error


def settings_of(given: argparse.Namespace) -> Settings:
    settings = QUICK if given.quick else SMOKE if given.smoke else FULL
    settings = replace(settings, client=given.client, pinned=not given.unpinned)
    if given.peers:
        settings = replace(settings, only_contenders=given.peers, floor_on_the_wire=True)
    if given.rounds:
        settings = replace(settings, rounds=given.rounds)
    return settings


def steps_of(given: argparse.Namespace) -> list[Step]:
    if given.only:
        steps = [step for step in STEPS if step.name.startswith(tuple(given.only))]
        if not steps:
            raise SystemExit(f"no part begins with {' or '.join(given.only)}")
        return steps
    return [step for step in STEPS if step.quick or not given.quick]


class ProgressLine:
    """A line on stderr that says what is measured now; a terminal shows the last one only."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.terminal = sys.stderr.isatty()

    def for_step(self, step: Step) -> Progress:
        def show(what: str) -> None:
            line = f"[{time.monotonic() - self.started:5.0f} s] {step.name}: {what}"
            sys.stderr.write(f"\r\033[K{line}" if self.terminal else line + "\n")
            sys.stderr.flush()

        return show

    def clear(self) -> None:
        if self.terminal:
            sys.stderr.write("\r\033[K")


def end_on_sigterm() -> None:
    """So that the servers that were started are ended too."""

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def exit_in_time(status: int) -> None:
    """Leaves even when a bridge that hung has left threads behind that the exit would wait for."""
    timer = Timer(EXIT_SECONDS, os._exit, [status])
    timer.daemon = True
    timer.start()
    sys.exit(status)


def main() -> None:
    given = arguments()
    machine.limit_memory()
    settings, steps = settings_of(given), steps_of(given)
    end_on_sigterm()
    report = Report(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=["python", "-m", "benchmarks", *sys.argv[1:]],
        machine=machine.facts(),
        versions=machine.versions(),
    )
    show(f"{provenance(report)}\n")
    line = ProgressLine()
    for step in steps:
        with machine.pinned_to_one_cpu(step.pinned and settings.pinned) as cpu:
            part = step.measure(settings, line.for_step(step))
        part.notes.append("Pinned to one CPU." if cpu is not None else "Not pinned.")
        line.clear()
        report.parts.append(part)
        show(markdown(part))
        if given.json:  # after each part: an interrupted run keeps what it has
            given.json.write_text(report.as_text())
    exit_in_time(1 if report.rows_where_failed(OURS) else 0)


def show(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

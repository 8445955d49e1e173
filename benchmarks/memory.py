"""Does memory stay flat: large bodies with fast and slow ends, many requests, dropped streams."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from . import clients
from .contest import WrongAnswerError
from .peers import INCUMBENT, OURS
from .results import Part, Progress, Row
from .server_processes import (
    ServerProcess,
    StartupError,
    free_port,
    gthread_command,
    uvicorn_command,
)
from .settings import Settings

THREADS = 10
FIRST_BYTES_SECONDS = 2.0
GIVE_UP_AFTER = 3  # streams that nobody answered

Work = Callable[[int], None]


def server_commands(kind: str) -> dict[str, Callable[[int], list[str]]]:
    app = f"benchmarks.stress_apps:{kind}__" + "{}" + f"__{THREADS}"
    if kind == "wsgi":
        return {n: partial(uvicorn_command, app.format(n)) for n in (OURS, INCUMBENT)}
    return {
        n: lambda port, n=n: gthread_command(app.format(n), port, THREADS)  # type: ignore[misc]
        for n in (OURS, INCUMBENT)
    }


def transfers(mebibytes: int) -> dict[str, Work]:
    """The large bodies, by what they are called in the table."""
    return {
        f"download {mebibytes} MiB, fast client": lambda port: clients.download(
            port, mebibytes, slow=False
        ),
        f"download {mebibytes} MiB, slow client": lambda port: clients.download(
            port, mebibytes, slow=True
        ),
        f"upload {mebibytes} MiB, fast app": lambda port: clients.upload(
            port, mebibytes, slow_app=False
        ),
        f"upload {mebibytes} MiB, slow app": lambda port: clients.upload(
            port, mebibytes, slow_app=True
        ),
    }


def growth_during(server: ServerProcess, work: Work) -> dict[str, list[float]]:
    """How far resident memory rose above what it was, at its peak, and how long it took."""
    before = server.resident_bytes()
    server.forget_peak()
    started = time.monotonic()
    work(server.port)
    seconds = time.monotonic() - started
    return {
        "growth_bytes": [float(server.peak_resident_bytes() - before)],
        "seconds": [seconds],
    }


def left_after(server: ServerProcess, work: Work, settle: float) -> dict[str, list[float]]:
    """What is there afterwards that was not there before, once it has had time to go."""
    started = time.monotonic()
    before = inventory(server)
    work(server.port)
    seconds = time.monotonic() - started
    left = settled(server, before, settle)
    growth = left.pop("resident_bytes")
    return {
        "growth_bytes": [growth],
        "seconds": [seconds],
        **{f"{name}_left": [value] for name, value in left.items()},
    }


def settled(server: ServerProcess, before: dict[str, float], limit: float) -> dict[str, float]:
    """What there is more of than before, when nothing is left to go or the time is over."""
    deadline = time.monotonic() + limit
    while True:
        left = surplus(inventory(server), before)
        gone = "tasks" in left and max(left["tasks"], left["open_files"], left["threads"]) <= 0
        if gone or time.monotonic() > deadline:
            return left
        time.sleep(0.2)


def inventory(server: ServerProcess) -> dict[str, float]:
    """What the server holds now; without tasks when nobody answers, since every thread is taken."""
    tasks: dict[str, float] = {}
    with suppress(OSError):
        tasks["tasks"] = clients.census(server.port).get("tasks", 0)
    return {
        **tasks,
        "threads": server.threads(),
        "open_files": server.open_files(),
        "resident_bytes": server.resident_bytes(),
    }


def surplus(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    return {name: after[name] - before[name] for name in before if name in after}


def drop_streams(port: int, count: int) -> None:
    """So many event streams opened and left, ten at a time; stops when nobody answers."""
    unanswered = 0
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(count // THREADS):
            dropped = pool.map(
                clients.drop_stream, [port] * THREADS, [FIRST_BYTES_SECONDS] * THREADS
            )
            unanswered = 0 if any(dropped) else unanswered + 1
            if unanswered == GIVE_UP_AFTER:
                raise WrongAnswerError("the server no longer answers")


def measure_kind(kind: str, settings: Settings, progress: Progress) -> list[Row]:
    rows: dict[str, Row] = {}
    bodies = transfers(settings.memory_mebibytes)
    requests, dropped = settings.memory_requests, settings.memory_dropped
    afters: dict[str, Work] = {
        f"{requests:,} requests": lambda port: clients.many_hellos(port, requests, 8),
        f"{dropped} dropped streams": lambda port: drop_streams(port, dropped),
    }
    for name, command in server_commands(kind).items():
        if not settings.takes(name):
            continue
        for case, work in (bodies | afters).items():
            progress(f"{kind}, {name}: {case}")
            row = rows.setdefault(case, Row(case))
            port = free_port()
            try:
                with ServerProcess(command(port), port) as server:
                    try:
                        clients.many_hellos(port, 200, THREADS)  # so that what starts once is there
                        row.samples[name] = (
                            growth_during(server, work)
                            if case in bodies
                            else left_after(server, work, settings.settle_seconds)
                        )
                    except (WrongAnswerError, OSError) as error:
                        row.refused[name] = server.said(error)
            except StartupError as error:
                row.refused[name] = f"did not start: {error}"
    return list(rows.values())


def part(name: str, title: str, rows: list[Row], settings: Settings) -> Part:
    notes = [
        f"{THREADS} threads. Growth: the peak of resident memory above its start; for requests and "
        "dropped streams, what it was higher afterwards.",
        f"Left: above what was there before, {settings.settle_seconds:.0f} s afterwards at most.",
    ]
    return Part(name, title, notes, rows)


def measure_w(settings: Settings, progress: Progress) -> Part:
    rows = measure_kind("wsgi", settings, progress)
    return part("memory-w", "Memory of uvicorn serving a WSGI app", rows, settings)


def measure_a(settings: Settings, progress: Progress) -> Part:
    rows = measure_kind("asgi", settings, progress)
    return part("memory-a", "Memory of gunicorn gthread serving an ASGI app", rows, settings)

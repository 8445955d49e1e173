"""Does memory stay flat: large bodies with fast and slow ends, many requests, dropped streams."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from . import clients
from .contest import WrongAnswerError
from .results import Part, Progress, Row
from .server_processes import ServerProcess
from .settings import Settings
from .stress_servers import (
    THREADS,
    Samples,
    inventory,
    left_over,
    measure_server,
    stress_servers,
)

CONNECTIONS = 8
FIRST_BYTES_SECONDS = 2.0
GIVE_UP_AFTER = 3  # tens of streams in a row that nobody answered

Work = Callable[[int], None]
Measure = Callable[[ServerProcess], Samples]


def transfers(mebibytes: int) -> dict[str, Work]:
    """The large bodies, by what they are called in the table."""
    down, up = f"download {mebibytes} MiB", f"upload {mebibytes} MiB"
    download = partial(clients.download, mebibytes=mebibytes)
    upload = partial(clients.upload, mebibytes=mebibytes)
    return {
        f"{down}, fast client": partial(download, slow=False),
        f"{down}, slow client": partial(download, slow=True),
        f"{up}, fast client": upload,
        f"{up}, slow client": partial(upload, slow=True),
        f"{up}, slow app": partial(upload, path="/upload?slow"),
    }


def growth_during(server: ServerProcess, work: Work) -> Samples:
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


def left_after(server: ServerProcess, work: Work, settle: float) -> Samples:
    """What is there afterwards that was not there before, once it has had time to go."""
    started = time.monotonic()
    before = inventory(server)
    work(server.port)
    seconds = time.monotonic() - started
    left = left_over(server, before, settle)
    growth = left.pop("resident_bytes")
    return {
        "growth_bytes": [growth],
        "seconds": [seconds],
        **{f"{name}_left": [value] for name, value in left.items()},
    }


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


def measures(settings: Settings) -> dict[str, Measure]:
    """What is measured on a server of its own each, by its name in the table."""
    requests, dropped = settings.memory_requests, settings.memory_dropped
    bodies = transfers(settings.memory_mebibytes)
    afters: dict[str, Work] = {
        f"{requests:,} requests": partial(
            clients.many_hellos, count=requests, connections=CONNECTIONS
        ),
        f"{dropped} dropped streams": partial(drop_streams, count=dropped),
    }
    settle = settings.settle_seconds
    return {
        **{case: partial(growth_during, work=work) for case, work in bodies.items()},
        **{case: partial(left_after, work=work, settle=settle) for case, work in afters.items()},
    }


def measure_kind(kind: str, title: str, settings: Settings, progress: Progress) -> Part:
    rows = []
    for case, measure in measures(settings).items():
        row = Row(case)
        for name, command in stress_servers(kind, settings).items():
            progress(f"{case}: {name}")
            measure_server(row, name, command, measure)
        rows.append(row)
    notes = [
        f"{THREADS} threads. Growth: the peak of resident memory above its start; for requests and "
        "dropped streams, what it was higher afterwards.",
        f"Left: above what was there before, {settings.settle_seconds:.0f} s afterwards at most.",
    ]
    return Part(f"memory-{kind[0]}", title, notes, rows)


def measure_w(settings: Settings, progress: Progress) -> Part:
    title = "Memory of uvicorn serving a WSGI app"
    return measure_kind("wsgi", title, settings, progress)


def measure_a(settings: Settings, progress: Progress) -> Part:
    title = "Memory of gunicorn gthread serving an ASGI app"
    return measure_kind("asgi", title, settings, progress)

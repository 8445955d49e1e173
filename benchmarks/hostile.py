"""Ordinary requests while other clients misbehave, and what those leave behind."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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

CROWD = 50
GIVE_UP_AFTER = 2  # ordinary requests in a row that got no answer
REST_SECONDS = 1.0
SMALL_RECEIVE_BUFFER = 4096

Attack = Callable[[int], AbstractContextManager[None]]


def slow_upload(port: int, length: int) -> AbstractContextManager[None]:
    request = clients.head("POST", "/upload", f"Content-Length: {length}")
    return clients.crowd(port, request, CROWD, clients.drips)


def open_streams(port: int) -> AbstractContextManager[None]:
    return clients.crowd(port, clients.head("GET", "/events"), CROWD, clients.reads)


def readers_that_do_not_read(port: int) -> AbstractContextManager[None]:
    request = clients.head("GET", "/endless")
    return clients.crowd(port, request, CROWD, clients.does_nothing, SMALL_RECEIVE_BUFFER)


@contextmanager
def closed_streams(port: int) -> Iterator[None]:
    """Fifty that have come and gone before the ordinary requests begin."""
    with open_streams(port):
        time.sleep(REST_SECONDS)
    yield


ATTACKS: dict[str, Attack] = {
    f"{CROWD} slow uploads of 32 KiB": partial(slow_upload, length=32768),
    f"{CROWD} slow uploads of 1 MiB": partial(slow_upload, length=1048576),
    f"{CROWD} readers that do not read": readers_that_do_not_read,
    f"{CROWD} closed event streams": closed_streams,
    f"{CROWD} open event streams": open_streams,
}


def ordinary_requests(port: int, count: int, limit: float) -> tuple[list[float], int]:
    """How long each answered one took, and how many were asked; gives up when nobody answers."""
    seconds: list[float] = []
    unanswered = asked = 0
    while asked < count and unanswered < GIVE_UP_AFTER:
        asked += 1
        took = clients.hello_seconds(port, limit)
        if took is None:
            unanswered += 1
        else:
            unanswered = 0
            seconds.append(took)
    return seconds, asked


def attack_server(server: ServerProcess, attack: Attack, settings: Settings) -> Samples:
    requests, limit = settings.hostile_requests, settings.answer_seconds
    idle, _ = ordinary_requests(server.port, requests, limit)
    if not idle:
        raise WrongAnswerError("nobody answered before the attack")
    before = inventory(server)
    with attack(server.port):
        seconds, asked = ordinary_requests(server.port, requests, limit)
    left, cpu = what_is_left(server, before, settings.settle_seconds)
    outcome = {
        "idle_seconds": idle,
        "answered": [len(seconds) / requests],
        "asked": [float(asked)],
        **{f"{name}_left": [value] for name, value in left.items() if name != "resident_bytes"},
    }
    if seconds:
        outcome["attacked_seconds"] = seconds
        outcome["times_idle"] = [statistics.median(seconds) / statistics.median(idle)]
        outcome["longest_seconds"] = [max(seconds)]
    if cpu is not None:
        outcome["cpu_afterwards"] = [cpu]
    return outcome


def what_is_left(
    server: ServerProcess, before: dict[str, float], settle: float
) -> tuple[dict[str, float], float | None]:
    """Tasks, threads and files above what was there before, and the CPU time of a second."""
    left = left_over(server, before, settle)
    start = server.cpu_seconds()
    time.sleep(REST_SECONDS)
    end = server.cpu_seconds()
    cpu = None if start is None or end is None else (end - start) / REST_SECONDS
    return left, cpu


def measure_kind(kind: str, title: str, settings: Settings, progress: Progress) -> Part:
    rows = []
    for case, attack in ATTACKS.items():
        row = Row(case, None, CROWD)
        for name, command in stress_servers(kind, settings).items():
            progress(f"{case}: {name}")
            measure = partial(attack_server, attack=attack, settings=settings)
            measure_server(row, name, command, measure)
        rows.append(row)
    notes = [
        f"{THREADS} threads. Ordinary requests one after another, each over its own connection, "
        f"{settings.answer_seconds:g} s to answer; after {GIVE_UP_AFTER} in a row without an "
        "answer no more are made.",
        f"Left: above what was there before, {settings.settle_seconds:.0f} s afterwards at most.",
    ]
    return Part(f"hostile-{kind[0]}", title, notes, rows)


def measure_w(settings: Settings, progress: Progress) -> Part:
    title = "A WSGI app under uvicorn while clients misbehave"
    return measure_kind("wsgi", title, settings, progress)


def measure_a(settings: Settings, progress: Progress) -> Part:
    title = "An ASGI app under gunicorn gthread while clients misbehave"
    return measure_kind("asgi", title, settings, progress)

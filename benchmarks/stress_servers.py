"""The servers of the memory and hostile parts, and what they hold that they did not hold before."""

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from . import clients
from .contest import WrongAnswerError
from .peers import ASGI_TO_WSGI, NATIVE_GTHREAD, NATIVE_UVICORN, WSGI_TO_ASGI
from .results import Row
from .server_processes import (
    Command,
    ServerProcess,
    StartupError,
    gthread_command,
    uvicorn_command,
)
from .settings import Settings

THREADS = 10
FIRST_REQUESTS = 200  # so that what starts once is there before anything is measured
LOOK_SECONDS = 0.2

Samples = dict[str, list[float]]


def stress_servers(kind: str, settings: Settings) -> dict[str, Command]:
    """A "wsgi" or an "asgi" app: under each bridge, and under the server that needs none."""

    def app(name: str) -> str:
        return f"benchmarks.stress_apps:{kind}__{name}__{THREADS}"

    def under_uvicorn(name: str) -> Command:
        return partial(uvicorn_command, app(name))

    def under_gthread(name: str) -> Command:
        return partial(gthread_command, app(name), threads=THREADS)

    if kind == "wsgi":
        commands = {name: under_uvicorn(name) for name in WSGI_TO_ASGI}
        commands[NATIVE_GTHREAD] = under_gthread("native")
    else:
        commands = {name: under_gthread(name) for name in ASGI_TO_WSGI}
        commands[NATIVE_UVICORN] = under_uvicorn("native")
    return {name: command for name, command in commands.items() if settings.takes(name)}


def measure_server(
    row: Row, name: str, command: Command, measure: Callable[[ServerProcess], Samples]
) -> None:
    """Put into the row what was measured on a new server, or why it could not be."""
    try:
        with ServerProcess(command) as server:
            try:
                clients.many_hellos(server.port, FIRST_REQUESTS, THREADS)
                row.samples[name] = measure(server)
            except (WrongAnswerError, OSError) as error:
                row.refuse(name, server.said(error))
    except StartupError as error:
        row.refuse(name, f"did not start: {error}")


# What a server holds


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


def left_over(server: ServerProcess, before: dict[str, float], limit: float) -> dict[str, float]:
    """What there is more of than before, when nothing is left to go or the time is over."""
    deadline = time.monotonic() + limit
    while True:
        left = surplus(inventory(server), before)
        gone = "tasks" in left and max(left["tasks"], left["open_files"], left["threads"]) <= 0
        if gone or time.monotonic() > deadline:
            return left
        time.sleep(LOOK_SECONDS)

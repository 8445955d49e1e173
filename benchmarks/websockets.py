"""Echoes over WebSockets on real servers: round trips a second, and what an open one takes.

For a WSGI app `ours` is gevent's API in the environ, `ours Flask-Sock` the socket in it.
"""

import asyncio
import json
import os
import subprocess
import sys
from functools import partial

from tests.support.processes import ServerProcess

from .contest import WrongAnswerError, compete
from .echoes import clients
from .peers import OURS, THREADS
from .results import Part, Progress
from .servers import contender, gunicorn, uvicorn
from .settings import Settings

GRACE_SECONDS = 30.0
PROTOCOLS = ("websockets", "websockets-sansio")  # uvicorn's, its default last
LOADS = {"w": ((16, 1), (16, 20), (2**20, 1)), "a": ((32, 1), (32, 20), (2**16, 1), (2**20, 1))}
HELD = 300  # open at once


def commands(side: str, protocol: str) -> dict[str, list[str]]:
    site, pool = "benchmarks.sites:", ("gthread", "--threads", str(THREADS))
    native = {"native uvicorn": uvicorn(f"{site}asgi__native", "--ws", protocol)}
    if side == "a":
        return {OURS: gunicorn(f"{site}asgi__{OURS}", "gthread", "--threads", "4"), **native}
    flask = ["-m", "flask", "--app", f"{site}flask_sock__native", "run", "--port", "{port}"]
    return {
        OURS: uvicorn(f"{site}wsgi__{OURS}__{THREADS}", "--ws", protocol),
        f"{OURS} Flask-Sock": uvicorn(f"{site}flask_sock__{OURS}__{THREADS}", "--ws", protocol),
        **native,
        "native gthread": gunicorn(f"{site}flask_sock__native", *pool),
        "native werkzeug": [sys.executable, *flask],
    }


async def check(size: int, server: ServerProcess) -> None:
    with clients(server.port, 1, size):
        pass


async def loaded(size: int, count: int, seconds: float, server: ServerProcess) -> dict[str, float]:
    words = [str(word) for word in (server.port, count, size, seconds)]
    command = [sys.executable, "-m", "benchmarks.echoes", *words]
    run = partial(subprocess.run, capture_output=True, text=True)
    before = server.cpu_seconds()
    ended = await asyncio.to_thread(run, command, timeout=seconds + GRACE_SECONDS)
    if ended.returncode:
        raise WrongAnswerError(ended.stderr.strip().splitlines()[-1])
    figures: dict[str, float] = json.loads(ended.stdout)
    return {**figures, "cpu_seconds": (server.cpu_seconds() - before) / figures["trips"]}


def descriptors(server: ServerProcess) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in server.pids())


async def held(server: ServerProcess) -> dict[str, float]:
    """What each of many open WebSockets takes, all of which have echoed."""
    before, open_before = server.rss_bytes(), descriptors(server)
    with clients(server.port, HELD, 16, checks=1):
        memory, opened = server.rss_bytes() - before, descriptors(server) - open_before
    return {"socket_bytes": memory / HELD, "descriptors": opened / HELD}


def measure(side: str, settings: Settings, progress: Progress) -> Part:
    rows = []
    for protocol in PROTOCOLS:
        every = settings.chosen(commands(side, protocol))
        for size, count in LOADS[side]:
            case = f"{size:,} B, --ws {protocol}"
            progress(f"{case}, {count} clients")
            turn = partial(loaded, size, count, settings.wire_seconds)
            rivals = {n: contender(c, partial(check, size), turn) for n, c in every.items()}
            rows.append(compete(case, None, count, rivals, settings.wire_rounds))
        few = {n: c for n, c in every.items() if n in (OURS, "native uvicorn")}
        rivals = {n: contender(c, partial(check, 16), held) for n, c in few.items()}
        rows.append(compete(f"{HELD} open, --ws {protocol}", None, None, rivals, 1))
    server = "uvicorn and a WSGI app" if side == "w" else "gunicorn gthread and an ASGI app"
    return Part(f"websockets-{side}", f"WebSockets on {server}, beside uvicorn's own", rows)

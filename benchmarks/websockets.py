"""Echoes over WebSockets on real servers: round trips a second, and what an open one takes.

For a WSGI app `ours` is gevent's API in the environ, `ours Flask-Sock` the socket in it.
"""

import json
import os
import sys
from functools import partial

from tests.support.processes import ServerProcess

from .contest import compete
from .echoes import clients
from .peers import OURS, THREADS
from .results import Part, Progress
from .servers import contender, gunicorn, uvicorn
from .settings import Settings
from .wire import client

WARM_UP = 0.2  # seconds
PROTOCOLS = ("websockets", "websockets-sansio")  # uvicorn's, its default last
LOADS = {"w": ((16, 1), (16, 20), (2**20, 1)), "a": ((32, 1), (32, 20), (2**16, 1), (2**20, 1))}
HELD = 300  # open at once


def commands(side: str, protocol: str) -> dict[str, list[str]]:
    site, pool = "benchmarks.sites:", ("gthread", "--threads", str(HELD + THREADS))
    native = {"native uvicorn": uvicorn(f"{site}asgi__native", "--ws", protocol)}
    if side == "a":
        return {OURS: gunicorn(f"{site}asgi__{OURS}", "gthread", "--threads", "4"), **native}
    flask = ["-m", "flask", "--app", f"{site}flask__native", "run", "--port", "{port}"]
    return {
        OURS: uvicorn(f"{site}wsgi__{OURS}__{THREADS}", "--ws", protocol),
        f"{OURS} Flask-Sock": uvicorn(f"{site}flask__{OURS}__{THREADS}", "--ws", protocol),
        **native,
        "native gthread": gunicorn(f"{site}flask__native", *pool),
        "native werkzeug": [sys.executable, *flask],
    }


async def loaded(size: int, count: int, seconds: float, server: ServerProcess) -> dict[str, float]:
    words = [str(word) for word in (server.port, count, size, seconds)]
    command = [sys.executable, "-m", "benchmarks.echoes", *words]
    printed, used = await client(command, seconds, server)
    figures: dict[str, float] = json.loads(printed)
    return {**figures, "cpu_seconds": used / figures["trips"]}


async def held(server: ServerProcess) -> dict[str, float]:
    """What each of many open WebSockets takes, all of which have echoed."""
    folders = [f"/proc/{pid}/fd" for pid in server.pids()]
    before, open_before = server.rss_bytes(), sum(len(os.listdir(each)) for each in folders)
    with clients(server.port, HELD, 16, checks=1):
        memory, opened = server.rss_bytes(), sum(len(os.listdir(each)) for each in folders)
    return {"socket_bytes": (memory - before) / HELD, "descriptors": (opened - open_before) / HELD}


def measure(side: str, settings: Settings, progress: Progress) -> Part:
    rows = []
    for protocol in PROTOCOLS:
        every = settings.chosen(commands(side, protocol))
        for size, count in LOADS[side]:
            case = f"{size:,} B, --ws {protocol}"
            progress(f"{case}, {count} clients")
            works = [partial(loaded, size, count, s) for s in (WARM_UP, settings.wire_seconds)]
            rivals = {name: contender(command, *works) for name, command in every.items()}
            rows.append(compete(case, None, count, rivals, settings.wire_rounds))
        works = [partial(loaded, 16, 1, WARM_UP), held]
        rivals = {name: contender(command, *works) for name, command in every.items()}
        rows.append(compete(f"{HELD} open, --ws {protocol}", None, None, rivals, 1))
    server = "uvicorn and a WSGI app" if side == "w" else "gunicorn gthread and an ASGI app"
    return Part(f"websockets-{side}", f"WebSockets on {server}, beside uvicorn's own", rows)

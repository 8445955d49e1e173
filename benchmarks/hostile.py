"""Ordinary requests while other clients misbehave. What those leave behind is the stress's part."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import NamedTuple

from tests.support import async_http as http
from tests.support.processes import ServerProcess

from .contest import Contender, one_after_the_other
from .results import Part, Progress
from .servers import Work, commands, contender
from .settings import Settings
from .sites import HELLO
from .wire import ANSWER_SECONDS

THREADS = 10
CROWD = 50
FIRST_REQUESTS = 200
GIVE_UP_AFTER = 2  # ordinary requests in a row that got no answer
HABIT_SECONDS = 0.2
REST_SECONDS = 1.0
NOT_HERE = ("floor", "native granian", "native gunicorn")


class Attack(NamedTuple):
    """What fifty connections send, and what they do from then on."""

    request: bytes
    sends: bool = False
    reads: bool = False
    stays: bool = True  # otherwise they have left before the ordinary requests begin


EVENTS, ENDLESS = http.head("GET", "/events"), http.head("GET", "/download")
SMALL, LARGE = (http.head("POST", "/upload", f"Content-Length: {n}") for n in (2**15, 2**20))
ATTACKS = {
    f"{CROWD} slow uploads of 32 KiB": Attack(SMALL, sends=True),
    f"{CROWD} slow uploads of 1 MiB": Attack(LARGE, sends=True),
    f"{CROWD} readers that do not read": Attack(ENDLESS),
    f"{CROWD} closed event streams": Attack(EVENTS, reads=True, stays=False),
    f"{CROWD} open event streams": Attack(EVENTS, reads=True),
}


@asynccontextmanager
async def crowd(attack: Attack, port: int) -> AsyncIterator[None]:
    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(attack.request)
        while True:
            if attack.sends:
                writer.write(b"x")
            if attack.reads:
                await reader.read(http.READ_BYTES)
            await asyncio.sleep(HABIT_SECONDS)

    async with AsyncExitStack() as ending:
        buffer = http.READ_BYTES if attack.reads else 4096
        for _ in range(CROWD):
            streams = await ending.enter_async_context(http.connected(port, buffer))
            ending.callback(asyncio.create_task(keep(*streams)).cancel)
        await asyncio.sleep(REST_SECONDS)
        if not attack.stays:
            await ending.aclose()
        yield


async def ordinary_requests(port: int, count: int) -> list[float]:
    """How long each answered one took; gives up if nobody answers."""
    seconds: list[float] = []
    unanswered = 0
    while count and unanswered < GIVE_UP_AFTER:
        count, unanswered, started = count - 1, unanswered + 1, time.perf_counter()
        with suppress(OSError, http.CutError):
            if (await hello(port)).body == HELLO:
                seconds.append(time.perf_counter() - started)
                unanswered = 0
    return seconds


async def hello(port: int) -> http.Answer:
    return await http.get(port, "/hello", ANSWER_SECONDS)


async def warmed_up(server: ServerProcess) -> None:
    """What starts once is there before anything is measured."""
    await http.many(hello, FIRST_REQUESTS, THREADS, server.port)


async def attacked(attack: Attack, count: int, server: ServerProcess) -> dict[str, float]:
    idle = statistics.median(await ordinary_requests(server.port, count))
    async with crowd(attack, server.port):
        seconds = await ordinary_requests(server.port, count)
    figures = {"answered": len(seconds) / count, "idle_seconds": idle}
    if seconds:
        middle = statistics.median(seconds)
        figures |= {"attacked_seconds": middle, "times_idle": middle / idle}
        figures["longest_seconds"] = max(seconds)
    return figures


def contenders(side: str, settings: Settings, measuring: Work) -> dict[str, Contender]:
    every = settings.chosen(commands(side, "wsgi" if side == "w" else "asgi", THREADS))
    return {n: contender(c, warmed_up, measuring) for n, c in every.items() if n not in NOT_HERE}


def measure(side: str, settings: Settings, progress: Progress) -> Part:
    rows = []
    for case, attack in ATTACKS.items():
        progress(case)
        measuring = partial(attacked, attack, settings.hostile_requests)
        rows.append(one_after_the_other(case, CROWD, contenders(side, settings, measuring)))
    server = "uvicorn and a WSGI app" if side == "w" else "gunicorn gthread and an ASGI app"
    return Part(f"hostile-{side}", f"Ordinary requests to {server}, {THREADS} threads", rows)

"""A thousand WebSockets and a thousand event streams on one worker, beside ordinary requests."""

import asyncio
import os
import statistics
from contextlib import AsyncExitStack
from functools import partial
from time import perf_counter

from tests.support import async_http as http
from tests.support.gathering import EVENTS, SOCKET
from tests.support.gathering_clients import Member
from tests.support.processes import ServerProcess

from .contest import one_after_the_other
from .hostile import ordinary_requests, warmed_up
from .peers import OURS
from .results import Part, Progress
from .servers import contender, gunicorn, uvicorn
from .settings import Settings

COUNT, THREADS, REQUESTS, SECONDS = 1000, 4, 200, 60.0
SITE = "tests.support.gathering:"
COMMANDS = {
    OURS: gunicorn(f"{SITE}bridged", "gthread", "--threads", str(THREADS)),
    # Without the second option uvicorn waits for event streams for ever.
    "native uvicorn": uvicorn(
        f"{SITE}gathering", "--ws", "websockets", "--timeout-graceful-shutdown", "1"
    ),
}
CASES = {"WebSockets": (SOCKET,), "event streams": (EVENTS,), "of each": (SOCKET, EVENTS)}


async def held(paths: tuple[str, ...], server: ServerProcess) -> dict[str, float]:
    idle = statistics.median(await ordinary_requests(server.port, REQUESTS))
    before = server.rss_bytes()
    async with asyncio.timeout(SECONDS), AsyncExitStack() as ending:
        started = perf_counter()
        joining = [Member.joined(path, server.port, ending) for path in paths * COUNT]
        members = await asyncio.gather(*joining)
        figures = {"opening_seconds": perf_counter() - started}
        figures["socket_bytes"] = (server.rss_bytes() - before) / len(members)
        figures["threads"] = max(len(os.listdir(f"/proc/{pid}/task")) for pid in server.pids())
        beside = statistics.median(await ordinary_requests(server.port, REQUESTS))
        figures |= {"idle_seconds": idle, "beside_seconds": beside, "times_idle": beside / idle}
        started, tick = perf_counter(), http.get(server.port, "/tick", SECONDS)
        await asyncio.gather(tick, *[member.hears_tick() for member in members])
        figures["broadcast_seconds"], started = perf_counter() - started, perf_counter()
        server.terminate()
        figures["closed"] = sum(await asyncio.gather(*[m.is_dismissed() for m in members]))
        await asyncio.to_thread(server.wait, SECONDS)
    return {**figures, "gone_seconds": perf_counter() - started}


def measure(side: str, settings: Settings, progress: Progress) -> Part:
    rows = []
    for case, paths in CASES.items():
        progress(case)
        turn = partial(held, paths)
        rivals = {name: contender(c, warmed_up, turn) for name, c in COMMANDS.items()}
        rows.append(one_after_the_other(f"{COUNT:,} {case}", None, rivals))
    return Part(f"scale-{side}", f"Held by gunicorn gthread, {THREADS} threads", rows)

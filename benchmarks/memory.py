"""Does memory stay flat: large bodies with fast and slow ends, many requests, dropped streams."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from tests.support import async_http as http
from tests.support.processes import ServerProcess

from .contest import WrongAnswerError, one_after_the_other
from .hostile import REST_SECONDS, THREADS, contenders, hello
from .results import Part, Progress
from .settings import Settings
from .sites import BLOCK, MEBIBYTE_BLOCKS
from .wire import ANSWER_SECONDS

SLOW_READ_SECONDS = 0.002
SLOW_SEND_SECONDS = 0.0005

Work = Callable[[int], Awaitable[Any]]  # on that port


async def download(mebibytes: int, pause: float, port: int) -> None:
    async with http.connected(port) as (reader, writer):
        writer.write(http.head("GET", f"/download?{mebibytes}"))
        length, head = 0, await http.read_head(reader)
        async for block in http.read_body(reader, "GET", *head):
            length += len(block)
            await asyncio.sleep(pause)
    if length != mebibytes * 2**20:
        raise WrongAnswerError(f"{length} bytes instead of {mebibytes} MiB")


async def upload(mebibytes: int, pause: float, query: str, port: int) -> None:
    length = mebibytes * 2**20
    async with http.connected(port) as (reader, writer):
        writer.write(http.head("POST", f"/upload?{query}", f"Content-Length: {length}"))
        for _ in range(mebibytes * MEBIBYTE_BLOCKS):
            writer.write(BLOCK)
            await writer.drain()
            await asyncio.sleep(pause)
        answer = await http.read_answer(reader)
    if not answer.body.startswith(b"%d " % length):
        raise WrongAnswerError(f"{answer.status} {answer.body[-60:]!r}")


async def dropped_stream(port: int) -> None:
    """An event stream of which the first bytes are read."""
    async with asyncio.timeout(ANSWER_SECONDS), http.connected(port) as (reader, writer):
        writer.write(http.head("GET", "/events"))
        await reader.read(64)


async def growth(work: Work, at_peak: bool, server: ServerProcess) -> dict[str, float]:
    """How far resident memory rose, at its peak or in the end, and how long the work took."""
    before, started = server.rss_bytes(), time.monotonic()
    server.reset_peak_rss()
    await work(server.port)
    seconds = time.monotonic() - started
    await asyncio.sleep(REST_SECONDS)
    after = server.peak_rss_bytes() if at_peak else server.rss_bytes()
    return {"growth_bytes": after - before, "transfer_seconds": seconds}


def measure(side: str, settings: Settings, progress: Progress) -> Part:
    mib, many, dropped = settings.memory
    works: dict[str, Work] = {
        f"download {mib} MiB, fast client": partial(download, mib, 0.0),
        f"download {mib} MiB, slow client": partial(download, mib, SLOW_READ_SECONDS),
        f"upload {mib} MiB, fast client": partial(upload, mib, 0.0, ""),
        f"upload {mib} MiB, slow client": partial(upload, mib, SLOW_SEND_SECONDS, ""),
        f"upload {mib} MiB, slow app": partial(upload, mib, 0.0, "slow"),
        f"{many:,} requests": partial(http.many, hello, many, THREADS),
        f"{dropped} dropped streams": partial(http.many, dropped_stream, dropped, THREADS),
    }
    rows = []
    for case, work in works.items():
        progress(case)
        measuring = partial(growth, work, "load" in case)
        rows.append(one_after_the_other(case, None, contenders(side, settings, measuring)))
    server = "uvicorn serving a WSGI app" if side == "w" else "gunicorn gthread serving an ASGI app"
    return Part(f"memory-{side}", f"Memory of {server}, {THREADS} threads", rows)

"""An ASGI site of event streams behind `ASGIToWSGI`, for real servers.

`/events` sends a first event, then what `/publish?text` says, to all streams of this process, and
ends at the text `end`. `/stats` tells what the bridge counts, and how many threads there are.
"""

import asyncio
import threading
from dataclasses import asdict
from typing import Any

from tests.support.asgi_apps import answer, answer_json, end, note, send_part, start
from wsgi_asgi_bridge import ASGIToWSGI

FIRST_EVENT = b"data: open\n\n"
Streams = set["asyncio.Queue[bytes]"]
streams: Streams = set()


async def site(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http", scope["type"]
    if scope["path"] == "/events":
        await events(send)
    elif scope["path"] == "/publish":
        for each in streams:
            each.put_nowait(scope["query_string"])
        await answer(send, b"%d" % len(streams))
    elif scope["path"] == "/stats":
        counts = asdict(bridge.stats())
        await answer_json(send, {**counts, "threads": threading.active_count()})
    else:
        await answer(send, b"Hello, world!")


async def events(send: Any) -> None:
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    streams.add(queue)
    try:
        await start(send, headers=[(b"content-type", b"text/event-stream")])
        await send_part(send, FIRST_EVENT)
        while (text := await queue.get()) != b"end":
            await send_part(send, b"data: " + text + b"\n\n")
        await end(send)
    finally:
        streams.discard(queue)
        note("a stream ended")


bridge = ASGIToWSGI(site, lifespan="off")

"""A streamed chunk's way from the app's yield to the server's hand, in process."""

import asyncio
import gc
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .contest import Turn, WrongAnswerError, compete
from .in_process import Case, bridges, called
from .peers import new_loops
from .results import Part, Progress
from .settings import Settings

PAUSE_SECONDS = 0.001
CHUNK = b"data: tick\n\n"
CASE = Case("a chunk's way to the server", "/events", "", b"")


class Stream:
    """Chunks that are far apart, and when each left the app and reached the server's hand."""

    def __init__(self, count: int) -> None:
        self.count, self.length = count, 0
        self.left: list[float] = []
        self.arrived: list[float] = []

    def wsgi_app(self, environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        for _ in range(self.count):
            time.sleep(PAUSE_SECONDS)
            self.left.append(time.perf_counter())
            yield CHUNK

    async def asgi_app(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(self.count):
            await asyncio.sleep(PAUSE_SECONDS)
            self.left.append(time.perf_counter())
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def append(self, block: bytes) -> None:
        """What the server does with a block; chunks may come joined."""
        now, before = time.perf_counter(), self.length // len(CHUNK)
        self.length += len(block)
        self.arrived += [now] * (self.length // len(CHUNK) - before)

    def taken(self) -> dict[str, float]:
        """Of what has come since the last time."""
        left, arrived = self.left, self.arrived
        self.left, self.arrived, self.length = [], [], 0
        if not len(left) == len(arrived) == self.count:
            raise WrongAnswerError(f"{len(arrived)} of {self.count} chunks arrived")
        seconds = [came - went for went, came in zip(left, arrived, strict=True)]
        p95 = statistics.quantiles(seconds, n=20)[-1]
        return {"median_seconds": statistics.median(seconds), "p95_seconds": p95}


@contextmanager
def contender(caller: Any, stream: Stream) -> Iterator[Turn]:
    with caller as calling:

        def turn() -> dict[str, float]:
            gc.collect()
            calling.answer(CASE, "", stream)
            return stream.taken()

        turn()
        yield turn


def measure(side: str, settings: Settings, progress: Progress) -> Part:
    rows = []
    for loop, new_loop in new_loops().items():
        progress(loop)
        stream = Stream(settings.latency_chunks)
        app = stream.wsgi_app if side == "w" else stream.asgi_app
        builders = bridges(side, app, new_loop, settings).items()
        rivals = {name: contender(called(side, b, new_loop), stream) for name, b in builders}
        rows.append(compete(CASE.name, loop, None, rivals, settings.latency_rounds))
    kind = "A WSGI" if side == "w" else "An ASGI"
    return Part(f"latency-{side}", f"{kind} app's streamed chunk, in process", rows)

"""The floor under a real server: the framework's app handed from thread to thread, untranslated.

The app gets an environ or a scope that was made once, but for its path, and an answer has the same
head whatever the app said. What a bridge takes more than this is its translation, and its care.
"""

import asyncio
from _thread import LockType
from collections.abc import Coroutine, Iterable
from typing import Any

from .floor import LoopThread, Wakeups, Workers, locked
from .in_process_a import ENVIRON
from .in_process_w import HEADERS, SCOPE
from .peers import THREADS, ASGIApp, Bridge, WSGIApp, new_loops

CONTENT_TYPE = "text/plain"


def nothing_is_written(*_: Any) -> None:
    """The start_response that no app of the benchmarks writes through."""


class WSGIFloor:
    """A whole answer for each job."""

    def __init__(self, app: WSGIApp, workers: Workers) -> None:
        self.app = app
        self.jobs = workers.jobs
        self.wakeups: Wakeups | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        if self.wakeups is None:
            self.wakeups = Wakeups(asyncio.get_running_loop())
        future = self.wakeups.loop.create_future()
        self.jobs.put((self.answer, self.wakeups, future, scope["path"]))
        body = await future
        headers = [
            (b"content-type", CONTENT_TYPE.encode()),
            (b"content-length", b"%d" % len(body)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def answer(self, wakeups: Wakeups, future: asyncio.Future[bytes], path: str) -> None:
        body = b"".join(self.app({**ENVIRON, "PATH_INFO": path}, nothing_is_written))
        wakeups.post(future.set_result, body)


class ASGIFloor:
    """A task for each request; its messages are collected, the calling thread waits for the end."""

    def __init__(self, app: ASGIApp, loop: asyncio.AbstractEventLoop) -> None:
        self.app = app
        self.loop = loop
        self.wakeups = Wakeups(loop)
        self.tasks: set[asyncio.Task[None]] = set()

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        blocks: list[bytes] = []
        over = locked()
        self.wakeups.post(self.start, self.collect(environ["PATH_INFO"], blocks, over))
        over.acquire()
        body = b"".join(blocks)
        length = str(len(body))
        start_response("200 OK", [("Content-Type", CONTENT_TYPE), ("Content-Length", length)])
        return [body]

    def start(self, request: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(request)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def collect(self, path: str, blocks: list[bytes], over: LockType) -> None:
        request = {"type": "http.request", "body": b"", "more_body": False}

        async def receive() -> dict[str, Any]:
            nonlocal request
            if not request:  # the client stays
                await self.loop.create_future()
            message, request = request, {}
            return message

        async def send(message: dict[str, Any]) -> None:
            if body := message.get("body"):
                blocks.append(body)

        scope = {**SCOPE, "method": "GET", "path": path, "headers": HEADERS}
        await self.app(scope, receive, send)
        over.release()


def wsgi_floor(app: WSGIApp, threads: int = THREADS) -> Bridge:
    workers = Workers(threads)
    return Bridge(WSGIFloor(app, workers), workers.end)


def asgi_floor(app: ASGIApp) -> Bridge:
    thread = LoopThread([*new_loops().values()][-1])  # uvloop where it is installed, as ours
    return Bridge(ASGIFloor(app, thread.loop), thread.end)

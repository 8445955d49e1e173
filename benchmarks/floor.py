"""The floor: the app handed from thread to thread; nothing is translated, checked or bounded.

No bridge can be cheaper than its hand-offs, so this is what "near the floor" is measured against.
It is no bridge: the app gets an environ or a scope that was made once, but for target and length;
it knows no endings, and would hang where anything fails.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from io import BytesIO
from itertools import chain
from queue import SimpleQueue
from threading import Thread
from typing import Any

from .peers import THREADS, ASGIApp, Bridge, NewLoop, WSGIApp, new_loops, run_in_thread

INPUT_BYTES = 524288  # what is read at once of `wsgi.input`, as ours does
SMALL_BYTES = 4096  # smaller blocks travel joined
SCOPE = {"type": "http", "http_version": "1.1", "scheme": "http", "root_path": ""}
SCOPE |= {"asgi": {"version": "3.0", "spec_version": "2.5"}, "headers": [(b"host", b"a")]}
SCOPE |= {"server": ("127.0.0.1", 80), "client": ("127.0.0.1", 9)}
ENVIRON = {"SCRIPT_NAME": "", "SERVER_PROTOCOL": "HTTP/1.1", "SERVER_NAME": "127.0.0.1"}
ENVIRON |= {"SERVER_PORT": "80", "HTTP_HOST": "www.example.org", "wsgi.url_scheme": "http"}


class Wakeups:
    """Callbacks from threads into one loop; all that wait share one wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.waiting: deque[tuple[Callable[..., Any], Any]] = deque()
        self.on_its_way = False
        self.loop = loop

    def post(self, callback: Callable[..., Any], argument: Any) -> None:
        self.waiting.append((callback, argument))
        if not self.on_its_way:
            self.on_its_way = True
            self.loop.call_soon_threadsafe(self.drain)

    def drain(self) -> None:
        # Cleared first: a post in between causes one wake-up too many, never one too few.
        self.on_its_way = False
        while self.waiting:
            callback, argument = self.waiting.popleft()
            callback(argument)


class ToLoop:
    """Blocks that are put in the loop, by `Wakeups`, and taken there; None is the end."""

    def __init__(self) -> None:
        self.blocks: deque[Any] = deque()
        self.future: asyncio.Future[None] | None = None

    def put(self, block: bytes | None) -> None:
        self.blocks.append(block)
        if self.future and not self.future.done():
            self.future.set_result(None)

    async def take(self) -> tuple[bytes, bool]:
        """A large block, or all that waits joined, and whether more comes."""
        if not self.blocks:
            self.future = asyncio.get_running_loop().create_future()
            await self.future
        if len(self.blocks[0] or b"") > SMALL_BYTES:
            return self.blocks.popleft(), True
        blocks, more = [*self.blocks], self.blocks[-1] is not None
        self.blocks.clear()
        return b"".join(blocks if more else blocks[:-1]), more


class Upload(SimpleQueue[bytes]):
    """A `wsgi.input` for an app that reads whole blocks."""

    def read(self, size: int) -> bytes:
        return self.get()


class FloorWSGIToASGI:
    """A job for one of some threads; a list comes back at once, a stream block by block."""

    def __init__(self, app: WSGIApp, threads: int) -> None:
        self.app, self.threads = app, threads
        self.jobs: SimpleQueue[Any] = SimpleQueue()
        self.wakeups: Wakeups | None = None
        for _ in range(threads):
            Thread(target=self.work, daemon=True).start()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        self.wakeups = self.wakeups or Wakeups(asyncio.get_running_loop())
        environ = {**ENVIRON, "REQUEST_METHOD": scope["method"], "PATH_INFO": scope["path"]}
        environ["QUERY_STRING"] = scope["query_string"].decode()
        answered = self.wakeups.loop.create_future()
        message = {"body": b"", "more_body": False}
        if scope["method"] == "POST":
            environ["CONTENT_LENGTH"] = dict(scope["headers"])[b"content-length"].decode()
            message = await receive()
        upload, environ["wsgi.input"] = Upload(), BytesIO(message["body"])
        if message["more_body"]:
            environ["wsgi.input"] = upload
        self.jobs.put((environ, answered))
        while message["more_body"]:
            upload.put(message["body"])
            message = await receive()
        upload.put(message["body"])
        blocks, headers = await answered, [(b"content-type", b"text/plain")]
        if isinstance(blocks, list):
            headers.append((b"content-length", b"%d" % len(blocks[0])))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        more = True
        while more:
            body, more = (blocks[0], False) if isinstance(blocks, list) else await blocks.take()
            await send({"type": "http.response.body", "body": body, "more_body": more})

    def work(self) -> None:
        while job := self.jobs.get():
            environ, answered = job
            blocks, post = self.app(environ, lambda *_: None), self.wakeups.post
            if isinstance(blocks, list):
                post(answered.set_result, blocks)
                continue
            stream = ToLoop()
            post(answered.set_result, stream)
            for block in blocks:
                post(stream.put, block)
            post(stream.put, None)

    def end(self) -> None:
        for _ in range(self.threads):
            self.jobs.put(None)


class FloorASGIToWSGI:
    """A task for each request; the calling thread waits for the answer, or the first block."""

    def __init__(self, app: ASGIApp, loop: asyncio.AbstractEventLoop) -> None:
        self.app = app
        self.wakeups = Wakeups(loop)
        self.tasks: set[asyncio.Task[None]] = set()

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        scope = {**SCOPE, "method": environ["REQUEST_METHOD"], "path": environ["PATH_INFO"]}
        scope["query_string"] = environ["QUERY_STRING"].encode()
        length, read = int(environ.get("CONTENT_LENGTH") or 0), environ["wsgi.input"].read
        upload, post = ToLoop(), self.wakeups.post
        answer: SimpleQueue[Any] = SimpleQueue()  # blocks, None at the end; or all in a list
        post(self.start, self.serve(scope, upload, answer))
        while length > 0:
            post(upload.put, read(min(length, INPUT_BYTES)))
            length -= INPUT_BYTES
        post(upload.put, None)
        first, headers = answer.get(), [("Content-Type", "text/plain")]
        if isinstance(first, list):
            headers.append(("Content-Length", str(len(first[0]))))
        start_response("200 OK", headers)
        return first if isinstance(first, list) else chain([first], iter(answer.get, None))

    def start(self, request: Any) -> None:
        task = self.wakeups.loop.create_task(request)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def serve(self, scope: Any, upload: ToLoop, answer: SimpleQueue[Any]) -> None:
        streaming = False

        async def receive() -> Any:
            body, more = await upload.take()
            return {"type": "http.request", "body": body, "more_body": more}

        async def send(message: Any) -> None:
            nonlocal streaming
            if message["type"] == "http.response.start":
                return
            body, more = message.get("body", b""), message.get("more_body", False)
            answer.put(body if more or streaming else [body])
            streaming = more
            if not more:
                answer.put(None)

        await self.app(scope, receive, send)


def floor_wsgi_to_asgi(app: WSGIApp, threads: int = THREADS) -> Bridge:
    floor = FloorWSGIToASGI(app, threads)
    return Bridge(floor, floor.end)


def floor_asgi_to_wsgi(app: ASGIApp, new_loop: NewLoop | None = None) -> Bridge:
    loop = (new_loop or [*new_loops().values()][-1])()  # uvloop where it is installed, as ours
    return Bridge(FloorASGIToWSGI(app, loop), run_in_thread(loop))

"""The floor: the same work handed from thread to thread, nothing translated and nothing checked.

No bridge can be cheaper than its hand-offs, so this is what "near the floor" is measured against.
It is no bridge: it ignores the request, knows no endings, and would hang where anything fails.
"""

import asyncio
import zlib
from _thread import LockType, allocate_lock
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from threading import Thread
from typing import Any

from .apps import HELLO, Case, answer_after, upload_answer
from .peers import THREADS, Bridge, NewLoop

REQUEST_WINDOW_BYTES = 524288  # the windows are our defaults, so that both wait equally often
RESPONSE_WINDOW_BYTES = 524288
SMALL_BYTES = 4096  # waiting chunks travel joined when they are smaller than this on average

ASGI_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(HELLO))],
}
WSGI_START = ("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(HELLO)))])


class Wakeups:
    """Callbacks from threads into one loop; all that wait share one wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.waiting: deque[tuple[Callable[..., None], Any]] = deque()
        self.on_its_way = False
        self.loop = loop

    def post(self, callback: Callable[..., None], argument: Any) -> None:
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


class Window:
    """Blocks that one side puts and the other takes all at once, within a byte budget.

    A side that cannot go on leaves behind how it is woken: a lock's release, or a post to the loop.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.mutex = allocate_lock()
        self.blocks: list[bytes] = []
        self.held = 0
        self.ended = False
        self.wake_putter: Callable[[], None] | None = None
        self.wake_taker: Callable[[], None] | None = None

    def put(self, block: bytes | None, wake: Callable[[], None]) -> bool:
        """Add a block (None ends); False: no room, and `wake` is called once there is."""
        with self.mutex:
            if block is None:
                self.ended = True
            elif self.held >= self.size:
                self.wake_putter = wake
                return False
            else:
                self.blocks.append(block)
                self.held += len(block)
            taker, self.wake_taker = self.wake_taker, None
        if taker:
            taker()
        return True

    def take(self, wake: Callable[[], None]) -> tuple[list[bytes], bool] | None:
        """All blocks and whether they are the last; None: `wake` is called once there are some."""
        with self.mutex:
            if not self.blocks and not self.ended:
                self.wake_taker = wake
                return None
            blocks, self.blocks, self.held = self.blocks, [], 0
            ended = self.ended
            putter, self.wake_putter = self.wake_putter, None
        if putter:
            putter()
        return joined(blocks), ended


def joined(blocks: list[bytes]) -> list[bytes]:
    if len(blocks) < 2 or sum(map(len, blocks)) > SMALL_BYTES * len(blocks):
        return blocks
    return [b"".join(blocks)]


def locked() -> LockType:
    lock = allocate_lock()
    lock.acquire()
    return lock


def blocks_in_thread(window: Window) -> Iterator[bytes]:
    """The thread's side of taking."""
    lock = locked()
    while True:
        while (taken := window.take(lock.release)) is None:
            lock.acquire()
        yield from taken[0]
        if taken[1]:
            return


def put_from_thread(window: Window, blocks: Iterable[bytes]) -> None:
    """The thread's side of putting."""
    lock = locked()
    for block in blocks:
        while not window.put(block, lock.release):
            lock.acquire()
    window.put(None, nothing_to_wake)


def nothing_to_wake() -> None:
    """The end always finds room."""


class LoopSide:
    """The loop's side of a window: waits on a future that threads resolve by the shared wake-ups.

    A wake-up runs in the loop, so it cannot come before the future that is made after asking.
    """

    def __init__(self, wakeups: Wakeups) -> None:
        self.wakeups = wakeups
        self.future: asyncio.Future[None] | None = None

    def wake(self) -> None:
        self.wakeups.post(self._resolve, None)

    def _resolve(self, _: None) -> None:
        assert self.future is not None
        self.future.set_result(None)

    async def woken(self) -> None:
        self.future = self.wakeups.loop.create_future()
        await self.future

    async def put(self, window: Window, block: bytes | None) -> None:
        while not window.put(block, self.wake):
            await self.woken()

    async def take(self, window: Window) -> tuple[list[bytes], bool]:
        while (taken := window.take(self.wake)) is None:
            await self.woken()
        return taken


# A WSGI app under an ASGI server


class Workers:
    """A pool of threads behind one SimpleQueue of jobs: a callable and its arguments."""

    def __init__(self, threads: int) -> None:
        self.jobs: SimpleQueue[Any] = SimpleQueue()
        self.threads = [Thread(target=self.work, daemon=True) for _ in range(threads)]
        for thread in self.threads:
            thread.start()

    def work(self) -> None:
        while (job := self.jobs.get()) is not None:
            job[0](*job[1:])

    def end(self) -> None:
        for _ in self.threads:
            self.jobs.put(None)
        for thread in self.threads:
            thread.join()


class FloorWSGIToASGI:
    """A job for a worker; its answer comes back through shared wake-ups."""

    def __init__(self, case: Case, workers: Workers) -> None:
        self.case = case
        self.exchange = getattr(self, case.floor)
        self.jobs = workers.jobs
        self.wakeups: Wakeups | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.wakeups is None:
            self.wakeups = Wakeups(asyncio.get_running_loop())
        await self.exchange(self.wakeups, scope, receive, send)

    async def whole(self, wakeups: Wakeups, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"] if self.case.parts else HELLO
        future = wakeups.loop.create_future()
        self.jobs.put((self.answer, wakeups, future, body))
        start, end = await future
        await send(start)
        await send(end)

    @staticmethod
    def answer(wakeups: Wakeups, future: Any, body: bytes) -> None:
        wakeups.post(future.set_result, (ASGI_START, {"type": "http.response.body", "body": body}))

    async def stream(self, wakeups: Wakeups, scope: Any, receive: Any, send: Any) -> None:
        window, side = Window(RESPONSE_WINDOW_BYTES), LoopSide(wakeups)
        self.jobs.put((put_from_thread, window, self.case.blocks()))
        await send(ASGI_START)
        ended = False
        while not ended:
            blocks, ended = await side.take(window)
            for block in blocks:
                await send({"type": "http.response.body", "body": block, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def upload(self, wakeups: Wakeups, scope: Any, receive: Any, send: Any) -> None:
        window = Window(REQUEST_WINDOW_BYTES)
        side = LoopSide(wakeups)
        future = wakeups.loop.create_future()
        with_crc = scope["query_string"] == b"crc"
        self.jobs.put((self.answer_upload, wakeups, future, window, with_crc))
        more = True
        while more:
            message = await receive()
            await side.put(window, message["body"])
            more = message["more_body"]
        await side.put(window, None)
        start, end = await future
        await send(start)
        await send(end)

    def answer_upload(self, wakeups: Wakeups, future: Any, window: Window, with_crc: bool) -> None:
        self.answer(wakeups, future, answer_after(blocks_in_thread(window), with_crc))


def floor_wsgi_to_asgi(case: Case, threads: int = THREADS) -> Bridge:
    workers = Workers(threads)
    return Bridge(FloorWSGIToASGI(case, workers), workers.end)


# An ASGI app under a WSGI server


class LoopThread:
    """An event loop that runs in a thread of its own."""

    def __init__(self, new_loop: NewLoop) -> None:
        self.loop = new_loop()
        self.thread = Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


class FloorASGIToWSGI:
    """A task started by call_soon_threadsafe, and a raw lock that the calling thread waits on."""

    def __init__(self, case: Case, loop: asyncio.AbstractEventLoop) -> None:
        self.case = case
        self.exchange = getattr(self, case.floor)
        self.loop = loop
        self.wakeups = Wakeups(loop)
        self.tasks: set[asyncio.Task[None]] = set()

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response(*WSGI_START)
        return self.exchange(environ)  # type: ignore[no-any-return]

    def start(self, coroutine: Any) -> None:
        task = self.loop.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def whole(self, environ: Any) -> list[bytes]:
        body = environ["wsgi.input"].read(len(self.case.part)) if self.case.parts else HELLO
        answer, lock = [body], locked()
        self.loop.call_soon_threadsafe(self.loop.create_task, self.answer(lock))
        lock.acquire()
        return answer

    @staticmethod
    async def answer(lock: LockType) -> None:
        lock.release()

    def stream(self, environ: Any) -> Iterator[bytes]:
        window = Window(RESPONSE_WINDOW_BYTES)
        self.loop.call_soon_threadsafe(self.start, self.put_blocks(window))
        return blocks_in_thread(window)

    async def put_blocks(self, window: Window) -> None:
        side = LoopSide(self.wakeups)
        for block in self.case.blocks():
            while not window.put(block, side.wake):
                await side.woken()
        await side.put(window, None)

    def upload(self, environ: Any) -> list[bytes]:
        window, lock = Window(REQUEST_WINDOW_BYTES), locked()
        answer: list[bytes] = []
        with_crc = environ["QUERY_STRING"] == "crc"
        self.loop.call_soon_threadsafe(self.start, self.count(window, with_crc, answer, lock))
        read = environ["wsgi.input"].read
        blocks = iter(lambda: read(REQUEST_WINDOW_BYTES), b"")
        put_from_thread(window, blocks)
        lock.acquire()
        return answer

    async def count(
        self, window: Window, with_crc: bool, answer: list[bytes], lock: LockType
    ) -> None:
        side, ended, total = LoopSide(self.wakeups), False, 0
        crc = 0
        while not ended:
            blocks, ended = await side.take(window)
            total += sum(map(len, blocks))
            if with_crc:
                for block in blocks:
                    crc = zlib.crc32(block, crc)
        answer.append(upload_answer(total, crc if with_crc else None))
        lock.release()


def floor_asgi_to_wsgi(case: Case, new_loop: NewLoop) -> Bridge:
    thread = LoopThread(new_loop)
    return Bridge(FloorASGIToWSGI(case, thread.loop), thread.end)

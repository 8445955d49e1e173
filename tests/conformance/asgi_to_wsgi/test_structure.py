"""What a request costs: posts to the private loop, its wake-ups, and those of the caller."""

import asyncio
import selectors
import sys
import threading
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, ClassVar

import anyio.lowlevel
import pytest

from tests.support.fake_wsgi_server import (
    InThread,
    bridged,
    echo,
    environ_for,
    finish,
    hello,
    respond,
    start,
    stream,
)
from tests.support.interpreter import threads_take_turns
from wsgi_asgi_bridge import ASGIToWSGI
from wsgi_asgi_bridge._crossing.eventfd_wakeup import EventfdWakeup

REQUESTS = 50


class CountingSelector(selectors.DefaultSelector):
    """Counts how often its loop slept and was woken by a descriptor."""

    wakes = 0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(timeout)
        if ready and timeout != 0:
            self.wakes += 1
        return ready


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts the posts that come from other threads."""

    def __init__(self) -> None:
        self.selector = CountingSelector()
        super().__init__(self.selector)
        self.posts = 0

    def call_soon_threadsafe(self, *args: Any, **options: Any) -> asyncio.Handle:
        self.posts += 1
        return super().call_soon_threadsafe(*args, **options)


class CallerWaits:
    """Counts where the calling thread has to wait: a held lock, an empty queue, a selector.

    It sees calls of C functions, which is what every wait of Python code ends in.
    """

    BLOCKING: ClassVar[dict[str, Callable[[Any], bool]]] = {
        "acquire": lambda lock: lock.locked(),
        "get": lambda queue: queue.empty(),
        "select": lambda _: True,
        "poll": lambda _: True,
        "recv": lambda _: True,
        "sleep": lambda _: True,
    }
    OWNERS = frozenset({"lock", "RLock", "SimpleQueue", "epoll", "poll", "socket", "module"})

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, frame: Any, event: str, arg: Any) -> None:
        if event != "c_call":
            return
        owner = getattr(arg, "__self__", None)
        blocks = self.BLOCKING.get(arg.__name__)
        if blocks and type(owner).__name__ in self.OWNERS and blocks(owner):
            self.count += 1


class Counted:
    """A bridge over a counting loop, and what some requests in one thread cost."""

    def __init__(self, bridge: ASGIToWSGI, loops: list[CountingLoop]) -> None:
        self.bridge, self.loops = bridge, loops

    def cost(self, environ: Callable[[], Any], times: int = REQUESTS) -> tuple[int, int, int]:
        """Posts to the loop, wake-ups of the loop, waits of the caller."""
        return InThread(lambda: self._cost(environ, times), "the requests").result()

    def _cost(self, environ: Callable[[], Any], times: int) -> tuple[int, int, int]:
        self._request(environ())
        (loop,) = self.loops
        posts, wakes = loop.posts, loop.selector.wakes
        waits = CallerWaits()
        for _ in range(times):
            made = environ()
            sys.setprofile(waits)
            try:
                self._request(made)
            finally:
                sys.setprofile(None)
        return loop.posts - posts, loop.selector.wakes - wakes, waits.count

    def _request(self, environ: Any) -> bytes:
        result = self.bridge(environ, lambda *_: lambda data: None)
        try:
            return b"".join(result)
        finally:
            if hasattr(result, "close"):
                result.close()


@pytest.fixture(params=["wakeup", "call_soon_threadsafe"])
def counted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`with counted(app) as bridge:`, for both ways in which a loop is posted to."""
    loops: list[CountingLoop] = []

    def loop_factory() -> CountingLoop:
        loops.append(CountingLoop())
        return loops[-1]

    def ring(wakeup: EventfdWakeup, callback: Callable[[], None]) -> None:
        loops[-1].posts += 1
        original_ring(wakeup, callback)

    original_ring = EventfdWakeup.wake
    monkeypatch.setattr(EventfdWakeup, "wake", ring)
    if request.param != "wakeup":
        monkeypatch.setattr(EventfdWakeup, "create_if_supported", lambda loop: None)

    @contextmanager
    def counted(app: Any, **options: Any) -> Any:
        with bridged(app, loop_factory=loop_factory, **options) as bridge:
            yield Counted(bridge, loops)

    return counted


def test_observer_sees_waits() -> None:
    """The count of the caller's waits sees the waits that Python offers."""
    waits = CallerWaits()
    lock = threading.Lock()
    lock.acquire()

    def observed() -> None:
        sys.setprofile(waits)
        threading.Timer(0.01, lock.release).start()
        lock.acquire()
        sys.setprofile(None)

    InThread(observed, "the wait").result()
    assert waits.count >= 1


SMALL = {
    "hello": (hello, lambda: environ_for()),
    "small upload": (echo, lambda: environ_for(method="POST", body=b"x" * 1000)),
    "head": (hello, lambda: environ_for(method="HEAD")),
}


@pytest.mark.parametrize("case", SMALL.values(), ids=SMALL)
def test_small_response_costs_one_post_and_one_wake_up(case: Any, counted: Any) -> None:
    """Structure: one post to the loop there, one wake-up of the caller back, whatever the number of
    messages.
    """
    app, environ = case
    with counted(app) as bridge:
        posts, wakes, waits = bridge.cost(environ)
    assert 0 < posts <= REQUESTS
    assert 0 < wakes <= REQUESTS
    assert waits <= REQUESTS  # none, where the answer was there before the caller looked


@threads_take_turns
def test_messages_sent_at_once_travel_together(counted: Any) -> None:
    """Structure: a hundred parts sent without a pause cost the caller no more than one."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        for _ in range(100):
            await stream(send, b"part")
        await finish(send)

    with counted(app) as bridge:
        posts, wakes, waits = bridge.cost(lambda: environ_for())
    assert posts <= 2 * REQUESTS
    assert wakes <= 2 * REQUESTS
    assert waits <= 3 * REQUESTS


def test_an_app_that_pauses_before_its_answer_costs_no_more(counted: Any) -> None:
    """Structure: what the app awaits inside the loop is no business of the caller."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        await respond(send, b"later")

    with counted(app) as bridge:
        posts, wakes, waits = bridge.cost(lambda: environ_for())
    assert posts <= REQUESTS
    assert wakes <= REQUESTS
    assert waits <= REQUESTS


@threads_take_turns
def test_large_stream_meets_once_a_buffer(counted: Any) -> None:
    """Structure: the two threads meet about once a buffer, not once a part."""
    part, buffer, count = 1024, 65_536, 1024

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        for _ in range(count):
            await stream(send, b"x" * part)
        await finish(send)

    with counted(app, response_buffer=buffer) as bridge:
        posts, _, waits = bridge.cost(lambda: environ_for(), times=3)
    buffers = 3 * count * part // buffer
    assert posts <= 4 * buffers
    assert waits <= 4 * buffers

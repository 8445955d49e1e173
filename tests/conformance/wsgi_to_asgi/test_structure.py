"""What an exchange costs in hand-offs and wake-ups, and that nothing grows with its square. Counts
and ratios, no seconds.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio.lowlevel

from tests.support.fake_asgi_server import (
    DEADLINE_SECONDS,
    Client,
    Gate,
    answered,
    app_returning,
    calling,
    http_scope,
    plain_app,
    serving,
    settle,
)
from wsgi_asgi_bridge._crossing.channel import ThreadToLoop
from wsgi_asgi_bridge._crossing.workers import WorkerPool
from wsgi_asgi_bridge.wsgi_to_asgi.settings import LEAST_TICK_SECONDS

Environ = dict[str, Any]
RESPONSES = 20


class WakeUps:
    """How often other threads woke the running loop while this was on."""

    def __init__(self) -> None:
        self.count = 0
        self._counting = False
        self._loop_thread = threading.get_ident()

    @contextmanager
    def counted(self) -> Iterator["WakeUps"]:
        self.count, self._counting = 0, True
        try:
            yield self
        finally:
            self._counting = False

    def around(self, wake_up: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            if self._counting and threading.get_ident() != self._loop_thread:
                self.count += 1
            return wake_up(*args, **kwargs)

        return counting


@pytest.fixture
def wake_ups(monkeypatch: pytest.MonkeyPatch, anyio_backend_name: str) -> Callable[[], WakeUps]:
    """Call it inside the loop, before the bridge's first use there."""

    def install() -> WakeUps:
        counter = WakeUps()
        if anyio_backend_name == "trio":
            token = trio.lowlevel.TrioToken
            monkeypatch.setattr(token, "run_sync_soon", counter.around(token.run_sync_soon))
        else:
            loop = asyncio.get_running_loop()
            counting = counter.around(loop.call_soon_threadsafe)
            monkeypatch.setattr(loop, "call_soon_threadsafe", counting)
        return counter

    return install


# --- a response given whole


@pytest.mark.parametrize("chunks", [0, 1, 3, 1000])
@pytest.mark.parametrize("kind", [list, tuple])
async def test_list_costs_at_most_one_wake_up(
    chunks: int, kind: Any, wake_ups: Callable[[], WakeUps]
) -> None:
    """W-FLOW-1: start, body and end come back together: one wake-up of a sleeping loop whatever the
    number of messages.
    """
    gate = Gate()

    def app(environ: Environ, start_response: Any) -> Any:
        gate.wait_in_thread()
        start_response("200 OK", [])
        return kind([b"chunk"] * chunks)

    counter = wake_ups()
    first = Client()
    async with serving(app) as bridge:
        with counter.counted():
            async with calling(bridge, first):
                await settle()
                gate.open()
        assert counter.count == 1
        for _ in range(5):  # an app that is faster than the loop falls asleep needs none
            with counter.counted():
                client = await answered(bridge)
            assert client.body == first.body == b"chunk" * chunks
            assert counter.count <= 1


@pytest.mark.parametrize("size", [0, 800, 65536])
async def test_small_upload_and_its_answer_cost_one_wake_up(
    size: int, wake_ups: Callable[[], WakeUps]
) -> None:
    """W-IN-5: a collected body is there before the worker is: reading it wakes nobody."""
    body = b"x" * size
    headers = [(b"content-length", b"%d" % size)]
    parts = [body[:5], body[5:]]
    counter = wake_ups()
    async with serving(app_returning(lambda environ: [environ["wsgi.input"].read()])) as bridge:
        for _ in range(5):
            with counter.counted():
                client = await answered(bridge, Client(http_scope("POST", headers=headers), parts))
            assert client.body == body
            assert counter.count <= 1


class BlockingCalls:
    """Counts the calls of a worker that may put it to sleep, by a profile function that each new
    thread gets; others' threads get it too.

    Not the locks that are held for a few statements. Whether one of them is free is chance.
    """

    BRIEF = frozenset({WorkerPool._next_job.__code__, ThreadToLoop.end_from_thread.__code__})
    NAMES = frozenset({"acquire", "get", "wait", "result", "join", "sleep", "select", "recv"})

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        if event != "c_call" or getattr(argument, "__name__", "") not in self.NAMES:
            return
        ours = threading.current_thread().name.startswith("wsgi_asgi_bridge-worker")
        if ours and frame.f_code not in self.BRIEF:
            self.calls[argument.__qualname__] += 1


async def test_list_costs_one_hand_off_to_a_worker() -> None:
    """W-FLOW-1: the worker goes to sleep as often for a list of a thousand chunks as for one: once,
    after it.
    """
    bodies = {"/1": [b"chunk"], "/1000": [b"chunk"] * 1000}
    blocking = BlockingCalls()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return bodies[environ["PATH_INFO"]]

    async def calls_for(path: str) -> int:
        before = blocking.calls.total()
        for _ in range(10):
            await answered(bridge, Client(http_scope(path=path)))
            _wait_until(lambda: bridge.stats().idle == 1)
        return blocking.calls.total() - before

    threading.setprofile(blocking)
    try:
        async with serving(app, workers=1) as bridge:
            await calls_for("/1")
            one, thousand = await calls_for("/1"), await calls_for("/1000")
    finally:
        threading.setprofile(None)
    assert one == thousand
    assert 10 <= one <= 20, f"{one / 10} sleeps a request: {blocking.calls}"


def _wait_until(condition: Callable[[], object]) -> None:
    """Hold the loop until the workers are that far."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("the workers did not get there")
        time.sleep(0.001)


# --- many responses at once


@pytest.mark.parametrize("kind", ["list", "stream"])
async def test_responses_that_finish_together_share_a_wake_up(
    kind: str, wake_ups: Callable[[], WakeUps]
) -> None:
    """W-FLOW-7: twenty workers answer while the loop is busy elsewhere: it is woken once for all of
    them.
    """
    gate = Gate()
    entered = threading.Semaphore(0)

    def app(environ: Environ, start_response: Any) -> Any:
        entered.release()
        gate.wait_in_thread()
        start_response("200 OK", [])
        return [b"x", b"y"] if kind == "list" else iter([b"x", b"y"])

    def given() -> bool:
        stats = bridge.stats()
        return stats.idle == RESPONSES

    counter = wake_ups()
    clients = [Client() for _ in range(RESPONSES)]
    async with serving(app, workers=RESPONSES) as bridge, calling(bridge, *clients):
        await settle()
        for _ in range(RESPONSES):
            assert entered.acquire(timeout=DEADLINE_SECONDS)
        with counter.counted():
            gate.open()
            _wait_until(given)
            assert 1 <= counter.count <= 2
    assert [client.body for client in clients] == [b"xy"] * RESPONSES


async def test_chunks_that_wait_share_wake_ups(wake_ups: Callable[[], WakeUps]) -> None:
    """W-OUT-4: a stream that is faster than a busy loop wakes it once, not once for each of its
    chunks.
    """
    given = Gate()

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        for _ in range(1000):
            yield b"x" * 100
        given.open()

    counter = wake_ups()
    client = Client()
    async with serving(app, response_buffer=262_144) as bridge, calling(bridge, client):
        with counter.counted():
            while client.send_calls == 0 and not given:
                await settle()
            _wait_until(lambda: given)
    assert client.body == b"x" * 100_000
    assert counter.count <= 100


@pytest.mark.parametrize("how", ["before the first bytes", "after them", "write"])
async def test_empty_chunks_wake_nobody(how: str, wake_ups: Callable[[], WakeUps]) -> None:
    """W-OUT-11: who polls costs its own thread a step, and the loop nothing."""
    ready, go, polled, end = Gate(), Gate(), Gate(), Gate()

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        write = start_response("200 OK", [])
        if how == "write":
            write(b"first")
        if how == "after them":
            yield b"first"
        ready.open()
        go.wait_in_thread()
        for _ in range(1000):
            if how == "write":
                write(b"")
            else:
                yield b""
        polled.open()
        end.wait_in_thread()
        yield b"last"

    counter = wake_ups()
    client = Client()
    async with serving(app) as bridge, calling(bridge, client):
        await ready.wait()
        if how != "before the first bytes":
            await client.until(lambda c: c.body == b"first")
        await settle()
        with counter.counted():
            go.open()
            _wait_until(lambda: polled)
        assert counter.count == 0
        end.open()
    assert client.body.endswith(b"last")


async def test_empty_chunks_of_a_list_stay_in_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """W-FLOW-7: a list of nothing, however long, is nothing to the loop."""
    seen: list[int] = []

    def counting(channel: ThreadToLoop) -> Any:
        taken = really_taken(channel)
        if taken is not None:
            seen.append(len(taken[0]))
        return taken

    really_taken = ThreadToLoop.taken_in_loop
    monkeypatch.setattr(ThreadToLoop, "taken_in_loop", counting)
    body = [b""] * 100_000
    async with serving(app_returning([*body, b"all", *body])) as bridge:
        client = await answered(bridge)
    assert client.body == b"all"
    assert seen == [1]


# --- the tick


async def test_a_tiny_time_out_does_not_spin_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """W-FLOW-7: however small `stream_after` is, the loop looks at its time-outs now and then."""
    gate = Gate()
    delays: list[float] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        gate.wait_in_thread()
        return plain_app(environ, start_response)

    async with serving(app, stream_after=1e-6) as bridge:
        handle = type(bridge._runtime().handle)
        call_later = handle.call_later

        def noting(self: Any, seconds: float, callback: Callable[[], None]) -> None:
            delays.append(seconds)
            if len(delays) == 3:
                gate.open()
            call_later(self, seconds, callback)

        monkeypatch.setattr(handle, "call_later", noting)
        assert (await answered(bridge)).body == b"hello"
    assert min(delays) >= LEAST_TICK_SECONDS


# --- linear time

HEADERS = 40_000


def _cost(scope_headers: list[tuple[bytes, bytes]]) -> Callable[[Any], Any]:
    """CPU time of this thread, the loop's, for one request with these headers."""

    async def measure(bridge: Any) -> float:
        client = Client(http_scope(headers=scope_headers))
        begin = time.thread_time()
        await answered(bridge, client)
        spent = time.thread_time() - begin
        assert client.status in (200, 400)
        return spent

    return measure


REPEATED = [(b"x-many", b"v" * 20)] * HEADERS
DIFFERENT = [(b"x-%05d" % number, b"v" * 20) for number in range(HEADERS)]
COOKIES = [(b"cookie", b"v" * 20)] * HEADERS


@pytest.mark.parametrize("headers", [REPEATED, COOKIES], ids=["header", "cookie"])
@pytest.mark.parametrize("allowed", [100, 10 * HEADERS], ids=["refused", "allowed"])
async def test_repeated_headers_cost_no_more_than_different_ones(
    headers: list[tuple[bytes, bytes]], allowed: int
) -> None:
    """W-ENV-5: 40,000 repeats cost the loop at most a few times what 40,000 different names cost
    it, refused or joined.
    """
    async with serving(plain_app, max_header_repeats=allowed) as bridge:
        repeated, different = _cost(headers), _cost(DIFFERENT)
        spent = [(await repeated(bridge), await different(bridge)) for _ in range(3)]
    assert min(r for r, _ in spent) <= 4 * min(d for _, d in spent)


@pytest.mark.parametrize(("headers", "status"), [(REPEATED, 400), (COOKIES, 400), (DIFFERENT, 200)])
async def test_forty_thousand_headers_are_answered(
    headers: list[tuple[bytes, bytes]], status: int
) -> None:
    """W-ENV-5: by default repeats beyond 100 are refused, different names are not."""
    async with serving(plain_app) as bridge:
        assert (await answered(bridge, Client(http_scope(headers=headers)))).status == status


async def test_many_small_parts_cost_no_square() -> None:
    """W-IN-5: four times the parts of a collected body cost the loop about four times, not
    sixteen.
    """

    async def cost(parts: int) -> float:
        body = [b"ab"] * parts
        headers = [(b"content-length", b"%d" % (2 * parts))]
        client = Client(http_scope("POST", headers=headers), body)
        begin = time.thread_time()
        await answered(bridge, client)
        return time.thread_time() - begin

    read_app = app_returning(lambda environ: [b"%d" % len(environ["wsgi.input"].read())])
    async with serving(read_app, request_buffer=1_000_000) as bridge:
        small = min([await cost(2_000) for _ in range(3)])
        large = min([await cost(8_000) for _ in range(3)])
    assert large <= 10 * small

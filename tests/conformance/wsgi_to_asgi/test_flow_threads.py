"""W-FLOW-4, W-FLOW-8: the threads, the queue before them, and those that do not count."""

import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests.support.fake_asgi_server import (
    DEADLINE_SECONDS,
    Client,
    Gate,
    answered,
    app_returning,
    calling,
    plain_app,
    post_scope,
    serving,
    settle,
)
from tests.support.routed import client_of, routed

Environ = dict[str, Any]
BLOCK = b"x" * 1000


# --- W-FLOW-4


class Counted:
    """An app that holds its requests at a gate and counts how many are inside at once."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.calls: list[str] = []
        self.most = 0
        self.entered: list[Gate] = [Gate() for _ in range(100)]
        self._inside = 0
        self._lock = threading.Lock()

    def __call__(self, environ: Environ, start_response: Any) -> list[bytes]:
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)
            self.calls.append(environ["PATH_INFO"])
            entered = self.entered[len(self.calls) - 1]
        entered.open()
        self.gate.wait_in_thread()
        with self._lock:
            self._inside -= 1
        return plain_app(environ, start_response)


async def test_at_most_workers_run_at_once() -> None:
    """W-FLOW-4: twenty requests on three workers: three inside, three threads, all answered in the
    end.
    """
    app = Counted()
    clients = [Client() for _ in range(20)]
    async with serving(app, workers=3) as bridge, calling(bridge, *clients):
        await app.entered[2].wait()
        await settle()
        assert not app.entered[3]
        stats = bridge.stats()
        assert (stats.threads, stats.busy, stats.queued) == (3, 3, 17)
        app.gate.open()
    assert app.most == 3
    assert {client.body for client in clients} == {b"hello"}


async def test_threads_start_as_needed() -> None:
    """W-FLOW-4: forty requests one after another need no forty threads; a second one may overlap
    the end of the first.
    """
    async with serving(plain_app) as bridge:
        for _ in range(40):
            await answered(bridge)
        assert 1 <= bridge.stats().threads <= 5
        assert bridge.stats().completed == 40


@pytest.mark.parametrize("max_queued", [0, 1, 3])
async def test_full_queue_answers_503(max_queued: int) -> None:
    """W-FLOW-4: one more than may wait gets 503 and Retry-After at once; those that wait are
    served.
    """
    app = Counted()
    waiting = [Client() for _ in range(max_queued)]
    async with (
        serving(app, workers=1, max_queued=max_queued) as bridge,
        calling(bridge, Client()),
    ):
        await app.entered[0].wait()
        async with calling(bridge, *waiting):
            await settle()
            refused = await answered(bridge)
            assert (refused.status, refused.complete) == (503, True)
            assert (refused.header("retry-after") or "").isdecimal()
            assert bridge.stats().rejected == 1
            assert bridge.stats().queued == max_queued
            app.gate.open()
    assert len(app.calls) == 1 + max_queued
    assert all(client.body == b"hello" for client in waiting)


@pytest.mark.parametrize("how", ["leave", "cancel"])
async def test_request_whose_client_leaves_the_queue_takes_no_thread(how: str) -> None:
    """W-FLOW-4: it is over at once, before a thread is free, and the app never sees it."""
    app = Counted()
    first, leaver, stayer = (client_of(path) for path in ("/first", "/leaver", "/stayer"))
    async with serving(app, workers=1) as bridge, calling(bridge, first):
        await app.entered[0].wait()
        async with calling(bridge, leaver, stayer):
            await settle()
            getattr(leaver, how)()
            await leaver.until_ended()
            assert bridge.stats().queued == 1
            app.gate.open()
    assert app.calls == ["/first", "/stayer"]
    assert stayer.body == b"hello"
    assert leaver.messages == []
    assert leaver.error is None


async def test_place_in_the_queue_is_given_back() -> None:
    """W-FLOW-4: whoever left the queue makes room for another."""
    app = Counted()
    leaver, next_one = Client(), Client()
    async with serving(app, workers=1, max_queued=1) as bridge, calling(bridge, Client()):
        await app.entered[0].wait()
        async with calling(bridge, leaver):
            await settle()
            leaver.leave()
        async with calling(bridge, next_one):
            await settle()
            app.gate.open()
    assert next_one.body == b"hello"
    assert len(app.calls) == 2


async def test_queued_requests_are_served_in_order() -> None:
    """W-FLOW-4: first come, first served."""
    app = Counted()
    async with AsyncExitStack() as stack:
        bridge = await stack.enter_async_context(serving(app, workers=1))
        for index in range(5):
            await stack.enter_async_context(calling(bridge, client_of(f"/{index}")))
            if index == 0:
                await app.entered[0].wait()
            await settle()
        app.gate.open()
    assert app.calls == [f"/{index}" for index in range(5)]


# --- W-FLOW-8


class Streams:
    """Event streams that say one thing and then wait."""

    def __init__(self) -> None:
        self.gate = Gate()

    def __call__(self, environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        yield b"data: 1\n\n"
        self.gate.wait_in_thread()


async def test_open_streams_leave_the_pool_its_threads() -> None:
    """W-FLOW-8: ten open event streams on two workers, and two requests at once are answered."""
    streams = Streams()
    meeting = threading.Barrier(2, timeout=DEADLINE_SECONDS)

    def meet(environ: Environ, start_response: Any) -> list[bytes]:
        meeting.wait()
        return plain_app(environ, start_response)

    clients = [client_of("/stream") for _ in range(10)]
    app = routed(stream=streams, meet=meet)
    async with serving(app, workers=2, stream_after=0.02) as bridge, calling(bridge, *clients):
        for client in clients:
            await client.until(lambda c: c.body)
        pair = [client_of("/meet") for _ in range(2)]
        async with calling(bridge, *pair):
            pass
        assert [client.body for client in pair] == [b"hello"] * 2
        assert bridge.stats().streaming == 10
        streams.gate.open()
    assert all(client.complete for client in clients)
    assert bridge.stats().streaming == 0


async def test_short_responses_stay_in_the_count() -> None:
    """W-FLOW-8: before `stream_after` a stream is a request like others."""
    streams = Streams()
    client, waiting = client_of("/stream"), Client()
    app = routed(stream=streams)
    async with serving(app, workers=1, stream_after=3600) as bridge, calling(bridge, client):
        await client.until(lambda c: c.body)
        async with calling(bridge, waiting):
            await settle()
            stats = bridge.stats()
            assert (stats.streaming, stats.busy, stats.queued) == (0, 1, 1)
            streams.gate.open()
    assert waiting.body == b"hello"


async def test_streams_are_limited() -> None:
    """W-FLOW-8: the stream after `max_streams` keeps its worker until it ends."""
    gates = {"/a": Gate(), "/b": Gate(), "/c": Gate()}

    def stream(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"x"
        gates[environ["PATH_INFO"]].wait_in_thread()

    streams, waiting = [client_of(path) for path in gates], Client()
    app = routed(a=stream, b=stream, c=stream)
    async with (
        serving(app, workers=2, stream_after=0.02, max_streams=1) as bridge,
        calling(bridge, *streams),
    ):
        for client in streams:
            await client.until(lambda c: c.body)
        async with calling(bridge, waiting):
            with anyio.fail_after(DEADLINE_SECONDS):
                while bridge.stats().streaming < 1:  # noqa: ASYNC110, no event tells of it
                    await anyio.sleep(0.002)
            await anyio.sleep(0.1)  # time enough for a second one, were it allowed
            assert bridge.stats().streaming == 1
            assert not waiting.started
            gates["/b"].open()
        gates["/a"].open()
        gates["/c"].open()
    assert waiting.body == b"hello"


async def test_lone_worker_stays_alone() -> None:
    """W-FLOW-8, W-ENV-7: with `workers=1` the app was told that it is alone, so no stream ever
    leaves its place.
    """
    streams = Streams()
    client, waiting = client_of("/stream"), Client()
    async with (
        serving(routed(stream=streams), workers=1, stream_after=0.02) as bridge,
        calling(bridge, client),
    ):
        await client.until(lambda c: c.body)
        async with calling(bridge, waiting):
            await anyio.sleep(0.1)
            assert not waiting.started
            streams.gate.open()
    assert waiting.body == b"hello"


@pytest.mark.parametrize("how", ["yield", "write"])
async def test_worker_that_waits_for_a_reader_does_not_count(how: str) -> None:
    """W-FLOW-8: ten clients that read nothing of a generator leave the two workers' places to
    others at once.
    """

    def endless(environ: Environ, start_response: Any) -> Iterator[bytes]:
        write = start_response("200 OK", [])
        while how == "write":
            write(BLOCK)
        while True:
            yield BLOCK

    clients = [client_of("/endless", reads=1) for _ in range(10)]
    app = routed(endless=endless)
    async with (
        serving(app, workers=2, stream_after=3600, response_buffer=3000) as bridge,
        calling(bridge, *clients),
    ):
        for client in clients:
            await client.until(lambda c: c.blocked_in_send and c.started)
        assert (await answered(bridge)).body == b"hello"
        for client in clients:
            client.leave()
    assert bridge.stats().in_flight == 0


async def test_worker_that_waits_for_an_upload_does_not_count() -> None:
    """W-FLOW-8: ten clients that send nothing more of a streamed upload leave the two workers'
    places to others.
    """
    read_app = app_returning(lambda environ: [environ["wsgi.input"].read()])
    clients = [
        Client(post_scope(None, path="/upload"), [b"some"], body_ends=False) for _ in range(10)
    ]
    app = routed(upload=read_app)
    async with (
        serving(app, workers=2, stream_after=3600) as bridge,
        calling(bridge, *clients),
    ):
        await settle()
        with anyio.fail_after(3):
            assert (await answered(bridge)).body == b"hello"
        for client in clients:
            client.feed(b" more", last=True)
    assert {client.body for client in clients} == {b"some more"}

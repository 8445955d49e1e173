"""The Endings table for WSGIToASGI, one test a row.

Each checks that close() ran exactly once (or, where the app never ran, never), what it saw, and
that afterwards no thread, task or file of the bridge is left.
"""

import asyncio
import gc
import os
import signal
import sys
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest
import uvloop

from tests.support.fake_asgi_server import (
    DEADLINE_SECONDS,
    Client,
    Gate,
    Lifespan,
    TrackedBody,
    answered,
    calling,
    http_scope,
    nothing_left,
    plain_app,
    post_scope,
    serving,
    settle,
)
from wsgi_asgi_bridge import BridgeClosed, ClientDisconnected, WSGIToASGI
from wsgi_asgi_bridge._crossing.channel import LoopToThread

Environ = dict[str, Any]
BLOCK = b"x" * 1000
GONE = "wsgi_asgi_bridge.client_disconnected"


class AppsOwnError(Exception):
    """What an app raises on its own account."""


class Ending:
    """An app whose one request ends in a known way, and what its close() saw."""

    def __init__(
        self,
        chunks: Callable[["Ending"], Iterator[bytes]],
        *,
        headers: Any = (),
        reads: bool = False,
    ) -> None:
        self.entered, self.gate = Gate(), Gate()
        self.calls = 0
        self.body: TrackedBody | None = None
        self.gone_at_close: list[bool] = []
        self.errors: list[BaseException] = []
        self._chunks, self._headers, self._reads = chunks, list(headers), reads

    def __call__(self, environ: Environ, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/other":
            return plain_app(environ, start_response)
        self.calls += 1
        start_response("200 OK", self._headers)

        def chunks() -> Iterator[bytes]:
            try:
                if self._reads:
                    self.entered.open()
                    environ["wsgi.input"].read()
                yield from self._chunks(self)
            except BaseException as error:
                self.errors.append(error)
                raise

        self.body = TrackedBody(
            chunks(), on_close=lambda: self.gone_at_close.append(environ[GONE]())
        )
        return self.body

    async def until_closed(self) -> None:
        assert self.body is not None
        await self.body.closed.wait()

    @property
    def closes(self) -> int:
        return 0 if self.body is None else self.body.closes


def two_chunks(ending: Ending) -> Iterator[bytes]:
    yield b"one"
    yield b"two"


def endless(ending: Ending) -> Iterator[bytes]:
    while True:
        yield BLOCK


def computing(ending: Ending) -> Iterator[bytes]:
    ending.entered.open()
    ending.gate.wait_in_thread()
    yield b"result"
    yield b"never asked for when the client is gone"


@asynccontextmanager
async def row(ending: Ending, **options: Any) -> AsyncIterator[WSGIToASGI]:
    """The bridge of one row: after it nothing is left and the books are closed."""
    options.setdefault(
        "stream_after", 0.05
    )  # its shortest time-out says how long a last timer may live
    async with nothing_left():
        async with serving(ending, **options) as bridge:
            yield bridge
        stats = bridge.stats()
        assert (stats.in_flight, stats.threads, stats.busy, stats.queued, stats.streaming) == (
            (0,) * 5
        )


# --- the app ends


async def test_app_returns() -> None:
    """W-OUT-5, row 1: the response is whole, close() sees the client still there."""
    ending = Ending(two_chunks)
    async with row(ending) as bridge:
        client = await answered(bridge)
    assert (client.body, client.complete) == (b"onetwo", True)
    assert (ending.closes, ending.gone_at_close) == (1, [False])


@pytest.mark.parametrize("empty_chunks", [0, 2])
async def test_app_raises_before_the_headers(empty_chunks: int) -> None:
    """W-OUT-5, row 2: the server gets the exception and no message; close() runs."""
    error = AppsOwnError()

    def failing(ending: Ending) -> Iterator[bytes]:
        yield from [b""] * empty_chunks
        raise error

    ending, client = Ending(failing), Client()
    async with row(ending) as bridge:
        await client.run(bridge)
    assert client.error is error
    assert client.messages == []
    assert ending.closes == 1


async def test_app_raises_after_the_headers() -> None:
    """W-OUT-5, row 3: the response stays cut; close() runs."""
    error = AppsOwnError()

    def failing(ending: Ending) -> Iterator[bytes]:
        yield b"part"
        raise error

    ending, client = Ending(failing), Client()
    async with row(ending) as bridge:
        await client.run(bridge)
    assert client.error is error
    assert not client.complete
    assert ending.closes == 1


async def test_app_raises_what_a_client_that_left_would_raise() -> None:
    """W-OUT-5, W-CALL-3, row 2: nobody has left, so it is the app's own error and travels out."""
    error = ClientDisconnected("another client, of the app's own")

    def failing(ending: Ending) -> Iterator[bytes]:
        raise error
        yield b""

    ending, client = Ending(failing), Client()
    async with row(ending) as bridge:
        await client.run(bridge)
        assert (bridge.stats().failed, bridge.stats().disconnected) == (1, 0)
    assert client.error is error
    assert (ending.closes, ending.gone_at_close) == (1, [False])


async def test_app_raises_in_close_as_well() -> None:
    """W-OUT-5, rows 2 and 3: an exception of the iteration and one of close(): one close(), and the
    server gets one of them.
    """
    first, second = AppsOwnError("in the iteration"), AppsOwnError("in close")

    def fail(error: Exception) -> Any:
        raise error

    body = TrackedBody((fail(first) for _ in "x"), on_close=lambda: fail(second))

    def app(environ: Environ, start_response: Any) -> TrackedBody:
        start_response("200 OK", [])
        return body

    client = Client()
    async with nothing_left(), serving(app, stream_after=0.05) as bridge:
        await client.run(bridge)
    assert client.error in (first, second)
    assert body.closes == 1
    assert not client.complete


# --- the client leaves


async def test_an_app_whose_reading_raises_can_ask_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """W-FLOW-3: the app is told that its client is gone no later than by the error; without a GIL
    it may ask before the loop takes its next step.
    """
    reading, over = Gate(), Gate()
    environs: list[Environ] = []
    told: list[bool] = []
    break_body = LoopToThread.break_in_loop

    def ask_and_break(body: LoopToThread, reason: Any) -> None:
        told.append(environs[0][GONE]())
        break_body(body, reason)

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        environs.append(environ)
        reading.open()
        try:
            environ["wsgi.input"].read()
        finally:
            over.open()
        raise AssertionError("the body was cut")

    monkeypatch.setattr(LoopToThread, "break_in_loop", ask_and_break)
    client = Client(post_scope(None), [b"some"], body_ends=False)
    async with row(app) as bridge, calling(bridge, client):
        await reading.wait()
        client.leave()
        await over.wait()
    assert told[0]


async def test_client_leaves_while_the_app_reads() -> None:
    """W-OUT-5, row 4: the pump wakes the reader with ClientDisconnected; close() sees it gone;
    nothing is raised.
    """
    ending = Ending(two_chunks, reads=True)
    client = Client(post_scope(None), [b"some"], body_ends=False)
    async with row(ending) as bridge, calling(bridge, client):
        await ending.entered.wait()
        client.leave()
        await ending.until_closed()
    assert [type(error) for error in ending.errors] == [ClientDisconnected]
    assert (ending.closes, ending.gone_at_close) == (1, [True])
    assert client.error is None


async def test_client_leaves_while_the_app_computes() -> None:
    """W-OUT-5, row 5: the app learns it at its next step at the latest; the call does not wait for
    it.
    """

    def polling(ending: Ending) -> Iterator[bytes]:
        yield b"first"
        yield from computing(ending)

    ending, client = Ending(polling), Client()
    async with row(ending) as bridge:
        async with calling(bridge, client):
            await ending.entered.wait()
            client.leave()
        ending.gate.open()
        await ending.until_closed()
        assert bridge.stats().disconnected == 1
    assert (ending.closes, ending.gone_at_close) == (1, [True])
    assert client.error is None
    assert ending.body is not None
    assert ending.body.steps == 2


async def test_client_leaves_before_the_first_byte() -> None:
    """W-OUT-5, row 5: a server that drops what is sent to a client that is gone does not hide it
    from a slow app, which is stopped at its next step.
    """
    ending, client = Ending(computing), Client()
    async with row(ending) as bridge, calling(bridge, client):
        await ending.entered.wait()
        client.leave()
        await client.until_ended()
        ending.gate.open()
        await ending.until_closed()
    assert (ending.closes, ending.gone_at_close) == (1, [True])
    assert ending.body is not None
    assert ending.body.steps == 1
    assert client.error is None
    assert client.messages == []


@pytest.mark.parametrize("raises", [False, True], ids=["send is silent", "send raises"])
async def test_client_leaves_while_the_app_writes(raises: bool) -> None:
    """W-OUT-5, row 6: a worker that waits for room is woken; close() sees the client gone."""
    ending, client = Ending(endless), Client(reads=1, raises_when_gone=raises)
    async with row(ending, response_buffer=2000) as bridge, calling(bridge, client):
        await client.until(lambda c: c.blocked_in_send and c.started)
        client.leave()
        await ending.until_closed()
    assert (ending.closes, ending.gone_at_close) == (1, [True])
    assert client.error is None
    assert not client.complete


@pytest.mark.parametrize("how", ["leave", "cancel"])
async def test_client_leaves_the_queue(how: str) -> None:
    """W-FLOW-4, row 7: the app is never called for it, so there is nothing to close; it leaves at
    once.
    """
    ending = Ending(computing)
    first, waiting = Client(), Client()
    async with row(ending, workers=1) as bridge, calling(bridge, first):
        await ending.entered.wait()
        async with calling(bridge, waiting):
            await settle()
            assert bridge.stats().queued == 1
            getattr(waiting, how)()
        assert bridge.stats().queued == 0
        ending.gate.open()
    assert (ending.calls, ending.closes) == (1, 1)
    assert waiting.error is None
    assert waiting.messages == []


# --- shutdown, cancellation


@asynccontextmanager
async def closed_by(how: str, bridge: WSGIToASGI) -> AsyncIterator[None]:
    """Shut the bridge down in this way meanwhile, and see that it comes to its end."""

    async def shut_down() -> None:
        if how == "aclose":
            await bridge.aclose()
        elif how == "close":
            await anyio.to_thread.run_sync(bridge.close)
        else:
            assert (await lifespan.shutdown()).startswith("lifespan.shutdown.")

    lifespan = Lifespan()
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as group:
            if how == "lifespan":
                group.start_soon(lifespan.run, bridge)
                await lifespan.startup()
            group.start_soon(shut_down)
            yield


SHUTDOWNS = pytest.mark.parametrize("how", ["aclose", "close", "lifespan"])


@SHUTDOWNS
async def test_buffer_full_at_shutdown(how: str) -> None:
    """W-LIFE-1, row 8: the client reads nothing: after `shutdown_timeout` the worker is woken and
    its iterable closed.
    """
    ending, client = Ending(endless), Client(reads=1)
    async with (
        row(ending, response_buffer=2000, shutdown_timeout=0.1) as bridge,
        calling(bridge, client),
    ):
        await client.until(lambda c: c.blocked_in_send and c.started)
        async with closed_by(how, bridge):
            await ending.until_closed()
            await client.until_ended()
    assert isinstance(client.error, BridgeClosed)
    assert (ending.closes, ending.gone_at_close) == (1, [True])
    assert not client.complete


@pytest.mark.parametrize("where", ["reads", "computes", "writes"])
@pytest.mark.parametrize("how", ["scope", "task.cancel()"])
async def test_task_is_cancelled(where: str, how: str, anyio_backend_name: str) -> None:
    """W-FLOW-6, row 9: as a disconnect; the cancellation is not swallowed and does not wait for the
    worker.
    """
    chunks = {"reads": two_chunks, "computes": computing, "writes": endless}[where]
    ending = Ending(chunks, reads=where == "reads")
    client = Client(post_scope(None), [b"some"], body_ends=where != "reads", reads=1)
    async with row(ending, response_buffer=2000) as bridge:
        async with anyio.create_task_group() as group:
            if how == "scope" or anyio_backend_name == "trio":
                group.start_soon(client.run, bridge)
                cancel: Callable[[], Any] = client.cancel
            else:
                task = asyncio.create_task(_cancelled(bridge, client))
                cancel = task.cancel
            if where == "writes":
                await client.until(lambda c: c.blocked_in_send and c.started)
            else:
                await ending.entered.wait()
            cancel()
            await client.until_ended()
        ending.gate.open()
        await ending.until_closed()
    assert ending.closes == 1
    assert ending.gone_at_close == [True]
    assert not client.complete


async def _cancelled(bridge: WSGIToASGI, client: Client) -> None:
    """Call the bridge as a plain task does; only a CancelledError may come out."""
    with pytest.raises(asyncio.CancelledError):
        await bridge(client.scope, client.receive, client.send)  # type: ignore[arg-type]
    client.ended = True
    client.read_on(0)


@pytest.mark.parametrize("reason", ["Content-Length", "HEAD"])
async def test_iterable_is_closed_early(reason: str) -> None:
    """W-OUT-6, row 10: nothing more of it is wanted: the response is whole and close() sees the
    client there.
    """
    headers = [("Content-Length", "1500")] if reason == "Content-Length" else []
    ending = Ending(endless, headers=headers)
    async with row(ending) as bridge:
        client = await answered(bridge, Client(http_scope("HEAD" if reason == "HEAD" else "GET")))
    assert client.complete
    assert len(client.body) == (1500 if headers else 0)
    assert (ending.closes, ending.gone_at_close) == (1, [False])


@SHUTDOWNS
async def test_pool_is_shut_down_in_mid_flight(how: str) -> None:
    """W-LIFE-1, row 11: an app that ends in time is answered whole, and the queue behind it is."""
    ending = Ending(computing)
    client, queued = Client(), Client(http_scope(path="/other"))
    async with row(ending, workers=1) as bridge, calling(bridge, client, queued):
        await ending.entered.wait()
        await settle()
        async with closed_by(how, bridge):
            await settle()
            assert not client.ended
            ending.gate.open()
    assert client.complete
    assert queued.body == b"hello"
    assert (ending.closes, ending.gone_at_close) == (1, [False])


@SHUTDOWNS
async def test_pool_is_shut_down_and_the_app_does_not_end(how: str) -> None:
    """W-LIFE-1, row 11: past `shutdown_timeout` the request is broken off; the thread ends at the
    app's next step.
    """
    ending, client = Ending(computing), Client()
    async with row(ending, shutdown_timeout=0.1) as bridge:
        async with calling(bridge, client):
            await ending.entered.wait()
            async with closed_by(how, bridge):
                await client.until_ended()
        ending.gate.open()
        await ending.until_closed()
    assert isinstance(client.error, BridgeClosed)
    assert (ending.closes, ending.gone_at_close) == (1, [True])


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("where", ["reads", "computes", "writes", "queue"])
def test_loop_is_closed_in_mid_flight(where: str, loop_factory: Any) -> None:
    """W-FLOW-6, row 11: a loop that was stopped and closed under its requests: the workers end,
    close() runs.
    """
    chunks = {"reads": two_chunks, "writes": endless}.get(where, computing)
    ending = Ending(chunks, reads=where == "reads")
    bridge = WSGIToASGI(
        ending, workers=1, response_buffer=2000, stall_timeout=0.2, shutdown_timeout=0.5
    )

    async def begin() -> None:
        client = Client(post_scope(None), [b"some"], body_ends=where != "reads", reads=1)
        tasks.append(asyncio.create_task(client.run(bridge)))
        if where == "writes":
            await client.until(lambda c: c.blocked_in_send and c.started)
        else:
            await asyncio.to_thread(ending.entered.wait_in_thread)
        if where == "queue":
            tasks.append(asyncio.create_task(Client().run(bridge)))
            await settle()

    tasks: list[asyncio.Task[None]] = []
    loop = loop_factory()
    loop.run_until_complete(begin())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.set_exception_handler(lambda loop, context: None)
    loop.close()
    ending.gate.open()
    assert ending.body is not None
    ending.body.closed.wait_in_thread()
    bridge.close()
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    tasks.clear()
    gc.collect()
    assert ending.closes == 1
    assert bridge.stats().threads == 0


# --- fork


def _exit_code_of(pid: int) -> int:
    """The child's exit code; a child that hangs is killed and fails the test."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError("the forked child hung")


def _forked(child: Callable[[], None]) -> int:
    """Run `child` in a fork of this process and return its exit code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of threads and fork
        pid = os.fork()
    if pid:
        return _exit_code_of(pid)
    code = 1
    try:
        child()
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize(
    ("backend", "options"),
    [
        ("asyncio", {"use_uvloop": False}),
        ("asyncio", {"use_uvloop": True}),
        ("trio", {}),
    ],
    ids=["asyncio", "uvloop", "trio"],
)
def test_fork_in_mid_flight(backend: str, options: dict[str, Any]) -> None:
    """W-LIFE-1, row 12: the child has neither request nor thread of its parent and serves anew; the
    parent goes on.
    """
    ending = Ending(computing)
    bridge = WSGIToASGI(ending, workers=2, shutdown_timeout=5)
    clients: list[Client] = []

    async def one_request() -> None:
        clients.append(Client())
        await answered(bridge, clients[0])

    async def other_request() -> bytes:
        return (await answered(bridge, Client(http_scope(path="/other")))).body

    def child() -> None:
        stats = bridge.stats()
        assert (stats.threads, stats.in_flight, stats.busy) == (0, 0, 0), stats
        bridge.close()
        assert anyio.run(other_request, backend=backend, backend_options=options) == b"hello"
        bridge.close()
        assert bridge.stats().threads == 0
        assert ending.closes == 0

    def serve() -> None:
        anyio.run(one_request, backend=backend, backend_options=options)

    server = threading.Thread(target=serve)
    server.start()
    try:
        ending.entered.wait_in_thread()
        assert _forked(child) == 0
    finally:
        ending.gate.open()
        server.join(DEADLINE_SECONDS)
        bridge.close()
    assert not server.is_alive()
    assert clients[0].complete
    assert (ending.closes, ending.gone_at_close) == (1, [False])


# --- memory


class Witness:
    """Dies with the environ that holds it."""


@pytest.mark.parametrize("how", ["returns", "returns a list", "raises", "leaves", "is cancelled"])
async def test_request_is_forgotten(how: str) -> None:
    """W-OUT-5, all rows: after its end nobody holds the environ, though the bridge and its idle
    worker live on.
    """
    entered, gate = Gate(), Gate()
    references: list[weakref.ref[Any]] = []

    def app(environ: Environ, start_response: Any) -> Any:
        witness = environ["test.witness"] = Witness()
        references.append(weakref.ref(witness))
        del witness
        start_response("200 OK", [])
        if how == "returns a list":
            return [b"x"]
        return chunks(environ)

    def chunks(environ: Environ) -> Iterator[bytes]:
        yield b"x"
        if how == "raises":
            raise AppsOwnError
        if how in ("leaves", "is cancelled"):
            entered.open()
            gate.wait_in_thread()
            yield b"y"

    async with serving(app) as bridge:
        await _one_ending(bridge, how, entered, gate)
        await _all_workers_idle(bridge)
        gc.collect()
        assert references[0]() is None


async def _one_ending(bridge: WSGIToASGI, how: str, entered: Gate, gate: Gate) -> None:
    client = Client()
    async with calling(bridge, client):
        if how in ("leaves", "is cancelled"):
            await entered.wait()
            client.leave() if how == "leaves" else client.cancel()
            await settle()
            gate.open()


async def _all_workers_idle(bridge: WSGIToASGI) -> None:
    with anyio.fail_after(DEADLINE_SECONDS):
        while bridge.stats().idle < bridge.stats().threads:  # noqa: ASYNC110
            await anyio.sleep(0.002)

"""The Endings table for event streams that take no thread (R-4, R-5), and what meets at a release.

Each row tells what the app and the client see, which counter has it, and that no task, thread,
socket or file is left.
"""

import errno
import http.client
import logging
import os
import socket
import struct
import threading
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from asgiref.sync import sync_to_async

from tests.support.event_apps import (
    EVENT,
    Events,
    becomes_released,
    is_released,
    start_events,
)
from tests.support.fake_wsgi_server import (
    Gate,
    InThread,
    close_bridge,
    finish,
    must_become,
    must_happen,
    on_every_backend,
    run_script,
    stream,
)
from tests.support.served_connection import (
    CHUNKED,
    SERVERS,
    UNTIL_CLOSE,
    ServedConnection,
    served,
)
from tests.support.watched_apps import Watched, nothing_left
from wsgi_asgi_bridge import ASGIToWSGI, ClientDisconnected
from wsgi_asgi_bridge._crossing.calling_thread import CallingThread
from wsgi_asgi_bridge.asgi_to_wsgi import event_stream
from wsgi_asgi_bridge.asgi_to_wsgi.app_task import AppTask
from wsgi_asgi_bridge.asgi_to_wsgi.event_stream import EventStream

on_every_server = pytest.mark.parametrize("server", SERVERS)

LARGE = bytes(range(256)) * 40_000  # 10 MB: more than the kernel and the bridge hold
Backend = dict[str, Any]


class CustomError(Exception):
    pass


def is_cut(connection: ServedConnection, server: str) -> bool:
    """Whether the client sees that the body is not whole."""
    expected = http.client.IncompleteRead if server == CHUNKED else ConnectionResetError
    try:
        connection.read_rest()
    except expected:
        return True
    return False


def opened(connection: ServedConnection) -> None:
    """The stream is open, and its thread is free."""
    connection.ask()
    connection.thread_is_free()
    connection.read_head()


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def before_the_thread_answers(monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    """Call `act` with the calling thread's half when that thread has been offered to leave."""
    take = CallingThread.take_from_thread

    def taking(self: CallingThread, *args: Any) -> Any:
        taken = take(self, *args)
        if taken == ([], False):
            act(self)
        return taken

    monkeypatch.setattr(CallingThread, "take_from_thread", taking)


# --- the app


@on_every_backend
@on_every_server
@pytest.mark.parametrize("how", ["returns", "raises"])
def test_app_ends_in_the_middle(
    backend: Backend, server: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Ending: app returns or raises after the head. R-4, A-OUT-4: the body is cut, the error is
    logged, since nobody is left to raise it to.
    """

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await start_events(send)
        await stream(send, EVENT)
        await gate.wait()
        if how == "raises":
            raise CustomError

    app, gate = Watched(body), Gate()
    with nothing_left(app, backend) as bridge, served(bridge, server) as connection:
        opened(connection)
        assert connection.read_exactly(len(EVENT)) == EVENT
        gate.open()
        assert is_cut(connection, server)
        connection.close()
        must_become(lambda: bridge.stats().failed == 1, "the count")
        must_become(lambda: not is_released(bridge), "the close")
    [record] = caplog.records
    assert record.getMessage() == "the app failed in the middle of an event stream"
    assert record.exc_info is not None
    assert type(record.exc_info[1]).__name__ == ("CustomError" if how == "raises" else "AppError")


@on_every_server
@pytest.mark.parametrize("when", ["before the thread looks", "after it has left"])
def test_app_raises_right_after_its_head(
    server: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-4, A-OUT-7: whoever is quicker, the client gets the head and what was sent, then a cut."""
    raised = threading.Event()
    if when == "before the thread looks":

        def app_has_raised(caller: CallingThread) -> None:
            must_happen(raised, "the error of the app")
            must_become(caller.is_over, "the end of the exchange")

        before_the_thread_answers(monkeypatch, app_has_raised)

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await start_events(send)
        await stream(send, EVENT)
        if when == "after it has left":
            await gate.wait()
        raised.set()
        raise CustomError

    app, gate = Watched(body), Gate()
    with nothing_left(app, {}) as bridge, served(bridge, server) as connection:
        connection.ask()
        if when == "after it has left":
            connection.thread_is_free()
            gate.open()
        raw = bytearray()
        try:
            while data := connection.client.recv(1000):
                raw += data
        except ConnectionResetError:
            assert server == UNTIL_CLOSE
        assert b"text/event-stream\r\n" in raw or server == UNTIL_CLOSE
        assert not raw.endswith(b"0\r\n\r\n")
        assert bridge.stats().failed == 1


@on_every_backend
def test_app_goes_on_after_its_stream(backend: Backend) -> None:
    """A-OUT-5: what it does after the last message is background work; the client has its end."""

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await start_events(send)
        await finish(send, EVENT)
        await gate.wait()

    app, gate = Watched(body), Gate()
    with nothing_left(app, backend) as bridge, served(bridge) as connection:
        opened(connection)
        assert connection.read_rest() == EVENT
        must_become(lambda: bridge.stats().background == 1, "the background work")
        assert bridge.stats().in_flight == 0
        gate.open()
        connection.close()


@on_every_backend
def test_thread_sensitive_code_after_the_release(backend: Backend) -> None:
    """R-4: it runs in the one spare thread, since its own has left."""
    names: list[str] = []

    def note() -> None:
        names.append(threading.current_thread().name)

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await start_events(send)
        await gate.wait()
        if "loop_factory" in backend:  # asgiref knows asyncio only
            await sync_to_async(note)()
        else:
            names.append("wsgi_asgi_bridge-sync_0")
        await finish(send, EVENT)

    app, gate = Watched(body), Gate()
    with nothing_left(app, backend) as bridge, served(bridge) as connection:
        opened(connection)
        gate.open()
        assert connection.read_rest() == EVENT
    assert names == ["wsgi_asgi_bridge-sync_0"]


def test_a_file_is_no_event_stream() -> None:
    """R-1, A-OUT-6: the thread that would open it may have left; the error says so."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start_events(send)
        with pytest.raises(RuntimeError, match="for an event stream without a length"):
            await send({"type": "http.response.pathsend", "path": __file__})
        await finish(send, EVENT)

    bridge = ASGIToWSGI(app, lifespan="off")
    with bridge, served(bridge, UNTIL_CLOSE) as connection:
        opened(connection)
        assert connection.read_rest() == EVENT


# --- the client


@on_every_backend
@on_every_server
@pytest.mark.parametrize("leave", [socket.socket.close, reset], ids=["closes", "resets"])
@pytest.mark.parametrize("where", ["receive", "send", "sleep"])
def test_client_leaves(backend: Backend, server: str, leave: Any, where: str) -> None:
    """Ending: client leaves. R-4: the app gets the disconnect at once, wherever it is: out of
    `receive()`, out of `send()`, or as a cancellation.
    """

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await receive()
        await start_events(send)
        await stream(send, EVENT)
        app.inside.set()
        if where == "receive":
            received.append(await receive())
            with pytest.raises(ClientDisconnected) as raised:
                await stream(send, EVENT)
            assert raised.value.errno == errno.EPIPE
            received.append(await receive())
        elif where == "send":
            while True:
                await stream(send, LARGE)
        else:
            await anyio.sleep_forever()

    app = Watched(body)
    received: list[Any] = []
    with nothing_left(app, backend, disconnect_poll=60.0) as bridge:
        with served(bridge, server) as connection:
            opened(connection)
            must_happen(app.inside, "the first event")
            connection.response.close()
            leave(connection.client)
            must_happen(app.ended, "the end of the app")
        must_become(lambda: not is_released(bridge), "the close")
        assert bridge.stats().disconnected == 1
    [end] = app.ends
    if where == "receive":
        assert end is None
        assert received == [{"type": "http.disconnect"}] * 2
    elif where == "send":
        assert isinstance(end, ClientDisconnected)
    else:
        assert "Cancel" in type(end).__name__


@on_every_backend
def test_client_resets_before_the_head(backend: Backend) -> None:
    """R-4: a connection that is broken as it is taken over is a disconnect."""

    async def body(app: Watched, receive: Any, send: Any) -> None:
        app.inside.set()
        await gate.wait()
        await start_events(send)
        await stream(send, EVENT)
        await anyio.sleep_forever()

    app, gate = Watched(body), Gate()
    with nothing_left(app, backend, disconnect_poll=None) as bridge, served(bridge) as connection:
        connection.ask()
        must_happen(app.inside, "the start of the app")
        connection.response.close()
        reset(connection.client)
        gate.open()
        must_happen(app.ended, "the end of the app")
        assert bridge.stats().disconnected == 1
    assert "Cancel" in type(app.ends[0]).__name__ or isinstance(app.ends[0], ClientDisconnected)


@on_every_backend
@on_every_server
@pytest.mark.parametrize("detects", [True, False])
def test_client_shuts_its_sending_side(backend: Backend, server: str, detects: bool) -> None:
    """A-IN-3, R-4: it counts as disconnected, unless `disconnect_poll` is None."""
    app = Events(1)
    with (
        nothing_left(app, backend, disconnect_poll=0.25 if detects else None) as bridge,
        served(bridge, server) as connection,
    ):
        opened(connection)
        connection.client.shutdown(socket.SHUT_WR)
        if detects:
            must_happen(app.ended, "the end of the app")
            assert is_cut(connection, server)
        else:
            app.open_all()
            assert connection.read_rest() == b"data: 0\n\n"
            must_become(lambda: not is_released(bridge), "the close")


@on_every_backend
@on_every_server
def test_a_slow_client_makes_the_app_wait(backend: Backend, server: str) -> None:
    """R-4: `send()` waits for the client, other requests go on, and every byte arrives."""
    sent: list[int] = []

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await start_events(send)
        for number in range(3):
            await stream(send, LARGE)
            sent.append(number)
        await finish(send)

    app = Watched(body)
    with nothing_left(app, backend) as bridge, served(bridge, server) as connection:
        connection.ask()
        connection.thread_is_free()
        with served(bridge) as other:
            other.ask("/turn")
            other.read_head()
            assert other.read_rest() == b"turned"
        assert len(sent) < 3
        connection.read_head()
        assert connection.read_rest() == LARGE * 3


@on_every_backend
def test_a_fast_stream_lets_other_tasks_run(backend: Backend) -> None:
    """R-4: an app that sends without a pause to a client that reads as fast."""

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await start_events(send)
        while not turned.is_set():
            await stream(send, EVENT)
        await finish(send)

    app, turned = Watched(body), threading.Event()
    with nothing_left(app, backend) as bridge, served(bridge, UNTIL_CLOSE) as connection:
        opened(connection)
        reading = InThread(connection.read_rest)
        with served(bridge) as other:
            other.ask("/turn")
            other.read_head()
            assert other.read_rest() == b"turned"
        turned.set()
        assert set(reading.result().split(b"\n\n")) <= {b"data: tick", b""}


def test_what_a_client_sends_meanwhile_is_dropped() -> None:
    """R-4: a further request on the connection is not answered, and does not end the stream."""
    app = Events(1)
    with nothing_left(app, {}) as bridge, served(bridge) as connection:
        opened(connection)
        connection.client.sendall(b"GET /turn HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
        app.open_all()
        assert connection.read_rest() == b"data: 0\n\n"
        assert connection.client.recv(10) == b""


# --- the bridge


@on_every_backend
@on_every_server
@pytest.mark.parametrize("where", ["receive", "sleep"])
def test_the_bridge_is_closed(backend: Backend, server: str, where: str) -> None:
    """R-5: `close()` ends the stream first of all: the app gets a disconnect or is cancelled, the
    client sees a cut.
    """

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await receive()
        await start_events(send)
        await stream(send, EVENT)
        if where == "receive":
            assert (await receive())["type"] == "http.disconnect"
        else:
            await anyio.sleep_forever()

    app = Watched(body)
    with nothing_left(app, backend, shutdown_timeout=60.0) as bridge:
        with served(bridge, server) as connection:
            opened(connection)
            assert connection.read_exactly(len(EVENT)) == EVENT
            runtime = bridge._runtime
            close_bridge(bridge)
            assert is_cut(connection, server)
        assert runtime is not None
        assert runtime.counts.closed == 1
    assert len(app.ends) == 1


@on_every_backend
def test_the_bridge_is_closed_as_a_slow_client_reads_the_rest(backend: Backend) -> None:
    """R-5: a body that has ended reaches its client whole."""
    app = Watched(body_of_large)
    with (
        nothing_left(app, backend, shutdown_timeout=60.0) as bridge,
        served(bridge) as connection,
    ):
        opened(connection)
        must_happen(app.ended, "the end of the app")
        closing = InThread(bridge.close)
        assert connection.read_rest() == LARGE
        closing.result()


async def body_of_large(app: Watched, receive: Any, send: Any) -> None:
    await start_events(send)
    await finish(send, LARGE)


@on_every_backend
@on_every_server
def test_the_bridge_is_closed_and_a_client_reads_nothing(backend: Backend, server: str) -> None:
    """R-4, R-5: its connection is aborted after `shutdown_timeout`, and the body is cut."""
    app = Watched(body_of_large)
    with (
        nothing_left(app, backend, shutdown_timeout=0.1) as bridge,
        served(bridge, server) as connection,
    ):
        opened(connection)
        must_happen(app.ended, "the end of the app")
        close_bridge(bridge)
        assert is_cut(connection, server)


@on_every_backend
@on_every_server
def test_a_client_reads_nothing_of_the_rest(
    backend: Backend, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-4: it is given up, and the body is cut."""
    monkeypatch.setattr(event_stream, "FINISH_SECONDS", 0.05)
    app = Watched(body_of_large)
    with nothing_left(app, backend) as bridge, served(bridge, server) as connection:
        opened(connection)
        must_become(lambda: app.ended.is_set() and not is_released(bridge), "the close")
        assert is_cut(connection, server)


def test_a_stream_that_begins_as_the_bridge_is_closed() -> None:
    """R-5: it keeps its thread, and may end within `shutdown_timeout` as any other response."""

    async def body(app: Watched, receive: Any, send: Any) -> None:
        app.inside.set()
        await gate.wait()
        await start_events(send)
        await finish(send, EVENT)

    app, gate = Watched(body), Gate()
    with (
        nothing_left(app, {}, shutdown_timeout=60.0) as bridge,
        served(bridge, UNTIL_CLOSE) as connection,
    ):
        runtime: Any = bridge._runtime
        connection.ask()
        must_happen(app.inside, "the start of the app")
        closing = InThread(bridge.close, "bridge.close()")
        must_become(lambda: not runtime.takes_requests, "the beginning of close()")
        gate.open()
        connection.read_head()
        assert connection.read_rest() == EVENT
        closing.result()


@on_every_backend
def test_the_bridge_is_closed_as_the_thread_leaves(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-5: a stream that is taken over while `close()` runs is ended at once."""
    take_over, closing = event_stream.take_over, []

    def closing_before(held: Any) -> Any:
        closing.append(InThread(bridge.close, "bridge.close()"))
        must_become(lambda: not runtime.takes_requests, "the beginning of close()")
        return take_over(held)

    monkeypatch.setattr(event_stream, "take_over", closing_before)
    app = Events(1)
    with nothing_left(app, backend, shutdown_timeout=60.0) as bridge:
        runtime: Any = bridge._runtime
        with served(bridge) as connection:
            connection.ask()
            assert connection.read_raw() == b""
            closing[0].result()
        assert runtime.counts.closed == 1


# --- what meets at a release


@on_every_backend
def test_the_thread_looks_at_its_offer_at_once(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-1: whatever the loop has still to do after its offer, the thread finds all it needs."""
    looks, offer = threading.Event(), CallingThread.offer_leave_in_loop

    def offering(self: CallingThread) -> None:
        offer(self)
        must_happen(looks, "the thread's look at its offer")
        must_become(lambda: self._finished or self._parked is not None, "its answer")

    before_the_thread_answers(monkeypatch, lambda _: looks.set())
    monkeypatch.setattr(CallingThread, "offer_leave_in_loop", offering)
    app = Events()
    with nothing_left(app, backend) as bridge, served(bridge) as connection:
        opened(connection)
        assert is_released(bridge)
        app.open_all()
        assert connection.read_rest() == b"data: 0\n\ndata: 1\n\n"


@on_every_backend
@on_every_server
def test_the_app_has_ended_before_the_thread_looks(
    backend: Backend, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-3, A-OUT-7: the stream goes out as one whose thread was quicker."""
    before_the_thread_answers(monkeypatch, lambda _: must_happen(app.ended, "the end of the app"))
    app = Events()
    app.open_all()
    with nothing_left(app, backend) as bridge, served(bridge, server) as connection:
        opened(connection)
        assert connection.read_rest() == b"data: 0\n\ndata: 1\n\n"
        assert connection.response.headers["Content-Length"] is None
        assert bridge.stats().failed == bridge.stats().disconnected == 0


@on_every_backend
@on_every_server
def test_the_bridge_is_closed_when_the_app_has_ended_and_the_thread_has_not_looked(
    backend: Backend, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-5: a body that has ended is sent to its end: `close()` waits for the thread's answer."""
    closing: list[Any] = []

    def close_first(_: CallingThread) -> None:
        must_happen(app.ended, "the end of the app")
        closing.append(InThread(bridge.close, "bridge.close()"))
        must_become(lambda: not runtime.takes_requests, "the beginning of close()")
        must_become(lambda: runtime._on_empty is not None or closed(), "the wait of close()")

    def closed() -> bool:
        return bool(runtime.private.ended)

    before_the_thread_answers(monkeypatch, close_first)
    app = Events()
    app.open_all()
    with nothing_left(app, backend) as bridge, served(bridge, server) as connection:
        bridge.startup()
        runtime: Any = bridge._runtime
        before = runtime.counts.completed
        opened(connection)
        assert connection.read_rest() == b"data: 0\n\ndata: 1\n\n"
        closing[0].result()
        assert runtime.counts.completed == before + 1


@on_every_backend
def test_the_app_waits_for_room_as_the_thread_leaves(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-4: a `send()` that waits for the thread goes on to wait for the client."""

    def send_waits(caller: CallingThread) -> None:
        must_become(lambda: bool(caller._putters), "the wait of send()")

    before_the_thread_answers(monkeypatch, send_waits)
    app = Watched(body_of_parts)
    with nothing_left(app, backend, response_buffer=1000) as bridge, served(bridge) as connection:
        opened(connection)
        assert connection.read_rest() == b"".join(b"%d" % n * 5000 for n in range(10))


async def body_of_parts(app: Watched, receive: Any, send: Any) -> None:
    await start_events(send)
    for number in range(10):
        await stream(send, b"%d" % number * 5000)
    await finish(send)


def test_thread_sensitive_code_that_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-1: code in the calling thread sends the head and the body; `send()` never waits for that
    thread, which leaves when the code has ended.
    """
    from asgiref.sync import async_to_sync

    async def body(app: Watched, receive: Any, send: Any) -> None:
        def in_the_thread() -> None:
            async_to_sync(start_events)(send)
            for _ in range(3):
                async_to_sync(stream)(send, EVENT)

        await sync_to_async(in_the_thread)()
        await gate.wait()
        await finish(send)

    app, gate = Watched(body), Gate()
    with nothing_left(app, {}) as bridge, served(bridge) as connection:
        opened(connection)
        assert connection.read_exactly(3 * len(EVENT)) == EVENT * 3
        gate.open()
        assert connection.read_rest() == b""


def test_without_a_descriptor_the_thread_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """R-1: what cannot be taken over is served as before."""

    def fails(held: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(event_stream, "take_over", fails)
    app = Events()
    app.open_all()
    with nothing_left(app, {}) as bridge, served(bridge) as connection:
        connection.ask()
        connection.read_head()
        assert connection.read_rest() == b"data: 0\n\ndata: 1\n\n"
        assert bridge.stats().released_event_streams == 0
        assert bridge._runtime is not None
        released = bridge._runtime.released
        must_become(lambda: not released._connections, "the withdrawal, which the thread posts")
    [record] = caplog.records
    assert record.getMessage() == "an event stream keeps its thread"


def test_a_fork_leaves_the_client_to_the_parent() -> None:
    """A-CALL-2: the parent's end reaches the client although the child lives."""
    run_script(
        """
import os, warnings
warnings.simplefilter("ignore")
from tests.support.event_apps import Events
from tests.support.served_connection import served
from wsgi_asgi_bridge import ASGIToWSGI

app = Events(1)
bridge = ASGIToWSGI(app, lifespan="off")
with bridge, served(bridge) as connection:
    connection.ask()
    connection.thread_is_free()
    connection.read_head()
    lives, ends = os.pipe()
    child = os.fork()
    if not child:
        os.close(ends)
        os.read(lives, 1)
        os._exit(0)
    os.close(lives)
    bridge.close()
    assert connection.client.recv(1) == b""
    os.close(ends)
    os.waitpid(child, 0)
"""
    )


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


@on_every_backend
@pytest.mark.parametrize("when", ["adopt", "_serve", "_open", "_pass_head_on"])
def test_a_fork_as_the_loop_takes_over(
    backend: Backend, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A-CALL-2: from the moment in which the thread has taken over, a child closes its copies."""
    numbers: list[int] = []
    left_open: list[int] = []
    take_over, step = event_stream.take_over, getattr(event_stream.EventStream, when)

    def taking(held: Any) -> Any:
        taken = take_over(held)
        numbers.extend(own.fileno() for own in taken)
        return taken

    def forking_before(*args: Any) -> Any:
        child = os.fork()
        if child == 0:
            os._exit(sum(map(is_open, numbers)))
        left_open.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return step(*args)

    monkeypatch.setattr(event_stream, "take_over", taking)
    monkeypatch.setattr(event_stream.EventStream, when, forking_before)
    app = Events(1)
    app.open_all()
    with nothing_left(app, backend) as bridge, served(bridge) as connection:
        opened(connection)
        assert connection.read_rest() == b"data: 0\n\n"
    assert len(numbers) == 2
    assert left_open == [0]


# --- what a server may write


class Writing:
    """A server that answers on a connection as it is told; its stand-in gets that."""

    def __init__(self, bridge: ASGIToWSGI) -> None:
        self._bridge = bridge
        self.client, self._accepted = socket.socketpair()
        self.client.settimeout(10.0)
        self.shown: object = self._accepted

    def __enter__(self) -> "Writing":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._accepted.close()

    def call(self, start_response: Any) -> Any:
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": "/",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "werkzeug.socket": self.shown,
        }
        return InThread(lambda: self._bridge(environ, start_response)).result()

    def answer(self, *pieces: bytes) -> bytes:
        """What the client gets, to the end."""
        with self._accepted:
            assert list(self.call(lambda status, headers: None)) == [b""]
            for piece in pieces:
                self._accepted.sendall(piece)
        got = bytearray()
        while data := self.client.recv(1000):
            got += data
        return bytes(got)


HEAD = b"HTTP/1.1 200 OK\r\nServer: mine\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def called_by_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "is_called_by_server", lambda start_response: True)


@on_every_backend
@pytest.mark.usefixtures("called_by_server")
def test_a_head_in_pieces(backend: Backend) -> None:
    """R-3: the head is read to its end, and what the server writes after it is dropped."""
    app = Events(1)
    app.open_all()
    with nothing_left(app, backend) as bridge, Writing(bridge) as server:
        pieces = (HEAD[n : n + 1] for n in range(len(HEAD)))
        got = server.answer(*pieces, b"0\r\n\r\n", bytes(1_000_000))
    assert got == HEAD[:-2] + b"Connection: close\r\n\r\n9\r\ndata: 0\n\n\r\n0\r\n\r\n"


@on_every_backend
@pytest.mark.usefixtures("called_by_server")
@pytest.mark.parametrize(
    "written",
    [
        b"",
        HEAD[:-2],
        HEAD.replace(b"200 OK", b"500 Internal Server Error"),
        HEAD.replace(b"Transfer-Encoding: chunked", b"Content-Length: 0"),
        b"\0\r\n\r\n",
        b"x" * 100_000,
    ],
    ids=["nothing", "no end", "another status", "a length", "nonsense", "too long"],
)
def test_a_head_that_cannot_be_understood(
    backend: Backend, written: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """R-3: it ends the connection, without a byte, and is logged; the app gets a disconnect."""
    app = Events(1)
    with nothing_left(app, backend) as bridge, Writing(bridge) as server:
        assert server.answer(written) == b""
        must_happen(app.ended, "the end of the app")
        assert bridge.stats().disconnected == 1
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("an event stream ends before it begins: the server")


@on_every_backend
@pytest.mark.usefixtures("called_by_server")
def test_the_bridge_is_closed_before_the_server_writes_its_head(backend: Backend) -> None:
    """R-5: a body that has ended waits for its head, and reaches its client whole."""
    app = Events(1)
    app.open_all()
    with (
        nothing_left(app, backend, shutdown_timeout=60.0) as bridge,
        Writing(bridge) as server,
    ):
        runtime: Any = bridge._runtime
        assert list(server.call(lambda status, headers: None)) == [b""]
        becomes_released(bridge)
        must_happen(app.ended, "the end of the app")
        closing = InThread(bridge.close, "bridge.close()")
        must_become(lambda: not runtime.takes_requests, "the beginning of close()")
        server._accepted.sendall(HEAD)
        server._accepted.close()
        got = bytearray()
        while data := server.client.recv(1000):
            got += data
        assert got.endswith(b"\r\n\r\n9\r\ndata: 0\n\n\r\n0\r\n\r\n")
        closing.result()


@on_every_backend
@pytest.mark.usefixtures("called_by_server")
def test_the_client_leaves_before_the_server_writes_its_head(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """R-4: an app that waits for room gets its disconnect there. A server that then writes none is
    no news.
    """

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await start_events(send)
        while True:
            await stream(send, bytes(event_stream.FULL_BYTES))

    app = Watched(body)
    with nothing_left(app, backend) as bridge, Writing(bridge) as server:
        assert list(server.call(lambda status, headers: None)) == [b""]
        becomes_released(bridge)
        runtime: Any = bridge._runtime
        (task,) = runtime.in_flight
        must_become(lambda: len(task.stream._room) == 1, "the wait for room")
        server.client.close()
        must_happen(app.ended, "the end of the app")
        assert bridge.stats().disconnected == 1
    assert [type(error) for error in app.ends] == [ClientDisconnected]
    assert caplog.records == []


@pytest.mark.usefixtures("called_by_server")
def test_a_start_response_that_raises() -> None:
    """R-3: nothing is taken over; the server's error is the server's."""

    def refusing(status: str, headers: Any) -> Any:
        raise CustomError

    app = Events(1)
    with nothing_left(app, {}) as bridge, Writing(bridge) as server:
        with pytest.raises(CustomError):
            server.call(refusing)
        must_happen(app.ended, "the end of the app")
        assert bridge.stats().released_event_streams == 0
        assert bridge._runtime is not None
        assert not bridge._runtime.released._connections


class Layer:
    """What a server shows that speaks TLS, or anything else, on its connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.fileno = connection.fileno


@pytest.mark.usefixtures("called_by_server")
@pytest.mark.parametrize("shown", ["a layer", "nothing"])
def test_a_connection_that_is_not_plain(shown: str) -> None:
    """R-1: what the loop would write there is not what the client reads, so the thread stays."""
    app = Events()
    app.open_all()
    with nothing_left(app, {}, disconnect_poll=None) as bridge, Writing(bridge) as server:
        server.shown = Layer(server._accepted) if shown == "a layer" else None
        result = server.call(lambda status, headers: None)
        assert b"".join(result) == b"data: 0\n\ndata: 1\n\n"
        assert bridge.stats().released_event_streams == 0
        must_become(lambda: not bridge._runtime.released._connections, "the end of the offer")


CTRL_C = ("before it leaves", "once it has left", "before the loop adopts", "after the loop adopts")


@on_every_backend
@pytest.mark.usefixtures("called_by_server")
@pytest.mark.parametrize("when", CTRL_C)
def test_ctrl_c_as_the_thread_leaves(
    when: str, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-1: the server gets it, the client an end, the app a disconnect, and the offer is over. The
    connection is closed once, by the thread or by the loop.
    """
    leave = CallingThread.leave_from_thread

    def leaving(self: CallingThread) -> Any:
        if when == "once it has left":
            leave(self)
            fill_up()
        raise KeyboardInterrupt

    def posting(callback: Any) -> bool:
        if getattr(getattr(callback, "func", None), "__func__", None) is not EventStream.adopt:
            return post(callback)
        if when == "after the loop adopts":
            post(callback)
            becomes_released(bridge)
        else:
            late.append(callback)
        raise KeyboardInterrupt

    def fill_up() -> None:
        """The app waits for room, which nobody is there to make."""
        filling.open()
        must_become(lambda: len(app.stream()._room) == 1, "the wait for room")

    class Filling(Watched):
        def stream(self) -> EventStream:
            (task,) = bridge._runtime.in_flight
            assert isinstance(task, AppTask)
            assert task.stream is not None
            return task.stream

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await start_events(send)
        await filling.wait()
        while True:
            await stream(send, bytes(event_stream.FULL_BYTES))

    app, filling, late = Filling(body), Gate(), []
    with (
        nothing_left(app, backend, shutdown_timeout=60.0) as bridge,
        Writing(bridge) as server,
    ):
        post = bridge._runtime.handle.post
        if when in CTRL_C[:2]:
            monkeypatch.setattr(CallingThread, "leave_from_thread", leaving)
        else:
            monkeypatch.setattr(bridge._runtime.handle, "post", posting)
        with pytest.raises(KeyboardInterrupt):
            server.call(lambda status, headers: None)
        for callback in late:
            post(callback)
        server._accepted.close()
        assert server.client.recv(1) == b""
        filling.open()
        must_happen(app.ended, "the end of the app")
        must_become(lambda: not bridge._runtime.released._connections, "the end of the offer")
        assert bridge.stats().disconnected == 1


@pytest.mark.usefixtures("called_by_server")
def test_the_loop_ends_as_the_thread_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-5: what nobody can adopt is closed."""
    leave = CallingThread.leave_from_thread

    def leaving(self: CallingThread) -> Any:
        close_bridge(bridge)
        return leave(self)

    monkeypatch.setattr(CallingThread, "leave_from_thread", leaving)
    app = Events()
    with nothing_left(app, {}, shutdown_timeout=0.1) as bridge, Writing(bridge) as server:
        assert list(server.call(lambda status, headers: None)) == [b""]
        server._accepted.close()
        assert server.client.recv(1) == b""
        must_happen(app.ended, "the end of the app")

"""WS-A-2, WS-A-3, WS-A-6, WS-A-7: how a connection is taken over from its server, and the races."""

import os
import socket
import threading
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests.support.fake_wsgi_server import (
    DEADLINE_SECONDS,
    Gate,
    InThread,
    bridged,
    must_become,
    must_happen,
    on_every_backend,
    open_files,
)
from tests.support.interleaving import lying
from tests.support.websocket_apps_in_process import accept, disconnect, echo, send_message
from tests.support.websocket_wire import (
    STYLES,
    TEXT,
    Connected,
    Frame,
    Server,
    close_frame,
    connect,
    connected,
)
from wsgi_asgi_bridge import ClientDisconnected
from wsgi_asgi_bridge._crossing import stand_in
from wsgi_asgi_bridge._crossing.calling_thread import CallingThread
from wsgi_asgi_bridge._crossing.sockets import peer_has_closed
from wsgi_asgi_bridge.asgi_to_wsgi import connection_handshake, disconnects, open_websocket
from wsgi_asgi_bridge.asgi_to_wsgi.connection import find_connection
from wsgi_asgi_bridge.asgi_to_wsgi.connection_handshake import ConnectionHandshake

Message = dict[str, Any]

pytestmark = on_every_backend


class Accepting:
    """An app that waits at `gate` before it accepts, and notes what came of it."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.inside = threading.Event()
        self.outcome: list[Any] = []
        self.over = threading.Event()

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        try:
            await receive()
            self.inside.set()
            await self.gate.wait()
            try:
                await send({"type": "websocket.accept"})
                self.outcome.append("accepted")
            except OSError as error:
                self.outcome.append(type(error))
            self.outcome.append(await receive())
        finally:
            self.over.set()


def the_task(bridge: Any) -> Any:
    """The one WebSocket of a bridge."""
    (task,) = bridge._runtime.in_flight
    return task


# Whose is what


@pytest.mark.parametrize("style", STYLES)
def test_the_server_serves_its_stand_in(backend: Message, style: str) -> None:
    """WS-A-6: it writes its 101 to nobody, reads the end, and closes what it has opened."""
    with bridged(echo, backend) as bridge:
        client, server = connect(bridge, style=style)
        client.must_be_accepted()
        server.finish()
        assert server.written.startswith(b"HTTP/1.1 101 Switching Protocols\r\nServer: fake\r\n")
        assert server.error is None
        assert not server.next_request
        client.send(Frame(TEXT, b"still open"))
        assert client.read() == Frame(TEXT, b"still open")
        client.say_goodbye()


def test_a_server_that_writes_more_than_the_kernel_holds_is_not_held_up(
    backend: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WS-A-6: the loop drains the stand-in, until the server closes it."""
    written = Server._write

    def write(server: Server, data: bytes) -> None:
        written(server, data + bytes(4_000_000))

    monkeypatch.setattr(Server, "_write", write)
    with bridged(echo, backend) as bridge:
        client, server = connect(bridge, style="werkzeug")
        client.must_be_accepted()
        server.finish()
        assert (server.error, len(server.written) > 4_000_000) == (None, True)
        must_become(lambda: not bridge._runtime.released._far_ends, "the end of the stand-in")
        client.say_goodbye()


def test_the_number_is_high(backend: Message) -> None:
    """WS-A-7: the low ones are left to those who use select()."""
    with bridged(echo, backend) as bridge, connected(bridge) as client:
        client.send(Frame(TEXT, b"open"))
        assert client.read() == Frame(TEXT, b"open")
        assert the_task(bridge)._open._stream._socket.fileno() >= stand_in.LEAST_NUMBER
        client.say_goodbye()


# What is not taken over


def test_a_connection_that_is_another_by_now_is_left_alone(
    backend: Message, caplog: pytest.LogCaptureFixture
) -> None:
    """WS-A-2, WS-A-3: its server has closed the descriptor, and another got the number."""
    app = Accepting()
    with bridged(app, backend) as bridge:
        client, server = connect(bridge)
        must_happen(app.inside, "the app's wait")
        others, peers = socket.socketpair()
        os.dup2(others.fileno(), server.number)
        others.close()
        app.gate.open()
        must_happen(app.over, "the end of the app")
        assert peers.recv(100).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert bridge.stats().failed == 1
        peers.close()
        client.close()
        server.finish()
    assert app.outcome == [ClientDisconnected, disconnect(1006)]
    assert "could not be taken over" in caplog.text


@pytest.mark.parametrize("style", STYLES)
def test_without_descriptors_the_client_gets_a_503(
    backend: Message,
    style: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """WS-A-2: nothing was replaced, so the server answers, and has what it has read past the head:
    else its next request would begin somewhere in it.
    """

    def none_left(held: object) -> None:
        raise OSError(24, "Too many open files")

    app = Accepting()
    left: list[bytes] = []

    def noted(environ: dict[str, Any], start_response: Any) -> Any:
        """In the server's thread, which reads the connection by itself afterwards."""
        response = bridge(environ, start_response)
        found = find_connection(environ)
        assert found is not None
        left.append(found.take_read_ahead())
        return response

    monkeypatch.setattr(connection_handshake, "take_over", none_left)
    with bridged(app, backend) as bridge:
        client, server = connect(noted, style=style, early=b"GET / HTTP/1.1\r\n")
        app.gate.open()
        assert client.read_head().status == 503
        assert left == [b"GET / HTTP/1.1\r\n"]
        client.close()
        server.finish()
        must_happen(app.over, "the end of the app")
        assert bridge.stats().failed == 1
    assert app.outcome == [ClientDisconnected, disconnect(1006)]
    assert "could not be taken over" in caplog.text


# The races


def raced(backend: Message, app: Accepting, race: Any, poll: float = 60.0) -> Any:
    """Accept a WebSocket while `race(lock, caller, connected)` scripts the lock of its thread."""
    with bridged(app, backend, disconnect_poll=poll) as bridge:
        here = connect(bridge)
        must_happen(app.inside, "the app's wait")
        caller = the_task(bridge).handshake.caller
        must_become(lambda: caller._parked is not None, "the sleep of the server's thread")
        lock = lying(caller)
        race(lock, caller, here)
        app.gate.open()
        must_happen(app.over, "the end of the app")
        here.server.finish()
        assert lock.told
        stats = bridge.stats()
        here.client.close()
    return stats


def test_the_thread_leaves_as_the_loop_takes_the_connection(
    backend: Message,
) -> None:
    """WS-A-3: the thread is first, so nothing is taken, and its server goes on with it."""
    app = Accepting()

    def race(lock: Any, caller: CallingThread, here: Connected) -> None:
        def leave() -> None:
            here.client.close()
            must_become(lambda: caller._finished, "the thread's leaving")

        lock.before("hand_over_in_loop", leave)

    stats = raced(backend, app, race, poll=0.01)
    assert app.outcome == [ClientDisconnected, disconnect(1006)]
    assert stats.disconnected == 1


def test_the_thread_leaves_once_the_loop_has_taken_the_connection(
    backend: Message,
) -> None:
    """WS-A-3: the loop is first: the thread finds the end, its server the stand-in."""
    app = Accepting()

    def race(lock: Any, caller: CallingThread, here: Connected) -> None:
        lock.after("hand_over_in_loop", caller.finish_from_thread)

        def close_in_time() -> None:
            here.client.must_be_accepted()
            here.client.say_goodbye()

        race.closing = InThread(close_in_time)  # type: ignore[attr-defined]

    stats = raced(backend, app, race)
    assert app.outcome == ["accepted", disconnect(1000)]
    assert stats.completed == 1


def test_the_server_closes_as_the_loop_takes_the_connection(
    backend: Message, caplog: pytest.LogCaptureFixture
) -> None:
    """WS-A-3: a server that closes under its waiting thread, right before: nothing is taken."""
    app = Accepting()

    def race(lock: Any, caller: CallingThread, here: Connected) -> None:
        lock.before("hand_over_in_loop", here.server._connection.close)

    stats = raced(backend, app, race)
    assert app.outcome == [ClientDisconnected, disconnect(1006)]
    assert stats.failed == 1


def test_the_probe_sees_the_stand_ins_end(
    backend: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WS-A-3: the thread looks for its client just as the connection is replaced. The end that it
    sees is the stand-in's, and the exchange is over under the same lock.
    """
    app = Accepting()
    looked = threading.Event()

    def look(connection: Any) -> bool:
        """Between the time-out of the thread and its look, the loop takes the connection."""
        if not looked.is_set():
            app.gate.open()
            must_become(lambda: peer_has_closed(connection), "the stand-in's end")
            looked.set()
        return True

    monkeypatch.setattr(disconnects, "peer_has_closed", look)
    with bridged(app, backend, disconnect_poll=0.001) as bridge:
        client, server = connect(bridge)
        client.must_be_accepted()
        server.finish()
        assert looked.is_set()
        assert server.error is None
        client.say_goodbye()
        must_happen(app.over, "the end of the app")
    assert app.outcome == ["accepted", disconnect(1000)]


@pytest.mark.parametrize("when", ["before accept", "as it is taken", "before the 101"])
def test_the_client_resets_before_the_101(
    backend: Message, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WS-A-3, WS-A-9: the app gets 1006, whenever it is found out; nothing is left."""
    app = Accepting()
    files = open_files()
    with bridged(app, backend, disconnect_poll=60.0) as bridge:
        client, server = connect(bridge, tcp=True)
        must_happen(app.inside, "the app's wait")
        if when == "before accept":
            client.reset()
        elif when == "as it is taken":
            take = ConnectionHandshake._take

            def take_from_a_dead_client(self: Any) -> Any:
                client.reset()
                return take(self)

            monkeypatch.setattr(ConnectionHandshake, "_take", take_from_a_dead_client)
        else:
            take_connection = ConnectionHandshake.accept

            def taken_and_dead(self: Any, *how: Any) -> Any:
                taken = take_connection(self, *how)
                client.reset()
                return taken

            monkeypatch.setattr(ConnectionHandshake, "accept", taken_and_dead)
        app.gate.open()
        must_happen(app.over, "the end of the app")
        server.finish()
        must_become(lambda: bridge.stats().disconnected == 1, "the count")
        must_become(lambda: bridge.stats().in_flight == 0, "the end")
        assert bridge.stats().released_websockets == 0
    assert app.outcome[-1] == disconnect(1006)
    assert open_files() <= files


def test_the_connection_is_lost_as_the_loop_begins_to_serve_it(
    backend: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WS-A-9: nothing is called back any more then; the app gets 1006, and nothing is left."""
    open_socket_stream = open_websocket.open_socket_stream

    async def opened_and_lost(*how: Any) -> Any:
        stream = await open_socket_stream(*how)
        stream.abort()
        while not stream.closed:
            await anyio.lowlevel.checkpoint()
        return stream

    app = Accepting()
    monkeypatch.setattr(open_websocket, "open_socket_stream", opened_and_lost)
    with bridged(app, backend) as bridge:
        client, server = connect(bridge)
        app.gate.open()
        must_happen(app.over, "the end of the app")
        client.close()
        server.finish()
        must_become(lambda: bridge.stats().in_flight == 0, "the end")
        assert bridge.stats().disconnected == 1
    assert app.outcome == ["accepted", disconnect(1006)]


def test_a_thread_that_is_interrupted_after_it_has_handed_over(backend: Message) -> None:
    """WS-A-3: the loop is told that the thread has left early, which is no disconnect any more."""

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await receive()
        await send({"type": "websocket.close", "code": 4000})

    with bridged(app, backend) as bridge, connected(bridge) as client:
        task = the_task(bridge)
        task._runtime.handle.post(task.handshake.caller_left_in_loop)
        client.send(Frame(TEXT, b"still here"))
        assert client.read() == close_frame(4000)
        client.send(close_frame(4000))
        assert client.read() is None
        must_become(lambda: bridge.stats().completed == 1, "the count")


def test_the_clients_end_comes_before_the_101(
    backend: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WS-A-9: it has shut its sending side, and the loop sees that first."""
    open_socket_stream = open_websocket.open_socket_stream

    async def opened_at_the_end(*how: Any) -> Any:
        client.socket.shutdown(socket.SHUT_WR)
        stream = await open_socket_stream(*how)
        while not stream._peer_has_ended:
            await anyio.lowlevel.checkpoint()
        return stream

    app = Accepting()
    monkeypatch.setattr(open_websocket, "open_socket_stream", opened_at_the_end)
    with bridged(app, backend) as bridge:
        client, server = connect(bridge)
        app.gate.open()
        client.must_be_accepted()
        assert client.read() is None
        client.close()
        server.finish()
        must_happen(app.over, "the end of the app")
        assert bridge.stats().disconnected == 1
    assert app.outcome == ["accepted", disconnect(1006)]


def test_close_in_the_middle_of_taking_over(
    backend: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WS-A-9: a bridge that is closed then closes the WebSocket as soon as it is open."""
    app = Accepting()
    take_connection = ConnectionHandshake.accept
    closing: list[InThread] = []

    def taken_and_closed(self: Any, *how: Any) -> Any:
        taken = take_connection(self, *how)
        closing.append(InThread(bridge.close, "close()"))
        return taken

    with bridged(app, backend) as bridge:
        monkeypatch.setattr(ConnectionHandshake, "accept", taken_and_closed)
        client, server = connect(bridge)
        app.gate.open()
        client.must_be_accepted()
        assert client.read() == close_frame(1012)
        client.send(close_frame(1012))
        assert client.read() is None
        client.close()
        closing[0].result()
        server.finish()
    assert app.outcome == ["accepted", disconnect(1012)]


def test_a_cancelled_accept_leaves_nothing(backend: Message, monkeypatch: Any) -> None:
    """WS-A-3: the app gives up in the middle of it; the client's connection ends."""
    outcome: list[Any] = []
    over = threading.Event()

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        with anyio.CancelScope() as scope_of_accept:
            scope_of_accept.cancel()
            await send({"type": "websocket.accept"})
            outcome.append("accepted")
        outcome.append(await receive())
        over.set()

    with bridged(app, backend) as bridge:
        client, server = connect(bridge)
        if "accepted" not in outcome:
            client.socket.settimeout(5)
        must_become(lambda: over.is_set() or bool(outcome), "the end of accept")
        client.close()
        must_happen(over, "the end of the app")
        server.finish()
        must_become(lambda: bridge.stats().in_flight == 0, "the end")


async def _sends(scope: Message, receive: Any, send: Any) -> None:
    await accept(receive, send)
    await send(send_message("hello"))
    await receive()


def test_a_websocket_after_another_on_the_same_number(backend: Message) -> None:
    """WS-A-3: a number that the server has closed is given to the next, and nothing is mixed up."""
    with bridged(_sends, backend) as bridge:
        first, one = connect(bridge)
        first.must_be_accepted()
        one.finish()
        second, two = connect(bridge)
        second.must_be_accepted()
        two.finish()
        for client in (second, first):
            assert client.read() == Frame(TEXT, b"hello")
            client.say_goodbye()


# A thread that is kept


KEPT = ["release=off", "a wrapper"]


class Wrapper:
    """A server's own object around its socket."""

    def __init__(self, connection: socket.socket) -> None:
        for name in ("recv", "send", "fileno", "setblocking", "shutdown", "settimeout"):
            setattr(self, name, getattr(connection, name))
        self.gettimeout = connection.gettimeout


def connect_and_keep(bridge: Any, how: str, **more: Any) -> Connected:
    """A WebSocket whose connection is not taken over."""

    class Wrapping:
        """Shows the server's socket in a wrapper."""

        def __call__(self, environ: Message, start_response: Any) -> Any:
            environ["gunicorn.socket"] = Wrapper(environ["gunicorn.socket"])
            return bridge(environ, start_response)

    return connect(Wrapping() if how == "a wrapper" else bridge, **more)


@pytest.mark.parametrize("how", KEPT)
@pytest.mark.parametrize("closes", ["the client", "the app", "the client vanishes", "the bridge"])
def test_a_kept_thread_carries_the_bytes(backend: Message, how: str, closes: str) -> None:
    """WS-A-2: messages go both ways, and the server goes on when all has ended; it writes its 101
    to a stand-in.
    """
    block = bytes(range(256)) * 4096
    files = open_files()
    received: list[Message] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await send(send_message((await receive())["bytes"]))
        if closes == "the app":
            await send({"type": "websocket.close", "code": 4000})
        received.append(await receive())

    release = "off" if how == "release=off" else "auto"
    with bridged(app, backend, release=release, max_released=0) as bridge:
        client, server = connect_and_keep(bridge, how)
        client.must_be_accepted()
        client.send(Frame(2, block))
        assert client.read() == Frame(2, block)
        assert server.thread.is_alive()
        assert server.written == b""
        assert (bridge.stats().in_flight, bridge.stats().released_websockets) == (1, 0)
        if closes == "the client":
            client.say_goodbye(4000)
        elif closes == "the client vanishes":
            client.close()
        else:
            closing = InThread(bridge.close, "close()") if closes == "the bridge" else None
            code = 1012 if closing else 4000
            assert client.read() == close_frame(code)
            client.send(close_frame(code))
            assert client.read() is None
            client.close()
            if closing:
                closing.result()
        server.finish()
        assert server.error is None
        assert server.written.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert not server.next_request
    code = {"the client vanishes": 1006, "the bridge": 1012}.get(closes, 4000)
    assert received == [disconnect(code)]
    assert open_files() <= files


@pytest.mark.parametrize("style", STYLES)
def test_a_kept_thread_on_each_server(backend: Message, style: str) -> None:
    """WS-A-2, WS-A-5: what the server has read already goes first."""
    early = Frame(TEXT, b"early").masked()
    with bridged(echo, backend, release="off") as bridge:
        client, server = connect(bridge, style=style, early=early)
        client.must_be_accepted()
        assert client.read() == Frame(TEXT, b"early")
        client.say_goodbye()
        server.finish()
        assert server.error is None
        assert server._connection.gettimeout() == DEADLINE_SECONDS  # as the server has set it


def test_a_refusal_needs_no_carrying(backend: Message) -> None:
    """WS-A-2, WS-A-1."""

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.close"})

    with bridged(app, backend, release="off") as bridge:
        client, server = connect(bridge)
        assert client.read_head().status == 403
        client.close()
        server.finish()
        assert server.error is None

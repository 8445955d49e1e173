"""The Endings table for WebSockets, WS-A-4, WS-A-8 to WS-A-10, and what is left afterwards."""

import asyncio
import gc
import os
import threading
import weakref
from typing import Any

import anyio
import pytest
from asgiref.sync import sync_to_async

from tests.support.fake_wsgi_server import (
    Gate,
    InThread,
    bridged,
    environ_for,
    must_become,
    must_happen,
    on_asyncio_backends,
    on_every_backend,
    serve,
    turn_the_loop,
    with_turns,
)
from tests.support.watched_apps import Watched, nothing_left
from tests.support.websocket_apps_in_process import accept, disconnect, echo, send_message
from tests.support.websocket_wire import TEXT, Frame, close_frame, connect, connected
from wsgi_asgi_bridge import BridgeClosed, ClientDisconnected
from wsgi_asgi_bridge.asgi_to_wsgi import open_websocket

Message = dict[str, Any]


class MarkedError(Exception):
    """An exception of the app."""


APPS_CODES = {"returns": 1000, "raises": 1011, "closes": 4000}
"""What the client is told, by how the app has ended."""


def assert_the_app_ends_it(app: Watched, backend: Message, how: str) -> None:
    """The client gets the code and answers; the bridge counts it."""
    code = APPS_CODES[how]
    with nothing_left(app, backend) as bridge:
        completed = bridge.stats().completed
        client, server = connect(bridge)
        client.must_be_accepted()
        assert client.read() == close_frame(code)
        client.send(close_frame(code))
        assert client.read() is None
        client.close()
        server.finish()
        stats = bridge.stats()
        assert (stats.completed - completed, stats.failed) == (
            (0, 1) if how == "raises" else (1, 0)
        )


def errors_logged(caplog: pytest.LogCaptureFixture) -> list[type[BaseException] | None]:
    return [type(record.exc_info[1]) for record in caplog.records if record.exc_info]


# Endings


@on_every_backend
@pytest.mark.parametrize("how", ["returns", "raises", "closes"])
def test_the_app_ends(backend: Message, how: str, caplog: pytest.LogCaptureFixture) -> None:
    """Ending: the app returns (1000), raises (1011), closes (its code). WS-A-9."""

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await accept(receive, send)
        if how == "raises":
            raise MarkedError
        if how == "closes":
            await send({"type": "websocket.close", "code": 4000})

    assert_the_app_ends_it(Watched(body), backend, how)
    assert errors_logged(caplog) == ([MarkedError] if how == "raises" else [])


@on_asyncio_backends
@pytest.mark.parametrize("how", ["returns", "raises"])
def test_the_app_ends_while_a_task_of_it_accepts(
    backend: Message, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """WS-A-9: the error is logged, and the client told, though the WebSocket is not open yet."""
    sending: list[asyncio.Task[None]] = []

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await receive()
        sending.append(asyncio.create_task(send({"type": "websocket.accept"})))
        await asyncio.sleep(0)  # the connection is taken over, and not served yet
        if how == "raises":
            raise MarkedError

    assert_the_app_ends_it(Watched(body), backend, how)
    assert errors_logged(caplog) == ([MarkedError] if how == "raises" else [])


@on_every_backend
@pytest.mark.parametrize("how", ["closes", "vanishes", "vanishes in mid-message"])
def test_the_client_ends_while_the_app_receives(backend: Message, how: str) -> None:
    """Ending: the client closes, or leaves."""
    received: list[Message] = []

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await accept(receive, send)
        received.append(await receive())

    app = Watched(body)
    with nothing_left(app, backend) as bridge:
        client, server = connect(bridge)
        client.must_be_accepted()
        server.finish()
        if how == "closes":
            client.say_goodbye(1001)
        elif how == "vanishes":
            client.close()
        else:
            client.socket.sendall(Frame(TEXT, b"hello").masked()[:5])
            client.close()
        must_happen(app.ended, "the end of the app")
    assert received == [disconnect(1001 if how == "closes" else 1006)]


@on_every_backend
@pytest.mark.parametrize("known", [True, False], ids=["of the disconnect", "its own error"])
def test_an_app_that_raises_after_the_end(
    backend: Message, known: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Ending: the client leaves, and the app raises of it; that is no failure. Another error is
    logged.
    """

    class WebSocketDisconnect(Exception):
        """As Starlette's."""

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await receive()
        raise WebSocketDisconnect if known else MarkedError

    app = Watched(body)
    with nothing_left(app, backend) as bridge:
        client, server = connect(bridge)
        client.must_be_accepted()
        server.finish()
        client.say_goodbye()
        must_happen(app.ended, "the end of the app")
        must_become(lambda: bridge.stats().in_flight == 0, "the end")
        assert bridge.stats().failed == 0
    assert errors_logged(caplog) == ([] if known else [MarkedError])


@on_every_backend
def test_the_client_leaves_in_the_handshake(backend: Message) -> None:
    """Ending: the client leaves while the app computes. The thread notices it, and the app gets a
    disconnect.
    """
    received: list[Message] = []

    async def body(app: Watched, receive: Any, send: Any) -> None:
        received.append(await receive())
        app.inside.set()
        received.append(await receive())

    app = Watched(body)
    with nothing_left(app, backend, disconnect_poll=0.01) as bridge:
        client, server = connect(bridge)
        must_happen(app.inside, "the app's wait")
        client.close()
        must_happen(app.ended, "the end of the app")
        server.finish()
        must_become(lambda: bridge.stats().disconnected == 1, "the count")
        assert bridge.stats().failed == 0
    assert received == [{"type": "websocket.connect"}, disconnect(1006)]


@on_every_backend
def test_the_client_leaves_while_the_app_refuses(backend: Message) -> None:
    """Ending: the client leaves while the app writes its own response."""
    outcome: list[type[BaseException]] = []

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.http.response.start", "status": 401})
        part = {"type": "websocket.http.response.body", "body": bytes(100_000), "more_body": True}
        try:
            while True:
                await send(part)
        except OSError as error:
            outcome.append(type(error))

    app = Watched(body)
    with nothing_left(app, backend, disconnect_poll=0.01) as bridge:
        client, server = connect(bridge)
        client.close()
        must_happen(app.ended, "the end of the app")
        server.finish()
        must_become(lambda: bridge.stats().disconnected == 1, "the count")
    assert len(outcome) == 1


@on_every_backend
@pytest.mark.parametrize("closes", ["the client", "the app"])
def test_nothing_of_a_websocket_is_left(backend: Message, closes: str) -> None:
    """After the end no object of the connection is left, without the garbage collector. No timer
    keeps it: neither the ping's nor that of the closing handshake.
    """

    class Session(dict[str, Any]):
        """An object that only the app and its scope refer to."""

    async def app(scope: Message, receive: Any, send: Any) -> None:
        scope["session"] = session = Session(scope=1)
        left.append(weakref.ref(session))
        del session
        await accept(receive, send)
        while (message := await receive()).get("text") not in (None, "end"):
            await send(send_message(message["text"]))

    left: list[Any] = []
    tasks: list[Any] = []
    with bridged(with_turns(app), backend) as bridge:
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                client, server = connect(bridge)
                client.must_be_accepted()
                server.finish()
                (task,) = bridge._runtime.in_flight
                tasks.append(weakref.ref(task.handshake._session._engine))
                del task
                client.send(Frame(TEXT, b"a"))
                assert client.read() == Frame(TEXT, b"a")
                if closes == "the app":
                    client.send(Frame(TEXT, b"end"))
                    assert client.read() == close_frame(1000)
                    client.send(close_frame(1000))
                    assert client.read() is None
                    client.close()
                else:
                    client.say_goodbye()
                server.environ.clear()
                must_become(lambda: bridge.stats().in_flight == 0, "the end")
            turn_the_loop(bridge)
            must_become(lambda: not any(ref() for ref in left), "the end of the scopes")
            must_become(lambda: not any(ref() for ref in tasks), "the end of the connections")
        finally:
            gc.enable()


# close()


@on_every_backend
def test_close_sends_1012_first_of_all(backend: Message) -> None:
    """WS-A-9: before it waits for background work."""
    gate = Gate()
    received: list[Message] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await gate.wait()
            return
        await accept(receive, send)
        received.append(await receive())

    with bridged(app, backend) as bridge:
        clients = [connect(bridge)[0] for _ in range(5)]
        for client in clients:
            client.must_be_accepted()
        waiting = InThread(lambda: serve(bridge, environ_for()), "a request")
        must_become(lambda: bridge.stats().in_flight == 6, "the request")
        closing = InThread(bridge.close, "close()")
        for client in clients:
            assert client.read() == close_frame(1012)
            client.send(close_frame(1012))
            assert client.read() is None
            client.close()
        assert not closing.done.is_set()
        gate.open()
        waiting.result()
        closing.result()
    assert received == [disconnect(1012)] * 5


@on_every_backend
def test_close_does_not_wait_long_for_a_silent_client(
    backend: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WS-A-10: it is aborted."""
    monkeypatch.setattr(open_websocket, "SHUTDOWN_SECONDS", 0.01)
    with bridged(echo, backend) as bridge, connected(bridge) as client:
        InThread(bridge.close, "close()").result()
        assert client.read() == close_frame(1012)
        assert client.read() is None


@on_every_backend
def test_an_app_that_does_not_end_is_cancelled(
    backend: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ending: shutdown while a WebSocket is open, and `shutdown_timeout` is over."""
    monkeypatch.setattr(open_websocket, "SHUTDOWN_SECONDS", 60.0)

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await accept(receive, send)
        app.inside.set()
        await anyio.sleep_forever()

    app = Watched(body)
    with nothing_left(app, backend, shutdown_timeout=0.01) as bridge:
        client, server = connect(bridge)
        client.must_be_accepted()
        must_happen(app.inside, "the app's sleep")
        InThread(bridge.close, "close()").result()
        assert client.read() == close_frame(1012)
        assert client.read() is None
        client.close()
        server.finish()
    assert len(app.ends) == 1


@on_every_backend
def test_an_app_that_does_not_end_its_refusal_is_cancelled(backend: Message) -> None:
    """Ending: the same in the middle of its own response; the server's thread gets BridgeClosed."""

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"no", "more_body": True})
        app.inside.set()
        await anyio.sleep_forever()

    app = Watched(body)
    with nothing_left(app, backend, shutdown_timeout=0.01) as bridge:
        client, server = connect(bridge)
        must_happen(app.inside, "the app's sleep")
        InThread(bridge.close, "close()").result()
        assert client.read_head().status == 401
        client.close()
        assert type(server.finish().error) is BridgeClosed
    assert len(app.ends) == 1


@on_every_backend
def test_close_while_the_buffer_is_full(backend: Message, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ending: the buffer is full at shutdown. The client reads nothing, and is not waited for; the
    app's waiting `send()` raises.
    """
    monkeypatch.setattr(open_websocket, "SHUTDOWN_SECONDS", 0.01)

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await accept(receive, send)
        while True:
            await send(send_message(bytes(65_536)))

    app = Watched(body)
    with nothing_left(app, backend) as bridge:
        client, server = connect(bridge)
        client.must_be_accepted()
        server.finish()
        (task,) = bridge._runtime.in_flight
        must_become(lambda: task._open is not None and task._open._stream.is_full(), "the wait")
        InThread(bridge.close, "close()").result()
        client.close()
    assert [type(error) for error in app.ends] == [ClientDisconnected]


@on_every_backend
def test_close_in_the_handshake(backend: Message) -> None:
    """Ending: shutdown while the app is in the handshake: the server gets an error at once."""
    received: list[Message] = []

    async def body(app: Watched, receive: Any, send: Any) -> None:
        received.append(await receive())
        app.inside.set()
        received.append(await receive())

    app = Watched(body)
    with nothing_left(app, backend) as bridge:
        client, server = connect(bridge)
        must_happen(app.inside, "the app's wait")
        InThread(bridge.close, "close()").result()
        assert client.read_head().status == 500
        client.close()
        assert isinstance(server.finish().error, BridgeClosed)
    assert received == [{"type": "websocket.connect"}, disconnect(1006)]


# After a close frame


@on_every_backend
def test_after_a_close_frame_what_comes_is_dropped(
    backend: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WS-A-10: the bridge half-closes and reads on, or a reset might eat its close frame."""
    with bridged(echo, backend) as bridge, connected(bridge, tcp=True) as client:
        client.send(close_frame(1000), Frame(TEXT, b"late"))
        client.socket.sendall(bytes(3_000_000))
        assert client.read() == close_frame(1000)
        assert client.read() is None
        assert bridge.stats().released_websockets == 1
        client.close()
        must_become(lambda: bridge.stats().released_websockets == 0, "the end")


@on_every_backend
@pytest.mark.parametrize("answers", [True, False])
def test_a_client_that_does_not_close_is_aborted(
    backend: Message, answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WS-A-10: after 10 s."""
    assert open_websocket.CLOSE_SECONDS == 10.0
    monkeypatch.setattr(open_websocket, "CLOSE_SECONDS", 0.01)

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)

    with bridged(app, backend) as bridge, connected(bridge) as client:
        if answers:
            client.send(close_frame(1000))
        assert client.read() == close_frame(1000)
        assert client.read() is None
        must_become(lambda: bridge.stats().in_flight == 0, "the end")


# max_released


@on_every_backend
def test_beyond_max_released_a_handshake_gets_a_503(backend: Message) -> None:
    """WS-A-8: until another has ended; stats() counts those that are open."""
    with bridged(with_turns(echo), backend, max_released=2) as bridge:
        first, second = (connect(bridge)[0] for _ in range(2))
        for client in (first, second):
            client.must_be_accepted()
        assert bridge.stats().released_websockets == 2
        refused, server = connect(bridge)
        assert refused.read_head().status == 503
        refused.close()
        server.finish()
        assert bridge.stats().rejected == 1
        first.say_goodbye()
        must_become(lambda: bridge.stats().released_websockets == 1, "the end")
        with connected(bridge) as third:
            third.say_goodbye()
        second.say_goodbye()
        must_become(lambda: bridge.stats().released_websockets == 0, "the end")


# Threads


@on_asyncio_backends
def test_thread_sensitive_code_never_waits_for_the_calling_thread(backend: Message) -> None:
    """WS-A-4: not even in the handshake, since `accept` may be called from it, as Channels' sync
    consumers do. All of it runs in one thread.
    """
    threads: list[str] = []

    def note() -> None:
        threads.append(threading.current_thread().name)

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await sync_to_async(note)()
        await receive()

        def accept_in_sync_code() -> None:
            note()
            from asgiref.sync import async_to_sync

            async_to_sync(send)({"type": "websocket.accept"})

        await sync_to_async(accept_in_sync_code)()
        await sync_to_async(note)()
        await send(send_message("done"))
        await receive()

    with bridged(app, backend) as bridge:
        for _ in range(2):
            with connected(bridge) as client:
                assert client.read() == Frame(TEXT, b"done")
                client.say_goodbye()
    assert len(threads) == 6
    assert len(set(threads)) == 1
    assert threads[0].startswith("wsgi_asgi_bridge-sync")


# Forks


@on_every_backend
def test_a_forked_child_does_not_keep_the_connection_open(
    backend: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A-CALL-2: what the parent closes is closed for the client, though a child runs on."""
    monkeypatch.setattr(open_websocket, "SHUTDOWN_SECONDS", 0.01)
    with bridged(echo, backend) as bridge, connected(bridge) as client:
        client.send(Frame(TEXT, b"open"))
        assert client.read() == Frame(TEXT, b"open")
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:  # it waits until the parent lets it go
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
        try:
            os.close(reading)
            InThread(bridge.close, "close()").result()
            assert client.read() == close_frame(1012)
            assert client.read() is None
        finally:
            os.close(writing)
            assert os.waitpid(child, 0)[1] == 0


@on_asyncio_backends
def test_a_child_forked_in_the_middle_of_an_accept_has_no_connection(
    backend: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A-CALL-2: the connection is taken over, and not served yet."""
    opening, gate = threading.Event(), Gate()
    open_stream = open_websocket.open_socket_stream
    taken: list[int] = []

    async def open_late(loop: Any, source: Any, callbacks: Any) -> Any:
        taken.append(source.fileno())
        opening.set()
        await gate.wait()
        return await open_stream(loop, source, callbacks)

    monkeypatch.setattr(open_websocket, "open_socket_stream", open_late)
    with bridged(echo, backend) as bridge:
        client, server = connect(bridge)
        must_happen(opening, "the accept")
        child = os.fork()
        if child == 0:
            try:
                os.fstat(taken[0])
            except OSError:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        gate.open()
        client.must_be_accepted()
        client.say_goodbye()
        client.close()
        server.finish()


@on_every_backend
def test_the_environ_in_the_scope_stays(backend: Message) -> None:
    """A-SCOPE-3: uWSGI clears its dict when its thread has gone home, and uses it again."""
    methods: list[str] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await receive()
        methods.append(scope["wsgi_environ"]["REQUEST_METHOD"])

    with bridged(app, backend) as bridge:
        client, server = connect(bridge)
        client.must_be_accepted()
        server.finish()
        server.environ.clear()
        client.say_goodbye()
        must_become(lambda: bridge.stats().in_flight == 0, "the end")
    assert methods == ["GET"]

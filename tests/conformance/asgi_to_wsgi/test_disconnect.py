"""A-IN-2, A-IN-3, A-OUT-3: how an app learns that its client has left."""

import socket
import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from tests.support.fake_wsgi_server import (
    Exchange,
    Gate,
    GeneratedInput,
    Message,
    bridged,
    environ_for,
    finish,
    must_become,
    must_happen,
    on_every_backend,
    respond,
    serve,
    start,
    stream,
    turn_the_loop,
    upload_environ,
    whole_body,
    with_turns,
)
from wsgi_asgi_bridge import (
    ClientDisconnected,
)
from wsgi_asgi_bridge.asgi_to_wsgi import bridge as bridge_module

BUFFER = 16_384
LARGE = 4 * 1024 * 1024


# A-IN-2


def pending_until(receive: Any, done: list[Message]) -> Callable[[], Any]:
    async def wait() -> None:
        done.append(await receive())

    return wait


@on_every_backend
@pytest.mark.parametrize("size", [0, 10, 3 * BUFFER], ids=["none", "small", "large"])
def test_receive_waits_after_the_body(backend: dict[str, Any], size: int) -> None:
    """A-IN-2: no disconnect before the response has ended, then one on every call."""
    go_on = Gate()
    early: list[Message] = []
    late: list[Message] = []
    waiting = threading.Event()
    over = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await whole_body(receive)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pending_until(receive, late))
            await start(send)
            await stream(send, b"part")
            waiting.set()
            await go_on.wait()
            early.extend(late)
            await finish(send)
        late.append(await receive())
        late.append(await receive())
        over.set()

    body = GeneratedInput(size)
    with bridged(with_turns(app), backend, request_buffer=BUFFER) as bridge:
        exchange = Exchange(bridge, upload_environ(body, length=size))
        must_happen(waiting, "the app's stream")
        exchange.wait_for_size(4)
        turn_the_loop(bridge)
        go_on.open()
        assert exchange.body == b"part"
        must_happen(over, "the disconnect after the response")
    assert early == []
    assert late == [{"type": "http.disconnect"}] * 3


@on_every_backend
def test_unread_body_gives_disconnect_after_the_response(backend: dict[str, Any]) -> None:
    """A-IN-2: when the response has ended, there is no reading on in the request's body."""
    late: list[Message] = []
    over = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"done")
        late.append(await receive())
        late.append(await receive())
        over.set()

    body = GeneratedInput(LARGE, past_end="hang")
    with bridged(app, backend, request_buffer=BUFFER) as bridge:
        assert serve(bridge, upload_environ(body, length=LARGE)).body == b"done"
        must_happen(over, "the disconnect after the response")
    assert late == [{"type": "http.disconnect"}] * 2


@on_every_backend
def test_closed_iterable_gives_disconnect(backend: dict[str, Any]) -> None:
    """A-IN-2: the server closes what its client no longer wants; a waiting `receive()` wakes."""
    late: list[Message] = []
    over = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"part")
        await receive()
        late.extend([await receive(), await receive()])
        over.set()

    with bridged(app, backend) as bridge:
        exchange = Exchange(bridge, hold=True)
        assert exchange.take() == b"part"
        exchange.hang_up()
        must_happen(over, "the disconnect")
    assert late == [{"type": "http.disconnect"}] * 2


# A-IN-3


class Clients:
    """A connected pair of sockets: the client's end, and the one that the server shows."""

    def __init__(self) -> None:
        self.client, self.server = socket.socketpair()

    def __enter__(self) -> "Clients":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.client.close()
        self.server.close()


SILENCES = ["before the headers", "in mid-stream"]
SOCKET_KEYS = ["gunicorn.socket", "werkzeug.socket"]


def silent_app(silence: str, seen: list[Message], waiting: threading.Event) -> Any:
    """An app that waits for what `receive()` says after the body."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await whole_body(receive)
        if silence == "in mid-stream":
            await start(send)
            await stream(send, b"part")
        waiting.set()
        seen.append(await receive())

    return app


@on_every_backend
@pytest.mark.parametrize("silence", SILENCES)
@pytest.mark.parametrize("key", SOCKET_KEYS)
def test_closed_socket_is_noticed(backend: dict[str, Any], key: str, silence: str) -> None:
    """A-IN-3: a client that closes while the app is silent wakes its `receive()`."""
    seen: list[Message] = []
    waiting = threading.Event()
    app = silent_app(silence, seen, waiting)
    with Clients() as ends, bridged(app, backend, disconnect_poll=0.02) as bridge:
        exchange = Exchange(bridge, environ_for() | {key: ends.server})
        must_happen(waiting, "the app's silence")
        ends.client.close()
        exchange.finish()
        must_become(lambda: bridge.stats().in_flight == 0, "the end of the exchange")
        assert bridge.stats().disconnected == 1
    assert seen == [{"type": "http.disconnect"}]


@pytest.mark.parametrize("key", [*SOCKET_KEYS, "waitress.client_disconnected"])
def test_nobody_looks_where_disconnect_poll_is_none(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A-IN-3: a client that has shut its sending side has its answer, whatever the server shows."""
    monkeypatch.setattr(bridge_module, "LOOP_CHECK_SECONDS", 0.01)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await whole_body(receive)
        with anyio.move_on_after(0.15):
            await receive()
        await respond(send, b"an answer")

    with Clients() as ends, bridged(app, disconnect_poll=None) as bridge:
        ends.client.shutdown(socket.SHUT_WR)
        shown: Any = ends.server if key in SOCKET_KEYS else lambda: True
        assert serve(bridge, environ_for() | {key: shown}).body == b"an answer"


@on_every_backend
@pytest.mark.parametrize("silence", SILENCES)
def test_waitress_tells_of_the_disconnect(backend: dict[str, Any], silence: str) -> None:
    """A-IN-3, A-IN-2: waitress's callable is asked again and again; its True is the disconnect, and
    none comes before.
    """
    seen: list[Message] = []
    asked = 0
    early: list[int] = []

    def client_disconnected() -> bool:
        nonlocal asked
        asked += 1
        early.append(len(seen))
        return asked > 5

    app = silent_app(silence, seen, threading.Event())
    with bridged(app, backend, disconnect_poll=0.01) as bridge:
        serve(bridge, environ_for() | {"waitress.client_disconnected": client_disconnected})
    assert seen == [{"type": "http.disconnect"}]
    assert set(early[:5]) == {0}


@on_every_backend
@pytest.mark.parametrize("pending", [b"", b"GET /next HTTP/1.1\r\n\r\n"], ids=["idle", "pipelined"])
def test_open_socket_is_left_alone(backend: dict[str, Any], pending: bytes) -> None:
    """A-IN-3: an open connection is no disconnect, its next request is not eaten, and its mode
    stays as it is.
    """
    seen: list[Message] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await whole_body(receive)
        with anyio.move_on_after(0.15):
            seen.append(await receive())
        await respond(send, b"still here")

    with Clients() as ends, bridged(app, backend, disconnect_poll=0.01) as bridge:
        ends.client.sendall(pending)
        assert serve(bridge, environ_for() | {"gunicorn.socket": ends.server}).body == b"still here"
        assert ends.server.gettimeout() is None
        ends.client.sendall(b"!")
        assert ends.server.recv(1000) == pending + b"!"
    assert seen == []


class TLSLikeSocket:
    """What `ssl.SSLSocket` does with flags, and a descriptor that says nothing about the plain
    stream.
    """

    def __init__(self, plain: socket.socket) -> None:
        self._plain = plain

    def fileno(self) -> int:
        return self._plain.fileno()

    def gettimeout(self) -> None:
        return None

    def recv(self, size: int, flags: int = 0) -> bytes:
        if flags:
            raise ValueError("non-zero flags not allowed in calls to recv()")
        raise AssertionError("a recv() that takes data away")


class ClosedSocket:
    def fileno(self) -> int:
        return -1

    def recv(self, size: int, flags: int = 0) -> bytes:
        raise OSError(9, "Bad file descriptor")


@on_every_backend
@pytest.mark.parametrize("kind", ["tls", "none"])
def test_socket_that_cannot_be_asked_is_no_disconnect(backend: dict[str, Any], kind: str) -> None:
    """A-IN-3: where the server shows nothing usable, nothing is made up and nothing breaks."""
    seen: list[Message] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await whole_body(receive)
        with anyio.move_on_after(0.1):
            seen.append(await receive())
        await respond(send, b"fine")

    with Clients() as ends, bridged(app, backend, disconnect_poll=0.01) as bridge:
        shown = TLSLikeSocket(ends.server) if kind == "tls" else None
        ends.client.sendall(b"encrypted bytes")
        assert serve(bridge, environ_for() | {"gunicorn.socket": shown}).body == b"fine"
    assert seen == []


def test_dead_descriptor_breaks_nothing() -> None:
    """A-IN-3: a socket that the server has closed already ends the wait, or is passed over."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await whole_body(receive)
        with anyio.move_on_after(0.1):
            await receive()
        await respond(send, b"fine")

    with bridged(app, disconnect_poll=0.01) as bridge:
        exchange = serve(bridge, environ_for() | {"gunicorn.socket": ClosedSocket()})
        assert exchange.error is None or isinstance(exchange.error, OSError)
        assert serve(bridge).body == b"fine"


@on_every_backend
def test_read_that_raised_is_seen_by_send_as_well(backend: dict[str, Any]) -> None:
    """A-OUT-3: after the disconnect that `wsgi.input` showed, every `send()` raises an OSError."""
    raised: list[BaseException] = []
    over = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] == "http.request":
            pass
        for answer in (start(send), stream(send, b"to nobody"), finish(send)):
            try:
                await answer
            except OSError as error:
                raised.append(error)
        over.set()

    body = GeneratedInput(3 * BUFFER, error=ConnectionResetError("reset by peer"))
    with bridged(app, backend, request_buffer=BUFFER) as bridge:
        exchange = serve(bridge, upload_environ(body, length=10 * BUFFER))
        assert isinstance(exchange.raised(), ClientDisconnected)
        assert exchange.starts == []
        must_happen(over, "the end of the app")
        assert bridge.stats().disconnected == 1
    assert len(raised) == 3


@on_every_backend
def test_disconnect_is_seen_by_send_as_well(backend: dict[str, Any]) -> None:
    """A-IN-3, A-OUT-3: once the client is known to be gone, `send()` raises an OSError."""
    raised: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await whole_body(receive)
        ends.client.close()
        assert (await receive())["type"] == "http.disconnect"
        try:
            await respond(send, b"to nobody")
        except OSError as error:
            raised.append(error)

    with Clients() as ends, bridged(app, backend, disconnect_poll=0.01) as bridge:
        serve(bridge, environ_for() | {"gunicorn.socket": ends.server})
    assert len(raised) == 1

"""WS-A-1, WS-A-5, WS-A-12: the handshake of a WebSocket, how it is accepted and how refused."""

from typing import Any

import pytest

from tests.support.fake_wsgi_server import (
    ScopeCapture,
    bridged,
    environ_for,
    hello,
    must_become,
    on_every_backend,
    serve,
    turn_the_loop,
    with_turns,
)
from tests.support.websocket_apps_in_process import accept, disconnect, echo, send_message
from tests.support.websocket_wire import (
    ACCEPT,
    KEY,
    STYLES,
    TEXT,
    Frame,
    connect,
    connected,
)
from wsgi_asgi_bridge import AppError
from wsgi_asgi_bridge._protocol import websocket_session
from wsgi_asgi_bridge.asgi_to_wsgi import offered_websocket

Message = dict[str, Any]


class Refusing:
    """An app that notes its scope and sends the given messages."""

    def __init__(self, *messages: Message) -> None:
        self.messages = messages
        self.scopes: list[Message] = []
        self.received: list[Message] = []

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        self.received.append(await receive())
        for message in self.messages:
            await send(message)
        self.received.append(await receive())


# Accepting


@on_every_backend
@pytest.mark.parametrize("style", STYLES)
def test_a_websocket_on_each_server(backend: Message, style: str) -> None:
    """WS-A-1: messages go both ways, and the server's thread has gone home with a 101."""
    with bridged(echo, backend) as bridge, connected(bridge, style=style) as client:
        client.send(Frame(TEXT, b"one"), Frame(2, b"two"))
        assert (client.read(), client.read()) == (Frame(TEXT, b"one"), Frame(2, b"two"))
        client.say_goodbye()


@on_every_backend
def test_the_head_of_the_101(backend: Message) -> None:
    """WS-A-12: the app's headers go along, checked and without those of the connection."""

    async def app(scope: Message, receive: Any, send: Any) -> None:
        headers = [
            (b"set-cookie", b"a=1"),
            (b"set-cookie", b"b=\xe9"),
            (b"x-name", b" trimmed "),
            (b"connection", b"close"),
            (b"content-length", b"7"),
        ]
        await accept(receive, send, subprotocol="chat", headers=headers)
        await send({"type": "websocket.close"})

    with bridged(app, backend) as bridge:
        client, server = connect(bridge, headers={"Sec-WebSocket-Protocol": "other, chat"})
        raw = b""
        while not raw.endswith(b"\r\n\r\n"):
            raw += client.socket.recv(1)
        lines = raw.decode("latin-1").split("\r\n")
        assert lines[0] == "HTTP/1.1 101 Switching Protocols"
        assert lines[1:-2] == [
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {ACCEPT}",
            "Sec-WebSocket-Protocol: chat",
            "Set-Cookie: a=1",
            "Set-Cookie: b=\xe9",
            "X-Name: trimmed",
        ]
        assert client.read() == Frame(8, b"\x03\xe8")
        server.finish()
        client.close()


ILLEGAL_ACCEPTS = {
    "a control character": {"headers": [(b"x", b"a\nb")]},
    "no token": {"headers": [(b"x y", b"a")]},
    "no pairs": {"headers": [b"x"]},
    "an own key": {"headers": [(b"sec-websocket-accept", b"a")]},
    "an own subprotocol": {"headers": [(b"sec-websocket-protocol", b"chat")]},
    "an own extension": {"headers": [(b"Sec-WebSocket-Extensions", b"x")]},
    "a subprotocol that is not offered": {"subprotocol": "mail"},
}


@pytest.mark.parametrize("how", ILLEGAL_ACCEPTS.values(), ids=ILLEGAL_ACCEPTS)
def test_an_illegal_accept_raises_and_changes_nothing(how: Message) -> None:
    """WS-A-12: the app may still accept."""
    errors: list[str] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        with pytest.raises(AppError) as caught:
            await send({"type": "websocket.accept", **how})
        errors.append(str(caught.value))
        await send({"type": "websocket.accept"})
        await send(send_message("after all"))

    headers = {"Sec-WebSocket-Protocol": "chat"}
    with bridged(app) as bridge, connected(bridge, headers=headers) as client:
        assert client.read() == Frame(TEXT, b"after all")
    assert errors[0].startswith("websocket.accept: ")


@on_every_backend
@pytest.mark.parametrize("style", STYLES)
def test_what_the_server_has_read_already_is_fed_first(backend: Message, style: str) -> None:
    """WS-A-5: frames that came with the head; a client should not, but some do."""
    early = Frame(TEXT, b"early").masked() + Frame(TEXT, b"half").masked()[:7]
    with (
        bridged(echo, backend) as bridge,
        connected(bridge, style=style, early=early) as client,
    ):
        client.socket.sendall(Frame(TEXT, b"half").masked()[7:])
        client.send(Frame(TEXT, b"late"))
        frames = [client.read() for _ in range(3)]
        assert frames == [Frame(TEXT, data) for data in (b"early", b"half", b"late")]


@on_every_backend
def test_the_101_is_written_in_the_apps_own_step(backend: Message) -> None:
    """WS-A-5: what a client does once it has seen the 101 finds an app that has gone on."""
    steps: list[str] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        steps.append("accepted")
        await receive()

    with bridged(with_turns(app), backend) as bridge:
        for _ in range(20):
            steps.clear()
            with connected(bridge):
                turn_the_loop(bridge, times=1)
                assert steps == ["accepted"]


# The scope


def test_the_scope_of_a_websocket() -> None:
    """WS-A-1, A-SCOPE-1."""
    app = Refusing({"type": "websocket.close"})
    with bridged(app, root_path="/root") as bridge:
        headers = {"Sec-WebSocket-Protocol": "a , b,,c", "Cookie": "x=1"}
        sends_files = {"wsgi.file_wrapper": object()}  # an extension of responses, not of this
        client, server = connect(
            bridge, target="/caf%C3%A9?q=1", headers=headers, environ=sends_files
        )
        assert client.read_head().status == 403
        client.close()
        environ = server.finish().environ
    scope = app.scopes[0]
    assert dict(scope["headers"])[b"sec-websocket-key"] == KEY.encode()
    assert {key: value for key, value in scope.items() if key != "headers"} == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/root/caf\xe9",
        "raw_path": b"/root/caf%C3%A9",
        "query_string": b"q=1",
        "root_path": "/root",
        "client": ("127.0.0.1", 50123),
        "server": ("127.0.0.1", 8000),
        "state": {},
        "subprotocols": ["a", "b", "c"],
        "extensions": {"websocket.http.response": {}},
        "wsgi_environ": environ,
    }


def test_a_subprotocol_on_two_lines_is_not_offered() -> None:
    """WS-A-12: wsgiref gives a folded header as it came, and the app's choice goes into the 101."""
    app = Refusing({"type": "websocket.close"})
    with bridged(app) as bridge:
        offer = {"HTTP_SEC_WEBSOCKET_PROTOCOL": "a,b\r\n c: d,\r\n e,f\n\tg"}
        client, server = connect(bridge, environ=offer)
        assert client.read_head().status == 403
        client.close()
        server.finish()
    assert app.scopes[0]["subprotocols"] == ["a", "e"]


@pytest.mark.parametrize("scheme", ["https", "wss"])
def test_the_scheme_behind_a_proxy_with_tls(scheme: str) -> None:
    """WS-A-1: `wss`, as the server says that the client's request was, by either word."""
    app = Refusing({"type": "websocket.close"})
    with bridged(app) as bridge:
        client, _ = connect(bridge, environ={"wsgi.url_scheme": scheme})
        assert client.read_head().status == 403
        client.close()
    assert app.scopes[0]["scheme"] == "wss"


# Refusing


@on_every_backend
@pytest.mark.parametrize("style", STYLES)
def test_a_close_in_the_handshake_is_403(backend: Message, style: str) -> None:
    """WS-A-1: through the server, whose connection it stays."""
    app = Refusing({"type": "websocket.close", "code": 4000})
    with bridged(app, backend) as bridge:
        client, server = connect(bridge, style=style)
        head = client.read_head()
        assert (head.status, head.headers["server"]) == (403, "fake")
        client.socket.sendall(b"the next request")
        assert server.finish().next_request == b"the next request"
        assert bridge.stats().completed == 1
        client.close()
    assert app.received == [{"type": "websocket.connect"}, disconnect(1006)]


@on_every_backend
def test_a_response_of_the_app_refuses_it(backend: Message) -> None:
    """WS-A-1: `websocket.http.response`, in parts."""
    start = {
        "type": "websocket.http.response.start",
        "status": 401,
        "headers": [(b"www-authenticate", b"Bearer")],
    }
    part = {"type": "websocket.http.response.body", "body": b"who are ", "more_body": True}
    app = Refusing(start, part, {"type": "websocket.http.response.body", "body": b"you?"})
    with bridged(app, backend) as bridge:
        client, server = connect(bridge)
        head = client.read_head()
        assert (head.status, head.headers["www-authenticate"]) == (401, "Bearer")
        client.socket.shutdown(1)
        assert client.read_rest() == b"who are you?"
        server.finish()
        assert bridge.stats().completed == 1
        client.close()
    assert app.received[-1] == disconnect(1006)


ILLEGAL_IN_THE_HANDSHAKE = [
    {"type": "websocket.send", "text": "too early"},
    {"type": "websocket.http.response.body", "body": b""},
    {"type": "http.response.start", "status": 200},
    {"type": "unknown"},
    {},
    {"type": "websocket.http.response.start", "status": 99},
]


@pytest.mark.parametrize("message", ILLEGAL_IN_THE_HANDSHAKE, ids=str)
def test_illegal_messages_in_the_handshake(message: Message) -> None:
    """A-OUT-1: they raise out of `send()`; an app that does not catch that has failed."""
    app = Refusing(message)
    with bridged(app) as bridge:
        client, server = connect(bridge)
        assert client.read_head().status == 500
        client.close()
        assert isinstance(server.finish().error, AppError)
        must_become(lambda: bridge.stats().failed == 1, "the count of the failure")


@pytest.mark.parametrize("how", ["returns", "raises"])
@on_every_backend
def test_an_app_that_ends_in_the_handshake(backend: Message, how: str) -> None:
    """A-OUT-4: the calling thread never hangs; the server answers 500."""

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        if how == "raises":
            raise LookupError("on purpose")

    with bridged(app, backend) as bridge:
        client, server = connect(bridge)
        assert client.read_head().status == 500
        client.close()
        expected = AppError if how == "returns" else LookupError
        assert type(server.finish().error) is expected
        must_become(lambda: bridge.stats().failed == 1, "the count of the failure")


# What is a plain request, and what is malformed


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-WebSocket-Version": "8"}, 426),
        ({"Sec-WebSocket-Version": None}, 426),
        ({"Sec-WebSocket-Key": None}, 400),
        ({"Sec-WebSocket-Key": "c2hvcnQ="}, 400),
        ({"Sec-WebSocket-Key": "no base64, no base64 ="}, 400),
        ({"Sec-WebSocket-Key": "\xe9" * 24}, 400),
        ({"Content-Length": "5"}, 400),
        ({"Transfer-Encoding": "chunked"}, 400),
        ({"Sec-WebSocket-Extensions": 'broken; "'}, 400),
    ],
    ids=str,
)
def test_malformed_handshakes(headers: dict[str, str | None], status: int) -> None:
    """WS-A-1: answered by the bridge, without the app."""
    capture = ScopeCapture()
    with bridged(capture) as bridge:
        client, server = connect(bridge, headers=headers)
        head = client.read_head()
        assert head.status == status
        assert head.headers.get("sec-websocket-version") == ("13" if status == 426 else None)
        assert head.headers["content-type"].startswith("text/plain")
        client.close()
        server.finish()
        assert bridge.stats().rejected == 1
    assert capture.scopes == []


PLAIN = {
    "no connection": {"environ": {"gunicorn.socket": None}},
    "HTTP/1.0": {"version": "HTTP/1.0"},
    "HTTP/2": {"environ": {"SERVER_PROTOCOL": "HTTP/2"}},
    "another method": {"method": "POST", "headers": {"Content-Length": "0"}},
    "another upgrade": {"headers": {"Upgrade": "h2c"}},
    "no upgrade of the connection": {"headers": {"Connection": "close"}},
}


@pytest.mark.parametrize("how", PLAIN.values(), ids=PLAIN)
def test_what_is_a_plain_request(how: Message) -> None:
    """WS-A-1: the app gets the `http` scope, as natively, and its answer goes to the client."""
    capture = ScopeCapture()
    with bridged(capture) as bridge:
        client, server = connect(bridge, **how)
        assert client.read_head().status == 200
        client.close()
        server.finish()
    assert capture.scope["type"] == "http"


def test_without_the_extra_a_handshake_is_a_plain_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """WS-A-1: `websockets` is not installed."""
    monkeypatch.setattr(offered_websocket, "websockets_is_installed", lambda: False)
    capture = ScopeCapture()
    with bridged(capture) as bridge:
        client, server = connect(bridge)
        assert client.read_head().status == 200
        client.close()
        server.finish()
    assert capture.scope["type"] == "http"


def test_a_plain_request_never_imports_websockets() -> None:
    """WS-A-1: who speaks no WebSocket does not pay for it."""
    websocket_session._package.cache_clear()
    with bridged(hello) as bridge:
        assert serve(bridge, environ_for()).body == b"hello"
    assert websocket_session._package.cache_info().currsize == 0


def test_a_handshake_on_a_closing_bridge() -> None:
    """A-LOOP-2: a bridge whose startup failed refuses WebSockets too."""

    async def app(scope: Message, receive: Any, send: Any) -> None:
        raise LookupError("on purpose")

    with bridged(app, lifespan="on") as bridge:
        client, server = connect(bridge)
        assert client.read_head().status == 500
        client.close()
        assert "startup failed" in str(server.finish().error)
        assert bridge.stats().rejected == 1


def test_a_server_with_one_thread_keeps_it_for_requests() -> None:
    """WS-A-2: 501 for a connection that would keep the thread."""
    capture = ScopeCapture()
    with bridged(capture, release="off") as bridge:
        client, server = connect(bridge, environ={"wsgi.multithread": False})
        assert client.read_head().status == 501
        client.close()
        server.finish()
        assert bridge.stats().rejected == 1
    assert capture.scopes == []


def test_greenlets_are_threads_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """WS-A-2: gevent.pywsgi says that it has one thread, and serves many requests at once."""
    monkeypatch.setattr(offered_websocket, "patched_by", lambda: "gevent")
    with bridged(echo, release="off") as bridge:
        client, server = connect(bridge, environ={"wsgi.multithread": False})
        client.must_be_accepted()
        client.say_goodbye()
        server.finish()

"""WS-W-1, WS-W-2, WS-W-4: a WebSocket's handshake, and the answers that an app gives instead."""

import contextvars
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from tests.support.environs import environ_of
from tests.support.fake_asgi_server import (
    ABSENT,
    Client,
    Gate,
    TrackedBody,
    answered,
    calling,
    http_scope,
    plain_app,
    serving,
    settle,
    websocket_scope,
)
from tests.support.fake_websocket import HTTP_RESPONSE, WebSocketClient, echoing

Environ = dict[str, Any]


# --- the app runs


@pytest.mark.parametrize("extensions", [None, {}, {"tls": {}}, ABSENT, *HTTP_RESPONSE.values()])
async def test_the_app_runs_whatever_the_server_can_carry(extensions: Any) -> None:
    """WS-W-1."""
    client = WebSocketClient(websocket_scope(extensions=extensions))
    async with serving(echoing) as bridge, calling(bridge, client):
        client.say("hello")
        assert await client.until_heard(1) == ["hello"]
        client.close()
    assert client.kinds == ["websocket.accept", "websocket.send"]
    assert client.messages[0] == {"type": "websocket.accept", "subprotocol": None, "headers": []}


async def test_a_client_that_leaves_before_it_has_connected() -> None:
    """WS-W-1: the app is not called for what is no connection."""
    calls: list[Environ] = []
    messages: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.disconnect", "code": 1006}

    async def send(message: Any) -> None:
        messages.append(message)

    async with serving(lambda environ, _: calls.append(environ)) as bridge:
        await bridge(websocket_scope(), receive, send)
        assert bridge.stats().threads == 0
    assert (calls, messages) == ([], [])


# --- environ


@pytest.mark.parametrize(
    ("scheme", "url_scheme"), [("ws", "http"), ("wss", "https")], ids=["ws", "wss"]
)
async def test_the_environ_of_a_handshake(scheme: str, url_scheme: str) -> None:
    """WS-W-2: that of a GET, with an empty body."""
    scope = websocket_scope("/chat", scheme=scheme, query_string=b"a=b", **HTTP_RESPONSE)
    scope["headers"] += [
        (b"sec-websocket-extensions", b"permessage-deflate"),
        (b"transfer-encoding", b"chunked"),
        (b"cookie", b"a=1"),
    ]
    scope["subprotocols"] = ["chat", "superchat"]
    scope["state"] = {"pool": "the server's"}
    environ = await environ_of(scope)
    assert environ["REQUEST_METHOD"] == "GET"
    assert environ["wsgi.url_scheme"] == url_scheme
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/chat", "a=b")
    assert environ["HTTP_UPGRADE"] == "websocket"
    assert environ["HTTP_CONNECTION"] == "Upgrade"
    assert environ["HTTP_SEC_WEBSOCKET_VERSION"] == "13"
    assert environ["HTTP_SEC_WEBSOCKET_KEY"] == "dGhlIHNhbXBsZSBub25jZQ=="
    assert environ["HTTP_SEC_WEBSOCKET_PROTOCOL"] == "chat, superchat"
    assert environ["HTTP_COOKIE"] == "a=1"
    assert "HTTP_SEC_WEBSOCKET_EXTENSIONS" not in environ
    assert "HTTP_TRANSFER_ENCODING" not in environ
    assert environ["wsgi.input"].read() == b""
    assert environ["asgi.scope"]["state"] == {"pool": "the server's"}
    assert environ["wsgi.websocket_version"] == "13"


@pytest.mark.parametrize(
    ("server", "scheme", "host"),
    [
        (("example.test", 80), "ws", "example.test"),
        (("example.test", 8080), "ws", "example.test:8080"),
        (("example.test", 443), "wss", "example.test"),
        (("::1", 8000), "ws", "[::1]:8000"),
        (None, "ws", "localhost"),
    ],
)
async def test_a_handshake_over_http_2(server: Any, scheme: str, host: str) -> None:
    """WS-W-2: it has no key, no Upgrade and perhaps no host; libraries look for them."""
    scope = websocket_scope(
        http_version="2", headers=[], server=server, scheme=scheme, subprotocols=ABSENT
    )
    scope["extensions"] = {"websocket.http.response": {}}
    environ = await environ_of(scope)
    assert environ["SERVER_PROTOCOL"] == "HTTP/2.0"
    assert environ["HTTP_HOST"] == host
    assert environ["HTTP_UPGRADE"] == "websocket"
    assert environ["HTTP_CONNECTION"] == "Upgrade"
    assert len(environ["HTTP_SEC_WEBSOCKET_KEY"]) == 24
    assert environ["HTTP_SEC_WEBSOCKET_VERSION"] == "13"
    assert "HTTP_SEC_WEBSOCKET_PROTOCOL" not in environ


async def test_the_pairs_of_the_deployer_win() -> None:
    """WS-W-2, W-ENV-9."""
    environ = await environ_of(
        websocket_scope(**HTTP_RESPONSE), environ={"wsgi.websocket": None, "a": 1}
    )
    assert (environ["wsgi.websocket"], environ["a"]) == (None, 1)


async def test_other_requests_have_no_websocket() -> None:
    """WS-W-2."""
    assert "wsgi.websocket" not in await environ_of(http_scope())


@pytest.mark.parametrize("query", [None, ABSENT], ids=["None", "absent"])
async def test_handshake_without_a_query(query: Any) -> None:
    """WS-W-2, W-ENV-4: ASGI WebSocket lets a server leave `query_string` out, or give None."""
    environ = await environ_of(websocket_scope(query_string=query, **HTTP_RESPONSE))
    assert environ["QUERY_STRING"] == ""


async def test_context_and_loop_reach_the_app() -> None:
    """W-CALL-2: context variables and asgiref's binding are there as for a request."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    told: list[str] = []

    async def view() -> str:
        return variable.get()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        environ["wsgi.websocket"].send(variable.get())
        told.append(async_to_sync(view)())
        variable.set("the app's")
        return []

    async def caller(scope: Any, receive: Any, send: Any) -> None:
        variable.set("the server's")
        await bridge(scope, receive, send)
        told.append(variable.get())

    client = WebSocketClient()
    async with serving(app) as bridge:
        await answered(caller, client)
    assert client.heard == ["the server's"]
    assert told == ["the server's", "the app's"]


# --- the app answers


def _refusing_list(environ: Environ, start_response: Any) -> list[bytes]:
    start_response("426 Upgrade Required", [("Content-Type", "text/plain"), ("X-Why", "no")])
    return [b"no ", b"sockets"]


def _refusing_stream(environ: Environ, start_response: Any) -> Iterator[bytes]:
    start_response("426 Upgrade Required", [("Content-Type", "text/plain"), ("X-Why", "no")])
    yield b""
    yield b"no "
    yield b"sockets"


def _refusing_write(environ: Environ, start_response: Any) -> list[bytes]:
    write = start_response(
        "426 Upgrade Required", [("Content-Type", "text/plain"), ("X-Why", "no")]
    )
    write(b"")
    write(b"no ")
    return [b"sockets"]


REFUSALS = [_refusing_list, _refusing_stream, _refusing_write]


@pytest.mark.parametrize("app", REFUSALS)
async def test_the_app_answers_in_its_own_words(app: Any) -> None:
    """WS-W-4: with `websocket.http.response` the client gets its status, headers and body."""
    client = WebSocketClient(websocket_scope(**HTTP_RESPONSE))
    async with serving(app) as bridge:
        await answered(bridge, client)
    assert (client.status, client.body, client.complete) == (426, b"no sockets", True)
    assert client.header("x-why") == "no"
    assert client.kinds[0] == "websocket.http.response.start"
    assert set(client.kinds[1:]) == {"websocket.http.response.body"}


async def test_an_answer_of_one_chunk_has_its_length() -> None:
    """WS-W-4, W-OUT-6: it is an answer like any other."""
    client = WebSocketClient(websocket_scope(**HTTP_RESPONSE))
    async with serving(plain_app) as bridge:
        await answered(bridge, client)
    assert client.header("content-length") == "5"


@pytest.mark.parametrize("app", REFUSALS)
async def test_an_answer_that_the_server_cannot_carry(app: Any) -> None:
    """WS-W-4: the handshake is closed before it is accepted, which the server makes a 403."""
    client = WebSocketClient()
    async with serving(app) as bridge:
        await answered(bridge, client)
    assert client.kinds == ["websocket.close"]


async def test_an_answer_whose_client_left() -> None:
    """WS-W-4: a client that leaves while the app thinks ends the exchange quietly."""
    entered, gate = Gate(), Gate()

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("426 Upgrade Required", [])
        yield b"no "
        entered.open()
        gate.wait_in_thread()
        yield b"sockets"

    client = WebSocketClient(websocket_scope(**HTTP_RESPONSE))
    async with serving(app) as bridge, calling(bridge, client):
        await entered.wait()
        client.leave()
        await settle()
        gate.open()
    assert client.error is None
    assert not client.complete


async def test_an_app_that_raises_before_the_handshake() -> None:
    """WS-W-4, W-CALL-3: the app's exception goes to the server, as for http."""
    error = RuntimeError("mine")

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        raise error

    client = WebSocketClient(websocket_scope(**HTTP_RESPONSE))
    async with serving(app) as bridge:
        await client.run(bridge)
        assert bridge.stats().failed == 1
    assert client.error is error
    assert client.messages == []


@pytest.mark.parametrize("error", [StopIteration, ConnectionError, ConnectionResetError])
async def test_an_end_that_is_normal_only_after_the_handshake(error: type[Exception]) -> None:
    """WS-W-4."""

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        raise error("mine")

    client = WebSocketClient(websocket_scope(**HTTP_RESPONSE))
    async with serving(app) as bridge:
        await client.run(bridge)
    assert "mine" in str(client.error)
    assert client.messages == []


async def test_the_first_chunk_of_an_answer_is_the_end_of_the_handshake() -> None:
    """WS-W-4: from then on nobody can open the WebSocket."""
    told: list[Any] = []

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"an answer"
        told.append(environ["wsgi.websocket"].receive())

    client = WebSocketClient(websocket_scope(**HTTP_RESPONSE))
    async with serving(app) as bridge:
        await answered(bridge, client)
    assert (client.body, client.complete) == (b"an answer", True)
    assert told == [None]


# --- what an app does after the handshake


def _opened(environ: Environ) -> None:
    environ["wsgi.websocket"].send("hello")


def no_response(environ: Environ, start_response: Any) -> list[bytes]:
    _opened(environ)
    return []


def no_iterable(environ: Environ, start_response: Any) -> None:
    _opened(environ)


def a_response(environ: Environ, start_response: Any) -> list[bytes]:
    _opened(environ)
    start_response("200 OK", [("Content-Length", "5")])(b"ignored")
    return [b"ignored as well"]


def a_response_begun_before(environ: Environ, start_response: Any) -> list[bytes]:
    write = start_response("200 OK", [("Content-Length", "5")])
    _opened(environ)
    write(b"ignored")
    return [b"ignored as well"]


def in_the_iteration(environ: Environ, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Length", "5")])
    yield b""
    _opened(environ)
    yield b"ignored"
    yield b""


def stop_iteration(environ: Environ, start_response: Any) -> list[bytes]:
    _opened(environ)
    raise StopIteration


def connection_error(environ: Environ, start_response: Any) -> list[bytes]:
    _opened(environ)
    raise ConnectionError


def connection_error_later(environ: Environ, start_response: Any) -> Iterator[bytes]:
    _opened(environ)
    yield b"ignored"
    raise ConnectionResetError


@pytest.mark.parametrize(
    "app",
    [
        no_response,
        no_iterable,
        a_response,
        a_response_begun_before,
        in_the_iteration,
        stop_iteration,
        connection_error,
        connection_error_later,
    ],
)
@pytest.mark.parametrize("scope", [{}, HTTP_RESPONSE], ids=["plain", "extension"])
async def test_a_response_after_the_handshake_is_ignored(app: Any, scope: Any) -> None:
    """WS-W-4: it may be left out, and these are normal ends."""
    client = WebSocketClient(websocket_scope(**scope))
    async with serving(app) as bridge:
        await answered(bridge, client)
        assert bridge.stats().completed == 1
    assert client.heard == ["hello"]
    assert client.closed_with == (1000, "")


async def test_the_iterable_is_exhausted_and_closed() -> None:
    """WS-W-4, W-OUT-5."""
    body = TrackedBody([b"one", b"", b"two"])

    def app(environ: Environ, start_response: Any) -> TrackedBody:
        _opened(environ)
        return body

    client = WebSocketClient()
    async with serving(app) as bridge:
        await answered(bridge, client)
    assert (body.steps, body.closes) == (3, 1)
    assert client.closed_with == (1000, "")


async def test_the_app_is_that_of_the_moment() -> None:
    """W-APP-1: a new app gets the WebSockets that begin afterwards."""
    async with serving(plain_app) as bridge:
        bridge.app = echoing
        client = WebSocketClient()
        async with calling(bridge, client):
            client.say("hello")
            await client.until_heard(1)
            client.close()
        bridge.app = plain_app
        await answered(bridge, other := Client())
    assert other.body == b"hello"

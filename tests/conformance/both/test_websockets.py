"""D-5: a WebSocket through both bridges, both ways round."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from tests.support.fake_asgi_server import calling, serving, websocket_scope
from tests.support.fake_websocket import HTTP_RESPONSE, WebSocketClient
from tests.support.fake_wsgi_server import Gate, bridged, must_become
from tests.support.websocket_apps_in_process import accept, disconnect, echo, send_message
from tests.support.websocket_wire import TEXT, Frame, close_frame, connect
from wsgi_asgi_bridge import AppError, ASGIToWSGI, ClientDisconnected, WSGIToASGI
from wsgi_asgi_bridge.asgi_to_wsgi import outer_websocket

Message = dict[str, Any]

BACKENDS: dict[str, Any] = {"asyncio": {}, "trio": {"backend": "trio"}}
pytestmark = pytest.mark.parametrize("inner", BACKENDS.values(), ids=[f"in {k}" for k in BACKENDS])


@asynccontextmanager
async def both(app: Any, inner: Any, **options: Any) -> AsyncIterator[tuple[WSGIToASGI, Any]]:
    """An ASGI app inside both bridges, both of which are closed in the end."""
    inside = ASGIToWSGI(app, lifespan="off", shutdown_timeout=5.0, **inner)
    try:
        async with serving(inside, **options) as outside:
            yield outside, inside
            with anyio.fail_after(5):
                while inside.stats().in_flight:  # noqa: ASYNC110 - no event tells of it
                    await anyio.sleep(0.002)
    finally:
        await anyio.to_thread.run_sync(inside.close)


async def test_messages_go_through(inner: Any) -> None:
    """D-5: text and binary, empty and large, in order."""
    messages: list[str | bytes] = ["h\xe9", b"\0\xff", "", b"", "x" * 300_000, b"y" * 1_000_000]
    client = WebSocketClient()
    async with both(echo, inner) as (outside, inside), calling(outside, client):
        await client.until_accepted()
        client.say(*messages)
        assert await client.until_heard(len(messages)) == messages
        assert inside.stats().in_flight == 1
        client.close(4001, "bye")
        await client.until_ended()
        assert (inside.stats().completed, outside.stats().completed) == (1, 1)


async def test_many_messages_at_once_leave_the_private_loop_to_others(inner: Any) -> None:
    """D-5, WS-A-11: an app that receives what waits in the port gives other tasks their turn."""
    count = 2_000
    gate, received, counts = Gate(), [], [0]

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await gate.wait()

        async def take_turns() -> None:
            while True:
                counts.append(len(received))
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as group:
            group.start_soon(take_turns)
            for _ in range(count):
                received.append((await receive())["text"])
            group.cancel_scope.cancel()
        counts.append(len(received))

    client = WebSocketClient()
    async with both(app, inner) as (outside, _), calling(outside, client):
        await client.until_accepted()
        client.say(*map(str, range(count)))
        await client.until(lambda client: not client._inbox)
        await anyio.to_thread.run_sync(gate.open)
        await client.until_ended()
    assert received == [*map(str, range(count))]
    # trio's tasks take turns in any order, so one may have two between two of another.
    most = max(after - before for before, after in itertools.pairwise(counts))
    assert most <= 2 * outer_websocket.UNBROKEN_MESSAGES


async def test_the_handshake_goes_through(inner: Any) -> None:
    """D-5, WS-A-12: the scope, and the app's headers and subprotocol."""
    scopes: list[Message] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        scopes.append(scope)
        headers = [(b"X-Name", b"\xe9"), (b"set-cookie", b"a=1")]
        await accept(receive, send, subprotocol="b", headers=headers)

    client = WebSocketClient(
        websocket_scope("/chat", subprotocols=["a", "b"], query_string=b"q=1", session={"user": 1})
    )
    async with both(app, inner) as (outside, _), calling(outside, client):
        await client.until_closed()
    scope = scopes[0]
    assert (scope["type"], scope["path"], scope["scheme"]) == ("websocket", "/chat", "ws")
    assert (scope["subprotocols"], scope["query_string"]) == (["a", "b"], b"q=1")
    assert scope["session"] == {"user": 1}
    assert scope["extensions"] == {}
    accepted = client.messages[0]
    assert accepted["subprotocol"] == "b"
    assert accepted["headers"] == [(b"x-name", b"\xe9"), (b"set-cookie", b"a=1")]
    assert client.closed_with == (1000, "")


@pytest.mark.parametrize("how", ["close", "response", "response, not carried"])
async def test_a_refusal_goes_through(inner: Any, how: str) -> None:
    """D-5, WS-A-1."""

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        if how == "close":
            await send({"type": "websocket.close"})
            return
        assert ("websocket.http.response" in scope["extensions"]) == (how == "response")
        await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"no"})

    carried = how != "response, not carried"
    client = WebSocketClient(websocket_scope(**(HTTP_RESPONSE if carried else {})))
    async with both(app, inner) as (outside, _), calling(outside, client):
        await client.until_ended()
    if carried:
        assert client.messages[0]["status"] == (403 if how == "close" else 401)
    else:
        assert client.kinds == ["websocket.close"]


@pytest.mark.parametrize(("how", "code"), [("returns", 1000), ("raises", 1011), ("closes", 4000)])
async def test_the_apps_end_goes_through(
    inner: Any, how: str, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    """D-5, WS-A-9."""

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        if how == "raises":
            raise LookupError("on purpose")
        if how == "closes":
            await send({"type": "websocket.close", "code": 4000, "reason": "done"})

    client = WebSocketClient()
    async with both(app, inner) as (outside, inside), calling(outside, client):
        assert await client.until_closed() == (code, "done" if how == "closes" else "")
        await client.until_ended()
        assert inside.stats().failed == (1 if how == "raises" else 0)
    assert len([r for r in caplog.records if r.exc_info]) == (1 if how == "raises" else 0)


async def test_an_illegal_close_does_not_go_through(inner: Any) -> None:
    """D-5, WS-A-12: the outer server would break the connection over it."""
    errors: list[str] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        for wrong in ({"code": 1006}, {"reason": "x" * 124}):
            try:
                await send({"type": "websocket.close", **wrong})
            except AppError as error:
                errors.append(str(error)[:22])

    client = WebSocketClient()
    async with both(app, inner) as (outside, _), calling(outside, client):
        assert await client.until_closed() == (1000, "")
    assert errors == ["websocket.close: the c", "websocket.close: the r"]


@pytest.mark.parametrize(
    ("close", "expected"),
    [((4001, "bye"), (4001, "bye")), ((1005, ""), (1005, "")), (None, (1006, ""))],
    ids=["a code", "an empty close frame", "lost"],
)
async def test_the_clients_end_goes_through(inner: Any, close: Any, expected: Any) -> None:
    """D-5, WS-A-9, WS-A-12: after the messages before it; sends raise then."""
    outcome: list[Any] = []
    gate = Gate()

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await gate.wait()
        outcome.append((await receive())["text"])
        outcome.append(await receive())
        try:
            await send(send_message("late"))
        except OSError as error:
            outcome.append(type(error))
        await send({"type": "websocket.close"})

    client = WebSocketClient()
    async with both(app, inner) as (outside, inside), calling(outside, client):
        await client.until_accepted()
        client.say("before")
        if close is None:
            client.leave()
        else:
            client.close(*close)
        await anyio.to_thread.run_sync(gate.open)
        await client.until_ended()
        with anyio.fail_after(5):
            while len(outcome) < 3:  # noqa: ASYNC110
                await anyio.sleep(0.002)
        stats = inside.stats()
        assert (stats.completed, stats.disconnected) == ((0, 1) if close is None else (1, 0))
    assert outcome == ["before", disconnect(*expected), ClientDisconnected]


async def test_a_client_that_does_not_read_holds_up_the_app(inner: Any) -> None:
    """D-5, WS-A-11: the calling thread waits for room; the private loop goes on."""
    sent: list[int] = []
    block = b"x" * 65_536

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        for number in range(64):
            await send(send_message(block))
            sent.append(number)

    client = WebSocketClient(reads=1)
    async with both(app, inner, response_buffer=131_072) as (outside, _), calling(outside, client):
        await client.until_accepted()
        ((runtime,), _) = outside._known
        (exchange,) = runtime.exchanges
        with anyio.fail_after(5):
            while not exchange._port._senders:  # noqa: ASYNC110 - no event tells of it
                await anyio.sleep(0.002)
        assert sent == [0]  # a second one exceeds the budget
        client.read_on()
        assert await client.until_heard(64) == [block] * 64
        await client.until_closed()


async def test_close_of_the_inner_bridge(inner: Any) -> None:
    """D-5, WS-A-9: 1012."""
    client = WebSocketClient()
    async with both(echo, inner) as (outside, inside), calling(outside, client):
        await client.until_accepted()
        await anyio.to_thread.run_sync(inside.close)
        assert await client.until_closed() == (1012, "")


async def test_close_of_the_outer_bridge(inner: Any) -> None:
    """D-5, WS-W-5: 1001, which the app receives."""
    received: list[Message] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        received.append(await receive())

    client = WebSocketClient()
    async with both(app, inner) as (outside, _), calling(outside, client):
        await client.until_accepted()
        await outside.aclose()
        assert await client.until_closed() == (1001, "the server is shutting down")
    assert [message["code"] for message in received] == [1001]


async def test_a_wsgi_app_finds_the_servers_own_socket(inner: Any) -> None:
    """D-5: the handshake is passed on as a request, as natively, and the app answers it itself on
    the connection of its server.
    """
    seen: list[Any] = []

    def app(environ: Message, start_response: Any) -> list[bytes]:
        seen.append(environ["gunicorn.socket"])
        seen.append(environ["HTTP_SEC_WEBSOCKET_KEY"])
        environ["gunicorn.socket"].sendall(b"HTTP/1.1 101 mine\r\n\r\n")
        start_response("200 OK", [])
        return []

    wsgi = WSGIToASGI(app)

    def round_trip() -> None:
        with bridged(wsgi, inner) as bridge:
            client, server = connect(bridge)
            assert client.read_head().status == 101
            client.close()
            server.finish()
            assert seen[0] is server._connection
            must_become(lambda: bridge.stats().in_flight == 0, "the end")
        wsgi.close()

    await anyio.to_thread.run_sync(round_trip)


async def test_a_wsgi_app_below_an_asgi_middleware_is_served_too(inner: Any) -> None:
    """D-5: the handshake looks like any; the inner bridge speaks for the app."""

    def app(environ: Message, start_response: Any) -> list[bytes]:
        websocket = environ["wsgi.websocket"]
        websocket.send(websocket.receive().upper())
        return []

    wsgi = WSGIToASGI(app)

    async def middleware(scope: Message, receive: Any, send: Any) -> None:
        await wsgi(scope, receive, send)

    def round_trip() -> None:
        with bridged(middleware, inner) as bridge:
            client, server = connect(bridge)
            client.must_be_accepted()
            server.finish()
            client.send(Frame(TEXT, b"hello"))
            assert client.read() == Frame(TEXT, b"HELLO")
            assert client.read() == close_frame(1000)
            client.close()
            must_become(lambda: bridge.stats().in_flight == 0, "the end")
        wsgi.close()

    await anyio.to_thread.run_sync(round_trip)


async def test_an_end_in_the_middle_of_an_accept(
    inner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D-5, WS-A-9: it comes before anybody asks to be told of it, and the app never receives. The
    outer port keeps nothing of the inner WebSocket then.
    """
    ports: list[Any] = []
    accept_outside = outer_websocket.OuterHandshake.accept

    def accepted_late(self: Any, *how: Any) -> Any:
        made = accept_outside(self, *how)
        ports.append(self._call.port)
        must_become(lambda: ports[0].end() is not None, "the client's end")
        return made

    monkeypatch.setattr(outer_websocket.OuterHandshake, "accept", accepted_late)

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accept(receive, send)
        while True:
            await send(send_message("nobody hears it"))

    client = WebSocketClient()
    async with both(app, inner) as (outside, inside), calling(outside, client):
        await client.until_accepted()
        client.close(4001, "bye")
        await client.until_ended()
        assert (inside.stats().completed, inside.stats().failed) == (1, 0)
    assert ports[0].end() == (4001, "bye")
    assert ports[0]._observer is None

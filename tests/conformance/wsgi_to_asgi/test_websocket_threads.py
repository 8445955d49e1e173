"""WS-W-11: open WebSockets leave the pool's count, and never starve requests."""

import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio

from tests.support.fake_asgi_server import (
    DEADLINE_SECONDS,
    Client,
    Gate,
    answered,
    calling,
    plain_app,
    serving,
    websocket_scope,
)
from tests.support.fake_websocket import HTTP_RESPONSE, WebSocketClient, echoing

Environ = dict[str, Any]


def echoing_or_plain(environ: Environ, start_response: Any) -> list[bytes]:
    if "wsgi.websocket" in environ:
        return echoing(environ, start_response)
    return plain_app(environ, start_response)


@asynccontextmanager
async def opened(bridge: Any, count: int) -> AsyncIterator[list[WebSocketClient]]:
    """So many WebSockets, each of which has been heard once; closed at the end."""
    clients = [WebSocketClient() for _ in range(count)]
    async with AsyncExitStack() as stack:
        for client in clients:
            await stack.enter_async_context(calling(bridge, client))
            client.say("hello")
            await client.until_heard(1)
        try:
            yield clients
        finally:
            for client in clients:
                client.close()


async def test_open_websockets_leave_the_count() -> None:
    """WS-W-11: a pool of two serves five of them, and requests beside them."""
    async with serving(echoing_or_plain, workers=2) as bridge:
        async with opened(bridge, 5):
            stats = bridge.stats()
            assert (stats.websockets, stats.streaming, stats.busy, stats.in_flight) == (5,) * 4
            assert (await answered(bridge)).body == b"hello"
        with anyio.fail_after(DEADLINE_SECONDS):
            while bridge.stats().busy:  # noqa: ASYNC110  # a worker's last steps have no event
                await anyio.sleep(0.002)
        stats = bridge.stats()
        assert (stats.websockets, stats.streaming, stats.in_flight) == (0,) * 3
        assert stats.completed == 6


async def test_handshakes_beyond_max_streams_are_refused() -> None:
    """WS-W-11: with 503, whatever the app makes of it; requests go on."""
    async with serving(echoing_or_plain, workers=3, max_streams=2) as bridge:
        async with opened(bridge, 2):
            for scope, kinds in (
                ({}, ["websocket.close"]),
                (HTTP_RESPONSE, ["websocket.http.response.start", "websocket.http.response.body"]),
            ):
                client = WebSocketClient(websocket_scope(**scope))
                await answered(bridge, client)
                assert client.kinds == kinds
            assert client.status == 503
            assert client.header("retry-after") == "1"
            assert (await answered(bridge)).body == b"hello"
            assert bridge.stats().rejected == 2
        async with opened(bridge, 1):
            assert bridge.stats().websockets == 1


async def test_what_the_app_finds_beyond_max_streams() -> None:
    """WS-W-11: an OSError that says why; its own error page is not sent."""
    told: list[str] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        try:
            environ["wsgi.websocket"].send("hello")
        except ConnectionRefusedError as error:
            told.append(str(error))
            start_response("500 Internal Server Error", [])
        return [b"an error page"]

    client = WebSocketClient(websocket_scope(**HTTP_RESPONSE))
    async with serving(app, max_streams=0) as bridge:
        await answered(bridge, client)
    assert told == ["max_streams threads of the bridge are streaming"]
    assert (client.status, b"error page" in client.body) == (503, False)


async def test_one_worker_is_kept() -> None:
    """WS-W-11: with `workers=1` the app never runs twice at once."""
    async with serving(echoing_or_plain, workers=1) as bridge:
        request = Client()
        async with opened(bridge, 1):
            async with calling(bridge, request):
                await request.until(lambda client: client.waiting_in_receive)
                stats = bridge.stats()
                assert (stats.websockets, stats.streaming, stats.queued) == (1, 0, 1)
                client = WebSocketClient()
                request.leave()
            assert client.messages == []
        assert (await answered(bridge)).body == b"hello"


async def test_a_handshake_that_finds_the_queue_full() -> None:
    """WS-W-11, W-FLOW-4: answered 503 at once, as a request is."""
    entered, gate = Gate(), Gate()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        entered.open()
        gate.wait_in_thread()
        return plain_app(environ, start_response)

    holding = Client()
    async with serving(app, workers=1, max_queued=0) as bridge, calling(bridge, holding):
        await entered.wait()
        client = WebSocketClient(websocket_scope(**HTTP_RESPONSE))
        await answered(bridge, client)
        assert client.status == 503
        closed = WebSocketClient()
        await answered(bridge, closed)
        assert closed.kinds == ["websocket.close"]
        assert bridge.stats().rejected == 2
        gate.open()


async def test_a_thread_of_the_app_makes_the_handshake() -> None:
    """WS-W-11: it is the worker that is detached, whichever thread is quicker."""

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        thread = threading.Thread(target=environ["wsgi.websocket"].send, args=("hello",))
        thread.start()
        thread.join()
        return echoing(environ, start_response)

    client = WebSocketClient()
    async with serving(app, workers=2) as bridge, calling(bridge, client):
        await client.until_heard(1)
        assert bridge.stats().streaming == 1
        client.close()


async def test_a_malformed_head_is_answered() -> None:
    """WS-W-11, W-ENV-5: the bridge's own answer, without a thread."""
    scope = websocket_scope(**HTTP_RESPONSE)
    scope["headers"] += [(b"content-length", b"5"), (b"content-length", b"6")]
    client = WebSocketClient(scope)
    async with serving(plain_app) as bridge:
        await answered(bridge, client)
        stats = bridge.stats()
        assert (stats.threads, stats.rejected) == (0, 1)
    assert client.status == 400

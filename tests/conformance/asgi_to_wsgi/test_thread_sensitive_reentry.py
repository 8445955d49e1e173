"""A-LOOP-4: thread-sensitive code that enters the loop again, where the app needs its thread."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async

from tests.support.fake_wsgi_server import (
    BodyInput,
    environ_for,
    finish,
    on_asyncio_backends,
    respond,
    serve,
    start,
    stream,
    upload_environ,
    whole_body,
)
from tests.support.fake_wsgi_server import bridged as bridged_app
from wsgi_asgi_bridge.errors import ClientDisconnected

pytestmark = on_asyncio_backends

BUDGET = 1000
BODY = bytes(range(250)) * 20


def bridged(app: Any, backend: Any) -> Any:
    return bridged_app(app, backend, request_buffer=BUDGET, response_buffer=BUDGET)


async def in_task(receive: Any) -> bytes:
    return await asyncio.create_task(whole_body(receive))


@pytest.mark.parametrize("read", [whole_body, in_task], ids=["itself", "in a task of its own"])
@pytest.mark.parametrize("sensitive", [True, False], ids=["the thread", "another thread"])
@pytest.mark.parametrize("length", [len(BODY), None], ids=["declared", "chunked"])
def test_a_body_is_read_below_async_to_sync(
    backend: dict[str, Any],
    length: int | None,
    sensitive: bool,
    read: Callable[[Any], Any],
) -> None:
    """A-LOOP-4, A-IN-1: by the calling thread, though that waits for the receive()."""
    source = BodyInput(BODY)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        in_sync = sync_to_async(lambda: async_to_sync(read)(receive), thread_sensitive=sensitive)
        await respond(send, await in_sync())

    with bridged(app, backend) as bridge:
        exchange = serve(bridge, upload_environ(source, length=length))
        assert exchange.body == BODY
    assert source.threads == {exchange.thread.ident}


class Interrupt(BaseException):
    """As gevent's Timeout, which comes out of a wait."""


def test_an_interrupted_read_below_async_to_sync_ends_the_request(backend: dict[str, Any]) -> None:
    """A-LOOP-4, A-OUT-4: asgiref keeps what the read raises, so the app gets a disconnect."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        def read() -> None:
            while True:
                message = async_to_sync(next_message)()
                seen.append(message["type"])
                if message["type"] == "http.disconnect":
                    return

        async def next_message() -> Any:
            return await receive()

        await sync_to_async(read)()

    source = BodyInput(BODY[:BUDGET], error=Interrupt())
    with bridged(app, backend) as bridge:
        exchange = serve(bridge, upload_environ(source, length=len(BODY)))
        assert isinstance(exchange.raised(), ClientDisconnected)
        assert bridge.stats().disconnected == 1
    assert seen == ["http.request", "http.disconnect"]


def test_early_hints_below_async_to_sync(backend: dict[str, Any]) -> None:
    """A-LOOP-4, A-OUT-6: the server's call is made by the calling thread."""
    threads: list[int] = []

    async def hint(send: Any) -> None:
        await send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await sync_to_async(lambda: async_to_sync(hint)(send))()
        await respond(send, b"ok")

    with bridged(app, backend) as bridge:
        hints = {"wsgi.early_hints": lambda headers: threads.append(threading.get_ident())}
        exchange = serve(bridge, environ_for() | hints)
        assert exchange.body == b"ok"
    assert threads == [exchange.thread.ident]


def test_what_fits_the_buffer_is_sent_below_async_to_sync(backend: dict[str, Any]) -> None:
    """A-LOOP-4, A-OUT-2: and a last part of any size."""

    async def parts(send: Any) -> None:
        for _ in range(BUDGET):
            await stream(send, b"x")
        await finish(send, BODY)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await sync_to_async(lambda: async_to_sync(parts)(send))()

    with bridged(app, backend) as bridge:
        assert serve(bridge).body == b"x" * BUDGET + BODY


def test_a_send_that_would_wait_for_its_own_thread_raises(backend: dict[str, Any]) -> None:
    """A-LOOP-4, A-OUT-2: it would wait for ever. The app may go on by itself."""

    async def parts(send: Any) -> None:
        for _ in range(2):
            await stream(send, b"x" * BUDGET)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        with pytest.raises(RuntimeError, match=f"response_buffer={BUDGET} bytes"):
            await sync_to_async(lambda: async_to_sync(parts)(send))()
        await parts(send)
        await finish(send)

    with bridged(app, backend) as bridge:
        assert serve(bridge).body == b"x" * 4 * BUDGET

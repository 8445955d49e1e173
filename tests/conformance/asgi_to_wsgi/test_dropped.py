"""What a server or a middleware drops: an iterable without `close()`, an error nobody takes."""

import gc
import logging
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from asgiref.sync import sync_to_async

from tests.support.fake_wsgi_server import (
    Exchange,
    Gate,
    bridged,
    environ_for,
    must_become,
    must_happen,
    on_every_backend,
    respond,
    start,
    stream,
)
from tests.support.watched_apps import Watched, nothing_left
from wsgi_asgi_bridge import ClientDisconnected

pytestmark = on_every_backend

BUFFER = 1000


class AppFailure(Exception):
    """What the apps here raise."""


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The messages that the bridge has logged as errors."""
    caplog.set_level(logging.ERROR, "wsgi_asgi_bridge")
    return lambda: [record.getMessage() for record in caplog.records]


# --- the iterable


def begin(bridge: Any) -> Any:
    return bridge(environ_for(), lambda *_: lambda data: None)


async def sending(app: Watched, receive: Any, send: Any) -> None:
    await start(send)
    while True:
        await stream(send, b"x" * BUFFER)


async def receiving(app: Watched, receive: Any, send: Any) -> None:
    await start(send)
    await stream(send, b"x")
    await receive()
    assert await receive() == {"type": "http.disconnect"}
    raise ClientDisconnected


async def silent(app: Watched, receive: Any, send: Any) -> None:
    await start(send)
    await stream(send, b"x")
    await anyio.sleep_forever()


@pytest.mark.parametrize("iterated", [True, False], ids=["iterated", "untouched"])
@pytest.mark.parametrize("body", [sending, receiving, silent])
def test_an_iterable_that_is_dropped_ends_its_request(
    backend: dict[str, Any], body: Any, iterated: bool
) -> None:
    """A-CALL-3, A-OUT-3: as Python ends a generator that nobody refers to."""
    app = Watched(body)
    with nothing_left(app, backend, response_buffer=BUFFER) as bridge:
        result = begin(bridge)
        if iterated:
            assert next(result)
        del result
        must_happen(app.ended, "the end of the app")
        must_become(lambda: bridge.stats().disconnected == 1, "the count of the disconnect")
    (end,) = app.ends
    assert body is silent or isinstance(end, ClientDisconnected)


def test_a_middleware_that_raises_after_its_call_loses_no_request(backend: dict[str, Any]) -> None:
    """A-CALL-3."""
    app = Watched(sending)

    def middleware(environ: Any, start_response: Any) -> Any:
        result = bridge(environ, start_response)
        raise LookupError(type(result))

    with nothing_left(app, backend, response_buffer=BUFFER) as bridge:
        exchange = Exchange(middleware)
        assert isinstance(exchange.raised(), LookupError)
        exchange.error = None  # its traceback holds the iterable
        must_happen(app.ended, "the end of the app")
    assert isinstance(app.ends[0], ClientDisconnected)


def test_collected_while_the_loop_holds_the_lock(backend: dict[str, Any]) -> None:
    """A-CALL-3: garbage may be collected in any thread, even in the middle of a put."""
    app = Watched(silent)
    with nothing_left(app, backend) as bridge:
        result = begin(bridge)
        assert next(result) == b"x"
        with result._caller._lock:
            del result
        must_happen(app.ended, "the end of the app")


def test_a_closed_iterable_is_dropped_in_silence(backend: dict[str, Any]) -> None:
    """A-CALL-3."""
    app = Watched(silent)
    with nothing_left(app, backend) as bridge:
        posts: list[Any] = []
        result = begin(bridge)
        assert next(result) == b"x"
        result.close()
        post = bridge._runtime.handle.post  # type: ignore[union-attr]
        bridge._runtime.handle.post = posts.append  # type: ignore[union-attr,assignment]
        del result
        gc.collect()
        bridge._runtime.handle.post = post  # type: ignore[union-attr]
        assert posts == []


def test_background_work_of_a_dropped_iterable_has_a_thread(backend: dict[str, Any]) -> None:
    """A-CALL-3, A-OUT-9: its own is gone, and nobody waits."""
    gate = Gate()
    threads: list[int] = []

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await respond(send, b"whole")
        await gate.wait()
        if backend.get("backend") != "trio":  # asgiref knows asyncio alone
            threads.append(await sync_to_async(threading.get_ident)())

    app = Watched(body)
    with nothing_left(app, backend, background_wait=10.0) as bridge:
        result = begin(bridge)
        assert list(result) == [b"whole"]
        del result
        gate.open()
        must_happen(app.ended, "the end of the app")
    assert app.ends == [None]
    assert threading.get_ident() not in threads


# --- the app's error


def test_an_error_that_the_server_does_not_take_is_logged(
    backend: dict[str, Any], logged: Any
) -> None:
    """A-OUT-4: the server gives up, as its client has left, before it asks for the next chunk."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"part")
        raise AppFailure

    with bridged(app, backend) as bridge:
        exchange = Exchange(bridge, hold=True)
        assert exchange.take() == b"part"
        must_become(lambda: bridge.stats().failed == 1, "the end of the app")
        assert exchange.hang_up().error is None
        assert logged() == ["the app raised in a response that the server gave up"]


def test_so_is_one_of_an_app_that_does_not_know_it_yet(
    backend: dict[str, Any], logged: Any
) -> None:
    """A-OUT-4: the app raises after the thread has left, before the loop has heard of it."""
    inside, left = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"part")
        inside.set()
        must_happen(left, "the end of the exchange")  # in the loop's thread
        raise AppFailure

    with bridged(app, backend) as bridge:
        exchange = Exchange(bridge, hold=True)
        assert exchange.take() == b"part"
        must_happen(inside, "the app's last step")
        exchange.hang_up()
        left.set()
        must_become(lambda: bridge.stats().in_flight == 0, "the end of the app")
        assert logged() == ["the app raised in a response that the server gave up"]


def test_the_end_of_a_given_up_response_is_no_error(backend: dict[str, Any], logged: Any) -> None:
    """A-OUT-3: what follows from the disconnect is not logged."""
    app = Watched(sending)
    with nothing_left(app, backend, response_buffer=BUFFER) as bridge:
        exchange = Exchange(bridge, hold=True)
        assert exchange.take()
        exchange.hang_up()
        must_happen(app.ended, "the end of the app")
    assert logged() == []

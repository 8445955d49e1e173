"""Early hints of the app, by the server's `wsgi.early_hints` (A-OUT-6)."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.fake_wsgi_server import (
    Backend,
    Environ,
    Exchange,
    Gate,
    InThread,
    bridged,
    environ_for,
    must_become,
    must_happen,
    on_every_backend,
    respond,
    serve,
)
from wsgi_asgi_bridge import AppError, BridgeClosed

HINT = "http.response.early_hint"
Hints = list[list[tuple[str, str]]]


def environ_with_hints(hints: Callable[[list[tuple[str, str]]], object]) -> Environ:
    return environ_for() | {"wsgi.early_hints": hints}


def hinting(*links: bytes) -> Callable[..., Any]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["extensions"] == {HINT: {}}
        await send({"type": HINT, "links": list(links)})
        await respond(send, b"page")

    return app


@on_every_backend
def test_links_reach_the_server_before_the_head(backend: Backend) -> None:
    """A-OUT-6: in the thread that the server called, as a WSGI app would call it."""
    seen: list[Any] = []

    def note(headers: list[tuple[str, str]]) -> None:
        seen.append((headers, threading.get_ident(), list(exchange.starts)))

    with bridged(hinting(b"</a.css>; rel=preload", b"</b.js>; as=script"), backend) as bridge:
        ready = Gate()

        def call(environ: Environ, start_response: Any) -> Any:
            ready.wait_in_thread()
            return bridge(environ, start_response)

        exchange = Exchange(call, environ_with_hints(note))
        ready.open()
        assert exchange.body == b"page"
    links = [("Link", "</a.css>; rel=preload"), ("Link", "</b.js>; as=script")]
    assert seen == [(links, exchange.started.thread, [])]


@on_every_backend
def test_several_hints_keep_their_order(backend: Backend) -> None:
    """A-OUT-6"""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for number in range(5):
            await send({"type": HINT, "links": [b"</%d>" % number]})
        await send({"type": HINT, "links": []})
        await send({"type": HINT})
        await respond(send)

    hints: Hints = []
    with bridged(app, backend) as bridge:
        serve(bridge, environ_with_hints(hints.append))
    assert hints == [[("Link", f"</{number}>")] for number in range(5)]


@pytest.mark.parametrize(
    "links",
    [
        [b"</a>\r\nSet-Cookie: a=b"],
        [b"</a>\n"],
        [b"</a>\x00"],
        ["</a>"],
        [1],
        b"</a>",
        5,
    ],
)
def test_links_are_checked_as_headers_are(links: Any) -> None:
    """A-OUT-6, A-OUT-1: no header can be injected; the error names the message."""
    errors: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({"type": HINT, "links": links})
        except AppError as error:
            errors.append(str(error))
        await respond(send, b"page")

    hints: Hints = []
    with bridged(app) as bridge:
        assert serve(bridge, environ_with_hints(hints.append)).body == b"page"
    assert hints == []
    assert len(errors) == 1
    assert errors[0].startswith(HINT)


def test_a_hint_after_the_start_raises() -> None:
    """A-OUT-6, A-OUT-1"""
    errors: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        try:
            await send({"type": HINT, "links": [b"</a>"]})
        except AppError as error:
            errors.append(str(error))
        await send({"type": "http.response.body"})

    hints: Hints = []
    with bridged(app) as bridge:
        serve(bridge, environ_with_hints(hints.append))
    assert hints == []
    assert "after http.response.start" in errors[0]


@on_every_backend
def test_what_the_server_raises_reaches_the_app(backend: Backend) -> None:
    """A-OUT-6: a client that has left is an OSError there."""
    errors: list[BaseException] = []

    def gone(headers: Any) -> None:
        raise BrokenPipeError("gone")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({"type": HINT, "links": [b"</a>"]})
        except OSError as error:
            errors.append(error)
        await respond(send, b"page")

    with bridged(app, backend) as bridge:
        assert serve(bridge, environ_with_hints(gone)).body == b"page"
    assert [type(error) for error in errors] == [BrokenPipeError]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_server_that_ends_its_worker_in_the_middle(error: type[BaseException]) -> None:
    """A-OUT-6, A-OUT-4: the server's own exception goes through, and the app is told."""
    heard: list[BaseException] = []

    def ends(headers: Any) -> None:
        raise error("worker timeout")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({"type": HINT, "links": [b"</a>"]})
        except BaseException as raised:
            heard.append(raised)
            raise

    with bridged(app) as bridge:
        exchange = Exchange(bridge, environ_with_hints(ends)).finish()
        must_become(lambda: bridge.stats().in_flight == 0, "the end of the app")
    assert type(exchange.error) is error
    assert [type(raised) for raised in heard] == [error]


@on_every_backend
def test_a_hint_of_a_request_that_is_over_reaches_no_server(backend: Backend) -> None:
    """A-OUT-6, A-OUT-3: the connection may belong to the next request by then."""
    asking, go_on = threading.Event(), Gate()
    errors: list[BaseException] = []

    def probe() -> bool:
        return asking.is_set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asking.set()
        await go_on.wait()
        try:
            await send({"type": HINT, "links": [b"</a>"]})
        except OSError as error:
            errors.append(error)

    hints: Hints = []
    environ = environ_with_hints(hints.append) | {"waitress.client_disconnected": probe}
    with bridged(app, backend, disconnect_poll=0.01) as bridge:
        exchange = Exchange(bridge, environ).finish()
        go_on.open()
        must_become(lambda: bridge.stats().in_flight == 0 and bool(errors), "the end of the app")
    assert isinstance(exchange.error, OSError)
    assert hints == []
    assert [isinstance(error, OSError) for error in errors] == [True]


def test_a_bridge_that_is_closed_in_the_middle_of_a_hint() -> None:
    """A-OUT-6, A-OUT-5: the thread ends once the server's call returns."""
    hinted, go_on = threading.Event(), Gate()

    def slow(headers: Any) -> None:
        hinted.set()
        go_on.wait_in_thread()

    with bridged(hinting(b"</a>"), shutdown_timeout=0.05) as bridge:
        exchange = Exchange(bridge, environ_with_hints(slow))
        must_happen(hinted, "the hint")
        closing = InThread(bridge.close, "close()")
        must_become(lambda: bridge.stats().closed == 1 or closing.done.is_set(), "the cut")
        go_on.open()
        closing.result()
        assert isinstance(exchange.raised(), BridgeClosed)

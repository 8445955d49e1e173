"""Event streams that take no thread: which responses, whose start_response, which head (R-1 to
R-3). How they end stands in test_event_stream_endings.py.
"""

import functools
import gc
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

from tests.support.event_apps import EVENT, Events, becomes_released, is_released, start_events
from tests.support.fake_wsgi_server import (
    Gate,
    bridged,
    environ_for,
    finish,
    must_become,
    on_every_backend,
    respond,
    serve,
    stream,
    whole_body,
)
from tests.support.served_connection import (
    CHUNKED,
    SERVERS,
    UNTIL_CLOSE,
    ServedConnection,
    served,
)
from tests.support.watched_apps import Watched, nothing_left
from wsgi_asgi_bridge import ASGIToWSGI

on_every_server = pytest.mark.parametrize("server", SERVERS)


@on_every_backend
@on_every_server
def test_an_event_stream_takes_no_thread(backend: Any, server: str) -> None:
    """R-1, R-3, A-REL-1: the thread is free before the first event; the head is the server's own,
    the body is framed as it says, and the stream is counted until its connection is closed.
    """
    app = Events()
    with nothing_left(app, backend) as bridge, served(bridge, server) as connection:
        connection.ask()
        connection.thread_is_free()
        head = connection.read_head()
        assert head.status == 200
        assert head.headers["Content-Type"] == "text/event-stream"
        assert head.headers["Cache-Control"] == "no-store"
        assert head.headers["Server"].lower().startswith(("werkzeug", "wsgiserver"))
        assert head.headers["Date"]
        assert head.headers.get_all("Connection") == ["close"]
        assert head.headers["Transfer-Encoding"] == ("chunked" if server == CHUNKED else None)
        assert head.headers["Content-Length"] is None
        assert is_released(bridge)
        for number, gate in enumerate(app.gates):
            gate.open()
            assert connection.read_exactly(9) == b"data: %d\n\n" % number
        assert connection.read_rest() == b""
        connection.close()
        must_become(lambda: bridge.stats().released_event_streams == 0, "the close")
        stats = bridge.stats()
        assert (stats.disconnected, stats.failed, stats.closed) == (0, 0, 0)
    assert app.ends == [None]


@on_every_server
def test_the_bytes_are_well_formed(server: str) -> None:
    """R-3, R-4: after the head there is nothing but the framed parts; no part is delayed, lost or
    sent twice, and an empty one is none.
    """

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await start_events(send)
        for part in (b"", b"a" * 10, b"", b"b" * 300):
            await stream(send, part)
        await finish(send, b"end")

    with nothing_left(Watched(body), {}) as bridge, served(bridge, server) as connection:
        connection.ask()
        _, _, sent = connection.read_raw().partition(b"\r\n\r\n")
    parts = b"a" * 10 + b"b" * 300 + b"end"
    if server == CHUNKED:
        parts = b"a\r\n" + b"a" * 10 + b"\r\n12c\r\n" + b"b" * 300 + b"\r\n3\r\nend\r\n0\r\n\r\n"
    assert sent == parts


@on_every_backend
def test_many_streams_on_one_thread(backend: Any) -> None:
    """R-1: one thread of a server opens one stream after the other, and ordinary requests."""
    app = Events()
    with nothing_left(app, backend) as bridge:
        connections = [served(bridge, UNTIL_CLOSE) for _ in range(20)]
        opened: list[ServedConnection] = [each.__enter__() for each in connections]
        for connection in opened:
            connection.ask()
            connection.thread_is_free()
        becomes_released(bridge, 20)
        app.open_all()
        for connection in opened:
            connection.read_head()
            assert connection.read_rest() == b"data: 0\n\ndata: 1\n\n"
        for each in connections:
            each.__exit__(None, None, None)


def test_a_body_that_was_read_whole() -> None:
    """R-1: a POST is released too, once its body has been read."""

    async def body(app: Watched, receive: Any, send: Any) -> None:
        got = await whole_body(receive)
        await start_events(send)
        await gate.wait()
        await finish(send, got)

    gate = Gate()
    for sent in (b"small", bytes(100_000)):
        with (
            nothing_left(Watched(body), {}, request_buffer=10_000) as bridge,
            served(bridge) as connection,
        ):
            connection.ask(method="POST", body=sent)
            connection.thread_is_free()
            becomes_released(bridge)
            gate.open()
            connection.read_head()
            assert connection.read_rest() == sent


KEPT: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "another content type": ({"content_type": b"text/event-streams"}, {}, {}),
    "HTTP/1.0": ({}, {"version": "1.0"}, {}),
    "release is off": ({}, {}, {"release": "off"}),
    "max_released": ({}, {}, {"max_released": 0}),
    "background_wait": ({}, {}, {"background_wait": 5.0}),
    "an error page": ({"status": 503}, {}, {}),
}
"""What the app sends, what the client asks, what the bridge is made with."""


@on_every_server
@pytest.mark.parametrize(("head", "request_", "options"), KEPT.values(), ids=KEPT)
def test_responses_that_keep_their_thread(
    head: Any, request_: Any, options: Any, server: str
) -> None:
    """R-1, A-OUT-8, A-OUT-9: the thread stays with the response to its end, as for any other."""
    app = Events(**head)
    with nothing_left(app, {}, **options) as bridge, served(bridge, server) as connection:
        connection.ask(**request_)
        app.gates[0].open()
        connection.read_head()
        assert connection.read_exactly(9) == b"data: 0\n\n"
        assert not connection.is_free.is_set()
        assert bridge.stats().released_event_streams == 0
        app.open_all()
        assert connection.read_rest() == b"data: 1\n\n"
        connection.thread_is_free()


@pytest.mark.parametrize("content_type", [b"Text/Event-Stream", b"text/event-stream;charset=utf-8"])
def test_ways_to_write_the_content_type(content_type: bytes) -> None:
    """R-1: media types have no case, and may have parameters."""
    app = Events(content_type=content_type)
    with nothing_left(app, {}) as bridge, served(bridge) as connection:
        connection.ask()
        connection.thread_is_free()
        becomes_released(bridge)
        app.open_all()


@pytest.mark.parametrize("how", ["HEAD", "204", "a declared length"])
def test_responses_without_a_body_to_come(how: str) -> None:
    """R-1: nothing is released that the server can send as it is."""

    async def body(app: Watched, receive: Any, send: Any) -> None:
        length = [(b"content-length", b"3")] if how == "a declared length" else []
        await start_events(send, b"text/event-stream", 204 if how == "204" else 200, *length)
        await stream(send, b"")
        assert bridge.stats().released_event_streams == 0
        await finish(send, b"" if how == "204" else b"end")

    with nothing_left(Watched(body), {}) as bridge, served(bridge) as connection:
        connection.ask(method="HEAD" if how == "HEAD" else "GET")
        sent = connection.read_raw()
        connection.thread_is_free()
    assert sent.endswith(b"\r\n\r\nend" if how == "a declared length" else b"\r\n\r\n")


def test_a_body_that_is_not_read_keeps_the_thread() -> None:
    """R-1: only the calling thread can read the rest of it."""

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await start_events(send)
        await stream(send, b"before ")
        await finish(send, b"after %d" % len(await whole_body(receive)))

    with (
        nothing_left(Watched(body), {}, request_buffer=10_000) as bridge,
        served(bridge) as connection,
    ):
        connection.ask(method="POST", body=bytes(100_000))
        connection.read_head()
        assert connection.read_rest() == b"before after 100000"
        assert bridge.stats().released_event_streams == 0


def test_beyond_max_released_the_thread_is_kept() -> None:
    """R-5: a stream that finds no room is served by its thread; a stream that ends makes room."""
    first, second, third = Events(), Events(), Events()
    apps = iter((first, second, third))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await next(apps)(scope, receive, send)

    bridge = ASGIToWSGI(app, lifespan="off", max_released=1)
    with bridge, served(bridge) as one, served(bridge) as two, served(bridge) as three:
        one.ask()
        one.thread_is_free()
        two.ask()
        second.gates[0].open()
        two.read_head()
        assert two.read_exactly(9) == b"data: 0\n\n"
        assert not two.is_free.is_set()
        assert is_released(bridge)
        first.open_all()
        one.read_head()
        assert one.read_rest() == b"data: 0\n\ndata: 1\n\n"
        one.close()
        must_become(lambda: not is_released(bridge), "the close")
        three.ask()
        three.thread_is_free()
        second.open_all()
        third.open_all()
        assert two.read_rest() == b"data: 1\n\n"


# --- R-2


def replacing_start_response(app: Any) -> Any:
    def middleware(environ: Any, start_response: Any) -> Any:
        @functools.wraps(start_response)  # says that it is the server's
        def own(status: Any, headers: Any, exc_info: Any = None) -> Any:
            return start_response(status, [*headers, ("X-Own", "1")], exc_info)

        return app(environ, own)

    return middleware


def wrapping_the_iterable(app: Any) -> Any:
    def middleware(environ: Any, start_response: Any) -> Iterable[bytes]:
        for block in app(environ, start_response):
            yield block.replace(b"data", b"DATA")

    return middleware


def derived(app: Any) -> Any:
    class Derived(ASGIToWSGI):
        def __call__(self, environ: Any, start_response: Any) -> Any:
            return list(super().__call__(environ, start_response))

    made = Derived.__new__(Derived)
    made.__dict__.update(app.__dict__)
    return made


def of_its_own_kind(app: Any) -> Any:
    class OwnDispatcher(DispatcherMiddleware):
        def __call__(self, environ: Any, start_response: Any) -> Any:
            return list(super().__call__(environ, start_response))

    return OwnDispatcher(app)


@on_every_server
@pytest.mark.parametrize(
    "middleware",
    [replacing_start_response, wrapping_the_iterable, derived, of_its_own_kind],
)
def test_with_a_middleware_the_response_is_the_threads(
    middleware: Callable[[Any], Any], server: str
) -> None:
    """R-2: whichever part of the call it has changed, it gets the body."""
    app = Events()
    app.open_all()
    with nothing_left(app, {}) as bridge, served(middleware(bridge), server) as connection:
        connection.ask()
        head = connection.read_head()
        body = connection.read_rest()
        assert bridge.stats().released_event_streams == 0
    assert body.lower() == b"data: 0\n\ndata: 1\n\n"
    assert body.isupper() is (middleware is wrapping_the_iterable)
    assert head.headers["X-Own"] == ("1" if middleware is replacing_start_response else None)


def mounted(app: Any) -> Any:
    return ProxyFix(DispatcherMiddleware(app, {"/other": app}))


@on_every_server
def test_werkzeugs_dispatcher_and_proxy_fix_are_no_matter(server: str) -> None:
    """R-2: they pass the call on as it is, and change only the environ."""
    app = Events()
    with nothing_left(app, {}) as bridge, served(mounted(bridge), server) as connection:
        connection.ask()
        connection.thread_is_free()
        becomes_released(bridge)
        app.open_all()
        connection.read_head()
        assert connection.read_rest() == b"data: 0\n\ndata: 1\n\n"


def test_a_server_that_is_not_known_keeps_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-2: its head might not fit a body that is yet to come."""
    from wsgi_asgi_bridge.asgi_to_wsgi import server_call

    monkeypatch.setattr(server_call, "_CALLERS", {})
    app = Events()
    app.open_all()
    with nothing_left(app, {}) as bridge, served(bridge) as connection:
        connection.ask()
        connection.read_head()
        assert connection.read_rest() == b"data: 0\n\ndata: 1\n\n"
        assert bridge.stats().released_event_streams == 0


def test_a_stream_that_keeps_its_thread_is_freed_without_the_garbage_collector() -> None:
    """R-2: the offer that the thread has not taken and the app's task refer to each other."""

    class Session:
        """An object that only the request refers to."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"] = session = Session()
        left.append(weakref.ref(session))
        del session
        await start_events(send)
        await finish(send, EVENT)

    left: list[Any] = []
    with bridged(app, lifespan="off") as bridge:
        gc.collect()
        gc.disable()
        try:
            assert serve(bridge, environ_for()).body == EVENT
            must_become(lambda: not left[0](), "the end of the scope")
        finally:
            gc.enable()


def test_a_middleware_inside_asgi_is_no_matter() -> None:
    """R-2: what it changes, it has changed before the bridge sees it."""

    async def body(app: Watched, receive: Any, send: Any) -> None:
        await inner(receive, send)

    async def inner(receive: Any, send: Any) -> None:
        async def counting(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-counted", b"1"))
            await send(message)

        await respond(counting, EVENT, headers=[(b"content-type", b"text/event-stream")])

    with nothing_left(Watched(body), {}) as bridge, served(bridge) as connection:
        connection.ask()
        assert connection.read_head().headers["X-Counted"] == "1"
        assert connection.read_rest() == EVENT

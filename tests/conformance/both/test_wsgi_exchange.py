"""A WSGI app behind both bridges in one process behaves as it does without them."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from tests.support import fake_asgi_server
from tests.support.both import wsgi_behind_both
from tests.support.fake_wsgi_server import (
    Backend,
    BodyInput,
    Exchange,
    environ_for,
    must_happen,
    on_every_backend,
    respond,
    serve,
    upload_environ,
)
from wsgi_asgi_bridge import AppError, ClientDisconnected


class AppFailure(Exception):
    """What the apps here raise."""


# --- a WSGI app: what arrives


@on_every_backend
def test_headers_keep_their_order_and_duplicates(backend: Backend) -> None:
    """W-OUT-7."""
    headers = [
        ("Set-Cookie", "a=1"),
        ("X-B", "1"),
        ("Set-Cookie", "b=2"),
        ("X-A", "\xe9"),
        ("X-B", "2"),
        ("Content-Length", "4"),
    ]

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("418 Short and stout", headers)
        return [b"body"]

    with wsgi_behind_both(app, backend) as both:
        exchange = serve(both)
    assert exchange.status == 418
    assert exchange.started.headers == headers
    assert exchange.body == b"body"


@on_every_backend
def test_each_block_arrives_before_the_next_is_made(backend: Backend) -> None:
    """W-OUT-4, A-OUT-2."""
    gates = [threading.Event() for _ in range(4)]

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"block 0")
        must_happen(gates[0], "the arrival of what was written")

        def blocks() -> Iterator[bytes]:
            for number in (1, 2, 3):
                yield b"block %d" % number
                must_happen(gates[number], f"the arrival of block {number}")

        return blocks()

    with wsgi_behind_both(app, backend) as both:
        exchange = Exchange(both, hold=True)
        for number, gate in enumerate(gates):
            assert exchange.take() == b"block %d" % number
            gate.set()
        assert exchange.take() is None
        exchange.finish()
    assert exchange.complete


@on_every_backend
def test_a_body_is_read_while_it_arrives(backend: Backend) -> None:
    """W-IN-4, A-IN-1: the server's input is not read ahead of the app beyond both buffers."""
    echoed = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        while part := environ["wsgi.input"].read(1000):
            echoed.append(part)
        return fake_asgi_server.plain_app(environ, start_response)

    body = BodyInput(bytes(range(256)) * 4096, piece=7000)
    with wsgi_behind_both(app, backend) as both:
        exchange = serve(both, upload_environ(body, length=body.size))
    assert exchange.body == b"hello"
    assert b"".join(echoed) == bytes(range(256)) * 4096
    assert body.threads == {exchange.thread.ident}


# --- a WSGI app: how it ends


@on_every_backend
def test_the_very_exception_comes_out_before_the_response(backend: Backend) -> None:
    """W-CALL-3, A-OUT-4."""
    failure = AppFailure("before the headers")

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise failure

    with wsgi_behind_both(app, backend) as both:
        exchange = serve(both)
    assert exchange.raised() is failure
    assert exchange.error_phase == "call"
    assert not exchange.starts


@on_every_backend
def test_the_very_exception_comes_out_in_mid_stream(backend: Backend) -> None:
    """W-CALL-3, A-OUT-4: behind what was given before."""
    failure = AppFailure("after the headers")

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"so far"
        raise failure

    with wsgi_behind_both(app, backend) as both:
        exchange = serve(both)
    assert exchange.raised() is failure
    assert b"".join(exchange.chunks) == b"so far"
    assert not exchange.complete


@on_every_backend
@pytest.mark.parametrize("error_type", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_no_loop_survives_comes_out_as_the_cause(
    backend: Backend, error_type: type[BaseException]
) -> None:
    """W-CALL-3, A-LOOP-5."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/next":
            return fake_asgi_server.plain_app(environ, start_response)
        raise error_type("out")

    with wsgi_behind_both(app, backend) as both:
        error = serve(both).raised()
        assert isinstance(error, AppError)
        assert type(error.__cause__) is error_type
        assert serve(both, environ_for("/next")).body == b"hello"


Given = Callable[[dict[str, Any], Any], Any]


def _a_list_with_close(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [("Content-Length", "5")])
    return fake_asgi_server.TrackedBody([b"hello"])


def _a_stream(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [])
    return fake_asgi_server.TrackedBody([b"h", b"ello"])


def _nothing(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("204 No Content", [])
    return fake_asgi_server.TrackedBody([])


@on_every_backend
@pytest.mark.parametrize(
    ("given", "size"), [(_a_list_with_close, 5), (_a_stream, 5), (_nothing, 0)]
)
def test_close_has_run_once_when_the_servers_close_returns(
    backend: Backend, given: Given, size: int
) -> None:
    """W-OUT-5: as it has without bridges; who closes the response may rely on that. The last bytes
    do not wait for it.
    """
    bodies: list[fake_asgi_server.TrackedBody] = []
    all_arrived, returned = threading.Event(), threading.Event()
    in_time: list[bool] = []

    def on_close() -> None:
        must_happen(all_arrived, "the arrival of the whole body")
        in_time.append(not returned.wait(0.05))

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        body = given(environ, start_response)
        body._on_close = on_close
        bodies.append(body)
        return body

    with wsgi_behind_both(app, backend) as both:
        exchange = Exchange(both, hold=True)
        exchange.take_until(size)
        all_arrived.set()
        exchange.run_on()
        exchange.finish()
        returned.set()
        assert exchange.closed
        assert [body.closes for body in bodies] == [1]
        assert in_time == [True]
        assert len(set(bodies[0].threads)) == 1


@on_every_backend
def test_close_of_an_app_that_raised_has_run_once(backend: Backend) -> None:
    """W-OUT-5."""
    body = fake_asgi_server.TrackedBody()
    failure = AppFailure("in the body")

    def chunks() -> Iterator[bytes]:
        yield b"so far"
        raise failure

    body._chunks = chunks()
    with wsgi_behind_both(fake_asgi_server.app_returning(body), backend) as both:
        exchange = serve(both)
        assert exchange.raised() is failure
    assert body.closes == 1


@on_every_backend
def test_a_server_that_closes_early_does_not_wait_for_the_app(backend: Backend) -> None:
    """W-FLOW-3, W-OUT-5: the app may be waiting for something; it is closed at its next step."""
    go_on = threading.Event()

    def chunks() -> Iterator[bytes]:
        yield b"first"
        must_happen(go_on, "the end of the server's close()")
        yield b"second"
        yield b"third"

    body = fake_asgi_server.TrackedBody(chunks())
    with wsgi_behind_both(fake_asgi_server.app_returning(body), backend) as both:
        exchange = Exchange(both, hold=True)
        assert exchange.take() == b"first"
        exchange.hang_up()
        assert exchange.closed
        go_on.set()
        body.closed.wait_in_thread()
    assert body.closes == 1


@on_every_backend
@pytest.mark.parametrize("how", ["cancels it", "tells it that the client left"])
def test_server_does_not_wait_for_app_that_middle_has_given_up(backend: Backend, how: str) -> None:
    """W-FLOW-6, W-OUT-5: as by a time limit, whose answer is whole while the app still hangs."""
    begun, go_on, closed = fake_asgi_server.Gate(), threading.Event(), threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        try:
            start_response("200 OK", [])
            yield b"first"
            begun.open()
            must_happen(go_on, "the end of the server's close()")
            yield b"too late"
        finally:
            closed.set()

    def giving_up(inner: Any) -> Any:
        async def gone() -> dict[str, Any]:
            await begun.wait()
            return {"type": "http.disconnect"}

        async def dropped(message: Any) -> None:
            await anyio.lowlevel.checkpoint()

        async def middleware(scope: Any, receive: Any, send: Any) -> None:
            if how == "cancels it":
                async with anyio.create_task_group() as group:
                    group.start_soon(inner, scope, receive, dropped)
                    await begun.wait()
                    group.cancel_scope.cancel()
            else:
                await inner(scope, gone, dropped)
            await respond(send, b"gave up", status=504)

        return middleware

    with wsgi_behind_both(app, backend, middle=giving_up, workers=1) as both:
        exchange = Exchange(both)
        try:
            assert exchange.body == b"gave up"
            assert exchange.closed
        finally:
            go_on.set()
        must_happen(closed, "the end of the app")


@on_every_backend
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_server_waits_no_longer_for_an_app_than_the_answer_did(
    backend: Backend, method: str
) -> None:
    """W-OUT-5: as Starlette's BaseHTTPMiddleware answers in the place of an app that it lets go on,
    or as an endless stream answers HEAD, where the middle makes GET of it.
    """
    begun, go_on, closed = fake_asgi_server.Gate(), threading.Event(), threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        try:
            if method == "GET":
                begun.open()
                must_happen(go_on, "the end of the server's close()")
            start_response("200 OK", [])
            yield b"first"
            must_happen(go_on, "the end of the server's close()")
            yield b"second"
        finally:
            closed.set()

    def middle(inner: Any) -> Any:
        async def dropped(message: Any) -> None:
            await anyio.lowlevel.checkpoint()

        async def middleware(scope: Any, receive: Any, send: Any) -> None:
            if method == "HEAD":
                await inner(scope | {"method": "GET"}, receive, send)
                return
            async with anyio.create_task_group() as group:
                group.start_soon(inner, scope, receive, dropped)
                await begun.wait()
                await respond(send, b"gave up", status=504)

        return middleware

    with wsgi_behind_both(app, backend, middle=middle, workers=1) as both:
        exchange = Exchange(both, environ_for(method=method))
        try:
            assert exchange.body == (b"gave up" if method == "GET" else b"")
            assert exchange.closed
        finally:
            go_on.set()
        must_happen(closed, "the end of the app")


@on_every_backend
def test_a_client_that_leaves_a_silent_stream_is_noticed(backend: Backend) -> None:
    """A-IN-3, W-FLOW-3: what the server tells reaches the innermost app."""
    left, known = threading.Event(), threading.Event()
    told = left.is_set

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        yield b": hello\n\n"
        gone = environ["wsgi_asgi_bridge.client_disconnected"]
        assert environ["waitress.client_disconnected"] is told
        while not gone():
            known.wait(0.002)
        known.set()
        yield b"too late"

    environ = environ_for() | {"waitress.client_disconnected": told}
    with wsgi_behind_both(app, backend) as both:
        exchange = Exchange(both, environ)
        exchange.wait_for_size(9)
        left.set()
        assert isinstance(exchange.raised(), ClientDisconnected)
        must_happen(known, "the news of the disconnect in the app")


@on_every_backend
def test_a_body_that_breaks_off_raises_in_the_app(backend: Backend) -> None:
    """W-IN-3, A-IN-1."""
    errors: list[BaseException] = []
    done = threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            errors.append(error)
            raise
        finally:
            done.set()
        raise AssertionError("a body that broke off looked whole")

    body = BodyInput(b"x" * 700_000, error=ConnectionResetError("gone"))
    with wsgi_behind_both(app, backend) as both:
        exchange = serve(both, upload_environ(body, length=900_000))
        must_happen(done, "the end of the app")
        assert exchange.raised() is not None
    assert isinstance(errors[0], ClientDisconnected)


# --- a WSGI app: beside the message


@on_every_backend
def test_what_server_and_middleware_put_into_environ_reaches_app(backend: Backend) -> None:
    """A-SCOPE-3, W-ENV-8: and what the middle put into the scope."""
    seen: dict[str, Any] = {}
    socket, user = object(), object()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.update(environ)
        return fake_asgi_server.plain_app(environ, start_response)

    def middle(inner: Any) -> Any:
        async def middleware(scope: Any, receive: Any, send: Any) -> None:
            headers = [pair for pair in scope["headers"] if pair[0] != b"x-secret"]
            await inner(scope | {"user": user, "headers": headers}, receive, send)

        return middleware

    environ = environ_for(headers=(("Host", "example.org"), ("X-Secret", "1"))) | {
        "REMOTE_USER": "alice",
        "some.socket": socket,
    }
    with wsgi_behind_both(app, backend, middle=middle, environ={"DEPLOYED": "yes"}) as both:
        assert serve(both, environ).body == b"hello"
    assert seen["REMOTE_USER"] == "alice"
    assert seen["some.socket"] is socket
    assert seen["asgi.scope"]["user"] is user
    assert seen["DEPLOYED"] == "yes"
    assert "HTTP_X_SECRET" not in seen
    assert seen["wsgi.errors"] is environ["wsgi.errors"]

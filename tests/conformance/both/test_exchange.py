"""Both bridges in one process: an app behind both behaves as it does without them."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from tests.support import fake_asgi_server
from tests.support.both import asgi_behind_both, like, wsgi_behind_both
from tests.support.fake_asgi_server import Client, answered, calling, http_scope, post_scope
from tests.support.fake_wsgi_server import (
    Backend,
    BodyInput,
    Exchange,
    Gate,
    environ_for,
    finish,
    must_happen,
    on_every_backend,
    respond,
    serve,
    start,
    stream,
    upload_environ,
    whole_body,
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
def test_a_server_does_not_wait_for_an_app_that_the_middle_has_given_up(
    backend: Backend, how: str
) -> None:
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
def test_a_server_does_not_wait_for_an_app_that_the_answer_did_not_wait_for(
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
def test_what_server_and_middleware_put_into_environ_reaches_the_app(backend: Backend) -> None:
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


# --- an ASGI app: what arrives


async def test_an_asgi_app_keeps_its_headers(anyio_backend: Any) -> None:
    headers = [(b"set-cookie", b"a=1"), (b"x-b", b"1"), (b"set-cookie", b"b=2"), (b"x-b", b"\xe9")]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"body", status=418, headers=[*headers, (b"content-length", b"4")])

    async with asgi_behind_both(app, like(anyio_backend)) as both:
        client = await answered(both)
    assert client.status == 418
    assert client.messages[0]["headers"] == [*headers, (b"content-length", b"4")]
    assert client.body == b"body"


async def test_each_part_arrives_before_the_next_is_made(anyio_backend: Any) -> None:
    """A-OUT-2, W-OUT-4."""
    gates = [Gate() for _ in range(3)]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        for number, gate in enumerate(gates):
            await stream(send, b"%d" % number)
            await gate.wait()
        await finish(send)

    async with asgi_behind_both(app, like(anyio_backend)) as both:
        client = Client()
        async with calling(both, client):
            for number, gate in enumerate(gates):
                await client.until(lambda c, size=number + 1: c.body_bytes == size)
                await anyio.to_thread.run_sync(gate.open)
    assert client.body == b"012"
    assert client.complete


async def test_an_asgi_app_answers_each_part_of_the_request_as_it_comes(
    anyio_backend: Any,
) -> None:
    """W-IN-4, A-IN-1, A-OUT-2."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        while (message := await receive())["more_body"]:
            await stream(send, message["body"])
        await finish(send, message["body"])

    # Larger than what either bridge collects of a body of this length, and than what it reads at
    # a time.
    part = b"x" * 600_000
    async with asgi_behind_both(app, like(anyio_backend)) as both:
        client = Client(post_scope(2 * len(part)), body_ends=False)
        async with calling(both, client):
            client.feed(part)
            await client.until(lambda c: c.body_bytes > 0)
            client.feed(part, last=True)
    assert client.body == 2 * part


# --- an ASGI app: how it ends


async def test_an_asgi_apps_very_exception_comes_out_before_the_response(
    anyio_backend: Any,
) -> None:
    """A-OUT-4, W-CALL-3."""
    failure = AppFailure("before the start")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise failure

    async with asgi_behind_both(app, like(anyio_backend)) as both:
        client = Client()
        async with calling(both, client):
            pass
    assert client.error is failure
    assert not client.messages


async def test_an_asgi_apps_very_exception_comes_out_in_mid_stream(anyio_backend: Any) -> None:
    """A-OUT-4, W-CALL-3."""
    failure = AppFailure("after the start")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"so far")
        raise failure

    async with asgi_behind_both(app, like(anyio_backend)) as both:
        client = Client()
        async with calling(both, client):
            pass
    assert client.error is failure
    assert client.body == b"so far"
    assert not client.complete


async def test_an_asgi_app_learns_in_receive_that_its_client_left(anyio_backend: Any) -> None:
    """A-IN-2, A-IN-3: the outer bridge tells the inner one, though nothing is being sent."""
    told = Gate()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await whole_body(receive)
        await start(send)
        await stream(send, b"an event")
        message = await receive()
        assert message == {"type": "http.disconnect"}
        await anyio.to_thread.run_sync(told.open)

    async with asgi_behind_both(app, like(anyio_backend)) as both:
        client = Client()
        async with calling(both, client):
            await client.until(lambda c: c.body == b"an event")
            client.leave()
        await anyio.to_thread.run_sync(told.wait_in_thread)
    assert client.error is None


async def test_an_asgi_app_learns_before_its_response_that_its_client_left(
    anyio_backend: Any,
) -> None:
    """A-IN-3: a long computation that nobody waits for any more."""
    begun, told = Gate(), Gate()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await anyio.to_thread.run_sync(begun.open)
        message = await receive()
        assert message == {"type": "http.disconnect"}
        await anyio.to_thread.run_sync(told.open)

    async with asgi_behind_both(app, like(anyio_backend)) as both:
        client = Client()
        async with calling(both, client):
            await anyio.to_thread.run_sync(begun.wait_in_thread)
            client.leave()
        await anyio.to_thread.run_sync(told.wait_in_thread)


async def test_send_raises_in_an_asgi_app_whose_client_left(anyio_backend: Any) -> None:
    """A-OUT-3."""
    raised: list[BaseException] = []
    ended, left = Gate(), Gate()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        try:
            await stream(send, b"first")
            await left.wait()
            while True:
                await stream(send, b"x" * 100_000)
        except BaseException as error:
            raised.append(error)
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(ended.open)

    async with asgi_behind_both(app, like(anyio_backend)) as both:
        client = Client()
        async with calling(both, client):
            await client.until(lambda c: c.body == b"first")
            client.leave()
            await anyio.to_thread.run_sync(left.open)
        await anyio.to_thread.run_sync(ended.wait_in_thread)
    # Or it is cancelled, where it was told in the middle of something else.
    assert isinstance(raised[0], OSError) or "ancel" in type(raised[0]).__name__


async def test_background_work_of_an_asgi_app_goes_on_after_its_response(
    anyio_backend: Any,
) -> None:
    """A-OUT-5: the response does not wait for it."""
    answered_gate, done = Gate(), Gate()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"done")
        await answered_gate.wait()
        await anyio.to_thread.run_sync(done.open)

    async with asgi_behind_both(app, like(anyio_backend)) as both:
        assert (await answered(both)).body == b"done"
        await anyio.to_thread.run_sync(answered_gate.open)
        await anyio.to_thread.run_sync(done.wait_in_thread)


# --- an ASGI app: beside the message


async def test_what_server_and_middleware_put_into_scope_reaches_the_app(
    anyio_backend: Any,
) -> None:
    """A-SCOPE-3, W-ENV-8: and what the middle put into environ; a session changed inside has
    changed outside.
    """
    user = object()
    session, state = {"visits": 1}, {"request_id": 7}
    seen: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)
        scope["session"]["visits"] += 1
        scope["state"]["seen"] = True
        await respond(send, b"ok")

    def middle(inner: Any) -> Any:
        def middleware(environ: dict[str, Any], start_response: Any) -> Any:
            del environ["HTTP_X_SECRET"]
            environ["middle.key"] = user
            return inner(environ, start_response)

        return middleware

    scope = http_scope(
        headers=[(b"x-secret", b"1")],
        session=session,
        state=state,
        user=user,
        extensions={"http.response.pathsend": {}},
    )
    async with asgi_behind_both(app, like(anyio_backend), middle=middle) as both:
        assert (await answered(both, Client(scope))).body == b"ok"
    assert seen["user"] is user
    assert session == {"visits": 2}
    assert state == {"request_id": 7, "seen": True}
    assert seen["wsgi_environ"]["middle.key"] is user
    assert b"x-secret" not in dict(seen["headers"])
    assert seen["extensions"] == {}

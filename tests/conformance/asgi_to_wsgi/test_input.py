"""A-IN-1: the body, as the app asks for it."""

import asyncio
import threading
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from tests.support.fake_wsgi_server import (
    BACKENDS,
    BodyInput,
    Exchange,
    Gate,
    GeneratedInput,
    Message,
    UnreadableInput,
    bridged,
    echo,
    environ_for,
    finish,
    must_become,
    must_happen,
    on_every_backend,
    respond,
    serve,
    start,
    stream,
    upload_environ,
    whole_body,
)
from wsgi_asgi_bridge import (
    BodyTooLarge,
    BridgeError,
    ClientDisconnected,
    ClientStalled,
)
from wsgi_asgi_bridge._crossing.calling_thread import current_calling_thread

BUFFER = 16_384
LARGE = 4 * 1024 * 1024


async def all_messages(receive: Any) -> list[Message]:
    """What `receive()` gives up to the end of the body or the disconnect."""
    messages = []
    while True:
        messages.append(await receive())
        if messages[-1]["type"] != "http.request" or not messages[-1].get("more_body"):
            return messages


class Uploads:
    """An app that keeps the messages of the request's body and answers with their count."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.calls = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls += 1
        self.messages = await all_messages(receive)
        await respond(send, b"%d" % len(self.messages))

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.messages)


# A-IN-1: small bodies


@on_every_backend
def test_small_body_is_read_before_the_app_starts(backend: dict[str, Any]) -> None:
    """A-IN-1: a slow small upload occupies no app, and its body comes in one message."""
    upload = Uploads()
    body = BodyInput(b"x" * 1000, piece=100, before_read=lambda: calls.append(upload.calls))
    calls: list[int] = []
    with bridged(upload, backend) as bridge:
        assert serve(bridge, upload_environ(body, length=1000)).body == b"1"
    assert calls
    assert set(calls) == {0}
    assert upload.body == b"x" * 1000


@pytest.mark.parametrize("size", [0, 1, BUFFER - 1, BUFFER, BUFFER + 1, 3 * BUFFER, 100_001])
@pytest.mark.parametrize("piece", [None, 1000, 7777])
@pytest.mark.parametrize("framed", ["by length", "by the server", "by both"])
def test_any_body_arrives_whole(size: int, piece: int | None, framed: str) -> None:
    """A-IN-1: every size around the buffer, however the input chops it, and each part within the
    buffer.
    """
    upload = Uploads()
    body = GeneratedInput(size, piece=piece, past_end="hang" if framed == "by length" else "eof")
    environ = upload_environ(body, length=None if framed == "by the server" else size)
    environ["wsgi.input_terminated"] = framed != "by length"
    with bridged(upload, request_buffer=BUFFER) as bridge:
        serve(bridge, environ).finish()
    assert upload.body == GeneratedInput(size).read()
    assert not upload.messages[-1].get("more_body", False)
    assert all(len(m["body"]) <= BUFFER for m in upload.messages)


def test_body_messages_have_the_shape_of_the_spec() -> None:
    """A-IN-1: `body` is bytes and `more_body` a bool, in each message."""
    upload = Uploads()
    with bridged(upload, request_buffer=BUFFER) as bridge:
        for size in (0, 10, 3 * BUFFER):
            serve(bridge, upload_environ(GeneratedInput(size), length=size)).finish()
            assert {type(m["body"]) for m in upload.messages} == {bytes}
            assert {type(m["more_body"]) for m in upload.messages} == {bool}
            assert {m["type"] for m in upload.messages} == {"http.request"}


# A-IN-1: large bodies


@on_every_backend
@pytest.mark.parametrize("terminated", [False, True], ids=["by length", "by the server"])
def test_large_upload_is_read_as_the_app_asks(backend: dict[str, Any], terminated: bool) -> None:
    """A-IN-1: the input is never read further ahead of the app than the buffer."""
    ahead: list[int] = []
    body = GeneratedInput(LARGE, past_end="eof" if terminated else "hang")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        received, more = 0, True
        while more:
            message = await receive()
            assert message["type"] == "http.request"
            received += len(message["body"])
            ahead.append(body.consumed - received)
            more = message["more_body"]
        await respond(send, b"%d" % received)

    environ = upload_environ(body, length=None if terminated else LARGE)
    environ["wsgi.input_terminated"] = terminated
    with bridged(app, backend, request_buffer=BUFFER) as bridge:
        assert serve(bridge, environ).body == b"%d" % LARGE
    assert max(ahead) <= BUFFER
    assert max(body.reads) <= BUFFER


@on_every_backend
def test_app_that_does_not_read_leaves_the_input_alone(backend: dict[str, Any]) -> None:
    """A-IN-1: what the app does not ask for is not taken in."""
    body = GeneratedInput(LARGE, past_end="hang")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"no thanks", status=413)

    with bridged(app, backend, request_buffer=BUFFER) as bridge:
        exchange = serve(bridge, upload_environ(body, length=LARGE))
        assert exchange.body == b"no thanks"
    assert body.consumed <= BUFFER


async def poll_in_a_scope(receive: Any) -> None:
    with anyio.CancelScope() as scope:  # as Starlette's request.is_disconnected()
        scope.cancel()
        await receive()


async def poll_with_a_deadline(receive: Any) -> None:
    with anyio.move_on_after(0):
        await receive()


async def poll_by_wait_for(receive: Any) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(receive(), 0)


async def poll_by_a_task(receive: Any) -> None:
    task = asyncio.create_task(receive())
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def what_was_asked_of_the_caller() -> None:
    """A turn of the loop, then a job for the calling thread: it comes behind those that were there
    before.
    """
    await anyio.lowlevel.checkpoint()
    done = threading.Event()
    assert current_calling_thread.get().call_in_thread(done.set)
    await anyio.to_thread.run_sync(must_happen, done, "a job")


ANY_POLLS = (poll_in_a_scope, poll_with_a_deadline)
POLLS = [
    pytest.param(backend, poll, id=f"{name}-{poll.__name__}")
    for name, backend in BACKENDS.items()
    for poll in ANY_POLLS + (() if name == "trio" else (poll_by_wait_for, poll_by_a_task))
]


@pytest.mark.parametrize(("backend", "poll"), POLLS)
def test_poll_for_the_disconnect_begins_no_read(backend: dict[str, Any], poll: Any) -> None:
    """A-IN-1: it would hold back the answer until the client has sent more, or anything at all."""
    polled: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(3):
            await poll(receive)
            await what_was_asked_of_the_caller()
        polled.append(len(body.reads))
        await start(send, status=401)
        await poll(receive)
        await finish(send, b"denied")

    body = UnreadableInput()
    with bridged(app, backend, request_buffer=BUFFER) as bridge:
        assert serve(bridge, upload_environ(body, length=LARGE)).body == b"denied"
    assert (polled, body.reads) == ([0], [])


@on_every_backend
def test_polls_lose_nothing_of_the_body(backend: dict[str, Any]) -> None:
    """A-IN-1: neither does a `receive()` that is given up in the middle of a read, nor one of
    several at once.
    """
    received: list[bytes] = []
    hold = Gate()
    reading = threading.Event()

    def read() -> None:
        reading.set()
        hold.wait_in_thread()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await poll_in_a_scope(receive)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await anyio.to_thread.run_sync(must_happen, reading, "the read")
            tasks.cancel_scope.cancel()
        await anyio.to_thread.run_sync(hold.open)

        async def take() -> None:
            received.append((await receive())["body"])

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(take)
        received.append(await whole_body(receive))
        await respond(send)

    body = GeneratedInput(10 * BUFFER, before_read=read)
    with bridged(app, backend, request_buffer=BUFFER) as bridge:
        serve(bridge, upload_environ(body, length=body.size)).finish()
    assert b"".join(received) == GeneratedInput(body.size).read()
    assert [len(part) for part in received] == [BUFFER] * 3 + [7 * BUFFER]


@on_every_backend
def test_input_is_read_by_the_caller_only(backend: dict[str, Any]) -> None:
    """A-IN-1: no server promises an input that other threads may read, nor one that outlives the
    call.
    """
    body = GeneratedInput(20 * BUFFER)
    with bridged(echo, backend, request_buffer=BUFFER) as bridge:
        exchange = serve(bridge, upload_environ(body, length=body.size))
        assert len(exchange.body) == body.size
    assert body.threads == {exchange.thread.ident}


@on_every_backend
def test_body_and_response_interleave(backend: dict[str, Any]) -> None:
    """A-IN-1: an app that answers while it reads (echo by parts) gets both through."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await stream(send, message["body"])
        await finish(send)

    body = GeneratedInput(40 * BUFFER)
    with bridged(app, backend, request_buffer=BUFFER, response_buffer=BUFFER) as bridge:
        exchange = serve(bridge, upload_environ(body, length=body.size))
        assert exchange.body == GeneratedInput(body.size).read()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_terminated_input_needs_no_header(method: str) -> None:
    """A-IN-1: `wsgi.input_terminated` alone says that the input may be read to its end (HTTP/2 has
    no other sign).
    """
    environ = environ_for(method=method) | {"wsgi.input": BodyInput(b"body")}
    assert "HTTP_TRANSFER_ENCODING" not in environ
    with bridged(echo) as bridge:
        assert serve(bridge, environ).body == b"body"


def test_input_without_a_length_or_an_end_is_not_read() -> None:
    """A-IN-1: without CONTENT_LENGTH and `wsgi.input_terminated` there is no body (PEP 3333), and a
    read would hang.
    """
    body = UnreadableInput()
    environ = upload_environ(body)
    del environ["wsgi.input_terminated"], environ["HTTP_TRANSFER_ENCODING"]
    with bridged(echo) as bridge:
        assert serve(bridge, environ).body == b""
        environ["wsgi.input_terminated"] = False
        assert serve(bridge, environ).body == b""
        environ["CONTENT_LENGTH"] = "0"
        assert serve(bridge, environ).body == b""
        environ["CONTENT_LENGTH"] = ""
        assert serve(bridge, environ).body == b""
    assert body.reads == []


def test_length_bounds_the_body_of_an_input_that_has_more() -> None:
    """A-IN-1: bytes after CONTENT_LENGTH belong to the next request."""
    body = BodyInput(b"mine" + b"next request")
    environ = upload_environ(body, length=4)
    environ["wsgi.input_terminated"] = False
    with bridged(echo) as bridge:
        assert serve(bridge, environ).body == b"mine"
    assert body.consumed == 4


# A-IN-1: bodies that stop short

CUTS = {
    "ends early": None,
    "connection reset": ConnectionResetError("reset by peer"),
    "time-out": TimeoutError("timed out"),
    "server's own error": ValueError("invalid chunk size"),
}


@on_every_backend
@pytest.mark.parametrize("error", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("size", [0, 100, 5 * BUFFER], ids=["nothing", "small", "large"])
def test_short_body_is_a_disconnect(
    backend: dict[str, Any], size: int, error: BaseException | None
) -> None:
    """A-IN-1: an app never takes a cut body for a whole one, nor does it get empty parts without
    end.
    """
    upload = Uploads()
    body = GeneratedInput(size, error=error)
    with bridged(upload, backend, request_buffer=BUFFER) as bridge:
        exchange = Exchange(bridge, upload_environ(body, length=size + 50))
        exchange.finish()
        must_become(lambda: bridge.stats().in_flight == 0, "the end of the app")
        assert all(m.get("more_body") for m in upload.messages[:-1])
        assert all(m["body"] for m in upload.messages[:-1])
        if size > BUFFER:
            assert upload.calls == 1
        if upload.calls:
            assert upload.messages[-1] == {"type": "http.disconnect"}
        assert GeneratedInput(size).read().startswith(upload.body)
        assert bridge.stats().failed == 0


@on_every_backend
@pytest.mark.parametrize(
    "error", [ConnectionResetError("reset"), ValueError("bad chunk")], ids=repr
)
def test_broken_chunked_body_is_a_disconnect(backend: dict[str, Any], error: Exception) -> None:
    """A-IN-1: without a length only the input's error tells that the body was cut."""
    upload = Uploads()
    body = GeneratedInput(3 * BUFFER + 5, error=error)
    with bridged(upload, backend, request_buffer=BUFFER) as bridge:
        serve(bridge, upload_environ(body)).finish()
    assert upload.calls == 1
    assert upload.messages[-1] == {"type": "http.disconnect"}


@on_every_backend
@pytest.mark.parametrize("size", [0, 100], ids=["nothing", "some"])
def test_small_body_of_a_client_that_has_gone_calls_nobody(
    backend: dict[str, Any], size: int
) -> None:
    """A-IN-1: it is read before the app starts, and the server hears why there is no answer."""
    upload = Uploads()
    reset = ConnectionResetError("reset by peer")
    with bridged(upload, backend) as bridge:
        environ = upload_environ(GeneratedInput(size, error=reset), length=size + 50)
        error = serve(bridge, environ).raised()
        must_become(lambda: bridge.stats().disconnected == 1, "the count of the disconnect")
    assert isinstance(error, ClientDisconnected)
    assert error.__cause__ is reset
    assert upload.calls == 0


@on_every_backend
@pytest.mark.parametrize("size", [100, 3 * BUFFER], ids=["small", "large"])
def test_answer_to_a_short_body_goes_out(backend: dict[str, Any], size: int) -> None:
    """A-IN-1: the client may have shut down its sending side only, and still read."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await all_messages(receive)
        await respond(send, b"where is the rest?", status=400)

    with bridged(app, backend, request_buffer=BUFFER) as bridge:
        exchange = serve(bridge, upload_environ(GeneratedInput(size), length=size + 50))
        assert (exchange.status, exchange.body) == (400, b"where is the rest?")
        stats = bridge.stats()
        assert (stats.completed, stats.disconnected, stats.failed) == (1, 0, 0)


@pytest.mark.parametrize("error", [BodyTooLarge("too large"), ClientStalled("stalled")], ids=repr)
def test_error_of_a_bridge_around_is_passed_on(error: BridgeError) -> None:
    """A-IN-1: the outer bridge answers 413 or 408 to the very error that it raised."""
    body = GeneratedInput(3 * BUFFER, error=error)
    with bridged(Uploads(), request_buffer=BUFFER) as bridge:
        assert serve(bridge, upload_environ(body)).raised() is error

"""A-OUT-1..5: what the app sends, and what the server gets of it."""

import asyncio
import itertools
import logging
import threading
import traceback
import tracemalloc
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fake_wsgi_server import (
    Exchange,
    Gate,
    InThread,
    Message,
    bridged,
    environ_for,
    finish,
    must_become,
    must_happen,
    on_every_backend,
    respond,
    serve,
    start,
    stream,
    turn_the_loop,
    with_turns,
)
from wsgi_asgi_bridge import AppError, ClientDisconnected

BUFFER = 16_384

START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain")],
}
PART = {"type": "http.response.body", "body": b"part", "more_body": True}
END = {"type": "http.response.body", "body": b"end"}


# A-OUT-1: illegal messages


def start_with(**changes: Any) -> Message:
    message = {**START, **changes}
    return {key: value for key, value in message.items() if value is not ...}


# The messages that are fine, then the illegal one, then words of the error.
ILLEGAL_ORDERS: dict[str, tuple[list[Message], Any, str]] = {
    "body before start": ([], PART, "http.response.body"),
    "end before start": ([], END, "http.response.body"),
    "start twice": ([START], START, "http.response.start"),
    "start after a part": ([START, PART], START, "http.response.start"),
    "start after the end": ([START, END], START, "http.response.start"),
    "part after the end": ([START, END], PART, "http.response.body"),
    "end after the end": ([START, END], END, "http.response.body"),
    "part after a stream's end": ([START, PART, END], PART, "http.response.body"),
    "lifespan message": ([], {"type": "lifespan.startup.complete"}, "lifespan.startup.complete"),
    "websocket message": ([], {"type": "websocket.accept"}, "websocket.accept"),
    "websocket refusal": (
        [],
        {"type": "websocket.http.response.start", "status": 403},
        "websocket.http.response.start",
    ),
    "request message": ([START], {"type": "http.request", "body": b""}, "http.request"),
    "unknown type": ([START], {"type": "http.response.bogus"}, "http.response.bogus"),
}

ILLEGAL_CONTENTS: dict[str, tuple[list[Message], Any, str]] = {
    "no type": ([], {"status": 200}, "None"),
    "type of bytes": ([], {"type": b"http.response.start"}, "http.response.start"),
    "None": ([], None, "None"),
    "text": ([], "http.response.start", "http.response.start"),
    "status missing": ([], start_with(status=...), "status"),
    "status text": ([], start_with(status="200"), "200"),
    "status None": ([], start_with(status=None), "None"),
    "status float": ([], start_with(status=200.5), "200.5"),
    "status two digits": ([], start_with(status=99), "99"),
    "status four digits": ([], start_with(status=1000), "1000"),
    "status negative": ([], start_with(status=-200), "-200"),
    "headers number": ([], start_with(headers=5), "5"),
    "headers of text": ([], start_with(headers=[("x-a", "b")]), "x-a"),
    "value of text": ([], start_with(headers=[(b"x-a", "b")]), "x-a"),
    "name of text": ([], start_with(headers=[("x-a", b"b")]), "x-a"),
    "header of three": ([], start_with(headers=[(b"x-a", b"b", b"c")]), "x-a"),
    "header number": ([], start_with(headers=[7]), "7"),
    "value with line feed": ([], start_with(headers=[(b"x-a", b"1\nset-cookie: a=1")]), "x-a"),
    "value with return": ([], start_with(headers=[(b"x-a", b"1\r\nset-cookie: a=1")]), "x-a"),
    "value with NUL": ([], start_with(headers=[(b"x-a", b"1\x00")]), "x-a"),
    "value with DEL": ([], start_with(headers=[(b"x-a", b"1\x7f")]), "x-a"),
    "name empty": ([], start_with(headers=[(b"", b"b")]), "name"),
    "name with colon": ([], start_with(headers=[(b"x-a:", b"b")]), "x-a:"),
    "name with space": ([], start_with(headers=[(b"x a", b"b")]), "x a"),
    "name with line feed": ([], start_with(headers=[(b"x-a\nx-b", b"b")]), "x-a"),
    "name not ascii": ([], start_with(headers=[(b"x-\xe9", b"b")]), "x-"),
    "body text": ([START], {"type": "http.response.body", "body": "text"}, "text"),
    "body None": ([START], {"type": "http.response.body", "body": None}, "None"),
    "body list": ([START], {"type": "http.response.body", "body": [b"a"]}, "list"),
    "body number": ([START], {"type": "http.response.body", "body": 5}, "5"),
}


def error_of(
    backend: dict[str, Any], before: list[Message], illegal: Any
) -> tuple[BaseException | None, Exchange]:
    """What `send(illegal)` raised in the app after `before`, and the exchange, which the app then
    saves.
    """
    errors: list[BaseException | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in before:
            await send(message)
        try:
            await send(illegal)
            errors.append(None)
        except Exception as error:
            errors.append(error)
        if START not in before:
            await send(START)
        if END not in before:
            await send(END)

    with bridged(app, backend) as bridge:
        exchange = serve(bridge)
        must_become(lambda: len(errors) == 1, "the app's send")
    return errors[0], exchange


@on_every_backend
@pytest.mark.parametrize("case", ILLEGAL_ORDERS.values(), ids=ILLEGAL_ORDERS)
def test_messages_out_of_order_raise_in_the_app(backend: dict[str, Any], case: Any) -> None:
    """A-OUT-1: the app's own `send()` raises, names the message, and the response can be saved."""
    before, illegal, words = case
    error, exchange = error_of(backend, before, illegal)
    assert isinstance(error, AppError), error
    assert words in str(error)
    assert exchange.body == b"".join(m.get("body", b"") for m in before if m is not END) + b"end"
    assert exchange.status == 200


@pytest.mark.parametrize("case", ILLEGAL_CONTENTS.values(), ids=ILLEGAL_CONTENTS)
def test_messages_with_wrong_contents_raise_in_the_app(case: Any) -> None:
    """A-OUT-1: nothing of a wrong message reaches the server, and the error shows the culprit."""
    before, illegal, words = case
    error, exchange = error_of({}, before, illegal)
    assert isinstance(error, AppError), error
    assert words in str(error)
    assert exchange.body == b"end"
    assert exchange.header_values("set-cookie") == []


def test_order_errors_name_the_state() -> None:
    """A-OUT-1: the same message out of order in two states gives two different errors."""
    too_early, _ = error_of({}, [], PART)
    too_late, _ = error_of({}, [START, END], PART)
    assert str(too_early) != str(too_late)


UNADVERTISED: dict[str, Message] = {
    "http.response.pathsend": {"type": "http.response.pathsend", "path": __file__},
    "http.response.zerocopysend": {"type": "http.response.zerocopysend", "file": 0},
    "http.response.early_hint": {"type": "http.response.early_hint", "links": [b"</a>"]},
    "http.response.trailers": {"type": "http.response.trailers", "headers": []},
    "http.response.push": {"type": "http.response.push", "path": "/a", "headers": []},
    "http.response.debug": {"type": "http.response.debug", "info": {}},
}


@on_every_backend
@pytest.mark.parametrize("name", UNADVERTISED)
def test_unadvertised_extensions_raise(backend: dict[str, Any], name: str) -> None:
    """A-OUT-1, A-OUT-6: a message whose extension is not in the scope raises out of `send()`, in
    any state.
    """
    errors: list[BaseException] = []
    advertised: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        advertised.extend(scope.get("extensions") or {})
        for message in (None, START, PART):
            if message:
                await send(message)
            try:
                await send(UNADVERTISED[name])
            except AppError as error:
                errors.append(error)
        await finish(send, b"end")

    with bridged(app, backend) as bridge:
        assert serve(bridge).body == b"partend"
    assert name not in advertised
    assert len(errors) == 3
    assert all(name in str(error) for error in errors)


# A-OUT-1: legal messages in every form


@on_every_backend
def test_missing_headers_and_body(backend: dict[str, Any]) -> None:
    """A-OUT-1: both may be missing."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    with bridged(app, backend) as bridge:
        exchange = serve(bridge)
        assert exchange.body == b""
        assert exchange.started.headers == []


class MarkedBytes(bytes):
    """As markupsafe has one of str: a page that says of itself that it is safe."""

    def decode(self, *args: str) -> str:
        return MarkedStr(super().decode(*args))

    def lower(self) -> "MarkedBytes":
        return MarkedBytes(super().lower())


class MarkedStr(str):
    """What is not a header for wsgiref."""

    __slots__ = ()


@pytest.mark.parametrize(
    "kind", [bytes, bytearray, memoryview, MarkedBytes], ids=lambda k: k.__name__
)
@pytest.mark.parametrize("more", [False, True], ids=["whole", "streamed"])
def test_bytes_likes_are_converted(kind: Callable[[bytes], Any], more: bool) -> None:
    """A-OUT-1: bodies and headers of any bytes-like come out as bytes and str, those of a subclass
    of bytes too: wsgiref and its validator take no other.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(kind(b"content-type"), kind(b"text/plain")), [kind(b"x-a"), kind(b"b")]]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if more:
            await send({"type": "http.response.body", "body": kind(b"bo"), "more_body": True})
            await anyio.lowlevel.checkpoint()
        await send({"type": "http.response.body", "body": kind(b"dy"), "more_body": False})

    with bridged(app) as bridge:
        exchange = serve(bridge)
        assert exchange.body == (b"body" if more else b"dy")
        assert exchange.started.headers == [("Content-Type", "text/plain"), ("X-A", "b")]
    assert {type(chunk) for chunk in exchange.chunks} == {bytes}
    assert {type(part) for pair in exchange.started.headers for part in pair} == {str}


@on_every_backend
def test_reused_buffer_is_not_seen_changing(backend: dict[str, Any]) -> None:
    """A-OUT-1: the part is what the buffer held when it was sent (`readinto` reuses one)."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        buffer = bytearray(4)
        for n in range(20):
            buffer[:] = b"%04d" % n
            await send(
                {"type": "http.response.body", "body": memoryview(buffer), "more_body": True}
            )
        await finish(send)
        buffer[:] = b"ruin"

    with bridged(app, backend) as bridge:
        assert serve(bridge).body == b"".join(b"%04d" % n for n in range(20))


@pytest.mark.parametrize("kind", [list, tuple, iter], ids=["list", "tuple", "iterator"])
def test_headers_may_be_any_iterable(kind: Any) -> None:
    """A-OUT-1: the spec says iterable."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = kind([(b"x-a", b"1"), (b"x-a", b"2")])
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send(END)

    with bridged(app) as bridge:
        assert serve(bridge).started.headers == [("X-A", "1"), ("X-A", "2")]


def test_repeated_headers_keep_their_order() -> None:
    """A-OUT-1: Set-Cookie is never joined, and latin-1 values pass."""
    headers = [
        (b"set-cookie", b"a=1; Path=/"),
        (b"content-type", b"text/plain"),
        (b"Set-Cookie", b"b=\xe9"),
        (b"set-cookie", b"a=2"),
    ]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"x", headers=headers)

    with bridged(app) as bridge:
        exchange = serve(bridge)
        assert exchange.header_values("set-cookie") == ["a=1; Path=/", "b=\xe9", "a=2"]


HOP_BY_HOP = ["Transfer-Encoding", "connection", "Keep-Alive", "TE", "trailer", "Upgrade"]


@pytest.mark.parametrize("name", HOP_BY_HOP)
def test_hop_by_hop_headers_are_dropped(name: str) -> None:
    """A-OUT-1: framing and connection are the server's; PEP 3333 forbids such headers."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"x", headers=[(name.encode(), b"chunked"), (b"x-a", b"b")])

    with bridged(app) as bridge:
        assert serve(bridge).started.headers == [("X-A", "b")]


@pytest.mark.parametrize(
    ("status", "line"), [(200, "200 OK"), (404, "404 Not Found"), (503, "503 Service Unavailable")]
)
def test_status_lines(status: int, line: str) -> None:
    """A-OUT-1: WSGI wants a reason, ASGI has none."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, status=status)

    with bridged(app) as bridge:
        assert serve(bridge).started.status == line


@pytest.mark.parametrize("status", [218, 299, 420, 599, 999])
def test_status_without_a_known_reason(status: int) -> None:
    """A-OUT-1: any three digits go out as such, with the space that PEP 3333 asks for."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, status=status)

    with bridged(app) as bridge:
        assert serve(bridge).started.status.startswith(f"{status} ")


def test_content_length_of_the_app_is_kept() -> None:
    """A-OUT-1: the one framing header that is the app's."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"four", headers=[(b"content-length", b"4")])

    with bridged(app) as bridge:
        exchange = serve(bridge)
        assert exchange.body == b"four"
        assert exchange.header_values("content-length") == ["4"]


@on_every_backend
def test_message_may_be_changed_after_send(backend: dict[str, Any]) -> None:
    """A-OUT-1: the bridge keeps nothing of the app's dict or header list."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"x-a", b"1")]
        message: Message = {"type": "http.response.start", "status": 200, "headers": headers}
        await send(message)
        headers.append((b"x-b", b"2"))
        message["status"] = 500
        await stream(send, b"x")
        await finish(send)

    with bridged(app, backend) as bridge:
        exchange = serve(bridge)
        assert exchange.body == b"x"
        assert exchange.started.status == "200 OK"
        assert exchange.started.headers == [("X-A", "1")]


# A-OUT-2


@on_every_backend
def test_each_part_arrives_without_the_next(backend: dict[str, Any]) -> None:
    """A-OUT-2: an event stream's small parts are not held back for more."""
    gates = [Gate() for _ in range(4)]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        for n, gate in enumerate(gates):
            await stream(send, b"data: %d\n\n" % n)
            await gate.wait()
        await finish(send)

    with bridged(app, backend) as bridge:
        exchange = Exchange(bridge)
        for n, gate in enumerate(gates):
            exchange.wait_for_size((n + 1) * 9)
            gate.open()
        assert exchange.body == b"".join(b"data: %d\n\n" % n for n in range(4))


class Sender:
    """An app that streams parts of one size and counts those whose `send()` has returned."""

    def __init__(self, part: int, count: int) -> None:
        self.part, self.count = part, count
        self.accepted = 0
        self.stopped_by: BaseException | None = None
        self.over = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await start(send)
            for n in range(self.count):
                await stream(send, bytes([n % 256]) * self.part)
                self.accepted += self.part
            await finish(send)
        except BaseException as error:
            self.stopped_by = error
            raise
        finally:
            self.over.set()

    @property
    def size(self) -> int:
        return self.part * self.count


@on_every_backend
@pytest.mark.parametrize("part", [BUFFER // 8, BUFFER, 3 * BUFFER], ids=["small", "full", "huge"])
def test_send_waits_while_the_buffer_is_full(backend: dict[str, Any], part: int) -> None:
    """A-OUT-2: the app is never further ahead than the buffer that waits, the one in the server's
    hands, and one part.
    """
    limit = 2 * BUFFER + part
    sender = Sender(part, 20 * limit // part)
    with bridged(with_turns(sender), backend, response_buffer=BUFFER) as bridge:
        exchange = Exchange(bridge, hold=True)
        must_happen(exchange.returned, "the iterable")
        turn_the_loop(bridge)
        assert sender.accepted - exchange.size <= limit
        for _ in range(3):
            assert exchange.take()
            turn_the_loop(bridge)
            assert sender.accepted - exchange.size <= limit
        exchange.run_on()
        assert len(exchange.body) == sender.size
        assert sender.accepted == sender.size


@on_every_backend
def test_large_stream_keeps_its_order(backend: dict[str, Any]) -> None:
    """A-OUT-2: nothing is lost, doubled or swapped at the buffer's edge."""
    parts = [bytes([n % 256]) * (n * 37 % 5000) for n in range(400)]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        for part in parts:
            await stream(send, part)
        await finish(send, b"last")

    with bridged(app, backend, response_buffer=4096) as bridge:
        exchange = serve(bridge)
        assert exchange.body == b"".join(parts) + b"last"


@pytest.mark.parametrize("last", [True, False], ids=["at once", "streamed"])
def test_a_huge_part_is_cut_as_the_server_takes_it(last: bool) -> None:
    """A-OUT-2: it takes no second time its memory."""
    body = bytes(range(256)) * 2**17

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await start(send)
        await send({"type": "http.response.body", "body": body, "more_body": not last})
        if not last:
            await finish(send)

    with bridged(app) as bridge:
        serve(bridge)  # the loop runs
        tracemalloc.start()
        try:
            response: Any = bridge(environ_for(), lambda *_: print)
            taken = 0
            for block in response:
                assert block == body[taken : taken + len(block)]
                taken += len(block)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        getattr(response, "close", bool)()
    assert taken == len(body)
    assert peak < len(body) / 4


def test_any_parts_give_their_sum() -> None:
    """A-OUT-2: for any sizes and any pauses the body is the sum of the parts."""
    plan: list[tuple[int, bool]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        for n, (size, pause) in enumerate(plan):
            await stream(send, bytes([n % 256]) * size)
            if pause:
                await anyio.lowlevel.checkpoint()
        await finish(send)

    with bridged(app, response_buffer=64) as bridge:

        @settings(max_examples=60, deadline=None)
        @given(
            st.lists(
                st.tuples(st.sampled_from([0, 1, 63, 64, 65, 500]), st.booleans()), max_size=12
            )
        )
        def check(steps: list[tuple[int, bool]]) -> None:
            plan[:] = steps
            expected = b"".join(bytes([n % 256]) * size for n, (size, _) in enumerate(steps))
            assert serve(bridge).body == expected

        check()


@on_every_backend
def test_empty_parts_are_harmless(backend: dict[str, Any]) -> None:
    """A-OUT-2: empty parts neither end the body nor fill the buffer."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        for _ in range(100):
            await stream(send, b"")
        await stream(send, b"content")
        for _ in range(100):
            await stream(send, b"")
        await finish(send)

    with bridged(app, backend, response_buffer=1024) as bridge:
        assert serve(bridge).body == b"content"


@on_every_backend
def test_concurrent_senders_wait_alike(backend: dict[str, Any]) -> None:
    """A-OUT-2: several tasks of one app may send parts at once; none is lost."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)

        async def sender(letter: bytes) -> None:
            for _ in range(20):
                await stream(send, letter * 1000)

        async with anyio.create_task_group() as tasks:
            for letter in (b"a", b"b", b"c"):
                tasks.start_soon(sender, letter)
        await finish(send)

    with bridged(app, backend, response_buffer=2048) as bridge:
        body = serve(bridge).body
        assert {letter: body.count(letter) for letter in (b"a", b"b", b"c")} == {
            b"a": 20_000,
            b"b": 20_000,
            b"c": 20_000,
        }


# A-OUT-3


@on_every_backend
def test_send_after_the_disconnect_raises_an_os_error(backend: dict[str, Any]) -> None:
    """A-OUT-3: every later `send()` of a request whose client left raises ClientDisconnected."""
    errors: list[BaseException] = []
    over = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"part")
        while (await receive())["type"] != "http.disconnect":
            pass
        for message in (PART, PART, END):
            try:
                await send(message)
            except OSError as error:
                errors.append(error)
        over.set()

    with bridged(app, backend) as bridge:
        exchange = Exchange(bridge, hold=True)
        exchange.take()
        exchange.hang_up()
        must_happen(over, "the end of the app")
        must_become(lambda: bridge.stats().disconnected == 1, "the count of the disconnect")
        assert bridge.stats().completed == 0
    assert [type(error) for error in errors] == [ClientDisconnected] * 3
    assert exchange.error is None


@on_every_backend
def test_send_waiting_for_room_is_woken_by_the_disconnect(backend: dict[str, Any]) -> None:
    """A-OUT-3: a `send()` that waits in a full buffer raises when the client leaves."""
    sender = Sender(BUFFER, 50)
    with bridged(with_turns(sender), backend, response_buffer=BUFFER) as bridge:
        exchange = Exchange(bridge, hold=True)
        exchange.take()
        turn_the_loop(bridge)
        assert not sender.over.is_set()
        exchange.hang_up()
        must_happen(sender.over, "the end of the app")
    assert isinstance(sender.stopped_by, ClientDisconnected)
    assert isinstance(sender.stopped_by, OSError)


@on_every_backend
def test_client_disconnected_out_of_the_app_is_no_error(
    backend: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A-OUT-3: an app that lets the disconnect pass has done nothing wrong; it is not logged as a
    failure.
    """
    sender = Sender(100, 10_000)
    with (
        caplog.at_level(logging.WARNING),
        bridged(sender, backend, response_buffer=BUFFER) as bridge,
    ):
        exchange = Exchange(bridge, hold=True)
        exchange.take()
        exchange.hang_up()
        must_happen(sender.over, "the end of the app")
        must_become(lambda: bridge.stats().disconnected == 1, "the count of the disconnect")
        assert bridge.stats().failed == 0
    assert exchange.error is None
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == []


class MarkedError(Exception):
    """An exception of the app."""


class FrameworksDisconnectError(Exception):
    """As Starlette's ClientDisconnect and others of its kind."""


async def raise_in_finally(step: Any) -> None:
    try:
        await step()
    finally:
        raise MarkedError("in the cleanup")


async def raise_in_except(step: Any) -> None:
    try:
        await step()
    except BaseException:
        raise MarkedError("in the handling")  # noqa: B904


async def raise_from_another_function(step: Any) -> None:
    try:
        await step()
    except BaseException:
        try:
            raise KeyError("row")
        except KeyError as error:
            raise MarkedError("in the cleanup") from error


async def raise_while_a_translation_is_handled(step: Any) -> None:
    try:
        await translate_by_name(step)
    finally:
        raise MarkedError("in the cleanup")


async def raise_beside_it(step: Any) -> None:
    try:
        await step()
    except BaseException as gone:
        raise BaseExceptionGroup("both", [gone, MarkedError("beside")]) from None


async def translate_explicitly(step: Any) -> None:
    try:
        await step()
    except BaseException as gone:
        raise MarkedError("the stream has ended") from gone


async def translate_twice(step: Any) -> None:
    try:
        await translate_explicitly(step)
    except MarkedError as ended:
        raise MarkedError("the response has ended") from ended


async def translate_by_name(step: Any) -> None:
    try:
        await step()
    except BaseException:
        raise FrameworksDisconnectError  # noqa: B904


async def gather(step: Any) -> None:
    try:
        await step()
    except BaseException as gone:
        raise BaseExceptionGroup("all", [gone, BaseExceptionGroup("one", [gone])]) from None


async def go_in_a_circle(step: Any) -> None:
    error = MarkedError("its own cause")
    group = BaseExceptionGroup("a circle", [error])
    error.__cause__ = group
    try:
        await step()
    finally:
        raise group


BUGS = [
    raise_in_finally,
    raise_in_except,
    raise_from_another_function,
    raise_while_a_translation_is_handled,
    raise_beside_it,
    go_in_a_circle,
]
TRANSLATIONS = [translate_explicitly, translate_twice, translate_by_name, gather]


@on_every_backend
@pytest.mark.parametrize("where", ["in send()", "in silence"])
@pytest.mark.parametrize("way", [*BUGS, *TRANSLATIONS], ids=lambda way: way.__name__)
def test_only_a_bug_after_the_disconnect_is_logged(
    backend: dict[str, Any], caplog: pytest.LogCaptureFixture, way: Any, where: str
) -> None:
    """A-OUT-3: a framework translates what `send()` raises, or its own cancellation, and that is no
    news; a bug in the cleanup is, though Python links it to what was being handled.
    """
    silent = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"part")

        async def step() -> None:
            if where == "in silence":
                silent.set()
                await anyio.sleep_forever()
            while True:
                await stream(send, b"x" * BUFFER)

        await way(step)

    if where == "in silence" and backend.get("backend") == "trio" and way in TRANSLATIONS:
        pytest.skip("trio itself takes it ill when its cancellation is not passed on")
    with (
        caplog.at_level(logging.WARNING),
        bridged(app, backend, response_buffer=BUFFER) as bridge,
    ):
        exchange = Exchange(bridge, hold=True)
        exchange.take()
        if where == "in silence":
            must_happen(silent, "the app's silence")
        exchange.hang_up()
        must_become(lambda: bridge.stats().in_flight == 0, "the end of the exchange")
    ours = [record for record in caplog.records if record.name == "wsgi_asgi_bridge"]
    if way in BUGS:
        (record,) = ours
        assert record.levelno == logging.ERROR
        assert record.getMessage() == "the app raised after its client had left"
        assert record.exc_info is not None
    else:
        assert ours == []


# A-OUT-4


class MarkedBaseError(BaseException):
    """An exception of the app that no `except Exception` sees."""


def raising(error: BaseException | None, before: list[Message]) -> Any:
    async def app_that_ends(scope: Any, receive: Any, send: Any) -> None:
        for message in before:
            await send(message)
        if len(before) > 1:
            await anyio.lowlevel.checkpoint()
        if error is not None:
            raise error

    return app_that_ends


HEADERS_NOT_SENT = {"nothing sent": [], "start sent": [START]}
HEADERS_SENT = {"part sent": [START, PART]}
EARLY_ENDS = {**HEADERS_NOT_SENT, **HEADERS_SENT}
WRAPPED = [SystemExit(3), KeyboardInterrupt("in app"), GeneratorExit("in app")]


def gave_up_before_headers(exchange: Exchange) -> bool:
    """Whether the server can still answer 500: no chunk has come to it."""
    return not any(exchange.chunks)


@on_every_backend
@pytest.mark.parametrize("before", EARLY_ENDS.values(), ids=EARLY_ENDS)
def test_exception_of_the_app_reaches_the_server(backend: dict[str, Any], before: Any) -> None:
    """A-OUT-4: the very exception, with the app in its traceback; the next request is answered."""
    error = MarkedError("on purpose")
    with bridged(with_turns(raising(error, before)), backend) as bridge:
        exchange = serve(bridge)
        assert exchange.raised() is error
        assert not exchange.complete
        assert gave_up_before_headers(exchange) is (before not in HEADERS_SENT.values())
        frames = traceback.extract_tb(error.__traceback__)
        assert "app_that_ends" in [frame.name for frame in frames]
        turn_the_loop(bridge, 1)
        must_become(lambda: bridge.stats().failed == 1, "the count of the failure")


@on_every_backend
def test_exception_before_the_start_comes_out_of_the_call(backend: dict[str, Any]) -> None:
    """A-OUT-4: then a server and every WSGI middleware can still answer 500 by themselves."""
    error = MarkedError("on purpose")
    with bridged(raising(error, []), backend) as bridge:
        exchange = serve(bridge)
        assert exchange.raised() is error
        assert exchange.error_phase == "call"
        assert exchange.starts == []


@on_every_backend
def test_exception_after_a_part_comes_out_of_the_iteration(backend: dict[str, Any]) -> None:
    """A-OUT-4: after the headers the server must break the connection; what was sent before
    arrives.
    """
    error = MarkedError("on purpose")
    with bridged(raising(error, [START, PART]), backend) as bridge:
        exchange = serve(bridge)
        assert exchange.raised() is error
        assert exchange.error_phase == "iterate"
        assert b"".join(exchange.chunks) == b"part"


@on_every_backend
@pytest.mark.parametrize("before", EARLY_ENDS.values(), ids=EARLY_ENDS)
def test_return_without_finishing_is_an_error(backend: dict[str, Any], before: Any) -> None:
    """A-OUT-4: an app that returns early must not leave a body that looks whole."""
    with bridged(with_turns(raising(None, before)), backend) as bridge:
        exchange = serve(bridge)
        assert isinstance(exchange.raised(), AppError)
        assert not exchange.complete
        assert gave_up_before_headers(exchange) is (before not in HEADERS_SENT.values())
        turn_the_loop(bridge, 1)


@on_every_backend
@pytest.mark.parametrize("before", EARLY_ENDS.values(), ids=EARLY_ENDS)
@pytest.mark.parametrize("error", WRAPPED, ids=lambda e: type(e).__name__)
def test_exits_are_wrapped(backend: dict[str, Any], error: BaseException, before: Any) -> None:
    """A-OUT-4: an exit in one request must not end the server's worker, so the server gets an
    AppError.
    """
    error = type(error)(*error.args)
    with bridged(with_turns(raising(error, before)), backend) as bridge:
        exchange = serve(bridge)
        raised = exchange.raised()
        assert isinstance(raised, AppError)
        assert raised.__cause__ is error
        assert gave_up_before_headers(exchange) is (before not in HEADERS_SENT.values())
        turn_the_loop(bridge)


@on_every_backend
@pytest.mark.parametrize("before", EARLY_ENDS.values(), ids=EARLY_ENDS)
def test_base_exceptions_reach_the_server_somehow(backend: dict[str, Any], before: Any) -> None:
    """A-OUT-4: whatever the class, the calling thread is told, and the loop goes on."""
    error = MarkedBaseError("on purpose")
    with bridged(with_turns(raising(error, before)), backend) as bridge:
        raised = serve(bridge).raised()
        assert raised is error or raised.__cause__ is error
        turn_the_loop(bridge)


@on_every_backend
@pytest.mark.parametrize("before", EARLY_ENDS.values(), ids=EARLY_ENDS)
def test_exception_groups_stay_as_they_are(backend: dict[str, Any], before: Any) -> None:
    """A-OUT-4: a task group's error is the app's own and is not taken apart."""
    inner = MarkedError("in a task")
    seen: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in before:
            await send(message)

        async def fail() -> None:
            raise inner

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(fail)
        except BaseException as group:
            seen.append(group)
            raise

    with bridged(app, backend) as bridge:
        assert serve(bridge).raised() is seen[0]
    assert isinstance(seen[0], ExceptionGroup)


@pytest.mark.parametrize("before", EARLY_ENDS.values(), ids=EARLY_ENDS)
@pytest.mark.parametrize("how", ["raised", "by itself"])
def test_cancelled_app_ends_the_call(before: Any, how: str) -> None:
    """A-OUT-4: an app that is cancelled, or says so, leaves the caller with an error and not
    waiting.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in before:
            await send(message)
        if how == "raised":
            raise asyncio.CancelledError
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    with bridged(with_turns(app)) as bridge:
        exchange = serve(bridge)
        assert isinstance(exchange.raised(), AppError)
        assert not exchange.complete
        turn_the_loop(bridge, 1)


def test_app_that_is_no_coroutine_function() -> None:
    """A-OUT-4: a callable that gives nothing to await is the app's mistake, told to the server."""

    def app(scope: Any, receive: Any, send: Any) -> None: ...

    with bridged(app) as bridge:
        assert isinstance(serve(bridge).raised(), (TypeError, AppError))


@on_every_backend
def test_error_after_the_end_does_not_touch_the_response(
    backend: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A-OUT-4, A-OUT-5: a whole response stays whole; the error is logged with its traceback."""
    with (
        caplog.at_level(logging.ERROR),
        bridged(raising(MarkedError("too late"), [START, END]), backend) as bridge,
    ):
        exchange = serve(bridge)
        assert exchange.body == b"end"
        must_become(lambda: bool(logged(caplog, MarkedError)), "the log of the error")
    assert len(logged(caplog, MarkedError)) == 1


def logged(caplog: pytest.LogCaptureFixture, kind: type[BaseException]) -> list[logging.LogRecord]:
    """The records of the bridge that carry an exception of this class."""
    return [
        record
        for record in caplog.records
        if record.name.startswith("wsgi_asgi_bridge")
        and record.levelno >= logging.ERROR
        and record.exc_info
        and isinstance(record.exc_info[1], kind)
    ]


# A-OUT-5


@on_every_backend
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_response_ends_at_its_last_message(backend: dict[str, Any], streamed: bool) -> None:
    """A-OUT-5: background work holds neither the caller nor the client."""
    gate = Gate()
    over = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        if streamed:
            await stream(send, b"streamed ")
            await anyio.lowlevel.checkpoint()
        await finish(send, b"answer")
        await gate.wait()
        over.set()

    with bridged(app, backend) as bridge:
        exchange = serve(bridge)
        assert exchange.body.endswith(b"answer")
        assert not over.is_set()
        must_become(lambda: bridge.stats().background == 1, "the count of background work")
        assert bridge.stats().in_flight == 0
        gate.open()
        must_happen(over, "the end of the background work")
        must_become(lambda: bridge.stats().background == 0, "the end of background work")
        assert bridge.stats().completed == 1
        assert bridge.stats().failed == 0


@on_every_backend
def test_close_waits_for_background_work(backend: dict[str, Any]) -> None:
    """A-OUT-5: what ends within `shutdown_timeout` is let end."""
    gate = Gate()
    over = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"answer")
        await gate.wait()
        await anyio.lowlevel.checkpoint()
        over.set()

    with bridged(app, backend, shutdown_timeout=30.0) as bridge:
        assert serve(bridge).body == b"answer"
        closing = InThread(bridge.close, "bridge.close()")
        assert not closing.done.wait(0.05)
        gate.open()
        closing.result()
        assert over.is_set()


@on_every_backend
def test_background_work_past_the_time_out_is_cancelled(
    backend: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A-OUT-5: `close()` returns after `shutdown_timeout`, the work is cancelled and its cleaning
    up runs.
    """
    cleaned_up = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"answer")
        try:
            await anyio.sleep_forever()
        finally:
            cleaned_up.set()

    with caplog.at_level(logging.WARNING), bridged(app, backend, shutdown_timeout=0.1) as bridge:
        assert serve(bridge).body == b"answer"
    assert cleaned_up.is_set()
    assert [r for r in caplog.records if r.name.startswith("wsgi_asgi_bridge")]


@on_every_backend
@pytest.mark.parametrize(
    "error", [MarkedError("in background"), SystemExit(1)], ids=["MarkedError", "SystemExit"]
)
def test_errors_of_background_work_are_logged(
    backend: dict[str, Any], caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """A-OUT-5: nobody waits for the result any more, so the log is where it goes."""
    gate = Gate()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"answer")
        await gate.wait()
        raise type(error)(*error.args)

    with caplog.at_level(logging.ERROR), bridged(with_turns(app), backend) as bridge:
        assert serve(bridge).body == b"answer"
        gate.open()
        must_become(lambda: bridge.stats().background == 0, "the end of background work")
        turn_the_loop(bridge)
    assert len(logged(caplog, type(error))) == 1


@on_every_backend
def test_many_background_works_are_counted(backend: dict[str, Any]) -> None:
    """A-OUT-5: they go on side by side in the one loop."""
    gate = Gate()
    numbers = itertools.count()
    ended: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        number = next(numbers)
        await respond(send, b"answer")
        await gate.wait()
        ended.append(number)

    with bridged(app, backend) as bridge:
        for _ in range(10):
            assert serve(bridge, environ_for()).body == b"answer"
        must_become(lambda: bridge.stats().background == 10, "ten background works")
        gate.open()
        must_become(lambda: bridge.stats().background == 0, "the end of background work")
    assert sorted(ended) == list(range(10))

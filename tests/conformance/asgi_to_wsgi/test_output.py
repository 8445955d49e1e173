"""A-OUT-1: which messages the app may send, and what the server gets of them."""

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests.support.fake_wsgi_server import (
    Exchange,
    Message,
    bridged,
    finish,
    must_become,
    on_every_backend,
    respond,
    serve,
    start,
    stream,
)
from wsgi_asgi_bridge import AppError

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

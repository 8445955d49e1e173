"""W-OUT: start_response, write, the iteration of the body, and what of it goes out."""

import gc
import io
import logging
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.fake_asgi_server import (
    Client,
    Gate,
    TrackedBody,
    answered,
    app_returning,
    calling,
    fetched,
    http_scope,
    post_scope,
    serving,
    settle,
)
from wsgi_asgi_bridge import AppError

Environ = dict[str, Any]
LOGGER = "wsgi_asgi_bridge"


class AppsOwnError(Exception):
    """What an app raises on its own account."""


async def failure_of(app: Any, client: Client | None = None) -> tuple[BaseException, Client]:
    """The exception that the server got, and what the client saw before it."""
    client = Client() if client is None else client
    async with serving(app) as bridge:
        await client.run(bridge)
    assert client.error is not None, f"nothing was raised; the client saw {client.messages}"
    return client.error, client


# --- W-OUT-1


async def start_response_error(*arguments: Any) -> BaseException:
    """What start_response raised at the call."""
    errors: list[BaseException] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        try:
            start_response(*arguments)
        except Exception as error:
            errors.append(error)
        start_response("200 OK", [])
        return [b"after the refusal"]

    client = await fetched(app)
    assert client.body == b"after the refusal"
    assert len(errors) == 1, f"{arguments!r} was accepted"
    return errors[0]


@pytest.mark.parametrize(
    "status",
    [
        200,
        None,
        b"200 OK",
        "",
        "OK",
        "20 OK",
        "2000 OK",
        "200OK",
        "2 00",
        " 200 OK",
        "-20 OK",
        "+20 OK",
        "2_0 OK",
        "\xb2\xb2\xb2 superscript",
        "\uff12\uff10\uff10 full width",
        "200 snowman \u2603",
        "100 Continue",
        "101 Switching Protocols",
        "103 Early Hints",
        "199",
        "200 OK\r\nSet-Cookie: a=b",
        "200 OK\n",
        "200 \x00",
        "200 \x7f",
    ],
)
async def test_bad_status_is_refused_at_the_call(status: Any) -> None:
    """W-OUT-1: `ddd` or `ddd reason`, latin-1, no control characters, of a final response; the
    error names the value.
    """
    error = await start_response_error(status, [])
    assert isinstance(error, AppError)
    assert repr(status) in str(error)


@pytest.mark.parametrize(
    ("status", "code"),
    [("200", 200), ("299 ", 299), ("404 Not Found", 404), ("200 Tr\xe8s bien", 200)],
)
async def test_good_status(status: str, code: int) -> None:
    """W-OUT-1: a bare code and a latin-1 reason are legal."""
    assert (await fetched(app_returning([b"x"], status))).status == code


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        pytest.param(None, "None", id="None"),
        pytest.param((("A", "b"),), "(('A', 'b'),)", id="tuple"),
        pytest.param({"A": "b"}, "{'A': 'b'}", id="dict"),
        pytest.param(["Ab"], "'Ab'", id="pair is a str"),
        pytest.param([("A",)], "('A',)", id="1-tuple"),
        pytest.param([("A", "b", "c")], "('A', 'b', 'c')", id="3-tuple"),
        pytest.param([(b"A", "b")], "b'A'", id="name is bytes"),
        pytest.param([("A", b"b")], "b'b'", id="value is bytes"),
        pytest.param([("Age", 1)], "1", id="value is an int"),
        pytest.param([("Age", None)], "None", id="value is None"),
        pytest.param([("", "b")], "''", id="empty name"),
        pytest.param([("A\r\nB", "c")], repr("A\r\nB"), id="CRLF in the name"),
        pytest.param([("A B", "c")], "'A B'", id="space in the name"),
        pytest.param([("A:", "c")], "'A:'", id="colon in the name"),
        pytest.param([("\u2603", "c")], repr("\u2603"), id="snowman in the name"),
        pytest.param([("A", "b\r\nSet-Cookie: c")], repr("b\r\nSet-Cookie: c"), id="CRLF"),
        pytest.param([("A", "b\n")], repr("b\n"), id="LF at the end"),
        pytest.param([("A", "\rb")], repr("\rb"), id="CR at the start"),
        pytest.param([("A", "b\x00")], repr("b\x00"), id="NUL"),
        pytest.param([("A", "b\tc")], repr("b\tc"), id="TAB"),
        pytest.param([("A", "b\x1bc")], repr("b\x1bc"), id="ESC"),
        pytest.param([("A", "b\x7f")], repr("b\x7f"), id="DEL"),
        pytest.param([("A", "\u2603")], repr("\u2603"), id="snowman"),
        pytest.param([("Fine", "yes"), ("A", "b\n")], repr("b\n"), id="the second of two"),
        pytest.param([("A", "fine"), ("A", "b\n")], repr("b\n"), id="the second of one name"),
    ],
)
async def test_bad_headers_are_refused_at_the_call(headers: Any, named: str) -> None:
    """W-OUT-1: a list of pairs of latin-1 str without control characters; the error names the
    value.
    """
    error = await start_response_error("200 OK", headers)
    assert isinstance(error, AppError)
    assert named in str(error)


@pytest.mark.parametrize("after", ["a refused one", "a good one"])
async def test_bad_headers_are_refused_every_time(after: str) -> None:
    """W-OUT-1: what was validated before says nothing about the next call (nor does a cache)."""
    bad = [("X-Same", "b\r\nc")]

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("X-Same", "b")] if environ["PATH_INFO"] == "/good" else bad)
        return [b"x"]

    async with serving(app) as bridge:
        first = Client(http_scope(path="/good" if after == "a good one" else "/bad"))
        await first.run(bridge)
        second = Client(http_scope(path="/bad"))
        await second.run(bridge)
    assert isinstance(second.error, AppError)


async def test_good_headers_pass_byte_for_byte() -> None:
    """W-OUT-1: latin-1 values, empty values and odd token names are legal."""
    given = [("X-Latin", "\xe9\xff"), ("X-Empty", ""), ("x!#$%&'*+-.^_`|~9", " inner  spaces ok")]
    client = await fetched(app_returning([b"x"], headers=given))
    for name, value in given:
        assert (client.header(name.lower()) or "").strip() == value.strip()


# --- W-OUT-2


@pytest.mark.parametrize("first", [[], [b""], [b"", b"", b""]])
async def test_headers_wait_for_the_first_bytes(first: list[bytes]) -> None:
    """W-OUT-2: neither start_response nor an empty chunk sends the headers; the first bytes do."""
    held, gate = Gate(), Gate()

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield from first
        held.open()
        gate.wait_in_thread()
        yield b"x"

    client = Client()
    async with serving(app) as bridge, calling(bridge, client):
        await held.wait()
        await settle()
        assert client.messages == []
        assert client.send_calls == 0
        gate.open()
    assert (client.status, client.body) == (200, b"x")


async def test_write_sends_the_headers() -> None:
    """W-OUT-2: so does the first write(), before the app returns."""
    gate = Gate()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        write = start_response("201 Created", [])
        write(b"written")
        gate.wait_in_thread()
        return []

    client = Client()
    async with serving(app) as bridge, calling(bridge, client):
        await client.until(lambda c: c.body == b"written")
        assert client.status == 201
        gate.open()
    assert client.complete


@pytest.mark.parametrize("body", [list, tuple, lambda: iter(()), lambda: iter([b""])])
async def test_end_of_the_iterable_sends_the_headers(body: Callable[[], Any]) -> None:
    """W-OUT-2: a response without a byte has its headers all the same."""
    client = await fetched(app_returning(lambda environ: body(), "404 Not Found", [("X-A", "b")]))
    assert (client.status, client.header("x-a"), client.body) == (404, "b", b"")
    assert client.complete


def _exc_info() -> Any:
    try:
        raise AppsOwnError("caught by the app")
    except AppsOwnError:
        return sys.exc_info()


@pytest.mark.parametrize("empty_chunk_first", [False, True])
async def test_exc_info_replaces_unsent_headers(empty_chunk_first: bool) -> None:
    """W-OUT-2: status and headers are replaced whole, also the Content-Length that was never
    sent.
    """

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "3"), ("X-Old", "1")])
        if empty_chunk_first:
            yield b""
        start_response("500 Sorry", [("X-New", "2")], _exc_info())
        yield b"longer than three"

    client = await fetched(app)
    assert (client.status, client.body) == (500, b"longer than three")
    assert client.header("x-new") == "2"
    assert client.header("x-old") is client.header("content-length") is None


@pytest.mark.parametrize("how", ["yield", "write"])
async def test_exc_info_after_the_headers_is_raised(how: str) -> None:
    """W-OUT-2: once headers are sent start_response raises the very exception of exc_info."""
    raised: list[BaseException] = []
    info = _exc_info()

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        write = start_response("200 OK", [])
        if how == "write":
            write(b"x")
        else:
            yield b"x"
        try:
            start_response("500 Sorry", [], info)
        except AppsOwnError as error:
            raised.append(error)
            raise

    error, client = await failure_of(app)
    assert raised == [info[1]]
    assert error is info[1]
    assert (client.started, client.complete) in ((True, False), (False, False))


async def test_second_start_response_without_exc_info_raises() -> None:
    """W-OUT-2: the error says what was called twice."""
    app_errors: list[BaseException] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("X-First", "1")])
        with pytest.raises(AppError) as caught:
            start_response("404 Not Found", [])
        app_errors.append(caught.value)
        return [b"x"]

    client = await fetched(app)
    assert "start_response" in str(app_errors[0])
    assert (client.status, client.header("x-first")) == (200, "1")


async def test_first_call_may_carry_exc_info() -> None:
    """W-OUT-2: an error handler that is first to call start_response."""

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        start_response("500 Sorry", [], _exc_info())
        return [b"sorry"]

    client = await fetched(app)
    assert (client.status, client.body) == (500, b"sorry")


async def test_exc_info_is_not_kept() -> None:
    """W-OUT-2: once start_response returned, nobody but the app holds the exception or its
    frames.
    """

    class Witness:
        """Dies with the frame that holds it."""

    references: list[weakref.ref[Any]] = []
    alive: list[bool] = []

    def fail() -> None:
        witness = Witness()
        references.append(weakref.ref(witness))
        raise AppsOwnError

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        try:
            fail()
        except AppsOwnError:
            start_response("500 Sorry", [], sys.exc_info())
        alive.append(references[0]() is not None)
        return [b"sorry"]

    gc.disable()
    try:
        await fetched(app)
    finally:
        gc.enable()
    assert alive == [False]


# --- W-OUT-3


@pytest.mark.parametrize("kind", ["list", "tuple", "generator", "tracked"])
async def test_written_precedes_yielded(kind: str) -> None:
    """W-OUT-3: write() returns None, works for any body, and what it wrote comes first."""
    makers: dict[str, Callable[[list[bytes]], Any]] = {
        "list": list,
        "tuple": tuple,
        "generator": iter,
        "tracked": TrackedBody,
    }
    results: list[object] = []

    def app(environ: Environ, start_response: Any) -> Any:
        write = start_response("200 OK", [])
        results.extend(write(chunk) for chunk in (b"a", b"", b"b"))
        return makers[kind]([b"c", b"d"])

    client = await fetched(app)
    assert client.body == b"abcd"
    assert client.header("content-length") in (None, "4")
    assert results == [None] * 3


async def test_write_refuses_what_is_no_bytes() -> None:
    """W-OUT-3: write() of a str raises at the call and names it."""
    errors: list[BaseException] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        with pytest.raises(AppError) as caught:
            write("text")
        errors.append(caught.value)
        return [b"x"]

    assert (await fetched(app)).body == b"x"
    assert "'text'" in str(errors[0]) or "str" in str(errors[0])


# --- W-OUT-4


@pytest.mark.parametrize("how", ["yield", "write"])
async def test_no_block_is_delayed(how: str) -> None:
    """W-OUT-4: each block reaches the client while the app waits to make the next."""
    gates = [Gate() for _ in range(3)]

    def yielding(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        for gate in gates:
            yield b"x"
            gate.wait_in_thread()

    def writing(environ: Environ, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        for gate in gates:
            write(b"x")
            gate.wait_in_thread()
        return []

    client = Client()
    app = {"yield": yielding, "write": writing}[how]
    async with serving(app) as bridge, calling(bridge, client):
        for count, gate in enumerate(gates, 1):
            await client.until(lambda c, count=count: c.body == b"x" * count)  # type: ignore[misc]
            gate.open()
    assert client.body == b"xxx"


async def test_blocks_keep_their_order_and_bytes() -> None:
    """W-OUT-4: joined or not, every byte arrives once and in order; large blocks among small
    ones.
    """
    blocks = [bytes([i % 256]) * (200_000 if i % 50 == 0 else i) for i in range(500)]
    client = await fetched(app_returning(lambda environ: iter(blocks)))
    assert client.body == b"".join(blocks)


# --- W-OUT-5 (every ending has its row in test_endings.py)


class ListWithClose(list[bytes]):
    """A list that wants to be closed, as some frameworks return."""

    closes = 0

    def close(self) -> None:
        self.closes += 1


@pytest.mark.parametrize(
    ("method", "status", "headers"),
    [
        ("GET", "200 OK", []),
        ("HEAD", "200 OK", []),
        ("GET", "204 No Content", []),
        ("GET", "304 Not Modified", []),
        ("GET", "200 OK", [("Content-Length", "3")]),
        ("GET", "200 OK", [("Content-Length", "999")]),
    ],
)
@pytest.mark.parametrize("kind", [TrackedBody, ListWithClose])
async def test_close_runs_once(
    method: str, status: str, headers: list[tuple[str, str]], kind: Any
) -> None:
    """W-OUT-5: whatever is done with the body."""
    body = kind([b"abc", b"def"])
    async with serving(app_returning(body, status, headers)) as bridge:
        await Client(http_scope(method)).run(bridge)
    assert body.closes == 1


class CountingIsCode(ListWithClose):
    """A list whose length is the app's own code."""

    environ: Environ

    def __len__(self) -> int:
        self.environ["wsgi_asgi_bridge.client_disconnected"]()
        raise LookupError("this list is not to be counted")


async def test_a_list_of_the_apps_own_making_is_only_iterated() -> None:
    """W-OUT-5, W-FLOW-7: no code of the app runs where it could keep the loop waiting."""
    body = CountingIsCode([b"abc", b"def"])

    def app(environ: Environ, start_response: Any) -> Any:
        body.environ = environ
        start_response("200 OK", [])
        return body

    client = await fetched(app)
    assert client.body == b"abcdef"
    assert body.closes == 1


async def test_close_of_a_generator_runs_its_finally() -> None:
    """W-OUT-5: a generator cut by Content-Length is closed, in its own thread."""
    events: list[str] = []

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "2")])
        try:
            while True:
                yield b"xx"
        finally:
            events.append("closed")

    assert (await fetched(app)).body == b"xx"
    assert events == ["closed"]


async def test_iterator_is_not_the_iterable() -> None:
    """W-OUT-5: close() is the iterable's, not that of what iter() makes of it."""
    calls: list[str] = []

    class Iterable:
        def __iter__(self) -> Iterator[bytes]:
            calls.append("iter")
            return iter([b"x"])

        def close(self) -> None:
            calls.append("close")

    assert (await fetched(app_returning(Iterable()))).body == b"x"
    assert calls == ["iter", "close"]


async def test_iterable_by_index() -> None:
    """W-OUT-5: whatever iter() takes is an iterable, also a class that has `__getitem__` alone."""

    class Indexed:
        closes = 0

        def __getitem__(self, index: int) -> bytes:
            return [b"a", b"b"][index]

        def close(self) -> None:
            self.closes += 1

    body = Indexed()
    assert (await fetched(app_returning(body))).body == b"ab"
    assert body.closes == 1


# --- W-OUT-6


@pytest.mark.parametrize("kind", ["generator", "list", "write then list"])
async def test_excess_is_cut_and_warned_about(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """W-OUT-6: Content-Length is never exceeded; the response is whole, a warning is logged."""

    def app(environ: Environ, start_response: Any) -> Any:
        write = start_response("200 OK", [("Content-Length", "3")])
        if kind == "write then list":
            write(b"a")
            return [b"bcdef"]
        return iter([b"ab", b"cd", b"ef"]) if kind == "generator" else [b"ab", b"cd", b"ef"]

    with caplog.at_level(logging.WARNING, LOGGER):
        client = await fetched(app)
    assert (client.body, client.complete) == (b"abc", True)
    assert client.header("content-length") == "3"
    warnings = [r for r in caplog.records if r.name.startswith(LOGGER)]
    assert [r.levelno for r in warnings] == [logging.WARNING]
    assert "Content-Length" in warnings[0].getMessage()


async def test_iteration_stops_where_the_length_is_passed() -> None:
    """W-OUT-6: nothing more is asked of the app than shows that it gives too much."""
    body = TrackedBody(b"ab" for _ in range(1000))
    client = await fetched(app_returning(body, headers=[("Content-Length", "3")]))
    assert client.body == b"aba"
    assert body.steps == 2
    assert body.closes == 1


async def test_write_past_the_length_raises(caplog: pytest.LogCaptureFixture) -> None:
    """W-OUT-6: the app learns it at the write() that goes past Content-Length."""
    errors: list[BaseException] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [("Content-Length", "3")])
        write(b"abc")
        with pytest.raises(AppError) as caught:
            write(b"d")
        errors.append(caught.value)
        return []

    client = await fetched(app)
    assert (client.body, client.complete) == (b"abc", True)
    assert "Content-Length" in str(errors[0])


@pytest.mark.parametrize("kind", ["generator", "list", "empty list", "write"])
async def test_short_body_breaks_the_connection(kind: str) -> None:
    """W-OUT-6: a body short of its Content-Length never looks complete, and the server is told
    why.
    """

    def app(environ: Environ, start_response: Any) -> Any:
        write = start_response("200 OK", [("Content-Length", "10")])
        if kind == "write":
            write(b"abc")
            return []
        return {"generator": iter([b"abc"]), "list": [b"abc"], "empty list": []}[kind]

    error, client = await failure_of(app)
    assert isinstance(error, AppError)
    assert "10" in str(error)
    assert "Content-Length" in str(error)
    assert not client.complete


@pytest.mark.parametrize(
    ("body", "length"),
    [
        ([b"hello"], "5"),
        ((b"hello",), "5"),
        ([b"hel", b"", b"lo"], "5"),
        ([], "0"),
        ([b""], "0"),
    ],
)
async def test_body_given_whole_gets_its_length(body: Any, length: str) -> None:
    """W-OUT-6: a list or a tuple without Content-Length gets one."""
    client = await fetched(app_returning(body))
    assert client.header("content-length") == length
    assert client.body == b"".join(body)


async def test_given_length_is_not_doubled() -> None:
    """W-OUT-6: the app's own Content-Length, in any case, stays the only one."""
    client = await fetched(app_returning([b"hello"], headers=[("CONTENT-length", "5")]))
    assert client.header("content-length") == "5"


@pytest.mark.parametrize("kind", ["generator", "iterator"])
async def test_unknown_length_is_not_invented(kind: str) -> None:
    """W-OUT-6: a stream has no Content-Length."""
    chunks = [b"hel", b"lo"]
    body = TrackedBody(chunks) if kind == "iterator" else (c for c in chunks)
    client = await fetched(app_returning(body))
    assert client.header("content-length") is None
    assert client.body == b"hello"


@pytest.mark.parametrize(
    ("method", "status"),
    [
        ("HEAD", "200 OK"),
        ("GET", "204 No Content"),
        ("GET", "304 Not Modified"),
    ],
)
@pytest.mark.parametrize("kind", ["list", "generator", "write", "empty"])
async def test_no_body_where_none_is_allowed(method: str, status: str, kind: str) -> None:
    """W-OUT-6: HEAD, 204 and 304 carry no byte, whatever the app gives."""

    def app(environ: Environ, start_response: Any) -> Any:
        write = start_response(status, [("X-Kept", "yes")])
        if kind == "write":
            write(b"body")
        return iter([b"bo", b"dy"]) if kind == "generator" else [b"body"] if kind == "list" else []

    client = await fetched(app, Client(http_scope(method)))
    assert (client.body, client.complete) == (b"", True)
    assert client.header("x-kept") == "yes"
    assert client.status == int(status[:3])


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("headers", [[], [("Content-Length", "5")]], ids=["none", "the app's"])
async def test_no_length_where_there_is_no_body(
    status: str, headers: list[tuple[str, str]]
) -> None:
    """W-OUT-6: RFC 9110 8.6 forbids it with 204, and 15.4.5 advises against it with 304."""
    client = await fetched(app_returning([], status, headers))
    assert (client.header("content-length"), client.complete) == (None, True)


@pytest.mark.parametrize(("body", "lengths"), [([b"hello"], (None, "5")), ([], (None,))])
async def test_head_claims_no_false_length(body: list[bytes], lengths: tuple[Any, ...]) -> None:
    """W-OUT-6: HEAD says what GET would or nothing: an app that left the body out did not say
    `0`.
    """
    client = await fetched(app_returning(body), Client(http_scope("HEAD")))
    assert client.header("content-length") in lengths


@pytest.mark.parametrize("body", [[], [b""], [b"hello"]], ids=["none", "empty", "whole"])
async def test_declared_length_without_a_body_is_no_error(body: list[bytes]) -> None:
    """W-OUT-6: frameworks answer HEAD with a Content-Length and no byte."""
    app = app_returning(body, headers=[("Content-Length", "5")])
    client = await fetched(app, Client(http_scope("HEAD")))
    assert (client.header("content-length"), client.body, client.complete) == ("5", b"", True)


@pytest.mark.parametrize("length", ["abc", "-1", "1, 2", "+1", ""])
async def test_malformed_length_of_the_app_is_an_error(length: str) -> None:
    """W-OUT-6: a Content-Length that is no number is the app's error, not the client's puzzle."""
    error, client = await failure_of(app_returning([b"x"], headers=[("Content-Length", length)]))
    assert isinstance(error, AppError)
    assert client.messages == []


# --- W-OUT-7


@pytest.mark.parametrize(
    "name", ["Connection", "Keep-Alive", "Transfer-Encoding", "TE", "Trailer", "Upgrade", "upgrade"]
)
async def test_hop_by_hop_headers_are_dropped(name: str) -> None:
    """W-OUT-7: the connection is the server's business."""
    client = await fetched(app_returning([b"x"], headers=[(name, "chunked"), ("X-Kept", "yes")]))
    assert client.header(name.lower()) is None
    assert client.header("x-kept") == "yes"
    assert client.body == b"x"


async def test_names_go_out_lower_case_and_cookies_apart() -> None:
    """W-OUT-7: in the app's order, Set-Cookie and other repeats never joined."""
    given = [("Set-Cookie", "a=1"), ("X-MiXed", "1"), ("SET-COOKIE", "b=2"), ("x-mixed", "2")]
    client = await fetched(app_returning([b"x"], headers=given))
    assert [h for h in client.headers if h[0] in ("set-cookie", "x-mixed")] == [
        ("set-cookie", "a=1"),
        ("x-mixed", "1"),
        ("set-cookie", "b=2"),
        ("x-mixed", "2"),
    ]


# --- W-OUT-8


@pytest.mark.parametrize("body", [[], [b"x"], "generator", "empty generator"])
async def test_missing_start_response_is_an_error_that_says_so(body: Any) -> None:
    """W-OUT-8: no response is invented."""
    makers: dict[str, Callable[[], Any]] = {
        "generator": lambda: iter([b"x"]),
        "empty generator": lambda: iter([]),
    }
    app = lambda environ, start_response: makers[body]() if type(body) is str else body  # noqa: E731
    error, client = await failure_of(app)
    assert isinstance(error, AppError)
    assert "start_response" in str(error)
    assert client.messages == []


@pytest.mark.parametrize(
    ("body", "named"),
    [
        pytest.param(["text"], "text", id="str in a list"),
        pytest.param([None], "None", id="None in a list"),
        pytest.param([b"x", 7], "7", id="int in a list"),
        pytest.param((b"x", "text"), "text", id="str in a tuple"),
        pytest.param("text", "t", id="the body is a str"),
        pytest.param(b"bytes", "98", id="the body is bytes"),
        pytest.param(lambda environ: iter(["text"]), "text", id="str in a stream"),
        pytest.param(lambda environ: iter([b"x", None]), "None", id="None in a stream"),
        pytest.param(lambda environ: iter([b"x", ""]), "''", id="empty str in a stream"),
    ],
)
async def test_chunk_that_is_no_bytes_is_an_error_that_says_so(body: Any, named: str) -> None:
    """W-OUT-8: the error shows the chunk, and the response never looks complete."""
    error, client = await failure_of(app_returning(body))
    assert isinstance(error, AppError)
    assert named in str(error)
    assert not client.complete


# --- W-OUT-9


class SlowlyClosedList(list[bytes]):
    """A list whose close() waits."""

    def __init__(self, chunks: list[bytes], gate: Gate) -> None:
        super().__init__(chunks)
        self.gate, self.closes = gate, 0

    def close(self) -> None:
        self.gate.wait_in_thread()
        self.closes += 1


@pytest.mark.parametrize("kind", ["iterator", "list", "empty", "HEAD", "cut by its length"])
async def test_end_is_sent_before_close(kind: str) -> None:
    """W-OUT-9: the client has the whole response while close() still runs; the call waits for
    close().
    """
    gate = Gate()
    body: Any = TrackedBody([] if kind == "empty" else [b"a", b"b"], on_close=gate.wait_in_thread)
    if kind == "list":
        body = SlowlyClosedList([b"a", b"b"], gate)
    headers = [("Content-Length", "1")] if kind == "cut by its length" else []
    client = Client(http_scope("HEAD" if kind == "HEAD" else "GET"))
    async with serving(app_returning(body, headers=headers)) as bridge, calling(bridge, client):
        await client.until(lambda c: c.complete)
        await settle()
        assert not client.ended
        gate.open()
    assert body.closes == 1


# --- W-OUT-10 (plain)


class Readable:
    """A file-like object with read() alone."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)
        self.sizes: list[int] = []

    def read(self, size: int) -> bytes:
        self.sizes.append(size)
        return self._file.read(size)


class Closeable(Readable):
    """The same with close()."""

    closes = 0

    def close(self) -> None:
        self.closes += 1


def _wrapping(file: Any, *block_size: int) -> Callable[[Environ], Any]:
    return lambda environ: environ["wsgi.file_wrapper"](file, *block_size)


async def test_file_wrapper_sends_the_file_and_closes_it() -> None:
    """W-OUT-10: the whole file, and its close() once."""
    file = Closeable(b"file content")
    client = await fetched(app_returning(_wrapping(file)))
    assert (client.body, client.complete) == (b"file content", True)
    assert file.closes == 1


async def test_file_without_close() -> None:
    """W-OUT-10: PEP 3333: close() is optional."""
    assert (await fetched(app_returning(_wrapping(Readable(b"abc"))))).body == b"abc"


async def test_file_is_sent_from_its_offset() -> None:
    """W-OUT-10: a real file, from where it stands, and it is closed."""
    with tempfile.NamedTemporaryFile() as named:
        named.write(b"0123456789")
        named.flush()
        file = open(named.name, "rb")  # noqa: ASYNC230, SIM115
        file.seek(4)
        client = await fetched(app_returning(_wrapping(file)))
        assert client.body == b"456789"
        assert file.closed


async def test_length_of_the_app_bounds_the_file() -> None:
    """W-OUT-10: Content-Length is respected (a range), and the file is closed."""
    file = Closeable(b"0123456789")
    client = await fetched(app_returning(_wrapping(file), headers=[("Content-Length", "4")]))
    assert (client.body, client.complete) == (b"0123", True)
    assert file.closes == 1


async def test_file_wrapper_takes_a_block_size() -> None:
    """W-OUT-10: PEP 3333: the second argument is a suggestion."""
    assert (await fetched(app_returning(_wrapping(Closeable(b"x" * 10), 4)))).body == b"x" * 10


async def test_file_goes_out_in_large_blocks() -> None:
    """W-OUT-10: without a size the blocks are large: a MiB takes at most 64 reads and messages."""
    file = Closeable(b"x" * 2**20)
    client = await fetched(app_returning(_wrapping(file)))
    assert len(client.body) == 2**20
    assert len(file.sizes) <= 65
    assert len(client.messages) <= 66


async def test_file_wrapper_may_be_iterated_by_middleware() -> None:
    """W-OUT-10: it is an iterable with close() like any other."""
    file = Closeable(b"0123456789")

    def body(environ: Environ) -> TrackedBody:
        wrapped = environ["wsgi.file_wrapper"](file, 5)
        return TrackedBody((chunk.replace(b"0", b"x") for chunk in wrapped), on_close=wrapped.close)

    assert (await fetched(app_returning(body))).body == b"x123456789"
    assert file.closes == 1


async def test_file_wrapper_for_head() -> None:
    """W-OUT-10: HEAD sends no byte of the file and closes it."""
    file = Closeable(b"0123456789")
    client = await fetched(app_returning(_wrapping(file)), Client(http_scope("HEAD")))
    assert (client.body, client.complete) == (b"", True)
    assert file.closes == 1


async def test_response_may_start_before_the_body_is_read() -> None:
    """W-OUT-4: an app may answer without reading an upload that is still on its way."""
    client = Client(post_scope(None), [b"some"], body_ends=False)
    async with serving(app_returning([b"no, thank you"], "401 Unauthorized")) as bridge:
        await answered(bridge, client)
    assert (client.status, client.body, client.complete) == (401, b"no, thank you", True)

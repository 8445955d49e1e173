"""W-OUT-1, 2, 3, 7 and 8: start_response, write, and the headers that go out."""

import gc
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.fake_asgi_server import (
    Client,
    Gate,
    TrackedBody,
    app_returning,
    calling,
    failure_of,
    fetched,
    http_scope,
    serving,
    settle,
)
from wsgi_asgi_bridge import AppError

Environ = dict[str, Any]


class AppsOwnError(Exception):
    """What an app raises on its own account."""


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

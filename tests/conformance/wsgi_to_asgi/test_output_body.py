"""W-OUT-4, 5, 6, 9 and 10: the iteration of the body, its length, its end, and files."""

import io
import logging
import tempfile
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
    failure_of,
    fetched,
    http_scope,
    post_scope,
    serving,
    settle,
)
from wsgi_asgi_bridge import AppError

Environ = dict[str, Any]
LOGGER = "wsgi_asgi_bridge"


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

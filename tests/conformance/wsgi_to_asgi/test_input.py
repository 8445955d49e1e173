"""W-IN-1..3: what an app reads, and the body that is cut."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.fake_asgi_server import (
    Client,
    Gate,
    answered,
    calling,
    fetched,
    http_scope,
    plain_app,
    post_scope,
    serving,
    settle,
)
from tests.support.reading_apps import app_that_reads, result_of
from wsgi_asgi_bridge import ClientDisconnected

Environ = dict[str, Any]
Operation = tuple[str, tuple[Any, ...]]


# --- W-IN-1


def _next_line(file: Any) -> bytes | None:
    return next(iter(file), None)


def _read_into(file: Any, size: int) -> bytes:
    target = bytearray(size)
    count = file.readinto(target)
    return bytes(target[:count])


def _read_text(file: Any) -> str:
    text = io.TextIOWrapper(file, encoding="ascii")
    try:
        return text.read()
    finally:
        text.detach()


def _applied(file: Any, operations: list[Operation]) -> list[object]:
    results: list[object] = []
    for name, arguments in operations:
        if name == "next":
            results.append(_next_line(file))
        elif name == "readinto":
            results.append(_read_into(file, *arguments))
        else:
            results.append(getattr(file, name)(*arguments))
    return results


SIZES = st.one_of(st.none(), st.integers(-1, 40))
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["read", "readline", "readlines"]),
            st.one_of(st.just(()), st.tuples(SIZES)),
        ),
        st.tuples(st.just("readinto"), st.tuples(st.integers(0, 40))),
        st.just(("next", ())),
    ),
    max_size=12,
)
PARTS = st.lists(
    st.one_of(
        st.text("ab\n\r", max_size=12).map(str.encode),
        st.binary(max_size=20),
        st.sampled_from([b"", b"\n", b"\n\n", b"x" * 70]),
    ),
    min_size=1,
    max_size=8,
)


@given(
    parts=PARTS,
    operations=OPERATIONS,
    declared=st.booleans(),
    request_buffer=st.sampled_from([1, 7, 64, 65536]),
)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_any_reads_of_any_chunking_equal_a_file(
    parts: list[bytes], operations: list[Operation], declared: bool, request_buffer: int
) -> None:
    """W-IN-1, W-IN-2: collected or streamed, every call returns what a file of io returns."""
    whole = b"".join(parts)
    length = len(whole) if declared else None
    operations = [*operations, ("read", ()), ("read", (10,)), ("readline", ()), ("next", ())]
    results = await result_of(
        lambda file: _applied(file, operations), parts, length, request_buffer=request_buffer
    )
    # The io classes differ in one point: whether readlines(hint) stops at `hint` bytes or beyond.
    models = io.BytesIO(whole), io.BufferedReader(io.BytesIO(whole))  # type: ignore[arg-type]
    assert results in [_applied(model, operations) for model in models]


PATHS = pytest.mark.parametrize(
    ("declared", "request_buffer"),
    [(True, 65536), (True, 4), (False, 65536), (False, 4)],
    ids=["collected", "streamed", "undeclared", "undeclared, small buffer"],
)
LINES = [b"one\ntw", b"o\n", b"\nthr", b"ee"]


def _length(parts: list[bytes], declared: bool) -> int | None:
    return sum(map(len, parts)) if declared else None


@PATHS
@pytest.mark.parametrize(
    ("use", "expected"),
    [
        pytest.param(lambda f: f.read(), b"one\ntwo\n\nthree", id="read()"),
        pytest.param(lambda f: f.read(-1), b"one\ntwo\n\nthree", id="read(-1)"),
        pytest.param(lambda f: f.read(None), b"one\ntwo\n\nthree", id="read(None)"),
        pytest.param(lambda f: (f.read(0), f.read(5)), (b"", b"one\nt"), id="read(0), read(5)"),
        pytest.param(
            lambda f: (f.read(99), f.read(1)), (b"one\ntwo\n\nthree", b""), id="read(more)"
        ),
        pytest.param(lambda f: [f.readline() for _ in range(2)], [b"one\n", b"two\n"], id="lines"),
        pytest.param(
            lambda f: (f.readline(2), f.readline(9), f.readline(0)),
            (b"on", b"e\n", b""),
            id="limits",
        ),
        pytest.param(
            lambda f: (f.readline(None), f.readline(-1)), (b"one\n", b"two\n"), id="readline(None)"
        ),
        pytest.param(
            lambda f: f.readlines(), [b"one\n", b"two\n", b"\n", b"three"], id="readlines()"
        ),
        pytest.param(
            lambda f: (f.readlines(5), f.read()),
            ([b"one\n", b"two\n"], b"\nthree"),
            id="readlines(5)",
        ),
        pytest.param(list, [b"one\n", b"two\n", b"\n", b"three"], id="iteration"),
        pytest.param(
            lambda f: (_read_into(f, 6), f.read()), (b"one\ntw", b"o\n\nthree"), id="into"
        ),
        pytest.param(lambda f: f.readable(), True, id="readable"),
        pytest.param(lambda f: type(f.read(3)), bytes, id="bytes"),
    ],
)
async def test_reads(
    use: Callable[[Any], object], expected: object, declared: bool, request_buffer: int
) -> None:
    """W-IN-1: the calls one by one, on every path."""
    length = _length(LINES, declared)
    assert await result_of(use, LINES, length, request_buffer=request_buffer) == expected


@PATHS
async def test_text_io_wrapper(declared: bool, request_buffer: int) -> None:
    """W-IN-1: io.TextIOWrapper reads it, also with a character cut between two parts."""
    parts = ["é\n".encode()[:1], "é\n".encode()[1:] + b"two"]

    def use(file: Any) -> list[str]:
        text = io.TextIOWrapper(file, encoding="utf-8")
        lines = list(text)
        text.detach()
        return lines

    result = await result_of(use, parts, _length(parts, declared), request_buffer=request_buffer)
    assert result == ["é\n", "two"]


@PATHS
async def test_end_is_for_ever(declared: bool, request_buffer: int) -> None:
    """W-IN-1: after the end every call gives its empty result, again and again, and asks the server
    nothing.
    """
    client = Client(post_scope(_length(LINES, declared)), LINES)

    def use(file: Any) -> list[object]:
        file.read()
        calls = client.receive_calls
        ends = [file.read(), file.read(5), file.readline(), file.readlines(), list(file)] * 3
        return [*ends, client.receive_calls - calls]

    results: list[object] = []
    await fetched(app_that_reads(use, results), client, request_buffer=request_buffer)
    assert results == [[*([b"", b"", b"", [], []] * 3), 0]]


# --- W-IN-2


async def test_undeclared_body_is_read_to_its_end() -> None:
    """W-IN-2: no Content-Length, neither chunked nor any other header: HTTP/2 says nothing more."""
    scope = http_scope("POST", http_version="2", headers=[])
    results: list[object] = []
    client = Client(scope, [b"a" * 1000] * 20)
    await fetched(app_that_reads(lambda f: f.read(), results), client, request_buffer=100)
    assert results == [b"a" * 20000]


async def test_messages_without_their_optional_keys() -> None:
    """W-IN-2: `body` and `more_body` may be missing from http.request."""
    messages = [
        {"type": "http.request", "body": b"ab", "more_body": True},
        {"type": "http.request", "more_body": True},
        {"type": "http.request", "body": b"c"},
    ]

    class Terse(Client):
        async def receive(self) -> dict[str, Any]:
            return messages.pop(0) if messages else await super().receive()

    results: list[object] = []
    await fetched(app_that_reads(lambda f: f.read(), results), Terse(post_scope(None)))
    assert results == [b"abc"]


# --- W-IN-3

READERS = {
    "read()": lambda f: f.read(),
    "read(n)": lambda f: f.read(100),
    "readline()": lambda f: f.readline(),
    "readline(n)": lambda f: f.readline(100),
    "readlines()": lambda f: f.readlines(),
    "iteration": list,
    "readinto": lambda f: _read_into(f, 100),
    "text": _read_text,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("length", [200_000, None], ids=["declared", "undeclared"])
async def test_cut_body_raises(reader: str, length: int | None) -> None:
    """W-IN-3: the client left before the end: every way to read raises, every time, and returns
    nothing short.
    """

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        for _ in range(2):
            try:
                results.append(READERS[reader](environ["wsgi.input"]))
            except OSError as error:
                results.append(error)
        return plain_app(environ, start_response)

    results: list[object] = []
    client = Client(post_scope(length), [b"some", b"thing"], body_ends=False)
    client.leave()
    async with serving(app, small_body=0) as bridge:
        await client.run(bridge)
    assert client.error is None
    assert [type(result) for result in results] == [ClientDisconnected] * 2
    assert isinstance(results[0], OSError)


async def test_cut_small_body_is_never_a_short_body() -> None:
    """W-IN-3: the collected path: the app is not called, or its read raises."""
    results: list[object] = []
    client = Client(post_scope(20), [b"some", b"thing"], body_ends=False)
    client.leave()
    async with serving(app_that_reads(lambda f: f.read(), results)) as bridge:
        await client.run(bridge)
    assert client.error is None
    assert [type(result) for result in results] in ([], [ClientDisconnected])


@pytest.mark.parametrize("length", [20, 200_000], ids=["collected", "streamed"])
async def test_body_short_of_its_length_is_never_taken_for_whole(length: int) -> None:
    """W-IN-3: a server that ends the body before its Content-Length: 400 before the app, or the
    read raises.
    """
    results: list[object] = []
    client = Client(post_scope(length), [b"some", b"thing"])
    async with serving(app_that_reads(lambda f: f.read(), results)) as bridge:
        await client.run(bridge)
    if results:
        assert isinstance(results[0], OSError)
    else:
        assert client.status == 400


@pytest.mark.parametrize("length", [20, 200_000], ids=["collected", "streamed"])
async def test_escaped_short_body_is_400(length: int) -> None:
    """W-IN-3: nobody has left, so somebody waits for an answer."""
    client = Client(post_scope(length), [b"some", b"thing"])
    app = lambda environ, start_response: [environ["wsgi.input"].read()]  # noqa: E731
    async with serving(app) as bridge:
        await answered(bridge, client)
        assert bridge.stats().rejected == 1
    assert (client.status, client.complete) == (400, True)
    assert b"9 of the %d bytes" % length in client.body


async def test_short_body_breaks_a_response_that_has_begun() -> None:
    """W-IN-3: then the response ends as for a client that has left."""

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"first"
        yield environ["wsgi.input"].read()

    client = Client(post_scope(200_000), [b"some", b"thing"])
    async with serving(app) as bridge:
        await client.run(bridge)
        assert (bridge.stats().disconnected, bridge.stats().failed) == (1, 0)
    assert (client.body, client.complete, client.error) == (b"first", False, None)


class LateClient(Client):
    """Its server lets go of the last message only after it has told of the disconnect."""

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self.complete:
            await settle()


@pytest.mark.parametrize(
    ("length", "ends", "options", "status"),
    [
        (None, True, {"max_body_size": 10}, 413),
        (200_000, True, {}, 400),
        (200_000, False, {"stall_timeout": 0.1}, 408),
    ],
    ids=["413", "400", "408"],
)
async def test_answer_of_the_bridge_is_counted_once(
    length: int | None, ends: bool, options: dict[str, Any], status: int
) -> None:
    """W-IN-3, W-IN-6, W-IN-7, W-STAT-1: the disconnect that a server reports behind it says that
    all is over; a client that stalled is no rejected one.
    """
    client = LateClient(post_scope(length), [b"x" * 20], body_ends=ends)
    app = lambda environ, start_response: [environ["wsgi.input"].read()]  # noqa: E731
    async with serving(app, **options) as bridge:
        await answered(bridge, client)
        stats = bridge.stats()
    assert (client.status, client.complete) == (status, True)
    counted = (stats.rejected, stats.stalled, stats.disconnected, stats.failed)
    assert counted == ((0, 1, 0, 0) if status == 408 else (1, 0, 0, 0))


async def test_bytes_before_the_cut_can_be_read() -> None:
    """W-IN-3: what came is given, only the end is refused."""
    gate = Gate()

    def use(file: Any) -> object:
        first = file.read(4)
        gate.open()
        with pytest.raises(ClientDisconnected):
            file.read(4)
        return first

    results: list[object] = []
    client = Client(post_scope(None), [b"some"], body_ends=False)
    async with (
        serving(app_that_reads(use, results)) as bridge,
        calling(bridge, client),
    ):
        await gate.wait()
        client.leave()
    assert results == [b"some"]


async def test_escaped_disconnect_is_not_raised_to_the_server() -> None:
    """W-IN-3: an app that does not catch ClientDisconnected makes no error page and no
    traceback.
    """
    client = Client(post_scope(None), [b"some"], body_ends=False)
    client.leave()
    async with serving(lambda environ, start_response: [environ["wsgi.input"].read()]) as bridge:
        await client.run(bridge)
        assert bridge.stats().failed == 0
        assert bridge.stats().disconnected == 1
    assert client.error is None

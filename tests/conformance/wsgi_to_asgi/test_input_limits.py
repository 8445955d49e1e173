"""W-IN-4..7: bodies that are large, small, limited and slow."""

import contextlib
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

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
from wsgi_asgi_bridge import BodyTooLarge, ClientDisconnected, ClientStalled

Environ = dict[str, Any]


# --- W-IN-4

PART = b"p" * 1000


@pytest.mark.parametrize("length", [500_000, None], ids=["declared", "undeclared"])
async def test_app_that_does_not_read_stops_the_intake(length: int | None) -> None:
    """W-IN-4: at most `request_buffer` bytes and the part in hand are taken from the server."""
    gate, entered = Gate(), Gate()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        entered.open()
        gate.wait_in_thread()
        return plain_app(environ, start_response)

    client = Client(post_scope(length), [PART] * 500)
    async with serving(app, request_buffer=10_000) as bridge, calling(bridge, client):
        await entered.wait()
        await settle()
        assert client.fed_bytes_taken <= 10_000 + len(PART)
        gate.open()


@pytest.mark.parametrize("length", [500_000, None], ids=["declared", "undeclared"])
async def test_memory_stays_flat_while_reading(length: int | None) -> None:
    """W-IN-4: at every read, what was taken and not yet given to the app fits `request_buffer` and
    a part.
    """
    client = Client(post_scope(length), [PART] * 500)
    excess: list[int] = []

    def use(file: Any) -> int:
        given = 0
        while chunk := file.read(700):
            given += len(chunk)
            excess.append(client.fed_bytes_taken - given)
        return given

    results: list[object] = []
    await fetched(app_that_reads(use, results), client, request_buffer=10_000)
    assert results == [500_000]
    assert max(excess) <= 10_000 + len(PART)


@pytest.mark.parametrize("size", [1, 2500])
async def test_nothing_more_is_taken_while_the_app_pauses(size: int) -> None:
    """W-IN-4: an app that reads a little and pauses has `request_buffer` and a part waiting, not
    one buffer on each side of the crossing.
    """
    client = Client(post_scope(None), [PART] * 200)
    steps = [(Gate(), Gate()) for _ in range(4)]

    def use(file: Any) -> int:
        given = 0
        for paused, go_on in steps:
            given += len(file.read(size))
            paused.open()
            go_on.wait_in_thread()
        return given + len(file.read())

    results: list[object] = []
    excess = []
    app = app_that_reads(use, results)
    async with serving(app, request_buffer=10_000) as bridge, calling(bridge, client):
        for step, (paused, go_on) in enumerate(steps, 1):
            await paused.wait()
            await settle()
            excess.append(client.fed_bytes_taken - step * size)
            go_on.open()
    assert results == [200_000]
    assert max(excess) <= 10_000 + len(PART), excess


# --- W-IN-5


async def test_small_body_is_collected_before_a_thread_is_taken() -> None:
    """W-IN-5: slow small uploads hold no thread; others are answered on the only worker
    meanwhile.
    """
    slow = [Client(post_scope(10), [b"12345"], body_ends=False) for _ in range(5)]
    app = app_that_reads(lambda f: f.read(), bodies := [])
    async with serving(app, workers=1) as bridge, calling(bridge, *slow):
        await settle()
        assert (bridge.stats().threads, bridge.stats().busy, bodies) == (0, 0, [])
        await answered(bridge, Client(http_scope()))
        assert bodies == [b""]
        for client in slow:
            client.feed(b"67890", last=True)
    assert bodies == [b""] + [b"1234567890"] * 5


@pytest.mark.parametrize(
    ("length", "collected"),
    [(64, True), (65, False), (None, False)],
    ids=["fits", "larger", "none"],
)
async def test_only_what_fits_is_collected(length: int | None, collected: bool) -> None:
    """W-IN-5: a larger or undeclared body is streamed: the app runs before the rest is there."""
    entered = Gate()

    def use(file: Any) -> bytes:
        entered.open()
        return file.read()  # type: ignore[no-any-return]

    results: list[object] = []
    client = Client(post_scope(length), [b"a"], body_ends=False)
    async with (
        serving(app_that_reads(use, results), request_buffer=64) as bridge,
        calling(bridge, client),
    ):
        if collected:
            assert await entered.stays_shut()
        else:
            await entered.wait()
        client.feed(b"b" * ((length or 10) - 1), last=True)
    assert results == [b"a" + b"b" * ((length or 10) - 1)]


async def test_large_body_reaches_the_app_part_by_part() -> None:
    """W-IN-5: streamed means that a part can be used before the next is sent."""
    got = [Gate(), Gate()]

    def use(file: Any) -> bytes:
        first = file.read(4)
        got[0].open()
        second = file.read(4)
        got[1].open()
        return first + second + file.read()  # type: ignore[no-any-return]

    results: list[object] = []
    client = Client(post_scope(None), [b"1234"], body_ends=False)
    async with serving(app_that_reads(use, results)) as bridge, calling(bridge, client):
        await got[0].wait()
        client.feed(b"5678")
        await got[1].wait()
        client.feed(b"9", last=True)
    assert results == [b"123456789"]


EXPECT = [(b"expect", b"100-continue")]


@pytest.mark.parametrize("length", [10, 100_000, None], ids=["small", "large", "undeclared"])
async def test_expect_continue_asks_for_the_body_when_the_app_does(length: int | None) -> None:
    """W-IN-5: with `Expect: 100-continue` receive() is called only once the app reads."""
    entered, gate = Gate(), Gate()

    def use(file: Any) -> bytes:
        entered.open()
        gate.wait_in_thread()
        return file.read()  # type: ignore[no-any-return]

    results: list[object] = []
    body = b"x" * (length or 10)
    client = Client(post_scope(length, headers=EXPECT), [body])
    async with serving(app_that_reads(use, results)) as bridge, calling(bridge, client):
        await entered.wait()
        await settle()
        assert client.receive_calls == 0
        gate.open()
    assert results == [body]


async def test_expect_continue_is_not_answered_for_an_app_that_refuses() -> None:
    """W-IN-5: an app that never reads never makes the server ask for the body."""
    client = Client(post_scope(10, headers=EXPECT), [b"0123456789"])
    await fetched(plain_app, client)
    assert client.receive_calls == 0
    assert client.complete


# --- W-IN-6


async def test_declared_body_over_the_limit_is_413_without_a_thread() -> None:
    """W-IN-6: neither the app nor a thread nor receive() is troubled."""
    results: list[object] = []
    client = Client(post_scope(11), [b"x" * 11])
    app = app_that_reads(lambda f: f.read(), results)
    async with serving(app, max_body_size=10) as bridge:
        await answered(bridge, client)
        assert bridge.stats().threads == 0
    assert (client.status, client.complete, results) == (413, True, [])
    assert client.receive_calls == 0


@pytest.mark.parametrize("request_buffer", [4, 65536], ids=["streamed", "collected"])
@pytest.mark.parametrize("length", [10, None], ids=["declared", "undeclared"])
async def test_body_of_exactly_the_limit_passes(length: int | None, request_buffer: int) -> None:
    """W-IN-6: `max_body_size` is the largest size that passes."""
    result = await result_of(
        lambda f: f.read(), [b"x" * 5] * 2, length, max_body_size=10, request_buffer=request_buffer
    )
    assert result == b"x" * 10


async def test_undeclared_body_over_the_limit_raises_in_the_app() -> None:
    """W-IN-6: reading raises BodyTooLarge, an OSError, and the app may answer as it likes."""
    result = await result_of(lambda f: f.read(), [b"x" * 5] * 3, None, max_body_size=10)
    assert isinstance(result, BodyTooLarge)
    assert isinstance(result, OSError)


async def test_escaped_body_too_large_is_413() -> None:
    """W-IN-6: an app that does not catch it makes a 413, not a 500."""
    client = Client(post_scope(None), [b"x" * 5] * 3)
    app = lambda environ, start_response: [environ["wsgi.input"].read()]  # noqa: E731
    await fetched(app, client, max_body_size=10)
    assert (client.status, client.complete) == (413, True)


async def test_size_is_unlimited_by_default() -> None:
    """W-IN-6: `max_body_size` is None by default."""
    assert await result_of(lambda f: len(f.read()), [b"x" * 50_000] * 4, None) == 200_000


# --- W-IN-7

STALL_SECONDS = 0.15


async def test_stalled_upload_raises_in_the_app_and_frees_the_thread() -> None:
    """W-IN-7: reading raises a TimeoutError; the only worker is free for the next request."""
    results: list[object] = []
    client = Client(post_scope(None), [b"some"], body_ends=False)
    app = app_that_reads(lambda f: f.read(), results)
    async with serving(app, workers=1, stall_timeout=STALL_SECONDS) as bridge:
        await client.run(bridge)
        await answered(bridge, Client(post_scope(3), [b"abc"]))
    assert type(results[0]) is ClientStalled
    assert isinstance(results[0], TimeoutError)
    assert results[1:] == [b"abc"]


async def test_reading_on_after_a_stall_finds_no_gap() -> None:
    """W-IN-7, W-IN-3: what a read had when it failed is lost, so none that follows it gives bytes,
    however many come.
    """
    stalled, resumed = Gate(), Gate()
    errors: list[type[BaseException]] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        for _ in range(3):
            try:
                environ["wsgi.input"].read(10_000)
            except OSError as error:
                errors.append(type(error))
                stalled.open()
                resumed.wait_in_thread()
        return plain_app(environ, start_response)

    client = Client(post_scope(None), [b"x" * 9000], body_ends=False)
    async with serving(app, stall_timeout=STALL_SECONDS) as bridge, calling(bridge, client):
        await stalled.wait()
        client.feed(b"y" * 20_000)
        await client.until(lambda c: c.fed_bytes_taken == 29_000)
        resumed.open()
    assert errors == [ClientStalled, ClientDisconnected, ClientDisconnected]
    assert client.status == 200


async def test_escaped_read_after_a_stall_is_408() -> None:
    """W-IN-7: an app that tries again after each time-out ends with the second error."""

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        while True:
            with contextlib.suppress(TimeoutError):
                return [environ["wsgi.input"].read()]

    client = Client(post_scope(None), [b"some"], body_ends=False)
    async with serving(app, stall_timeout=STALL_SECONDS) as bridge:
        await answered(bridge, client)
        assert bridge.stats().stalled == 1
    assert (client.status, client.complete) == (408, True)


@pytest.mark.parametrize("length", [100_000, None], ids=["declared", "undeclared"])
async def test_escaped_stall_is_408(length: int | None) -> None:
    """W-IN-7: an app that does not catch it makes a 408, and nothing is raised to the server."""
    client = Client(post_scope(length), [b"some"], body_ends=False)
    app = lambda environ, start_response: [environ["wsgi.input"].read()]  # noqa: E731
    async with serving(app, stall_timeout=STALL_SECONDS) as bridge:
        await client.run(bridge)
        assert bridge.stats().stalled == 1
    assert client.error is None
    assert client.status == 408
    assert client.complete


async def test_stalled_small_upload_is_408_before_the_app() -> None:
    """W-IN-7: while a small body is collected no thread is held, and the app is not called."""
    results: list[object] = []
    client = Client(post_scope(10), [b"some"], body_ends=False)
    app = app_that_reads(lambda f: f.read(), results)
    async with serving(app, stall_timeout=STALL_SECONDS) as bridge:
        await client.run(bridge)
        assert bridge.stats().threads == 0
        assert bridge.stats().stalled == 1
    assert (client.status, client.complete, results) == (408, True, [])


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # its seconds are spent once
@pytest.mark.parametrize("length", [8, None], ids=["collected", "streamed"])
async def test_slow_upload_is_not_stalled(anyio_backend: str, length: int | None) -> None:
    """W-IN-7: the time counts from the last part, not from the first."""
    results: list[object] = []
    client = Client(post_scope(length), [b"a"], body_ends=False)
    app = app_that_reads(lambda f: f.read(), results)
    options = {"stall_timeout": 0.9, "min_upload_rate": 0}
    async with serving(app, **options) as bridge, calling(bridge, client):
        for index in range(7):
            await anyio.sleep(0.16)
            client.feed(b"a", last=index == 6)
    assert results == [b"a" * 8]


async def test_app_that_computes_is_not_a_stalled_client() -> None:
    """W-IN-7: the time that the app takes between two reads is not the client's."""
    gate = Gate()

    def use(file: Any) -> bytes:
        first = file.read(1)
        gate.wait_in_thread()
        return first + file.read()  # type: ignore[no-any-return]

    results: list[object] = []
    client = Client(post_scope(None), [b"ab"], body_ends=False)
    app = app_that_reads(use, results)
    async with serving(app, stall_timeout=0.4) as bridge, calling(bridge, client):
        await anyio.sleep(0.6)
        client.feed(b"c", last=True)
        gate.open()
    assert results == [b"abc"]


async def test_generator_app_reads_while_it_answers() -> None:
    """W-IN-1: reads and chunks alternate in one exchange (an echo)."""

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        while chunk := environ["wsgi.input"].read(4):
            yield chunk.upper()

    client = Client(post_scope(None), [b"abcd"], body_ends=False)
    async with serving(app) as bridge, calling(bridge, client):
        await client.until(lambda c: c.body == b"ABCD")
        client.feed(b"efgh", last=True)
    assert client.body == b"ABCDEFGH"

"""W-FLOW-2, W-FLOW-3: how a disconnect is noticed, and what it ends."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests.support.fake_asgi_server import (
    DEADLINE_SECONDS,
    Client,
    Gate,
    TrackedBody,
    answered,
    app_returning,
    calling,
    plain_app,
    post_scope,
    serving,
    settle,
)
from wsgi_asgi_bridge import AppError, BodyTooLarge, ClientDisconnected, ClientStalled

Environ = dict[str, Any]
BLOCK = b"x" * 1000
STALL_SECONDS = 0.15
GONE = "wsgi_asgi_bridge.client_disconnected"


def wait_until_gone(environ: Environ) -> None:
    """Poll as an app would; fails loudly when the bridge never learns."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not environ[GONE]():
        if time.monotonic() > deadline:
            raise AssertionError("the disconnect was never noticed")
        time.sleep(0.002)


# --- W-FLOW-2


async def test_disconnect_is_noticed_while_the_app_streams() -> None:
    """W-FLOW-2: send() never raises, only receive() knows; an endless stream ends and is closed."""
    body = TrackedBody(iter(lambda: BLOCK, b""))
    client = Client()
    async with serving(app_returning(body)) as bridge, calling(bridge, client):
        await client.until(lambda c: c.body_bytes > 0)
        client.leave()
        await body.closed.wait()
    assert body.closes == 1
    assert client.error is None


@pytest.mark.parametrize(
    "send_error", [BrokenPipeError, ClientDisconnected], ids=["of a server", "of an outer bridge"]
)
@pytest.mark.parametrize("send_fails_at", [0, 1, 2])
@pytest.mark.parametrize("how", ["endless", "list", "write"])
async def test_send_that_raises_is_a_disconnect(
    how: str, send_fails_at: int, send_error: type[OSError]
) -> None:
    """W-FLOW-2: an OSError of send() ends the exchange quietly, and close() runs.

    ASGIToWSGI's send() raises this package's own ClientDisconnected.
    """
    body = TrackedBody(iter(lambda: BLOCK, b"") if how == "endless" else [])
    raised: list[BaseException] = []

    def app(environ: Environ, start_response: Any) -> Any:
        write = start_response("200 OK", [])
        if how == "list":
            return [BLOCK] * 3
        try:
            while how == "write":
                write(BLOCK)
        except ClientDisconnected as error:
            raised.append(error)
        return body

    client = Client(send_fails_at=send_fails_at, send_error=send_error)
    async with serving(app, response_buffer=len(BLOCK)) as bridge:
        await client.run(bridge)
        # A list may be over in fewer messages than the failing one.
        expected = 0 if client.complete else 1
        if how != "list":
            await body.closed.wait()
        assert bridge.stats().disconnected == expected
        assert bridge.stats().failed == 0
    assert client.error is None
    assert body.closes == (how != "list")
    assert len(raised) == (how == "write")


async def test_one_receive_at_a_time() -> None:
    """W-FLOW-2: reading, streaming and polling at once still make one receive() (the driver
    watches).
    """

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        while chunk := environ["wsgi.input"].read(10):
            assert not environ[GONE]()
            yield chunk
        for _ in range(50):
            assert not environ[GONE]()
            yield BLOCK

    client = Client(post_scope(None), [b"y" * 10] * 50)
    async with serving(app, request_buffer=20, response_buffer=100) as bridge:
        await answered(bridge, client)
    assert client.body == b"y" * 500 + BLOCK * 50
    assert client.violations == []


async def test_receive_is_not_called_for_a_response_that_is_over() -> None:
    """W-FLOW-2: no pump is left in receive() when the call returns."""
    client = Client()
    async with serving(app_returning(lambda e: iter([b"a", b"b"]))) as bridge:
        await answered(bridge, client)
        await settle()
        assert not client.waiting_in_receive


async def test_server_that_repeats_the_end_of_the_body() -> None:
    """W-FLOW-2: servers differ: empty last parts for ever are not spun on, and the stream goes
    on.
    """

    class Repeating(Client):
        async def receive(self) -> dict[str, Any]:
            if self.receive_calls < 1000:
                self.receive_calls += 1
                await anyio.lowlevel.checkpoint()
                return {"type": "http.request", "body": b"", "more_body": False}
            return await super().receive()

    gate = Gate()

    def chunks() -> Iterator[bytes]:
        yield b"first "
        gate.wait_in_thread()
        yield b"last"

    client = Repeating()
    async with serving(app_returning(lambda e: chunks())) as bridge, calling(bridge, client):
        await client.until(lambda c: c.body == b"first ")
        await settle()
        gate.open()
    assert client.body == b"first last"
    assert client.error is None


# --- W-FLOW-3


async def test_iteration_stops_at_the_next_step() -> None:
    """W-FLOW-3: after the disconnect no step is made; close() runs and sees the client gone."""
    events: list[object] = []

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            yield b"first"
            wait_until_gone(environ)
            yield b"second"
            events.append("a step too many")
        finally:
            events.append(environ[GONE]())

    client = Client()
    async with serving(app) as bridge, calling(bridge, client):
        await client.until(lambda c: c.body == b"first")
        client.leave()
    assert events == [True]
    assert client.body == b"first"


async def test_write_raises_after_the_disconnect() -> None:
    """W-FLOW-3: each write() raises ClientDisconnected, an OSError."""
    errors: list[BaseException] = []
    client = Client()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        write(b"first")
        wait_until_gone(environ)
        for _ in range(2):
            try:
                write(b"more")
            except OSError as error:
                errors.append(error)
        return []

    async with serving(app) as bridge, calling(bridge, client):
        await client.until(lambda c: c.body == b"first")
        client.leave()
    assert [type(error) for error in errors] == [ClientDisconnected] * 2


@pytest.mark.parametrize("length", [20_000, None], ids=["declared", "undeclared"])
@pytest.mark.parametrize("read_first", [0, 100], ids=["untouched", "begun"])
async def test_unread_body_does_not_hide_that_the_client_left(
    length: int | None, read_first: int
) -> None:
    """W-FLOW-3: the server reports the disconnect only behind the body; what the app leaves of that
    while it streams is thrown away at last.
    """
    body = TrackedBody()
    seen: list[type[BaseException]] = []

    def app(environ: Environ, start_response: Any) -> TrackedBody:
        start_response("200 OK", [])

        def chunks() -> Iterator[bytes]:
            try:
                environ["wsgi.input"].read(read_first)
                while True:
                    yield b"tick"
                    time.sleep(0.002)  # an app that streams for long
            except BaseException as error:
                seen.append(type(error))
                raise

        body._chunks = chunks()
        return body

    client = Client(post_scope(length), [b"x" * 1000] * 20)
    async with (
        serving(
            app, request_buffer=1000, stall_timeout=STALL_SECONDS / 10 ** bool(read_first)
        ) as bridge,
        calling(bridge, client),
    ):
        await client.until(lambda c: c.started)
        client.leave()
        await client.until_ended()
        await body.closed.wait()
        assert (bridge.stats().disconnected, bridge.stats().stalled) == (1, 0)
    assert (body.closes, seen, client.error) == (1, [], None)


async def test_body_that_was_thrown_away_is_never_taken_for_whole() -> None:
    """W-FLOW-3, W-IN-3: an app that turns to its request after all gets what had come, and then an
    error that says why there is no more.
    """
    gate = Gate()
    results: list[object] = []

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"first"
        gate.wait_in_thread()
        for _ in range(6):
            try:
                results.append(environ["wsgi.input"].read(1000))
            except AppError as error:
                results.append(str(error))

    client = Client(post_scope(20_000), [b"x" * 1000] * 20)
    async with (
        serving(app, request_buffer=2000, stall_timeout=STALL_SECONDS) as bridge,
        calling(bridge, client),
    ):
        await client.until(lambda c: c.fed_bytes_taken == 20_000)
        gate.open()
    given = [result for result in results if isinstance(result, bytes)]
    assert given == [b"x" * 1000] * len(given)
    assert len(given) < 4
    assert set(results[len(given) :]) == {
        "the app read nothing of the request's body for 0.15 s while it sent its response; "
        "what was left of the body is gone"
    }
    assert (client.body, client.complete, client.error) == (b"first", True, None)


async def test_app_that_sleeps_for_its_client_has_not_left_its_body() -> None:
    """W-FLOW-3, W-IN-1: it reads when the client has taken what comes before, however slowly."""
    results: list[int] = []

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        for _ in range(12):
            yield BLOCK
        results.append(len(environ["wsgi.input"].read()))

    client = Client(post_scope(20_000), [b"x" * 1000] * 20, reads=1)
    async with (
        serving(app, request_buffer=2000, response_buffer=2000, stall_timeout=0.4) as bridge,
        calling(bridge, client),
    ):
        while not client.ended:
            client.read_on(1)
            await anyio.sleep(0.1)  # a client that is slow, but never for `stall_timeout`
        assert bridge.stats().completed == 1
    assert (results, client.error) == ([20_000], None)


async def test_leaving_after_a_timed_out_read_is_seen_soon() -> None:
    """W-FLOW-3: nobody reads on where every read raises."""
    body = TrackedBody()

    def app(environ: Environ, start_response: Any) -> TrackedBody:
        def chunks() -> Iterator[bytes]:
            with pytest.raises(ClientStalled):
                environ["wsgi.input"].read()
            while True:
                yield b"tick"
                time.sleep(0.002)  # an app that streams for long

        start_response("200 OK", [])
        body._chunks = chunks()
        return body

    client = Client(post_scope(20_000), [b"x" * 100], body_ends=False)
    async with (
        serving(app, request_buffer=2000, stall_timeout=2 * STALL_SECONDS) as bridge,
        calling(bridge, client),
    ):
        await client.until(lambda c: c.started)
        begin = anyio.current_time()
        for number in range(19):
            client.feed(b"x" * 1000, last=number == 18)
        client.leave()
        await client.until_ended()
        assert anyio.current_time() - begin < 10 * STALL_SECONDS
        assert bridge.stats().disconnected == 1
    assert body.closes == 1


async def test_body_over_its_limit_does_not_hide_that_the_client_left() -> None:
    """W-FLOW-3, W-IN-6: the rest of it is received and dropped, however many parts it has."""
    refused = Gate()
    body = TrackedBody()

    def app(environ: Environ, start_response: Any) -> TrackedBody:
        with pytest.raises(BodyTooLarge):
            environ["wsgi.input"].read()
        start_response("200 OK", [])
        refused.open()

        def chunks() -> Iterator[bytes]:
            yield b"first"
            wait_until_gone(environ)
            yield b"never sent"

        body._chunks = chunks()
        return body

    client = Client(post_scope(None), [b"x" * 20], body_ends=False)
    async with serving(app, max_body_size=10) as bridge, calling(bridge, client):
        await refused.wait()
        for _ in range(20):
            client.feed(b"more")
        client.leave()
        await client.until_ended()
        assert bridge.stats().disconnected == 1
    assert body.closes == 1


async def test_thread_of_the_apps_own_that_reads_on_is_woken() -> None:
    """W-FLOW-3: once the exchange is over nobody brings more of the request's body."""
    reading, woken = Gate(), Gate()
    errors: list[BaseException] = []

    def read(file: Any) -> None:
        reading.open()
        try:
            file.read()
        except OSError as error:
            errors.append(error)
        woken.open()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        threading.Thread(target=read, args=[environ["wsgi.input"]]).start()
        reading.wait_in_thread()
        return plain_app(environ, start_response)

    client = Client(post_scope(None), [b"some"], body_ends=False)
    async with serving(app) as bridge:
        await answered(bridge, client)
        await woken.wait()
    assert [type(error) for error in errors] == [ClientDisconnected]


async def test_read_raises_after_the_disconnect() -> None:
    """W-FLOW-3: a read that waits is woken with ClientDisconnected."""
    entered = Gate()
    errors: list[BaseException] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        entered.open()
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            errors.append(error)
            raise
        return plain_app(environ, start_response)

    client = Client(post_scope(None), [b"some"], body_ends=False)
    async with serving(app) as bridge, calling(bridge, client):
        await entered.wait()
        client.leave()
    assert [type(error) for error in errors] == [ClientDisconnected]
    assert client.error is None


@pytest.mark.parametrize("phase", ["before the headers", "while streaming"])
async def test_polling_app_learns_of_the_disconnect(phase: str) -> None:
    """W-FLOW-3: `client_disconnected()` is False while the client is there and True once it
    left.
    """
    answers: list[bool] = []
    entered, noticed = Gate(), Gate()

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        if phase == "while streaming":
            yield b"first"
        answers.extend(environ[GONE]() for _ in range(3))
        entered.open()
        wait_until_gone(environ)
        noticed.open()
        yield b"second"

    client = Client()
    async with serving(app) as bridge, calling(bridge, client):
        await entered.wait()
        client.leave()
        await noticed.wait()
    assert answers == [False] * 3


@pytest.mark.parametrize("polled_before", [False, True])
@pytest.mark.parametrize("kind", ["list", "stream"])
async def test_response_that_is_over_is_no_disconnect(kind: str, polled_before: bool) -> None:
    """W-FLOW-3: receive() says `http.disconnect` after a whole response too; close() must not take
    it for a client that left.
    """
    closing, gate = Gate(), Gate()
    answers: list[bool] = []

    class Polling(list[bytes]):
        def close(self) -> None:
            if polled_before:
                environs[0][GONE]()
            closing.open()
            gate.wait_in_thread()
            answers.append(environs[0][GONE]())

    environs: list[Environ] = []

    def app(environ: Environ, start_response: Any) -> Any:
        environs.append(environ)
        start_response("200 OK", [])
        body = Polling([BLOCK] * 3)
        return body if kind == "list" else TrackedBody(body, on_close=body.close)

    client = Client()
    async with serving(app) as bridge, calling(bridge, client):
        await closing.wait()
        await settle()
        ended_early = client.ended
        gate.open()
    stats = bridge.stats()
    assert client.complete
    assert not ended_early
    assert answers == [False]
    assert (stats.completed, stats.disconnected) == (1, 0)


async def test_polling_does_not_eat_the_body() -> None:
    """W-FLOW-3: asking whether the client is gone loses no byte of an upload."""
    bodies: list[bytes] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        parts = []
        while not environ[GONE]() and (part := environ["wsgi.input"].read(3)):
            parts.append(part)
        bodies.append(b"".join(parts))
        return plain_app(environ, start_response)

    async with serving(app, request_buffer=16) as bridge:
        await answered(bridge, Client(post_scope(None), [b"0123456789"] * 10))
    assert bodies == [b"0123456789" * 10]


async def test_a_body_that_is_held_back_hides_no_client_behind_the_head() -> None:
    """W-FLOW-3, W-IN-5: once it is answered, a receive() no longer asks the client for its body."""
    gate = threading.Event()

    def chunks() -> Iterator[bytes]:
        yield b"first"
        while not gate.wait(0.002):
            yield b""

    body = TrackedBody(chunks())
    client = Client(post_scope(5, headers=[(b"expect", b"100-continue")]), body_ends=False)
    async with serving(app_returning(body)) as bridge, calling(bridge, client):
        await client.until(lambda c: c.body == b"first" and c.waiting_in_receive)
        client.leave()
        await body.closed.wait()
        gate.set()
    assert bridge.stats().disconnected == 1

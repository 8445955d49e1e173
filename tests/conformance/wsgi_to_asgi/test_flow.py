"""W-FLOW: back-pressure, threads, overload, and clients that leave or stall."""

import asyncio
import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from itertools import pairwise
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
    fetched,
    http_scope,
    plain_app,
    post_scope,
    serving,
    settle,
)
from wsgi_asgi_bridge import AppError, BodyTooLarge, ClientDisconnected, ClientStalled
from wsgi_asgi_bridge._protocol.blocks import SPLIT_BYTES

Environ = dict[str, Any]
BLOCK = b"x" * 1000
STALL_SECONDS = 0.15
GONE = "wsgi_asgi_bridge.client_disconnected"


def routed(**apps: Any) -> Callable[..., Any]:
    """An app by the first segment of the path; `/` and what is not named is `hello`."""

    def app(environ: Environ, start_response: Any) -> Any:
        chosen = apps.get(environ["PATH_INFO"].strip("/"), plain_app)
        return chosen(environ, start_response)

    return app


def client_of(path: str, **options: Any) -> Client:
    return Client(http_scope(path=path), **options)


def wait_until_gone(environ: Environ) -> None:
    """Poll as an app would; fails loudly when the bridge never learns."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not environ[GONE]():
        if time.monotonic() > deadline:
            raise AssertionError("the disconnect was never noticed")
        time.sleep(0.002)


# --- W-FLOW-1


@pytest.mark.parametrize("how", ["yield", "write"])
async def test_slow_client_bounds_what_waits(how: str) -> None:
    """W-FLOW-1: at most `response_buffer` bytes and the block in hand, at every moment of the
    response.
    """
    client = Client(reads=1)
    produced, excess, overshoot = 0, [0], Gate()

    def blocks() -> Iterator[bytes]:
        nonlocal produced
        for _ in range(200):
            produced += len(BLOCK)
            excess.append(produced - client.body_bytes)
            if excess[-1] > 10_000 + len(BLOCK):
                overshoot.open()
            yield BLOCK

    def app(environ: Environ, start_response: Any) -> Any:
        write = start_response("200 OK", [])
        if how == "yield":
            return blocks()
        for block in blocks():
            write(block)
        return []

    async with serving(app, response_buffer=10_000) as bridge, calling(bridge, client):
        await client.until(lambda c: c.blocked_in_send and c.started)
        assert await overshoot.stays_shut()
        while not client.complete:
            seen = len(client.messages)
            client.read_on(1)
            await client.until(lambda c, seen=seen: len(c.messages) > seen)  # type: ignore[misc]
    assert client.body == BLOCK * 200
    assert not overshoot, f"{max(excess)} bytes waited"


async def test_block_larger_than_the_buffer_passes() -> None:
    """W-FLOW-1: a single block over `response_buffer` is sent, not waited for for ever."""
    blocks = [b"a" * 50_000, b"b" * 50_000]
    async with serving(app_returning(lambda e: iter(blocks)), response_buffer=1000) as bridge:
        assert (await answered(bridge)).body == b"".join(blocks)


@pytest.mark.parametrize("kind", [list, tuple])
async def test_body_given_whole_frees_its_thread(kind: Any) -> None:
    """W-FLOW-1: twenty clients that read nothing of a list of 5 MB leave the only worker free."""
    body = kind([b"x" * 1_000_000] * 5)
    app = routed(large=app_returning(body))
    slow = [client_of("/large", reads=0) for _ in range(20)]
    async with serving(app, workers=1) as bridge, calling(bridge, *slow):
        for client in slow:
            await client.until(lambda c: c.blocked_in_send)
        assert (await answered(bridge)).body == b"hello"
        assert bridge.stats().threads == 1
        for client in slow:
            client.read_on()
    assert {len(client.body) for client in slow} == {5_000_000}


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


async def test_app_that_sleeps_for_its_client_has_not_left_its_body_alone() -> None:
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


# --- W-FLOW-4


class Counted:
    """An app that holds its requests at a gate and counts how many are inside at once."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.calls: list[str] = []
        self.most = 0
        self.entered: list[Gate] = [Gate() for _ in range(100)]
        self._inside = 0
        self._lock = threading.Lock()

    def __call__(self, environ: Environ, start_response: Any) -> list[bytes]:
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)
            self.calls.append(environ["PATH_INFO"])
            entered = self.entered[len(self.calls) - 1]
        entered.open()
        self.gate.wait_in_thread()
        with self._lock:
            self._inside -= 1
        return plain_app(environ, start_response)


async def test_at_most_workers_run_at_once() -> None:
    """W-FLOW-4: twenty requests on three workers: three inside, three threads, all answered in the
    end.
    """
    app = Counted()
    clients = [Client() for _ in range(20)]
    async with serving(app, workers=3) as bridge, calling(bridge, *clients):
        await app.entered[2].wait()
        await settle()
        assert not app.entered[3]
        stats = bridge.stats()
        assert (stats.threads, stats.busy, stats.queued) == (3, 3, 17)
        app.gate.open()
    assert app.most == 3
    assert {client.body for client in clients} == {b"hello"}


async def test_threads_start_as_needed() -> None:
    """W-FLOW-4: forty requests one after another need no forty threads; a second one may overlap
    the end of the first.
    """
    async with serving(plain_app) as bridge:
        for _ in range(40):
            await answered(bridge)
        assert 1 <= bridge.stats().threads <= 5
        assert bridge.stats().completed == 40


@pytest.mark.parametrize("max_queued", [0, 1, 3])
async def test_full_queue_answers_503(max_queued: int) -> None:
    """W-FLOW-4: one more than may wait gets 503 and Retry-After at once; those that wait are
    served.
    """
    app = Counted()
    waiting = [Client() for _ in range(max_queued)]
    async with (
        serving(app, workers=1, max_queued=max_queued) as bridge,
        calling(bridge, Client()),
    ):
        await app.entered[0].wait()
        async with calling(bridge, *waiting):
            await settle()
            refused = await answered(bridge)
            assert (refused.status, refused.complete) == (503, True)
            assert (refused.header("retry-after") or "").isdecimal()
            assert bridge.stats().rejected == 1
            assert bridge.stats().queued == max_queued
            app.gate.open()
    assert len(app.calls) == 1 + max_queued
    assert all(client.body == b"hello" for client in waiting)


@pytest.mark.parametrize("how", ["leave", "cancel"])
async def test_request_whose_client_leaves_the_queue_takes_no_thread(how: str) -> None:
    """W-FLOW-4: it is over at once, before a thread is free, and the app never sees it."""
    app = Counted()
    first, leaver, stayer = (client_of(path) for path in ("/first", "/leaver", "/stayer"))
    async with serving(app, workers=1) as bridge, calling(bridge, first):
        await app.entered[0].wait()
        async with calling(bridge, leaver, stayer):
            await settle()
            getattr(leaver, how)()
            await leaver.until_ended()
            assert bridge.stats().queued == 1
            app.gate.open()
    assert app.calls == ["/first", "/stayer"]
    assert stayer.body == b"hello"
    assert leaver.messages == []
    assert leaver.error is None


async def test_place_in_the_queue_is_given_back() -> None:
    """W-FLOW-4: whoever left the queue makes room for another."""
    app = Counted()
    leaver, next_one = Client(), Client()
    async with serving(app, workers=1, max_queued=1) as bridge, calling(bridge, Client()):
        await app.entered[0].wait()
        async with calling(bridge, leaver):
            await settle()
            leaver.leave()
        async with calling(bridge, next_one):
            await settle()
            app.gate.open()
    assert next_one.body == b"hello"
    assert len(app.calls) == 2


async def test_queued_requests_are_served_in_order() -> None:
    """W-FLOW-4: first come, first served."""
    app = Counted()
    async with AsyncExitStack() as stack:
        bridge = await stack.enter_async_context(serving(app, workers=1))
        for index in range(5):
            await stack.enter_async_context(calling(bridge, client_of(f"/{index}")))
            if index == 0:
                await app.entered[0].wait()
            await settle()
        app.gate.open()
    assert app.calls == [f"/{index}" for index in range(5)]


# --- W-FLOW-5


@pytest.mark.parametrize("how", ["yield", "write", "list"])
@pytest.mark.parametrize("reads", [0, 1])
async def test_client_that_stops_reading_is_given_up(how: str, reads: int) -> None:
    """W-FLOW-5: after `stall_timeout` the request is aborted with ClientStalled and the thread is
    free.
    """
    body = TrackedBody(iter(lambda: BLOCK, b""))

    def streaming(environ: Environ, start_response: Any) -> Any:
        write = start_response("200 OK", [])
        if how == "list":
            return [BLOCK] * 100
        try:
            while how == "write":
                write(BLOCK)
        except OSError:
            pass
        return body

    client = client_of("/stream", reads=reads)
    async with serving(
        routed(stream=streaming), workers=1, response_buffer=5000, stall_timeout=STALL_SECONDS
    ) as bridge:
        with anyio.fail_after(DEADLINE_SECONDS):
            await client.run(bridge)
        if how != "list":
            await body.closed.wait()
        assert (await answered(bridge)).body == b"hello"
        assert bridge.stats().stalled == 1
    assert isinstance(client.error, ClientStalled)
    assert not client.complete
    assert body.closes == (how != "list")


async def test_client_is_never_given_up_early() -> None:
    """W-FLOW-5, W-IN-7: `stall_timeout` is the least that a client has, whatever else is going
    on.
    """
    gate, entered = Gate(), Gate()
    timeout = 0.2

    def hold(environ: Environ, start_response: Any) -> list[bytes]:
        entered.open()
        gate.wait_in_thread()
        return plain_app(environ, start_response)

    patience = []
    async with (
        serving(routed(hold=hold), stall_timeout=timeout) as bridge,
        calling(bridge, client_of("/hold")),
    ):
        await entered.wait()
        for pause, client in (
            (0.03, Client(reads=0)),
            (0.04, Client(post_scope(10), [b"some"], body_ends=False)),
            (0.03, Client(reads=1)),
        ):
            await anyio.sleep(pause)
            begin = anyio.current_time()
            await client.run(bridge)
            patience.append(anyio.current_time() - begin)
        gate.open()
        assert bridge.stats().stalled == len(patience)
    assert min(patience) >= timeout, patience


async def test_late_tick_gives_nobody_up_early() -> None:
    """W-FLOW-5, W-IN-7: a loop that was held up for longer than `stall_timeout` has not waited for
    its clients meanwhile.
    """
    entered, gate = Gate(), Gate()
    timeout = 0.2

    def hold(environ: Environ, start_response: Any) -> list[bytes]:
        entered.open()
        gate.wait_in_thread()
        return plain_app(environ, start_response)

    client = Client(post_scope(10), [b"some"], body_ends=False)
    async with (
        serving(routed(hold=hold), stall_timeout=timeout) as bridge,
        calling(bridge, client_of("/hold")),
    ):
        await entered.wait()
        time.sleep(2 * timeout)  # noqa: ASYNC251  # holds the loop up, and the tick with it
        begin = anyio.current_time()
        await client.run(bridge)
        patience = anyio.current_time() - begin
        gate.open()
    assert patience >= timeout
    assert client.status == 408


async def test_loop_that_is_held_up_gives_nobody_up() -> None:
    """W-FLOW-5, W-IN-7: what a client did meanwhile is seen before its time is up."""
    timeout = 0.4
    client = Client(post_scope(10), [b"some"], body_ends=False)
    async with (
        serving(plain_app, stall_timeout=timeout) as bridge,
        calling(bridge, client),
    ):
        await anyio.sleep(timeout / 3)  # a tick has seen it wait
        time.sleep(2 * timeout)  # noqa: ASYNC251  # holds the loop up, and the tick with it
        await settle()
        client.feed(b"thing!", last=True)
    assert (client.status, client.body) == (200, b"hello")


async def test_silent_stream_is_not_a_stalled_client() -> None:
    """W-FLOW-5: a stream with nothing to say for longer than `stall_timeout` goes on."""
    gate = Gate()

    def chunks() -> Iterator[bytes]:
        yield b"first "
        gate.wait_in_thread()
        yield b"last"

    client = Client()
    app = app_returning(lambda e: chunks())
    async with serving(app, stall_timeout=STALL_SECONDS) as bridge, calling(bridge, client):
        await client.until(lambda c: c.body == b"first ")
        await anyio.sleep(3 * STALL_SECONDS)
        gate.open()
    assert client.body == b"first last"


# --- W-FLOW-6


def held_app(where: str, entered: Gate, gate: Gate, body: TrackedBody) -> Callable[..., Any]:
    """An app that is held where its name says: by the client (`reads`, `writes`), or by the
    gate.
    """

    def app(environ: Environ, start_response: Any) -> Any:
        if where == "reads":
            entered.open()
            environ["wsgi.input"].read()
        if where == "computes":
            entered.open()
            gate.wait_in_thread()
        start_response("200 OK", [])
        return body

    return app


@pytest.mark.parametrize("where", ["reads", "computes", "writes"])
async def test_cancelled_task_frees_the_thread(where: str) -> None:
    """W-FLOW-6: the cancellation goes through at once; the only worker serves the next request."""
    entered, gate = Gate(), Gate()
    body = TrackedBody(iter(lambda: BLOCK, b""))
    app = routed(held=held_app(where, entered, gate, body))
    client = Client(post_scope(None, path="/held"), [b"some"], body_ends=False, reads=1)
    async with serving(app, workers=1, response_buffer=2000) as bridge:
        async with calling(bridge, client):
            if where == "writes":
                await client.until(lambda c: c.blocked_in_send and c.started)
            else:
                await entered.wait()
            client.cancel()
        assert client.cancel_scope.cancelled_caught
        gate.open()
        assert (await answered(bridge)).body == b"hello"
        if where != "reads":
            await body.closed.wait()
    assert bridge.stats().in_flight == 0
    assert body.closes == (where != "reads")


@pytest.mark.parametrize("where", ["reads", "computes", "writes"])
async def test_task_cancelled_by_asyncio_itself(where: str, anyio_backend_name: str) -> None:
    """W-FLOW-6: `task.cancel()`, once and no more, as uvicorn and asyncio.timeout do it."""
    if anyio_backend_name == "trio":
        return  # trio has cancel scopes only; the test above is its test
    entered, gate = Gate(), Gate()
    body = TrackedBody(iter(lambda: BLOCK, b""))
    app = routed(held=held_app(where, entered, gate, body))
    client = Client(post_scope(None, path="/held"), [b"some"], body_ends=False, reads=1)
    async with serving(app, workers=1, response_buffer=2000) as bridge:
        task = asyncio.create_task(bridge(client.scope, client.receive, client.send))  # type: ignore[arg-type]
        if where == "writes":
            await client.until(lambda c: c.blocked_in_send and c.started)
        else:
            await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, DEADLINE_SECONDS)
        gate.open()
        assert (await answered(bridge)).body == b"hello"


async def test_cancelling_does_not_swallow_the_apps_error(caplog: pytest.LogCaptureFixture) -> None:
    """W-FLOW-6, W-CALL-3: nobody raises it any more, so it is logged."""
    left = Gate()

    def app(environ: Environ, start_response: Any) -> TrackedBody:
        def chunks() -> Iterator[bytes]:
            yield b"first"
            raise ValueError("the app's own")

        start_response("200 OK", [])
        return TrackedBody(chunks(), on_close=left.open)

    client = Client(reads=1)
    async with serving(app) as bridge, calling(bridge, client):
        await client.until(lambda c: c.started and c.blocked_in_send)
        await left.wait()
        with anyio.fail_after(DEADLINE_SECONDS):
            while bridge.stats().busy:  # noqa: ASYNC110  # no event tells of it
                await anyio.sleep(0.001)
        client.cancel()
        await client.until_ended()
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == [
        "the app's own"
    ]


async def test_cancelled_task_whose_worker_has_left_is_counted() -> None:
    """W-FLOW-6: the response was on its way, its thread free."""
    client = Client(reads=1)
    async with serving(plain_app) as bridge, calling(bridge, client):
        await client.until(lambda c: c.started and c.blocked_in_send)
        client.cancel()
        await client.until_ended()
        assert bridge.stats().disconnected == 1
    assert not client.complete


async def test_cancelled_app_sees_a_disconnect() -> None:
    """W-FLOW-6: write() and `client_disconnected()` say the same as after a disconnect."""
    entered, gate = Gate(), Gate()
    seen: list[object] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        entered.open()
        gate.wait_in_thread()
        seen.append(environ[GONE]())
        try:
            write(b"x")
        except OSError as error:
            seen.append(type(error))
        return []

    client = Client()
    async with serving(app) as bridge:
        async with calling(bridge, client):
            await entered.wait()
            client.cancel()
        gate.open()
    assert seen == [True, ClientDisconnected]


# --- W-FLOW-7


class HeldBody(TrackedBody):
    """A body that is held at one of its steps."""

    def __init__(self, where: str, hold: Callable[[], None]) -> None:
        super().__init__([b"a", b"b"])
        self._where, self._hold = where, hold

    def __iter__(self) -> Iterator[bytes]:
        self._hold_at("iter")
        return self

    def __next__(self) -> bytes:
        self._hold_at("next")
        return super().__next__()

    def close(self) -> None:
        self._hold_at("close")
        super().close()

    def _hold_at(self, step: str) -> None:
        if self._where == step:
            self._hold()


@pytest.mark.parametrize("where", ["call", "iter", "next", "close", "file", "list close"])
@pytest.mark.parametrize("then", ["goes on", "leaves", "is cancelled", "bridge is closed"])
async def test_loop_runs_while_the_app_holds_its_thread(where: str, then: str) -> None:
    """W-FLOW-7: wherever the app hangs, the loop serves, counts, cancels and closes; only it lets
    the app go on.
    """
    entered, gate = Gate(), Gate()

    def hold() -> None:
        entered.open()
        gate.wait_in_thread()

    class HeldFile(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            hold()
            return super().read(size)

    class HeldList(list[bytes]):
        def close(self) -> None:
            hold()

    def held(environ: Environ, start_response: Any) -> Any:
        if where == "call":
            hold()
        start_response("200 OK", [])
        if where == "file":
            return environ["wsgi.file_wrapper"](HeldFile(b"ab"))
        return HeldList([b"a", b"b"]) if where == "list close" else HeldBody(where, hold)

    client = client_of("/held")
    async with (
        serving(routed(held=held), workers=2) as bridge,
        anyio.create_task_group() as group,
        calling(bridge, client),
    ):
        await entered.wait()
        assert (await answered(bridge)).body == b"hello"
        assert bridge.stats().threads == 2
        if then == "leaves":
            client.leave()
        elif then == "is cancelled":
            client.cancel()
        elif then == "bridge is closed":
            group.start_soon(bridge.aclose)
        await settle()
        bridge.stats()
        gate.open()
    assert bridge.stats().in_flight == 0


class EagerClient(Client):
    """A server whose receive() and send() never wait; each gives the worker time to be ahead."""

    async def send(self, message: dict[str, Any]) -> None:
        time.sleep(0.0002)  # noqa: ASYNC251, the loop is busy and the worker is not
        self.messages.append(message)
        self.body_bytes += len(message.get("body", b""))
        self._notify()

    async def receive(self) -> dict[str, Any]:
        if self._inbox:
            time.sleep(0.0002)  # noqa: ASYNC251
            message = self._inbox.popleft()
            self.fed_bytes_taken += len(message["body"])
            self._notify()
            return message
        return await super().receive()


@pytest.mark.parametrize("direction", ["download", "upload"])
async def test_busy_exchange_leaves_the_loop_to_others(direction: str) -> None:
    """W-FLOW-7: a long transfer with a server that never waits does not keep the loop for
    itself.
    """
    block, blocks = b"x" * 65536, 400

    def transfer(environ: Environ, start_response: Any) -> Any:
        start_response("200 OK", [])
        if direction == "download":
            return (block for _ in range(blocks))
        while environ["wsgi.input"].read(len(block)):
            pass
        return [b"done"]

    body = [block] * blocks if direction == "upload" else [b""]
    client = EagerClient(post_scope(None, path="/transfer"), body)
    app = routed(transfer=transfer)
    async with (
        serving(app, request_buffer=10 * 65536, response_buffer=10 * 65536) as bridge,
        calling(bridge, client),
    ):
        await client.until(lambda c: c.body_bytes + c.fed_bytes_taken)
        other = await answered(bridge)
        moved = client.body_bytes + client.fed_bytes_taken
    assert other.body == b"hello"
    assert moved < blocks * len(block), "the other request was answered after the transfer"


class CountedChunk(bytes):
    """Counts the pieces that are cut out of it."""

    cuts = 0

    def __getitem__(self, key: Any) -> Any:
        self.cuts += 1
        return super().__getitem__(key)


@pytest.mark.parametrize("how", ["one chunk", "many chunks", "small chunks", "yielded"])
async def test_large_body_leaves_the_loop_to_others(how: str) -> None:
    """W-FLOW-7: after `response_buffer` bytes at most that a server takes without waiting, other
    tasks have their turn, for a body given whole too.
    """
    budget, size = 2**20, 2**25
    bodies = {
        "one chunk": [b"x" * size],
        "many chunks": [b"x" * 2**16] * (size // 2**16),
        "small chunks": [b"x" * 2**8] * (size // 2**8),
        "yielded": iter([b"x" * size]),
    }
    turns: list[int] = []
    client = EagerClient()

    async def take_turns() -> None:
        while not client.ended:
            turns.append(client.body_bytes)
            await anyio.lowlevel.checkpoint()
        turns.append(client.body_bytes)

    async with (
        serving(app_returning(lambda environ: bodies[how]), response_buffer=budget) as bridge,
        anyio.create_task_group() as group,
    ):
        group.start_soon(take_turns)
        await answered(bridge, client)
    assert client.body_bytes == size
    # Trio's tasks take turns in any order, so one may have two turns between those of another.
    longest = max(after - before for before, after in pairwise(turns))
    assert longest <= 2 * (budget + SPLIT_BYTES)


@pytest.mark.parametrize("kind", [list, iter])
async def test_huge_chunk_is_cut_as_it_goes(kind: Any) -> None:
    """W-FLOW-7: not at one go, while the loop waits and as many bytes again are taken."""
    chunk = CountedChunk(40 * SPLIT_BYTES)
    cuts: list[int] = []

    class NotingClient(Client):
        async def send(self, message: dict[str, Any]) -> None:
            cuts.append(chunk.cuts)
            await super().send(message)

    client = await fetched(app_returning(lambda environ: kind([chunk])), NotingClient())
    assert client.body == chunk
    sent = range(len(cuts) - 1)
    assert all(count <= number + 2 for number, count in zip(sent, cuts[1:], strict=True))


# --- W-FLOW-8


class Streams:
    """Event streams that say one thing and then wait."""

    def __init__(self) -> None:
        self.gate = Gate()

    def __call__(self, environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        yield b"data: 1\n\n"
        self.gate.wait_in_thread()


async def test_open_streams_leave_the_pool_its_threads() -> None:
    """W-FLOW-8: ten open event streams on two workers, and two requests at once are answered."""
    streams = Streams()
    meeting = threading.Barrier(2, timeout=DEADLINE_SECONDS)

    def meet(environ: Environ, start_response: Any) -> list[bytes]:
        meeting.wait()
        return plain_app(environ, start_response)

    clients = [client_of("/stream") for _ in range(10)]
    app = routed(stream=streams, meet=meet)
    async with serving(app, workers=2, stream_after=0.02) as bridge, calling(bridge, *clients):
        for client in clients:
            await client.until(lambda c: c.body)
        pair = [client_of("/meet") for _ in range(2)]
        async with calling(bridge, *pair):
            pass
        assert [client.body for client in pair] == [b"hello"] * 2
        assert bridge.stats().streaming == 10
        streams.gate.open()
    assert all(client.complete for client in clients)
    assert bridge.stats().streaming == 0


async def test_short_responses_stay_in_the_count() -> None:
    """W-FLOW-8: before `stream_after` a stream is a request like others."""
    streams = Streams()
    client, waiting = client_of("/stream"), Client()
    app = routed(stream=streams)
    async with serving(app, workers=1, stream_after=3600) as bridge, calling(bridge, client):
        await client.until(lambda c: c.body)
        async with calling(bridge, waiting):
            await settle()
            stats = bridge.stats()
            assert (stats.streaming, stats.busy, stats.queued) == (0, 1, 1)
            streams.gate.open()
    assert waiting.body == b"hello"


async def test_streams_are_limited() -> None:
    """W-FLOW-8: the stream after `max_streams` keeps its worker until it ends."""
    gates = {"/a": Gate(), "/b": Gate(), "/c": Gate()}

    def stream(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"x"
        gates[environ["PATH_INFO"]].wait_in_thread()

    streams, waiting = [client_of(path) for path in gates], Client()
    app = routed(a=stream, b=stream, c=stream)
    async with (
        serving(app, workers=2, stream_after=0.02, max_streams=1) as bridge,
        calling(bridge, *streams),
    ):
        for client in streams:
            await client.until(lambda c: c.body)
        async with calling(bridge, waiting):
            with anyio.fail_after(DEADLINE_SECONDS):
                while bridge.stats().streaming < 1:  # noqa: ASYNC110, no event tells of it
                    await anyio.sleep(0.002)
            await anyio.sleep(0.1)  # time enough for a second one, were it allowed
            assert bridge.stats().streaming == 1
            assert not waiting.started
            gates["/b"].open()
        gates["/a"].open()
        gates["/c"].open()
    assert waiting.body == b"hello"


async def test_lone_worker_stays_alone() -> None:
    """W-FLOW-8, W-ENV-7: with `workers=1` the app was told that it is alone, so no stream ever
    leaves its place.
    """
    streams = Streams()
    client, waiting = client_of("/stream"), Client()
    async with (
        serving(routed(stream=streams), workers=1, stream_after=0.02) as bridge,
        calling(bridge, client),
    ):
        await client.until(lambda c: c.body)
        async with calling(bridge, waiting):
            await anyio.sleep(0.1)
            assert not waiting.started
            streams.gate.open()
    assert waiting.body == b"hello"


@pytest.mark.parametrize("how", ["yield", "write"])
async def test_worker_that_waits_for_a_reader_does_not_count(how: str) -> None:
    """W-FLOW-8: ten clients that read nothing of a generator leave the two workers' places to
    others at once.
    """

    def endless(environ: Environ, start_response: Any) -> Iterator[bytes]:
        write = start_response("200 OK", [])
        while how == "write":
            write(BLOCK)
        while True:
            yield BLOCK

    clients = [client_of("/endless", reads=1) for _ in range(10)]
    app = routed(endless=endless)
    async with (
        serving(app, workers=2, stream_after=3600, response_buffer=3000) as bridge,
        calling(bridge, *clients),
    ):
        for client in clients:
            await client.until(lambda c: c.blocked_in_send and c.started)
        assert (await answered(bridge)).body == b"hello"
        for client in clients:
            client.leave()
    assert bridge.stats().in_flight == 0


async def test_worker_that_waits_for_an_upload_does_not_count() -> None:
    """W-FLOW-8: ten clients that send nothing more of a streamed upload leave the two workers'
    places to others.
    """
    read_app = app_returning(lambda environ: [environ["wsgi.input"].read()])
    clients = [
        Client(post_scope(None, path="/upload"), [b"some"], body_ends=False) for _ in range(10)
    ]
    app = routed(upload=read_app)
    async with (
        serving(app, workers=2, stream_after=3600) as bridge,
        calling(bridge, *clients),
    ):
        await settle()
        with anyio.fail_after(3):
            assert (await answered(bridge)).body == b"hello"
        for client in clients:
            client.feed(b" more", last=True)
    assert {client.body for client in clients} == {b"some more"}

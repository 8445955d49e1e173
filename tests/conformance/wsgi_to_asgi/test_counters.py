"""W-STAT-1: every request that is over is in exactly one of the counters of `stats()`."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tests.support.fake_asgi_server import (
    Client,
    Gate,
    calling,
    http_scope,
    plain_app,
    post_scope,
    serving,
    settle,
    websocket_scope,
)
from tests.support.fake_websocket import WebSocketClient
from wsgi_asgi_bridge import WSGIToASGI
from wsgi_asgi_bridge.wsgi_to_asgi import WSGIToASGIStats

COUNTERS = ("completed", "rejected", "disconnected", "stalled", "failed", "closed")
STALL_SECONDS = 0.15


def counted(stats: WSGIToASGIStats) -> dict[str, int]:
    """The counters that are not zero; of a bridge where nothing is in flight."""
    assert stats.in_flight == 0
    counts = dataclasses.asdict(stats)
    return {name: counts[name] for name in COUNTERS if counts[name]}


# --- apps


def streaming_app(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [])
    yield b"a"
    yield b"b"


def large_app(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [bytes(100_000) for _ in range(5)]


def reading_app(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [environ["wsgi.input"].read()]


def raising_app(environ: Any, start_response: Any) -> list[bytes]:
    raise LookupError("mine")


def raising_late_app(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [])
    yield b"a"
    raise LookupError("mine")


class RaisesInClose(list[bytes]):
    def close(self) -> None:
        raise LookupError("mine")


def raising_in_close_app(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [])
    return RaisesInClose([b"whole"])


def short_app(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "10")])
    return [b"short"]


# --- one request by itself


def bad_scope() -> Any:
    return http_scope(server=("one",))


def two_lengths() -> Any:
    return http_scope("POST", headers=[(b"content-length", b"5"), (b"content-length", b"6")])


CASES: dict[str, tuple[str, Any, Any, dict[str, Any]]] = {
    "a list": ("completed", plain_app, Client, {}),
    "a stream": ("completed", streaming_app, Client, {}),
    "a large list": ("completed", large_app, Client, {}),
    "an upload": ("completed", reading_app, lambda: Client(post_scope(3), [b"abc"]), {}),
    "a HEAD": ("completed", plain_app, lambda: Client(http_scope("HEAD")), {}),
    "a WebSocket refused in the app's words": (
        "completed",
        plain_app,
        lambda: WebSocketClient(websocket_scope(extensions={"websocket.http.response": {}})),
        {},
    ),
    "the app raises": ("failed", raising_app, Client, {}),
    "the app raises later": ("failed", raising_late_app, Client, {}),
    "close() raises after a whole body": ("failed", raising_in_close_app, Client, {}),
    "a short body": ("failed", short_app, Client, {}),
    "the scope makes no sense": ("rejected", plain_app, lambda: Client(bad_scope()), {}),
    "400": ("rejected", plain_app, lambda: Client(two_lengths()), {}),
    "400, a cut body": ("rejected", plain_app, lambda: Client(post_scope(5), [b"abc"]), {}),
    "413, declared": (
        "rejected",
        plain_app,
        lambda: Client(post_scope(5), [b"abcde"]),
        {"max_body_size": 4},
    ),
    "413, read": (
        "rejected",
        reading_app,
        lambda: Client(post_scope(), [b"abc", b"de"]),
        {"max_body_size": 4},
    ),
    "408, collected": ("stalled", plain_app, lambda: Client(post_scope(5), body_ends=False), {}),
    "408, read": (
        "stalled",
        reading_app,
        lambda: Client(post_scope(), [b"a"], body_ends=False),
        {},
    ),
    "nobody reads": ("stalled", streaming_app, lambda: Client(reads=1), {}),
    "nobody reads a list": ("stalled", large_app, lambda: Client(reads=1), {}),
}
BROKEN_ANSWERS = ["400", "400, a cut body", "413, declared", "408, collected", "408, read"]


@pytest.mark.parametrize(("counter", "app", "make_client", "options"), CASES.values(), ids=CASES)
async def test_a_request(counter: str, app: Any, make_client: Any, options: Any) -> None:
    async with serving(app, stall_timeout=STALL_SECONDS, **options) as bridge:
        await make_client().run(bridge)
        assert counted(bridge.stats()) == {counter: 1}


@pytest.mark.parametrize(
    ("error", "counter"),
    [(BrokenPipeError, "disconnected"), (RuntimeError, "failed"), (KeyError, "failed")],
)
@pytest.mark.parametrize("fails_at", [0, 1, 2])
@pytest.mark.parametrize("app", [plain_app, streaming_app, large_app])
async def test_a_send_that_raises(app: Any, fails_at: int, error: Any, counter: str) -> None:
    """Whatever it raises, at the head, in the body or with its end; the worker may have left."""
    client = Client(send_fails_at=fails_at, send_error=error)
    async with serving(app) as bridge:
        await client.run(bridge)
        expected = counter if client.send_calls > fails_at else "completed"
        assert counted(bridge.stats()) == {expected: 1}


@pytest.mark.parametrize("error", [BrokenPipeError, RuntimeError])
@pytest.mark.parametrize("case", BROKEN_ANSWERS)
async def test_a_send_that_raises_with_an_answer_of_the_bridge(case: str, error: Any) -> None:
    """It counts as it would have with a client that reads it."""
    counter, app, make_client, options = CASES[case]
    client = make_client()
    client._send_fails_at, client._send_error = 0, error
    async with serving(app, stall_timeout=STALL_SECONDS, **options) as bridge:
        await client.run(bridge)
        assert counted(bridge.stats()) == {counter: 1}


@pytest.mark.parametrize(
    ("error", "counter"), [(ConnectionResetError, "disconnected"), (RuntimeError, "failed")]
)
async def test_a_receive_that_raises_while_the_body_is_collected(error: Any, counter: str) -> None:
    client = Client(post_scope(5))

    async def receive() -> Any:
        raise error("no body")

    client.receive = receive  # type: ignore[method-assign]
    async with serving(plain_app) as bridge:
        await client.run(bridge)
        assert counted(bridge.stats()) == {counter: 1}


async def test_a_handshake_that_the_app_answers() -> None:
    """As any other answer, also if the server cannot carry it."""
    async with serving(plain_app) as bridge:
        await WebSocketClient().run(bridge)
        assert counted(bridge.stats()) == {"completed": 1}


# --- a request that is ended from outside


@pytest.mark.parametrize("how", ["leave", "cancel"])
@pytest.mark.parametrize("where", ["collected", "queued", "in the app", "streaming", "sending"])
async def test_who_leaves_or_is_cancelled(where: str, how: str) -> None:
    entered, gate = Gate(), Gate()

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        if environ["PATH_INFO"] != "/streaming":
            entered.open()
            if environ["PATH_INFO"] != "/sending":
                gate.wait_in_thread()
        yield b"a"
        if environ["PATH_INFO"] == "/streaming":
            entered.open()
            gate.wait_in_thread()
        yield b"b"

    holder = Client(http_scope(path="/holder"))
    if where == "collected":
        client = Client(post_scope(5), body_ends=False)
    else:
        client = Client(http_scope(path=f"/{where}"), reads=1 if where == "sending" else 99)
    async with serving(app, workers=1) as bridge:
        async with anyio.create_task_group() as group:
            if where == "queued":
                group.start_soon(holder.run, bridge)
                await entered.wait()
            group.start_soon(client.run, bridge)
            if where == "collected":
                await client.until(lambda client: client.waiting_in_receive)
            elif where == "sending":
                await client.until(lambda client: client.started and client.blocked_in_send)
            else:
                await entered.wait()
                await settle()
            client.cancel() if how == "cancel" else client.leave()
            if where in ("collected", "queued", "streaming", "sending") or how == "cancel":
                await client.until_ended()
            gate.open()
            await client.until_ended()
        expected = {"disconnected": 1} | ({"completed": 1} if where == "queued" else {})
        if where in ("in the app", "sending") and how == "leave":
            # Perhaps nobody has looked before the app answered, and send() does not tell.
            assert sum(counted(bridge.stats()).values()) == 1
        else:
            assert counted(bridge.stats()) == expected


async def test_who_is_cancelled_after_a_whole_response() -> None:
    """It was sent whole: what the app does in close() changes nothing."""
    closing, gate = Gate(), Gate()

    class Body(list[bytes]):
        def close(self) -> None:
            closing.open()
            gate.wait_in_thread()

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return Body([b"whole"])

    client = Client()
    async with serving(app) as bridge, calling(bridge, client):
        await closing.wait()
        await client.until(lambda client: client.complete)
        client.cancel()
        await client.until_ended()
        gate.open()
    assert counted(bridge.stats()) == {"completed": 1}


async def test_503_and_what_a_full_pool_serves_later() -> None:
    entered, gate = Gate(), Gate()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        entered.open()
        gate.wait_in_thread()
        return plain_app(environ, start_response)

    clients = [Client() for _ in range(5)]
    async with serving(app, workers=1, max_queued=1) as bridge, calling(bridge, *clients):
        await entered.wait()
        await settle()
        gate.open()
    stats = counted(bridge.stats())
    assert sum(stats.values()) == 5
    assert stats["rejected"] == sum(client.status == 503 for client in clients)


@pytest.mark.parametrize("close", [WSGIToASGI.close, WSGIToASGI.aclose])
async def test_a_bridge_that_is_closed(close: Any) -> None:
    """What ran and what waited."""
    entered, gate = Gate(), Gate()

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        entered.open()
        gate.wait_in_thread()
        yield b"never sent"

    clients = [Client() for _ in range(3)]
    async with serving(app, workers=1, shutdown_timeout=0.05) as bridge, calling(bridge, *clients):
        await entered.wait()
        await settle()
        if close is WSGIToASGI.close:
            await anyio.to_thread.run_sync(close, bridge)
        else:
            await close(bridge)
        for client in clients:
            await client.until_ended()
        gate.open()
    assert counted(bridge.stats()) == {"closed": 3}

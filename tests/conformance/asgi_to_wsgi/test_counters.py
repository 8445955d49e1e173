"""W-STAT-1 for ASGIToWSGI: every request that is over is in exactly one of the counters."""

import asyncio
import dataclasses
import threading
from typing import Any

import anyio
import pytest

from tests.support.fake_wsgi_server import (
    InThread,
    bridged,
    close_bridge,
    environ_for,
    finish,
    hello,
    must_become,
    must_happen,
    on_asyncio_backends,
    on_every_backend,
    respond,
    start,
    stream,
    upload_environ,
)
from wsgi_asgi_bridge import AppError, ASGIToWSGI
from wsgi_asgi_bridge.asgi_to_wsgi import ASGIToWSGIStats

COUNTERS = ("completed", "disconnected", "failed", "rejected", "closed")


def counted(stats: ASGIToWSGIStats) -> dict[str, int]:
    counts = dataclasses.asdict(stats)
    return {name: counts[name] for name in COUNTERS if counts[name]}


def must_count(bridge: ASGIToWSGI, expected: dict[str, int]) -> None:
    """The last step of a request is the loop's, after its thread has gone."""
    must_become(lambda: bridge.stats().in_flight == 0, "the end of all requests")
    must_become(lambda: sum(counted(bridge.stats()).values()) > 0, "a count")
    assert counted(bridge.stats()) == expected


def call(bridge: ASGIToWSGI, environ: Any = None) -> None:
    """One request to its end, whatever comes of it."""
    try:
        blocks: Any = bridge(environ or environ_for(), lambda *_: lambda data: None)
        try:
            b"".join(blocks)
        finally:
            getattr(blocks, "close", bool)()
    except Exception:
        pass


# --- apps


async def streaming(scope: Any, receive: Any, send: Any) -> None:
    await start(send)
    for _ in range(3):
        await stream(send, b"a")
    await send({"type": "http.response.body"})


async def error_page(scope: Any, receive: Any, send: Any) -> None:
    await respond(send, b"sorry", status=500)
    raise LookupError("mine")


async def raising(scope: Any, receive: Any, send: Any) -> None:
    raise LookupError("mine")


async def raising_late(scope: Any, receive: Any, send: Any) -> None:
    await start(send)
    await stream(send, b"a")
    raise LookupError("mine")


async def silent(scope: Any, receive: Any, send: Any) -> None:
    pass


async def half(scope: Any, receive: Any, send: Any) -> None:
    await start(send)
    await stream(send, b"a")


async def background(scope: Any, receive: Any, send: Any) -> None:
    await respond(send, b"whole")
    raise LookupError("mine")


async def reading(scope: Any, receive: Any, send: Any) -> None:
    while (message := await receive())["type"] == "http.request":
        if not message["more_body"]:
            await respond(send)
            return


class BrokenInput:
    def read(self, size: int = -1) -> bytes:
        raise ConnectionResetError("the client hung up")


CASES: dict[str, tuple[str, Any, Any]] = {
    "whole": ("completed", hello, environ_for),
    "a stream": ("completed", streaming, environ_for),
    "a HEAD": ("completed", hello, lambda: environ_for(method="HEAD")),
    "an error after an error page": ("completed", error_page, environ_for),
    "an error after the response": ("completed", background, environ_for),
    "the app raises": ("failed", raising, environ_for),
    "the app raises later": ("failed", raising_late, environ_for),
    "no response": ("failed", silent, environ_for),
    "half a response": ("failed", half, environ_for),
    "a small body that cannot be read": (
        "disconnected",
        hello,
        lambda: upload_environ(BrokenInput(), length=5),
    ),
    "a large body that cannot be read": (
        "disconnected",
        reading,
        lambda: upload_environ(BrokenInput(), length=10**6),
    ),
    "400": ("rejected", hello, lambda: environ_for() | {"CONTENT_LENGTH": "x"}),
    "an environ that makes no sense": (
        "rejected",
        hello,
        lambda: environ_for() | {"PATH_INFO": b"/"},
    ),
}


@on_every_backend
@pytest.mark.parametrize(("counter", "app", "environ"), CASES.values(), ids=CASES)
def test_a_request(counter: str, app: Any, environ: Any, backend: Any) -> None:
    with bridged(app, backend) as bridge:
        call(bridge, environ())
        must_count(bridge, {counter: 1})


@on_every_backend
def test_a_server_that_closes_early(backend: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"a")
        await anyio.sleep_forever()

    with bridged(app, backend) as bridge:
        blocks: Any = bridge(environ_for(), lambda *_: lambda data: None)
        next(iter(blocks))
        blocks.close()
        blocks.close()
        must_count(bridge, {"disconnected": 1})


@on_every_backend
def test_a_start_response_that_raises(backend: Any) -> None:
    """The app may have sent all before: one of the two, once."""

    def start_response(*_: Any) -> Any:
        raise OSError("no")

    with bridged(streaming, backend) as bridge:
        with pytest.raises(OSError, match="no"):
            bridge(environ_for(), start_response)
        must_become(lambda: bridge.stats().in_flight == 0, "the end")
        must_become(lambda: sum(counted(bridge.stats()).values()) == 1, "one count")


@on_every_backend
def test_a_startup_that_failed(backend: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})

    with bridged(app, backend, lifespan="on") as bridge:
        for _ in range(3):
            call(bridge)
        must_count(bridge, {"rejected": 3})


@on_every_backend
def test_a_bridge_that_is_closed(backend: Any) -> None:
    """What is in flight then, and who comes while it is closing; counted by the old loop."""
    begun, cancelled = threading.Event(), threading.Event()
    released = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        except BaseException:
            cancelled.set()
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(released.wait, 10)
            raise

    bridge = ASGIToWSGI(app, **backend, lifespan="off", shutdown_timeout=0.2)
    held = InThread(lambda: call(bridge), "the request in flight")
    must_happen(begun, "the app's begin")
    runtime: Any = bridge._runtime
    closing = InThread(bridge.close, "close()")
    must_happen(cancelled, "the cancellation")
    late = InThread(lambda: call(bridge), "a late request")
    late.result()
    held.result()
    stats = bridge.stats()
    released.set()
    closing.result()
    assert counted(stats) == {"closed": 1, "rejected": 1}
    counts = runtime.counts
    assert (counts.disconnected, counts.failed, counts.completed, counts.closed) == (0, 0, 0, 1)
    assert counted(bridge.stats()) == {}


def test_many_refusals_at_once_are_all_counted() -> None:
    """They happen in the callers' own threads, without the loop."""
    bridge = ASGIToWSGI(hello)

    def refused() -> None:
        for _ in range(50):
            call(bridge, environ_for() | {"CONTENT_LENGTH": "x"})

    threads = [InThread(refused, "refusals") for _ in range(8)]
    for thread in threads:
        thread.result()
    assert counted(bridge.stats()) == {"rejected": 400}
    close_bridge(bridge)


@on_asyncio_backends
@pytest.mark.parametrize("status", [200, 500])
def test_an_end_that_comes_after_the_app_has_returned(status: int, backend: Any) -> None:
    """W-STAT-1: it failed, and is no background work for ever; its thread is still there."""
    sent = threading.Event()
    raised: list[BaseException] = []
    tasks: list[asyncio.Task[None]] = []

    async def end(send: Any) -> None:
        try:
            await finish(send)
        except OSError as exc:
            raised.append(exc)
        sent.set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send, status)
        await stream(send, b"a")
        tasks.append(asyncio.create_task(end(send)))

    with bridged(app, backend) as bridge:
        blocks: Any = bridge(environ_for(), lambda *_: must_happen(sent, "the end"))
        with pytest.raises(AppError):
            list(blocks)
        blocks.close()
        must_count(bridge, {"failed": 1})
        assert bridge.stats().background == 0
    assert len(raised) == 1

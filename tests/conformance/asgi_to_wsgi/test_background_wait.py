"""A-OUT-9: with `background_wait`, `close()` of a response waits for what the app does after it."""

import threading
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from asgiref.sync import sync_to_async

from tests.support.fake_wsgi_server import (
    Exchange,
    Gate,
    InThread,
    UnreadableInput,
    bridged,
    environ_for,
    finish,
    must_become,
    must_happen,
    on_asyncio_backends,
    on_every_backend,
    respond,
    serve,
    start,
    stream,
    upload_environ,
)
from wsgi_asgi_bridge import ASGIToWSGI
from wsgi_asgi_bridge._crossing.calling_thread import current_calling_thread

Backend = dict[str, Any]
LONG_SECONDS = 60.0
"""A test that waits for all of it has failed long before."""


def with_work(go_on: Gate, done: threading.Event) -> Any:
    """Answers, and then works until `go_on` is opened."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"begun")
        await go_on.wait()
        done.set()

    return app


@on_every_backend
def test_close_returns_when_the_app_has_ended(backend: Backend) -> None:
    """A-OUT-9: the server has the body before that."""
    go_on, done = Gate(), threading.Event()
    with bridged(with_work(go_on, done), backend, background_wait=LONG_SECONDS) as bridge:
        exchange = Exchange(bridge)
        must_become(lambda: exchange.complete, "the end of the body")
        assert not done.is_set()
        assert not exchange.closed
        go_on.open()
        assert exchange.body == b"begun"
        assert exchange.closed
        assert done.is_set()
        # What a server would have added to a list.
        assert exchange.header_values("content-length") == ["5"]


@on_every_backend
def test_close_waits_no_longer_than_it_may(backend: Backend) -> None:
    """A-OUT-9: then the work goes on, as without waiting."""
    go_on, done = Gate(), threading.Event()
    with bridged(with_work(go_on, done), backend, background_wait=0.05) as bridge:
        assert serve(bridge).body == b"begun"
        assert bridge.stats().background == 1
        go_on.open()
        must_happen(done, "the end of the work")


@on_every_backend
def test_nobody_waits_by_default(backend: Backend) -> None:
    """A-OUT-5, A-OUT-9: 0 is the default and may be said."""
    go_on, done = Gate(), threading.Event()
    with bridged(with_work(go_on, done), backend, background_wait=0) as bridge:
        assert serve(bridge).result == [b"begun"]
        go_on.open()
        must_happen(done, "the end of the work")


@on_every_backend
def test_an_app_that_has_ended_is_not_waited_for(backend: Backend) -> None:
    """A-OUT-9: and `close()` may be called again."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"wh")
        await finish(send, b"ole")

    with bridged(app, backend, background_wait=LONG_SECONDS) as bridge:
        result: Any = bridge(environ_for(), lambda *_: None)
        assert b"".join(result) == b"whole"
        for _ in range(2):
            InThread(result.close, "close()").result()


@on_every_backend
def test_a_response_that_is_closed_early_is_not_waited_for(backend: Backend) -> None:
    """A-OUT-3, A-OUT-9: its app is told that the client has left, and may take its time."""
    go_on = Gate()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"part")
        await receive()
        await receive()
        await go_on.wait()

    with bridged(app, backend, background_wait=LONG_SECONDS) as bridge:
        exchange = Exchange(bridge, hold=True)
        assert exchange.take() == b"part"
        assert exchange.hang_up().closed
        go_on.open()


@on_every_backend
def test_an_error_of_the_work_is_logged(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """A-OUT-5, A-OUT-9."""
    go_on = Gate()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"begun", status=500)
        await go_on.wait()
        raise LookupError

    with bridged(app, backend, background_wait=LONG_SECONDS) as bridge:
        exchange = Exchange(bridge)
        must_become(lambda: exchange.complete, "the end of the body")
        go_on.open()
        assert exchange.body == b"begun"
    assert [r.getMessage() for r in caplog.records if r.name == "wsgi_asgi_bridge"] == [
        "the app raised after its response had ended"
    ]


@on_asyncio_backends
@pytest.mark.parametrize("in_parts", [False, True])
def test_sync_code_of_the_work_runs_on_the_thread_that_waits(
    backend: Backend, in_parts: bool
) -> None:
    """A-LOOP-4, A-OUT-9: right after the response, and later."""
    go_on = Gate()
    threads: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        if in_parts:
            await stream(send, b"be")
        await finish(send, b"gun")
        threads.append(await sync_to_async(threading.get_ident)())
        await go_on.wait()
        threads.append(await sync_to_async(threading.get_ident)())

    with bridged(app, backend, background_wait=LONG_SECONDS) as bridge:
        exchange = Exchange(bridge)
        must_become(lambda: len(threads) == 1, "the sync code after the response")
        go_on.open()
        exchange.finish()
    assert threads == [exchange.thread.ident] * 2


@on_asyncio_backends
def test_sync_code_goes_on_elsewhere_when_the_wait_is_over(backend: Backend) -> None:
    """A-OUT-5, A-OUT-9."""
    go_on, done = Gate(), threading.Event()
    threads: list[threading.Thread] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"begun")
        await go_on.wait()
        threads.append(await sync_to_async(threading.current_thread)())
        done.set()

    with bridged(app, backend, background_wait=0.05) as bridge:
        exchange = serve(bridge)
        assert exchange.body == b"begun"
        go_on.open()
        must_happen(done, "the sync code after the wait")
    assert threads[0] is not exchange.thread


@on_every_backend
def test_read_that_had_not_begun_is_not_made_after_the_response(backend: Backend) -> None:
    """A-IN-1, A-OUT-9: it would wait for a client that may send no more."""
    go_on = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        thread = current_calling_thread.get()
        assert thread.call_in_thread(lambda: must_happen(go_on, "the end of the response"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            assert thread._jobs
            await respond(send, b"denied")
            go_on.set()

    body = UnreadableInput()
    with bridged(app, backend, background_wait=LONG_SECONDS, request_buffer=16) as bridge:
        assert serve(bridge, upload_environ(body, length=1000)).body == b"denied"
    assert body.reads == []


@pytest.mark.parametrize("value", [0, 0.0, 1, 2.5])
def test_seconds_from_zero_on_are_accepted(value: float) -> None:
    """A-OUT-9."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    ASGIToWSGI(app, background_wait=value)

"""A-LOOP-4: thread-sensitive sync code of an async app runs on the WSGI thread that waits."""

import asyncio
import contextvars
import signal
import threading
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async

from tests.support.fake_wsgi_server import (
    BodyInput,
    Exchange,
    Gate,
    bridged,
    environ_for,
    finish,
    must_become,
    must_happen,
    on_asyncio_backends,
    respond,
    serve,
    start,
    stream,
    turn_the_loop,
    upload_environ,
    whole_body,
    with_turns,
)

pytestmark = on_asyncio_backends

here = sync_to_async(threading.get_ident, thread_sensitive=True)
elsewhere = sync_to_async(threading.get_ident, thread_sensitive=False)


def test_sync_code_runs_on_the_calling_thread(backend: dict[str, Any]) -> None:
    """A-LOOP-4: before, between and after other awaits."""
    threads: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        threads.append(await here())
        await asyncio.sleep(0)
        threads.append(await here())
        await whole_body(receive)
        threads.append(await here())
        await respond(send, b"ok")

    with bridged(app, backend) as bridge:
        exchange = serve(bridge, environ_for(method="POST", body=b"body"))
        assert exchange.body == b"ok"
    assert set(threads) == {exchange.thread.ident}


def test_sync_code_runs_in_mid_stream(backend: dict[str, Any]) -> None:
    """A-LOOP-4: a stream from an ORM query needs the same thread for each of its parts."""
    threads: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        for n in range(5):
            threads.append(await here())
            await stream(send, b"%d" % n)
        threads.append(await here())
        await finish(send)

    with bridged(app, backend) as bridge:
        exchange = serve(bridge)
        assert exchange.body == b"01234"
    assert set(threads) == {exchange.thread.ident}


def test_sync_code_and_uploads_take_turns(backend: dict[str, Any]) -> None:
    """A-LOOP-4: the one thread reads the input and runs the code, in the app's order."""
    threads: list[int] = []
    size = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal size
        more = True
        while more:
            message = await receive()
            size += len(message["body"])
            more = message["more_body"]
            threads.append(await here())
        await respond(send, b"ok")

    body = BodyInput(b"x" * 10_000)
    with bridged(app, backend, request_buffer=1024) as bridge:
        exchange = serve(bridge, upload_environ(body, length=body.size))
        assert exchange.body == b"ok"
    assert size == 10_000
    assert set(threads) == {exchange.thread.ident}


def test_two_requests_use_two_threads(backend: dict[str, Any]) -> None:
    """A-LOOP-4: sync code of requests side by side runs side by side, each on its own caller."""
    together = threading.Barrier(4, timeout=10)

    def meet() -> int:
        together.wait()
        return threading.get_ident()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, str(await sync_to_async(meet)()).encode())

    with bridged(app, backend) as bridge:
        exchanges = [Exchange(bridge) for _ in range(4)]
        assert [int(e.body) for e in exchanges] == [e.thread.ident for e in exchanges]


def test_insensitive_code_runs_elsewhere(backend: dict[str, Any]) -> None:
    """A-LOOP-4: `thread_sensitive=False` asks for a thread of the loop's pool."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, str(await elsewhere()).encode())

    with bridged(app, backend) as bridge:
        exchange = serve(bridge)
        assert int(exchange.body) != exchange.thread.ident


def test_loop_is_free_while_sync_code_runs(backend: dict[str, Any]) -> None:
    """A-LOOP-4: the code blocks its caller, not the other requests."""
    inside = threading.Event()
    release = threading.Event()

    def block() -> None:
        inside.set()
        release.wait(10)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await sync_to_async(block)()
        await respond(send, b"ok")

    with bridged(with_turns(app), backend) as bridge:
        exchange = Exchange(bridge)
        must_happen(inside, "the sync code")
        turn_the_loop(bridge)
        release.set()
        assert exchange.body == b"ok"


class MarkedError(Exception):
    """An exception of the sync code."""


def test_exceptions_of_sync_code_reach_the_app(backend: dict[str, Any]) -> None:
    """A-LOOP-4: the app may catch them; the calling thread lives on."""

    def fail() -> None:
        raise MarkedError("on purpose")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(MarkedError):
            await sync_to_async(fail)()
        await respond(send, str(await here()).encode())

    with bridged(app, backend) as bridge:
        exchange = serve(bridge)
        assert int(exchange.body) == exchange.thread.ident


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt], ids=lambda k: k.__name__)
def test_exit_of_sync_code_is_the_requests_own(backend: dict[str, Any], kind: Any) -> None:
    """A-LOOP-4, A-LOOP-5: `sys.exit()` in a sync view ends neither the server's thread nor the
    loop; nor does a KeyboardInterrupt in a thread that Ctrl-C does not reach.
    """

    def fail() -> None:
        raise kind("on purpose")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await sync_to_async(fail)()
        await respond(send, b"never")

    with bridged(with_turns(app), backend) as bridge:
        assert not isinstance(serve(bridge).raised(), kind)
        turn_the_loop(bridge)


@pytest.mark.parametrize("phase", ["before the headers", "in mid-stream"])
def test_ctrl_c_in_sync_code_of_main_thread_reaches_the_server(
    backend: dict[str, Any], phase: str
) -> None:
    """A-LOOP-4, A-LOOP-5: a server that runs its app in the main thread stops; the app has got the
    same exception, or its client's leaving, and the exchange is over.
    """
    ends: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            if phase == "in mid-stream":
                await start(send)
                await stream(send, b"part")
            await sync_to_async(signal.raise_signal)(signal.SIGINT)
        except BaseException as error:
            ends.append(error)
            raise

    def serve_in_this_thread() -> None:
        result: Any = bridge(environ_for(), lambda *_: lambda data: None)
        try:
            for _ in result:
                pass
        finally:
            result.close()

    with bridged(with_turns(app), backend, shutdown_timeout=30.0) as bridge:
        with pytest.raises(KeyboardInterrupt):
            serve_in_this_thread()
        must_become(lambda: bridge.stats().in_flight == 0, "the end of the exchange")
        turn_the_loop(bridge)
    # In mid-stream the caller's leaving, which cancels a silent app, may be there first.
    expected = (KeyboardInterrupt, *([asyncio.CancelledError] if phase == "in mid-stream" else []))
    assert len(ends) == 1
    assert isinstance(ends[0], expected)


VALUE: contextvars.ContextVar[str] = contextvars.ContextVar("VALUE", default="none")


def test_contextvars_travel_both_ways(backend: dict[str, Any]) -> None:
    """A-LOOP-4: asgiref carries them into the sync code and back, and the caller's own context
    stays clean.
    """

    def change() -> str:
        before = VALUE.get()
        VALUE.set("from sync")
        return before

    async def app(scope: Any, receive: Any, send: Any) -> None:
        VALUE.set("from async")
        before = await sync_to_async(change)()
        await respond(send, f"{before}, {VALUE.get()}".encode())

    def call() -> tuple[bytes, str]:
        body = b"".join(bridge(environ_for(), lambda *_: lambda data: None))
        return body, VALUE.get()

    with bridged(app, backend) as bridge:
        assert call() == (b"from async, from sync", "none")


def test_nested_async_to_sync_uses_loop_and_thread(backend: dict[str, Any]) -> None:
    """A-LOOP-4: sync code that calls back runs in the private loop, and sync code below that on the
    same thread.
    """
    threads: dict[str, int] = {}
    loops: dict[str, Any] = {}

    async def inner() -> str:
        loops["inner"] = asyncio.get_running_loop()
        threads["inner sync"] = await here()
        await asyncio.sleep(0)
        return "inner"

    def middle() -> str:
        threads["middle"] = threading.get_ident()
        return async_to_sync(inner)()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        loops["outer"] = asyncio.get_running_loop()
        answer = await sync_to_async(middle)()
        threads["after"] = await here()
        await respond(send, answer.encode())

    with bridged(app, backend) as bridge:
        exchange = serve(bridge)
        assert exchange.body == b"inner"
    assert set(threads.values()) == {exchange.thread.ident}
    assert loops["inner"] is loops["outer"]


def test_three_levels_deep(backend: dict[str, Any]) -> None:
    """A-LOOP-4: Django's middleware chain alternates between sync and async many times."""
    threads: list[int] = []

    def sync_level(depth: int) -> int:
        threads.append(threading.get_ident())
        return async_to_sync(async_level)(depth - 1) if depth else 0

    async def async_level(depth: int) -> int:
        return 1 + await sync_to_async(sync_level)(depth)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"%d" % await async_level(3))

    with bridged(app, backend) as bridge:
        exchange = serve(bridge)
        assert exchange.body == b"4"
    assert len(threads) == 4
    assert set(threads) == {exchange.thread.ident}


def test_tasks_of_the_request_use_the_thread_too(backend: dict[str, Any]) -> None:
    """A-LOOP-4: `asyncio.gather` in a view; the calls take turns on the one thread."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        threads = await asyncio.gather(*(here() for _ in range(5)))
        assert len(set(threads)) == 1
        await respond(send, str(threads[0]).encode())

    with bridged(app, backend) as bridge:
        exchange = serve(bridge)
        assert int(exchange.body) == exchange.thread.ident


def test_apps_own_context_inside_works(backend: dict[str, Any]) -> None:
    """A-LOOP-4: Django enters a ThreadSensitiveContext of its own; it must not break, nor change
    the thread.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with ThreadSensitiveContext():
            thread = await here()
        await respond(send, str(thread).encode())

    with bridged(app, backend) as bridge:
        exchange = serve(bridge)
        assert int(exchange.body) == exchange.thread.ident


def test_work_after_the_response_goes_on(backend: dict[str, Any]) -> None:
    """A-LOOP-4, A-OUT-5: sync code of background work finds a thread when its caller has gone."""
    gate = Gate()
    results: list[int] = []
    over = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"ok")
        await gate.wait()
        results.append(await here())
        results.append(await sync_to_async(lambda: async_to_sync(asyncio.sleep)(0, 7))())
        over.set()

    with bridged(app, backend) as bridge:
        assert serve(bridge).body == b"ok"
        gate.open()
        must_happen(over, "the end of the background work")
    assert results[1] == 7


def test_sync_code_right_after_the_last_message(backend: dict[str, Any]) -> None:
    """A-LOOP-4: Django closes its request with sync signals, at the very moment when the caller
    leaves.
    """
    over: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"ok")
        over.append(await here())

    with bridged(app, backend) as bridge:
        for _ in range(50):
            assert serve(bridge).body == b"ok"
        must_become(lambda: len(over) == 50, "the sync code after the response")


def test_tasks_that_outlive_the_request_go_on(backend: dict[str, Any]) -> None:
    """A-LOOP-4: a detached task may use sync code as long as it lives, also while other requests
    come and go.
    """
    gate = Gate()
    tasks: list[asyncio.Task[None]] = []
    results: list[int] = []
    over = threading.Event()

    async def later() -> None:
        results.append(await here())
        await gate.wait()
        for _ in range(3):
            results.append(await here())
        over.set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(asyncio.create_task(later()))
        await asyncio.sleep(0)
        await respond(send, b"ok")

    with bridged(with_turns(app), backend) as bridge:
        assert serve(bridge).body == b"ok"
        turn_the_loop(bridge)
        gate.open()
        must_happen(over, "the end of the detached task")
        tasks.clear()
    assert len(results) == 4


def test_response_may_end_while_a_task_waits_for_the_thread(backend: dict[str, Any]) -> None:
    """A-LOOP-4: a call that is queued for the caller when the response ends is run, not lost."""
    results: list[int] = []
    tasks: list[asyncio.Task[None]] = []

    async def later() -> None:
        results.append(await here())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(asyncio.create_task(later()))
        await start(send)
        await finish(send, b"ok")

    with bridged(app, backend) as bridge:
        for _ in range(20):
            assert serve(bridge).body == b"ok"
        must_become(lambda: len(results) == 20, "the queued sync code")
        tasks.clear()


def test_early_close_ends_the_wait_for_sync_code(backend: dict[str, Any]) -> None:
    """A-LOOP-4: an app that waits for the thread when the server closes its iterable does not wait
    for ever: the code runs elsewhere, or is cancelled with the app.
    """
    waiting = threading.Event()
    over = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"part")
        code = asyncio.ensure_future(here())
        await asyncio.sleep(0)  # its first step hands the code over
        waiting.set()
        try:
            await code
        finally:
            over.set()

    with bridged(app, backend) as bridge:
        exchange = Exchange(bridge, hold=True)
        assert exchange.take() == b"part"
        must_happen(waiting, "the app that waits for its sync code")
        exchange.hang_up()
        must_happen(over, "the end of the sync code")
        must_become(lambda: bridge.stats().in_flight == 0, "the end of the exchange")


def test_app_error_with_sync_code_under_way(backend: dict[str, Any]) -> None:
    """A-LOOP-4, A-OUT-4: the caller hears of the app's end even when a task still holds it."""
    inside = threading.Event()
    release = threading.Event()
    tasks: list[asyncio.Task[None]] = []

    def block() -> None:
        inside.set()
        release.wait(10)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(asyncio.create_task(sync_to_async(block)()))
        await asyncio.to_thread(inside.wait, 10)
        release.set()
        raise MarkedError("on purpose")

    with bridged(app, backend) as bridge:
        assert isinstance(serve(bridge).raised(), MarkedError)
        must_become(lambda: tasks[0].done(), "the end of the sync code")
        tasks.clear()


def test_lifespan_may_use_sync_code(backend: dict[str, Any]) -> None:
    """A-LOOP-4, A-LOOP-2: startup and shutdown find a thread as well."""
    results: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await respond(send, b"ok")
            return
        for kind in ("startup", "shutdown"):
            await receive()
            results.append(await here())
            await send({"type": f"lifespan.{kind}.complete"})

    with bridged(app, backend, lifespan="on") as bridge:
        assert serve(bridge).body == b"ok"
    assert len(results) == 2

"""A-LOOP-5: what an app may break, and that the loop serves on."""

import asyncio
import logging
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from tests.support.fake_wsgi_server import (
    BACKENDS,
    Exchange,
    Gate,
    bridged,
    environ_for,
    must_happen,
    on_asyncio_backends,
    on_every_backend,
    respond,
    serve,
    turn_the_loop,
    with_turns,
)
from wsgi_asgi_bridge import BridgeClosed
from wsgi_asgi_bridge._crossing.calling_thread import CallingThread
from wsgi_asgi_bridge.asgi_to_wsgi import bridge as bridge_module

# A-LOOP-5


@pytest.fixture
def quiet_asyncio(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """asyncio's own log of a task's exception is expected here."""
    with caplog.at_level(logging.CRITICAL, logger="asyncio"):
        yield


class CrashSite:
    """An app with one request that waits while another crashes as `crash` does."""

    def __init__(self, crash: Any) -> None:
        self.crash = crash
        self.gate = Gate()
        self.waiting = threading.Event()
        self.loops: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.loops.append(anyio.lowlevel.current_token())
        if scope["path"] == "/wait":
            self.waiting.set()
            await self.gate.wait()
            await respond(send, b"survived")
        elif scope["path"] == "/crash":
            await self.crash()
            await respond(send, b"crashed nothing")
        else:
            await respond(send, b"served")


def survives(site: CrashSite, backend: dict[str, Any]) -> Exchange:
    """Run the crash beside a waiting request; both the loop and that request must live on."""
    with bridged(site, backend) as bridge:
        waiting = Exchange(bridge, environ_for("/wait"))
        must_happen(site.waiting, "the waiting request")
        crashing = serve(bridge, environ_for("/crash"))
        for _ in range(5):
            assert serve(bridge, environ_for("/next")).body == b"served"
        site.gate.open()
        assert waiting.body == b"survived"
        assert len(set(site.loops)) == 1
    return crashing


EXITS = [SystemExit, KeyboardInterrupt, GeneratorExit]


@on_every_backend
@pytest.mark.parametrize("kind", EXITS, ids=lambda k: k.__name__)
def test_exit_in_a_request_leaves_the_loop_alive(backend: dict[str, Any], kind: Any) -> None:
    """A-LOOP-5: an exit in one request is that request's end only."""

    async def crash() -> None:
        raise kind("on purpose")

    assert survives(CrashSite(crash), backend).error is not None


@on_every_backend
@pytest.mark.parametrize("kind", EXITS, ids=lambda k: k.__name__)
def test_exit_in_a_task_group_leaves_the_loop_alive(backend: dict[str, Any], kind: Any) -> None:
    """A-LOOP-5: an exit in a child task ends its request; the caller is not left waiting."""

    async def fail() -> None:
        await anyio.lowlevel.checkpoint()
        raise kind("on purpose")

    async def crash() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)

    assert survives(CrashSite(crash), backend).error is not None


@on_asyncio_backends
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt], ids=lambda k: k.__name__)
def test_exit_in_a_detached_task_leaves_the_loop_alive(
    backend: dict[str, Any], kind: Any, quiet_asyncio: None
) -> None:
    """A-LOOP-5: asyncio lets an exit of any task end `run_forever()`; the private loop goes on."""
    tasks: list[asyncio.Task[None]] = []

    async def fail() -> None:
        raise kind("on purpose")

    async def crash() -> None:
        tasks.append(asyncio.create_task(fail()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    crashing = survives(CrashSite(crash), backend)
    assert crashing.body == b"crashed nothing"
    assert isinstance(tasks[0].exception(), kind)


@on_asyncio_backends
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt], ids=lambda k: k.__name__)
def test_exit_in_a_callback_leaves_the_loop_alive(
    backend: dict[str, Any], kind: Any, quiet_asyncio: None
) -> None:
    """A-LOOP-5: the same for a callback of `call_soon` and a timer."""

    def fail() -> None:
        raise kind("on purpose")

    async def crash() -> None:
        asyncio.get_running_loop().call_soon(fail)
        await asyncio.sleep(0.01)
        asyncio.get_running_loop().call_later(0, fail)
        await asyncio.sleep(0.01)

    assert survives(CrashSite(crash), backend).body == b"crashed nothing"


@on_asyncio_backends
def test_stopped_loop_goes_on(backend: dict[str, Any]) -> None:
    """A-LOOP-5: `loop.stop()` by an app (old code that thinks it owns the loop) ends nothing."""

    async def crash() -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0)

    assert survives(CrashSite(crash), backend).body == b"crashed nothing"


@on_every_backend
def test_task_that_cancels_itself_leaves_the_loop_alive(backend: dict[str, Any]) -> None:
    """A-LOOP-5: a cancelled scope, and for asyncio a cancelled request, end alone."""

    async def crash() -> None:
        if backend.get("backend") == "trio":
            with anyio.CancelScope() as scope:
                scope.cancel()
                await anyio.sleep_forever()
            return
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    crashing = survives(CrashSite(crash), backend)
    assert (crashing.error is None) is (backend.get("backend") == "trio")


@on_every_backend
def test_blocked_loop_serves_again(backend: dict[str, Any]) -> None:
    """A-LOOP-5: an app that blocks the loop delays the others and breaks none."""
    blocked = threading.Event()
    release = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/block":
            blocked.set()
            release.wait(10)
        await respond(send, b"served")

    with bridged(app, backend) as bridge:
        blocking = Exchange(bridge, environ_for("/block"))
        must_happen(blocked, "the blocked loop")
        others = [Exchange(bridge) for _ in range(4)]
        release.set()
        assert [e.body for e in [blocking, *others]] == [b"served"] * 5


@on_every_backend
def test_deep_recursion_and_memory_errors_are_the_requests_own(backend: dict[str, Any]) -> None:
    """A-LOOP-5: errors of the interpreter end their request only."""

    async def crash() -> None:
        async def deeper() -> None:
            await deeper()

        await deeper()

    assert isinstance(survives(CrashSite(crash), backend).raised(), RecursionError)


@on_every_backend
def test_crash_in_the_middle_of_many(backend: dict[str, Any]) -> None:
    """A-LOOP-5: of requests side by side only those fail that crash."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.lowlevel.checkpoint()
        if scope["path"] == "/crash":
            raise SystemExit(1)
        await respond(send, b"served")

    with bridged(with_turns(app), backend) as bridge:
        exchanges = [Exchange(bridge, environ_for("/crash" if n % 3 else "/")) for n in range(12)]
        for n, exchange in enumerate(exchanges):
            assert (exchange.finish().error is None) is (n % 3 == 0)
        turn_the_loop(bridge)
        assert bridge.stats().failed == 8


@on_every_backend
def test_a_loop_that_has_ended_by_itself_is_followed_by_another(backend: dict[str, Any]) -> None:
    """A-LOOP-5: a crash of the whole loop costs the requests in it, not those to come."""
    loops: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        loops.append(anyio.lowlevel.current_token())
        await respond(send)

    with bridged(app, backend, lifespan="off") as bridge:
        serve(bridge)
        first = bridge._runtime
        assert first is not None
        assert first.private.stop(5)
        serve(bridge)
        assert len(set(loops)) == 2
        first.close()


@pytest.mark.parametrize("disconnect_poll", [0.01, None])
def test_loop_that_ends_before_it_has_begun_a_request_is_noticed(
    disconnect_poll: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A-LOOP-5: its task never runs a step, so nobody but the waiting thread can find out. Of the
    loops only asyncio's own surely ends before that step.
    """
    blocked, waits, release = threading.Event(), threading.Event(), threading.Event()
    take = CallingThread.take_from_thread

    def noted(caller: CallingThread, *how: Any) -> Any:
        waits.set()  # what it waits for is posted
        return take(caller, *how)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/block":
            blocked.set()
            release.wait(10)
        await respond(send)

    monkeypatch.setattr(bridge_module, "LOOP_CHECK_SECONDS", 0.01)
    with bridged(app, BACKENDS["asyncio"], disconnect_poll=disconnect_poll) as bridge:
        blocking = Exchange(bridge, environ_for("/block"))
        must_happen(blocked, "the blocked loop")
        runtime = bridge._runtime
        assert runtime is not None
        runtime.handle.post(runtime.private._stop)
        monkeypatch.setattr(CallingThread, "take_from_thread", noted)
        late = Exchange(bridge)
        must_happen(waits, "the request to a loop that ends")
        release.set()
        assert isinstance(late.raised(), BridgeClosed)
        assert "while this request was in flight" in str(late.raised())
        blocking.finish()

"""A-LOOP-2: startup, shutdown, and what ends the private loop."""

import gc
import logging
import signal
import sys
import threading
import weakref
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
    InThread,
    Message,
    bridged,
    call_here,
    close_bridge,
    environ_for,
    finish,
    must_become,
    must_happen,
    on_every_backend,
    respond,
    run_script,
    serve,
    start,
    stream,
)
from tests.support.interpreter import frees_at_once
from wsgi_asgi_bridge import ASGIToWSGI, BridgeClosed

# A-LOOP-2


class Lifespan:
    """An app whose lifespan does what a test says, and whose requests answer with the state they
    see.
    """

    def __init__(self, startup: Any = "complete", shutdown: Any = "complete") -> None:
        self.steps = {"startup": startup, "shutdown": shutdown}
        self.log: list[str] = []
        self.reached = {"startup": threading.Event(), "shutdown": threading.Event()}
        self.state: dict[str, Any] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.log.append("http")
            await respond(send, repr(sorted(scope.get("state") or {})).encode())
            return
        assert scope["type"] == "lifespan"
        self.log.append("lifespan")
        for kind, step in self.steps.items():
            if isinstance(step, tuple):
                raise step[0]
            message = await receive()
            self.log.append(message["type"])
            self.reached[kind].set()
            if not await self.did(kind, step, scope, send):
                return

    async def did(self, kind: str, step: Any, scope: Any, send: Any) -> bool:
        if isinstance(step, BaseException):
            raise step
        if isinstance(step, Gate):
            await step.wait()
        elif step == "hang":
            await anyio.sleep_forever()
        elif step == "return":
            return False
        elif step == "failed":
            await send({"type": f"lifespan.{kind}.failed", "message": f"no {kind} today"})
            return False
        if kind == "startup":
            scope["state"].update(self.state)
        await send({"type": f"lifespan.{kind}.complete"})
        return True


WHOLE_LIFE = ["lifespan", "lifespan.startup", "http", "lifespan.shutdown"]


@on_every_backend
@pytest.mark.parametrize("mode", ["auto", "on"])
def test_startup_before_the_first_request(backend: dict[str, Any], mode: str) -> None:
    """A-LOOP-2: startup is over before the app sees a request; shutdown comes with close()."""
    gate = Gate()
    app = Lifespan(startup=gate)
    with bridged(app, backend, lifespan=mode) as bridge:
        exchange = Exchange(bridge)
        must_happen(app.reached["startup"], "lifespan.startup")
        assert "http" not in app.log
        gate.open()
        assert exchange.body == b"[]"
        assert app.log == WHOLE_LIFE[:3]
        serve(bridge).finish()
        assert app.log == [*WHOLE_LIFE[:3], "http"]
    assert app.log[-1] == "lifespan.shutdown"
    assert app.log.count("lifespan") == 1


@on_every_backend
def test_lifespan_scope(backend: dict[str, Any]) -> None:
    """A-LOOP-2: the scope of the lifespan is as the spec says."""
    scopes: list[Message] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(dict(scope))
        for kind in ("startup", "shutdown"):
            assert await receive() == {"type": f"lifespan.{kind}"}
            await send({"type": f"lifespan.{kind}.complete"})

    with bridged(app, backend, lifespan="on") as bridge:
        bridge.startup()
    assert [s["type"] for s in scopes] == ["lifespan"]
    assert scopes[0]["asgi"]["version"] == "3.0"
    assert scopes[0]["asgi"]["spec_version"] in ("1.0", "2.0")
    assert scopes[0]["state"] == {}


@on_every_backend
def test_lifespan_off(backend: dict[str, Any]) -> None:
    """A-LOOP-2: `off` never calls the app with a lifespan."""
    app = Lifespan()
    with bridged(app, backend, lifespan="off") as bridge:
        bridge.startup()
        serve(bridge).finish()
    assert app.log == ["http"]


@on_every_backend
def test_state_reaches_each_scope(backend: dict[str, Any]) -> None:
    """A-LOOP-2: what startup put in `state` is there for every request."""
    app = Lifespan()
    app.state = {"pool": object()}
    with bridged(app, backend, lifespan="auto") as bridge:
        assert [serve(bridge).body for _ in range(3)] == [b"['pool']"] * 3


NO_LIFESPAN = {
    "raises at once": (RuntimeError("http only"),),
    "raises after receive": RuntimeError("in startup"),
    "returns": "return",
}


@on_every_backend
@pytest.mark.parametrize("startup", NO_LIFESPAN.values(), ids=NO_LIFESPAN)
def test_auto_serves_apps_that_know_no_lifespan(backend: dict[str, Any], startup: Any) -> None:
    """A-LOOP-2: `auto` takes an exception for "not supported", as uvicorn does."""
    app = Lifespan(startup=startup)
    with bridged(app, backend, lifespan="auto") as bridge:
        assert serve(bridge).body == b"[]"
        assert serve(bridge).body == b"[]"
    assert app.log.count("lifespan") == 1


FAILURES = {
    "auto, failed": ("auto", "failed"),
    "on, failed": ("on", "failed"),
    "on, raises at once": ("on", (RuntimeError("http only"),)),
    "on, raises": ("on", RuntimeError("no database")),
    "on, SystemExit": ("on", SystemExit(3)),
    "auto, hangs": ("auto", "hang"),
    "on, hangs": ("on", "hang"),
}


@on_every_backend
@pytest.mark.parametrize(("mode", "startup"), FAILURES.values(), ids=FAILURES)
def test_failed_startup_is_logged_and_refuses_requests(
    backend: dict[str, Any], mode: str, startup: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A-LOOP-2: no request reaches an app that could not start; the server gets an error, not
    silence.
    """
    app = Lifespan(startup=startup)
    limits = {"startup_timeout": 0.1} if startup == "hang" else {}
    with caplog.at_level(logging.ERROR), bridged(app, backend, lifespan=mode, **limits) as bridge:
        for _ in range(2):
            exchange = serve(bridge)
            refused = exchange.error is not None or exchange.status >= 500
            assert refused
            assert not isinstance(exchange.error, (SystemExit, AssertionError))
    assert "http" not in app.log
    assert [r for r in caplog.records if r.name.startswith("wsgi_asgi_bridge")]
    if startup == "failed":
        assert "no startup today" in caplog.text


@on_every_backend
@pytest.mark.parametrize(("mode", "startup"), FAILURES.values(), ids=FAILURES)
def test_failed_startup_raises_out_of_startup(
    backend: dict[str, Any], mode: str, startup: Any
) -> None:
    """A-LOOP-2: `startup()` and `with` tell the deployer at once."""
    limits = {"startup_timeout": 0.1} if startup == "hang" else {}
    app = Lifespan(startup=startup)
    with bridged(app, backend, lifespan=mode, **limits) as bridge:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is the bridge's choice
            InThread(bridge.startup, "bridge.startup()").result()
        assert not isinstance(caught.value, AssertionError)
    assert "http" not in app.log


SHUTDOWNS = {
    "failed": "failed",
    "raises": RuntimeError("in shutdown"),
    "SystemExit": SystemExit(3),
    "hangs": "hang",
    "returns": "return",
}


@on_every_backend
@pytest.mark.parametrize("shutdown", SHUTDOWNS.values(), ids=SHUTDOWNS)
def test_failed_shutdown_is_logged_and_close_returns(
    backend: dict[str, Any], shutdown: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A-LOOP-2: whatever the app does in its shutdown, `close()` ends the loop within
    `shutdown_timeout`.
    """
    app = Lifespan(shutdown=shutdown)
    with (
        caplog.at_level(logging.ERROR),
        bridged(app, backend, lifespan="on", shutdown_timeout=0.2) as bridge,
    ):
        assert serve(bridge).body == b"[]"
    assert app.log == WHOLE_LIFE
    assert bridge.stats().running is False
    if shutdown != "return":
        assert [r for r in caplog.records if r.name.startswith("wsgi_asgi_bridge")]


@pytest.fixture
def lazy_threads(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A woken thread runs only when the one that woke it waits (nor logs): one order of a race."""
    caplog.set_level(logging.CRITICAL + 1, logger="wsgi_asgi_bridge")
    before = sys.getswitchinterval()
    sys.setswitchinterval(5.0)
    yield
    sys.setswitchinterval(before)


@on_every_backend
def test_lifespan_that_raises_between_is_no_harm(
    backend: dict[str, Any], lazy_threads: None
) -> None:
    """A-LOOP-2: a lifespan task that dies after its startup leaves the requests alone, and close()
    does not wait for it.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await respond(send, b"served")
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        raise RuntimeError("lifespan died")

    with bridged(app, backend, lifespan="auto", shutdown_timeout=30.0) as bridge:
        assert serve(bridge).body == b"served"
        assert serve(bridge).body == b"served"


@on_every_backend
def test_startup_and_shutdown_share_a_task_and_a_context(backend: dict[str, Any]) -> None:
    """A-LOOP-2: `async with` and a task group around the lifespan work, also a cancel scope (one
    task from start to end).
    """
    log: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await respond(send, b"served")
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            log.append("shutdown")
            tasks.cancel_scope.cancel()
        await send({"type": "lifespan.shutdown.complete"})

    with bridged(app, backend, lifespan="on") as bridge:
        assert serve(bridge).body == b"served"
    assert log == ["shutdown"]


@on_every_backend
def test_startup_close_and_context_manager(backend: dict[str, Any]) -> None:
    """A-LOOP-2: for those who start and end it themselves; each may be called twice."""
    app = Lifespan()
    bridge = ASGIToWSGI(app, lifespan="on", **backend)
    close_bridge(bridge)
    assert app.log == []
    with bridge as entered:
        assert entered is bridge
        assert app.log == WHOLE_LIFE[:2]
        assert bridge.stats().running is True
        bridge.startup()
        assert serve(bridge).body == b"[]"
        assert app.log == WHOLE_LIFE[:3]
    assert app.log == WHOLE_LIFE
    assert bridge.stats().running is False
    close_bridge(bridge)
    assert app.log == WHOLE_LIFE


@on_every_backend
def test_use_after_close_starts_anew(backend: dict[str, Any]) -> None:
    """A-LOOP-2: a closed bridge that is called again runs a second life, startup to shutdown."""
    app = Lifespan()
    with bridged(app, backend, lifespan="on") as bridge:
        serve(bridge).finish()
        close_bridge(bridge)
        assert app.log == WHOLE_LIFE
        assert serve(bridge).body == b"[]"
    assert app.log == WHOLE_LIFE * 2


@on_every_backend
def test_close_from_many_threads(backend: dict[str, Any]) -> None:
    """A-LOOP-2: one shutdown, and nobody returns before it is over."""
    gate = Gate()
    app = Lifespan(shutdown=gate)
    with bridged(app, backend, lifespan="on", shutdown_timeout=30.0) as bridge:
        serve(bridge).finish()
        closers = [InThread(bridge.close, "bridge.close()") for _ in range(4)]
        must_happen(app.reached["shutdown"], "lifespan.shutdown")
        assert not any(closer.done.is_set() for closer in closers)
        gate.open()
        for closer in closers:
            closer.result()
    assert app.log == WHOLE_LIFE


@on_every_backend
def test_request_during_close_starts_no_second_loop(backend: dict[str, Any]) -> None:
    """A-LOOP-1, A-LOOP-2: while one life ends no other begins; the request waits or is refused."""
    lives: list[str] = []
    gate = Gate()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await respond(send, b"served")
            if scope["path"] == "/linger":
                await gate.wait()
            return
        for kind in ("startup", "shutdown"):
            await receive()
            lives.append(kind)
            await send({"type": f"lifespan.{kind}.complete"})

    with bridged(app, backend, lifespan="on", shutdown_timeout=30.0) as bridge:
        assert serve(bridge, environ_for("/linger")).body == b"served"
        runtime: Any = bridge._runtime
        closing = InThread(bridge.close, "bridge.close()")
        must_become(lambda: not runtime.takes_requests, "the beginning of close()")
        assert not closing.done.is_set()
        late = Exchange(bridge)
        late.thread.join(0.1)
        gate.open()
        closing.result()
        assert isinstance(late.finish().error, BridgeClosed) or late.body == b"served"
    assert lives in (["startup", "shutdown"], ["startup", "shutdown"] * 2)


@on_every_backend
def test_loop_thread_ends_with_close(backend: dict[str, Any]) -> None:
    """A-LOOP-2: after `close()` no thread is left, at once and not some time later."""
    before = set(threading.enumerate())
    with bridged(Lifespan(), backend, lifespan="on") as bridge:
        serve(bridge).finish()
        names = {t.name for t in set(threading.enumerate()) - before}
        assert any(name.startswith("wsgi_asgi_bridge-loop") for name in names)
        close_bridge(bridge)
        left = set(threading.enumerate()) - before
        assert [t.name for t in left if t.name.startswith("wsgi_asgi_bridge")] == []


AT_EXIT = """
from tests.support.fake_wsgi_server import BACKENDS, end_this_process_after, respond, serve
from wsgi_asgi_bridge import ASGIToWSGI

end_this_process_after(20)

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("shutdown", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
    else:
        await respond(send, b"ok")

bridge = ASGIToWSGI(app, **BACKENDS[%r])
assert serve(bridge).body == b"ok"
print("exit", flush=True)
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_lifespan_ends_at_exit(backend: str) -> None:
    """A-LOOP-2: a process that never calls `close()` runs the shutdown once and exits by itself."""
    assert run_script(AT_EXIT % backend) == "exit\nshutdown\n"


@on_every_backend
def test_ctrl_c_in_startup_ends_the_loop(backend: dict[str, Any]) -> None:
    """A-LOOP-2: a deployer who loses patience with a startup leaves no thread; the next call starts
    anew.
    """
    loops: list[threading.Thread] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        loops.append(threading.current_thread())
        if len(loops) == 1:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            await anyio.sleep_forever()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    # A signal that comes just before the main thread sleeps is seen only after its wait.
    with bridged(app, backend, lifespan="on", startup_timeout=2.0) as bridge:
        with pytest.raises(KeyboardInterrupt):
            bridge.startup()
        assert not loops[0].is_alive()
        assert bridge.stats().running is False
        InThread(bridge.startup, "bridge.startup()").result()
        assert loops[1].is_alive()


@frees_at_once
@on_every_backend
def test_a_bridge_that_nobody_holds_ends_its_loop(backend: dict[str, Any]) -> None:
    """A-LOOP-2: it is collected, and nobody could send requests any more. Its lifespan ends."""
    app = Lifespan()
    bridge = ASGIToWSGI(app, lifespan="on", **backend)
    call_here(bridge)
    assert bridge._runtime is not None
    loop = bridge._runtime.private.thread
    held = weakref.ref(bridge)
    del bridge
    gc.collect()
    assert held() is None
    loop.join(10)
    assert not loop.is_alive()
    assert app.log == WHOLE_LIFE


@frees_at_once
@on_every_backend
def test_a_response_in_use_holds_its_bridge(backend: dict[str, Any]) -> None:
    """A-LOOP-2: a server may hold a response only; its loop ends with it, not under it."""
    gate = Gate()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"one ")
        await gate.wait()
        await finish(send, b"two")

    bridge = ASGIToWSGI(app, lifespan="off", **backend)
    response: Any = bridge(environ_for(), lambda *_: lambda data: None)
    assert bridge._runtime is not None
    loop = bridge._runtime.private.thread
    held = weakref.ref(bridge)
    del bridge
    gc.collect()
    assert held() is not None
    gate.open()
    assert b"".join(response) == b"one two"
    response.close()
    assert loop.is_alive()
    del response
    gc.collect()
    assert held() is None
    loop.join(10)
    assert not loop.is_alive()

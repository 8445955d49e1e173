"""A-LOOP-1, 2, 3 and 5: the private loop, lifespan, contextvars, and what an app may break."""

import asyncio
import contextvars
import gc
import logging
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import sniffio
import uvloop

from tests.support.fake_wsgi_server import (
    BACKENDS,
    Exchange,
    Gate,
    InThread,
    Message,
    bridged,
    close_bridge,
    environ_for,
    finish,
    must_become,
    must_happen,
    on_asyncio_backends,
    on_every_backend,
    respond,
    run_script,
    serve,
    start,
    stream,
    turn_the_loop,
    with_turns,
)
from tests.support.interpreter import frees_at_once
from wsgi_asgi_bridge import ASGIToWSGI, BridgeClosed, asgi_to_wsgi
from wsgi_asgi_bridge._crossing.calling_thread import CallingThread

# A-LOOP-1


@on_every_backend
def test_one_loop_serves_all_threads(backend: dict[str, Any]) -> None:
    """A-LOOP-1: whichever thread calls, the app runs in the same loop and the same thread."""
    seen: set[Any] = set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.add((anyio.lowlevel.current_token(), threading.get_ident()))
        await respond(send)

    with bridged(app, backend) as bridge:
        callers = [serve(bridge).thread.ident for _ in range(10)]
        for exchange in [Exchange(bridge) for _ in range(10)]:
            exchange.finish()
    assert len(seen) == 1
    assert next(iter(seen))[1] not in callers


@on_every_backend
def test_requests_meet_in_the_loop(backend: dict[str, Any]) -> None:
    """A-LOOP-1: a lock, a queue and a task that one request made work for the others."""
    shared: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if not shared:
            shared["lock"] = anyio.Lock()
            shared["put"], shared["take"] = anyio.create_memory_object_stream[str](10)
        if scope["path"] == "/take":
            await respond(send, (await shared["take"].receive()).encode())
        elif scope["path"] == "/close":
            shared["put"].close()
            shared["take"].close()
            await respond(send)
        else:
            async with shared["lock"]:
                await anyio.lowlevel.checkpoint()
                await shared["put"].send(scope["path"])
            await respond(send, b"put")

    with bridged(app, backend) as bridge:
        takers = [Exchange(bridge, environ_for("/take")) for _ in range(4)]
        putters = [Exchange(bridge, environ_for(f"/{n}")) for n in range(4)]
        assert [e.body for e in putters] == [b"put"] * 4
        assert sorted(e.body for e in takers) == [b"/0", b"/1", b"/2", b"/3"]
        serve(bridge, environ_for("/close")).finish()


@on_every_backend
def test_stream_without_pauses_leaves_room_for_others(backend: dict[str, Any]) -> None:
    """A-LOOP-1: an app that sends as fast as its server takes does not keep the loop to itself."""
    enough = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        while not enough.is_set():
            await stream(send, b"x" * 1000)
        await finish(send)

    with bridged(with_turns(app), backend) as bridge:
        result = bridge(environ_for(), lambda *_: lambda data: None)
        reader = InThread(lambda: sum(map(len, result)), "the reading")
        turn_the_loop(bridge)
        enough.set()
        assert reader.result() > 0


@on_asyncio_backends
def test_task_of_one_request_works_for_the_next(backend: dict[str, Any]) -> None:
    """A-LOOP-1: a task that outlives its request goes on between the requests."""
    ticks: list[int] = []
    go_on = Gate()
    tasks: list[asyncio.Task[None]] = []

    async def ticker() -> None:
        await go_on.wait()
        for n in range(3):
            ticks.append(n)
            await asyncio.sleep(0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/start":
            tasks.append(asyncio.create_task(ticker()))
        else:
            await tasks[0]
        await respond(send)

    with bridged(app, backend) as bridge:
        serve(bridge, environ_for("/start")).finish()
        go_on.open()
        must_become(lambda: len(ticks) == 3, "the ticks between requests")
        assert serve(bridge, environ_for("/join")).body == b""


def loop_name(options: dict[str, Any]) -> str:
    """Where the app's running loop comes from."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            name = type(asyncio.get_running_loop()).__module__
        except RuntimeError:
            name = "trio" if anyio.lowlevel.current_token() else ""
        await respond(send, name.encode())

    with bridged(app, options) as bridge:
        return serve(bridge).body.decode().split(".")[0]


class OwnLoop(asyncio.SelectorEventLoop):
    """A loop class of the deployer."""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "uvloop"),
        ({"backend": "asyncio"}, "uvloop"),
        ({"loop_factory": asyncio.new_event_loop}, "asyncio"),
        ({"loop_factory": uvloop.new_event_loop}, "uvloop"),
        ({"loop_factory": OwnLoop}, __name__.split(".", maxsplit=1)[0]),
        ({"backend": "trio"}, "trio"),
    ],
    ids=["default", "asyncio", "factory asyncio", "factory uvloop", "factory own", "trio"],
)
def test_choice_of_the_loop(options: dict[str, Any], expected: str) -> None:
    """A-LOOP-1: uvloop where it is installed, else what the deployer chose."""
    assert loop_name(options) == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_anyio_and_sniffio_know_the_backend(backend: str) -> None:
    """A-LOOP-1: libraries that ask which loop they run in get the right answer."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        import sniffio

        await anyio.lowlevel.checkpoint()
        name = sniffio.current_async_library()
        token = await anyio.to_thread.run_sync(threading.get_ident)
        await respond(send, f"{name} {token != threading.get_ident()}".encode())

    expected = b"trio True" if backend == "trio" else b"asyncio True"
    with bridged(app, BACKENDS[backend]) as bridge:
        assert serve(bridge).body == expected


USES: dict[str, Callable[[ASGIToWSGI], object]] = {
    "a request": lambda bridge: bridge(environ_for("/inner"), lambda *_: lambda data: None),
    "startup()": ASGIToWSGI.startup,
    "close()": ASGIToWSGI.close,
}


@on_every_backend
@pytest.mark.parametrize("where", ["startup", "a request", "shutdown"])
@pytest.mark.parametrize("use", USES)
def test_the_loops_own_thread_is_told_that_it_would_wait_for_itself(
    backend: dict[str, Any], use: str, where: str
) -> None:
    """A-LOOP-1: an app that uses its own bridge in the loop gets an error, and the loop goes on."""
    told: list[str] = []

    def attempt() -> None:
        with pytest.raises(RuntimeError) as error:
            USES[use](bridge)
        told.append(str(error.value))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            if where == "a request":
                attempt()
            await respond(send, b"served")
            return
        for kind in ("startup", "shutdown"):
            await receive()
            if where == kind:
                attempt()
            await send({"type": f"lifespan.{kind}.complete"})

    with bridged(app, backend, lifespan="on") as bridge:
        assert serve(bridge).body == b"served"
    assert len(told) == 1
    assert told[0].startswith(f"{use} waits for the private loop")
    assert "to_thread" in told[0]


@on_every_backend
def test_a_thread_may_use_the_bridge_that_its_own_app_runs_in(backend: dict[str, Any]) -> None:
    """A-LOOP-1: what the error advises works."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/inner":
            await respond(send, b"inner")
        else:
            await respond(send, await anyio.to_thread.run_sync(lambda: call_here(bridge, "/inner")))

    with bridged(app, backend) as bridge:
        assert serve(bridge).body == b"inner"


def test_the_number_of_an_ended_loops_thread_is_forgotten() -> None:
    """A-LOOP-1: the system gives it away again; whoever has it then may use the bridge."""
    idents: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        idents.append(threading.get_ident())
        await respond(send, b"served")

    with bridged(app) as bridge:
        serve(bridge)
        side = bridge._side
        assert side is not None
        assert side.private.thread_id == idents[0]
        assert side.private.stop(5)
        assert side.private.thread_id is None
        assert serve(bridge).body == b"served"
        side.close()


@on_every_backend
def test_caller_with_a_loop_of_its_own(backend: dict[str, Any]) -> None:
    """A-LOOP-1: a server whose thread runs an asyncio loop may call as well."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.lowlevel.checkpoint()
        await respond(send, b"from the private loop")

    async def server() -> list[bytes]:
        return list(bridge(environ_for(), lambda *_: lambda data: None))

    with bridged(app, backend) as bridge:
        body = InThread(lambda: asyncio.run(server()), "a call from a loop").result()
    assert body == [b"from the private loop"]


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
        closing = InThread(bridge.close, "bridge.close()")
        assert not closing.done.wait(0.05)
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


# A-LOOP-3

LANGUAGE: contextvars.ContextVar[str] = contextvars.ContextVar("LANGUAGE", default="none")


@on_every_backend
def test_contextvars_of_the_caller_reach_the_app_and_its_tasks(backend: dict[str, Any]) -> None:
    """A-LOOP-3: what a WSGI middleware set is seen by the app, by its tasks and by its threads."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(LANGUAGE.get())

        async def task() -> None:
            seen.append(LANGUAGE.get())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(task)
        seen.append(await anyio.to_thread.run_sync(LANGUAGE.get))
        await respond(send, b"ok")

    with bridged(app, backend) as bridge:
        serve(bridge).finish()
        assert seen == ["none"] * 3
        seen.clear()
        context = contextvars.copy_context()
        context.run(LANGUAGE.set, "cs")
        call = InThread(lambda: context.run(call_here, bridge), "the call")
        assert call.result() == b"ok"
    assert seen == ["cs"] * 3


def call_here(bridge: ASGIToWSGI, target: str = "/") -> bytes:
    """One exchange in this thread and context."""
    return b"".join(bridge(environ_for(target), lambda *_: lambda data: None))


@on_every_backend
def test_contexts_of_concurrent_callers_stay_apart(backend: dict[str, Any]) -> None:
    """A-LOOP-3: each request sees its own caller's values, all the way through its stream."""
    meeting = Gate()
    arrived: list[str] = []
    all_here = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        arrived.append(LANGUAGE.get())
        if len(arrived) == 4:
            all_here.set()
        await meeting.wait()
        await start(send)
        await stream(send, LANGUAGE.get().encode())
        await anyio.lowlevel.checkpoint()
        await finish(send, LANGUAGE.get().encode())

    def call_in(language: str) -> bytes:
        LANGUAGE.set(language)
        return call_here(bridge)

    with bridged(app, backend) as bridge:
        calls = [InThread(lambda n=n: call_in(f"l{n}"), "the call") for n in range(4)]
        must_happen(all_here, "the meeting in the app")
        meeting.open()
        assert [call.result() for call in calls] == [b"l0l0", b"l1l1", b"l2l2", b"l3l3"]


class Reported(Exception):
    """What an app raises, and a monitor around it has reported."""


NOTE: contextvars.ContextVar[Any] = contextvars.ContextVar("NOTE", default=None)


@on_every_backend
@pytest.mark.parametrize("noted", [weakref.ref, lambda error: error], ids=["weakly", "itself"])
@pytest.mark.parametrize("when", ["before the response", "during the response"])
def test_an_error_brings_along_what_has_been_noted_about_it(
    backend: dict[str, Any], when: str, noted: Callable[[Exception], Any]
) -> None:
    """A-LOOP-3: a monitor around the bridge finds that one inside it has reported the exception,
    and nothing else that the app has set; the next request of the thread finds neither.
    """
    seen: list[tuple[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((LANGUAGE.get(), NOTE.get()))
        LANGUAGE.set("of the app")
        if when == "during the response":
            await start(send)
            await stream(send, b"x")
        error = Reported()
        NOTE.set(noted(error))
        raise error

    def calls_of_one_thread() -> None:
        LANGUAGE.set("of the caller")
        for _ in range(3):
            with pytest.raises(Reported) as raised:
                call_here(bridge)
            assert NOTE.get() == noted(raised.value)
            assert LANGUAGE.get() == "of the caller"

    with bridged(app, backend) as bridge:
        InThread(calls_of_one_thread, "the calls").result()
    assert seen == [("of the caller", None)] * 3


@on_every_backend
@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_library_of_the_caller_s_loop_is_not_taken_for_the_app_s(
    backend: dict[str, Any], library: str
) -> None:
    """A-LOOP-3: anyio writes into the context which library runs it; a caller that came out of such
    a loop leads nobody in the private loop astray.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, await anyio.to_thread.run_sync(lambda: b"from a thread"))

    with bridged(app, backend) as bridge:
        context = contextvars.copy_context()
        context.run(sniffio.current_async_library_cvar.set, library)
        call = InThread(lambda: context.run(call_here, bridge), "the call")
        assert call.result() == b"from a thread"


@on_every_backend
def test_contextvars_do_not_leak_between_requests(backend: dict[str, Any]) -> None:
    """A-LOOP-3: what one request sets is unknown to the next, in the loop and to the caller."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        before = LANGUAGE.get()
        LANGUAGE.set("of the first request")
        await respond(send, before.encode())

    with bridged(app, backend) as bridge:
        assert [serve(bridge).body for _ in range(3)] == [b"none"] * 3
        assert call_here(bridge) == b"none"
        assert LANGUAGE.get() == "none"


@on_every_backend
def test_first_callers_context_is_not_the_loops(backend: dict[str, Any]) -> None:
    """A-LOOP-3: the request that happens to start the loop lends its context to nobody, nor to the
    lifespan.
    """
    seen: dict[str, str] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen[scope["type"]] = LANGUAGE.get()
        if scope["type"] == "http":
            await respond(send, LANGUAGE.get().encode())
            return
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})

    def first() -> bytes:
        LANGUAGE.set("first")
        return call_here(bridge)

    with bridged(app, backend, lifespan="on") as bridge:
        assert InThread(first, "the first call").result() == b"first"
        assert serve(bridge).body == b"none"
    assert seen["lifespan"] == "none"


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
        first = bridge._side
        assert first is not None
        assert first.private.stop(5)
        serve(bridge)
        assert len(set(loops)) == 2
        first.close()


@pytest.mark.parametrize("disconnect_poll", [0.01, None])
def test_a_loop_that_ends_before_it_has_begun_a_request_is_noticed(
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

    monkeypatch.setattr(asgi_to_wsgi, "LOOP_CHECK_SECONDS", 0.01)
    with bridged(app, BACKENDS["asyncio"], disconnect_poll=disconnect_poll) as bridge:
        blocking = Exchange(bridge, environ_for("/block"))
        must_happen(blocked, "the blocked loop")
        side = bridge._side
        assert side is not None
        side.handle.post(side.private._stop)
        monkeypatch.setattr(CallingThread, "take_from_thread", noted)
        late = Exchange(bridge)
        must_happen(waits, "the request to a loop that ends")
        release.set()
        assert isinstance(late.raised(), BridgeClosed)
        assert "while this request was in flight" in str(late.raised())
        blocking.finish()


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
    assert bridge._side is not None
    loop = bridge._side.private.thread
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
    assert bridge._side is not None
    loop = bridge._side.private.thread
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

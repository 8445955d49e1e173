"""A-LOOP-1, A-LOOP-3: the private loop that all threads share, and the context of each caller."""

import asyncio
import contextvars
import threading
import weakref
from collections.abc import Callable
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
    bridged,
    call_here,
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
    turn_the_loop,
    with_turns,
)
from wsgi_asgi_bridge import ASGIToWSGI

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
def test_loops_own_thread_is_told_that_it_would_wait_for_itself(
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
        runtime = bridge._runtime
        assert runtime is not None
        assert runtime.private.thread_id == idents[0]
        assert runtime.private.stop(5)
        assert runtime.private.thread_id is None
        assert serve(bridge).body == b"served"
        runtime.close()


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

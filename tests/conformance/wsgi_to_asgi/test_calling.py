"""W-CALL: how the app is called, where it runs, and what becomes of its exceptions; stats()."""

import asyncio
import contextvars
import dataclasses
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from wsgiref.validate import validator

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
import sniffio
from asgiref.compatibility import guarantee_single_callable, is_double_callable
from werkzeug.middleware.lint import LintMiddleware

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
from wsgi_asgi_bridge import AppError, WSGIToASGI

request_name: contextvars.ContextVar[str] = contextvars.ContextVar("request_name", default="unset")


class AppsOwnError(Exception):
    """What an app raises on its own account."""


# --- W-CALL-1


def test_call_is_a_coroutine_function() -> None:
    """W-CALL-1: servers and monitoring tools see an ASGI 3 app, on the class and on the object."""
    bridge = WSGIToASGI(plain_app)
    assert inspect.iscoroutinefunction(WSGIToASGI.__call__)
    assert inspect.iscoroutinefunction(bridge.__call__)
    assert not is_double_callable(bridge)
    assert guarantee_single_callable(bridge) is bridge
    bridge.close()


# --- W-CALL-2


async def test_app_is_called_positionally_and_once() -> None:
    """W-CALL-2: `(environ, start_response)`, no keywords, one call a request."""
    calls: list[tuple[int, dict[str, Any]]] = []

    def app(*args: Any, **kwargs: Any) -> list[bytes]:
        calls.append((len(args), kwargs))
        return plain_app(*args)

    assert (await fetched(app)).body == b"hello"
    assert calls == [(2, {})]


@pytest.mark.parametrize("kind", ["iterator", "write", "empty"])
async def test_call_iteration_and_close_share_a_worker_thread(kind: str) -> None:
    """W-CALL-2: one thread of the pool makes the call, every step and close()."""
    callers: list[threading.Thread] = []
    body = TrackedBody([] if kind == "empty" else [b"a", b"b"])

    def app(environ: dict[str, Any], start_response: Any) -> TrackedBody:
        callers.append(threading.current_thread())
        write = start_response("200 OK", [])
        if kind == "write":
            write(b"w")
        return body

    await fetched(app)
    assert body.closes == 1
    assert len({*callers, *body.threads}) == 1
    assert callers[0].name.startswith("wsgi_asgi_bridge-worker-")
    assert callers[0] is not threading.current_thread()


async def test_interleaved_streams_keep_their_threads() -> None:
    """W-CALL-2: two streams stepped in turn never swap their threads."""
    bodies = {"/0": TrackedBody(), "/1": TrackedBody()}
    turns = {path: [Gate() for _ in range(4)] for path in bodies}

    def app(environ: dict[str, Any], start_response: Any) -> TrackedBody:
        path = environ["PATH_INFO"]

        def chunks() -> Iterator[bytes]:
            for turn in turns[path]:
                turn.wait_in_thread()
                yield b"x"

        start_response("200 OK", [])
        body = bodies[path] = TrackedBody(chunks())
        return body

    clients = [Client(http_scope(path=path)) for path in turns]
    async with serving(app, workers=2) as bridge, calling(bridge, *clients):
        for step in range(4):
            for path, client in zip(turns, clients, strict=True):
                turns[path][step].open()
                await client.until(lambda c, step=step: len(c.body) == step + 1)  # type: ignore[misc]
    first, second = (set(body.threads) for body in bodies.values())
    assert len(first) == len(second) == 1
    assert first != second


async def test_app_runs_in_the_context_of_the_request() -> None:
    """W-CALL-2: a contextvar set before the bridge is seen in the call, in each step and in
    close().
    """
    seen: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> TrackedBody:
        def chunks() -> Iterator[bytes]:
            for _ in range(2):
                seen.append(request_name.get())
                yield b"x"

        seen.append(request_name.get())
        start_response("200 OK", [])
        return TrackedBody(chunks(), on_close=lambda: seen.append(request_name.get()))

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        request_name.set("from the middleware")
        await bridge(scope, receive, send)

    async with serving(app) as bridge:
        await answered(middleware)
    assert seen == ["from the middleware"] * 4


async def test_app_may_run_a_loop_of_its_own(anyio_backend_name: str) -> None:
    """W-CALL-2: the context does not say that the thread runs the server's loop; `anyio.run`, under
    which these tests run, wrote that down there.
    """

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        for backend in ("asyncio", "trio"):
            anyio.run(anyio.to_thread.run_sync, request_name.get, backend=backend)
        return plain_app(environ, start_response)

    sniffio.current_async_library_cvar.set(anyio_backend_name)
    assert (await fetched(app)).body == b"hello"


async def test_one_context_serves_call_steps_and_close() -> None:
    """W-CALL-2: what the app sets in its call is there in its steps and in close()."""
    seen: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> TrackedBody:
        def chunks() -> Iterator[bytes]:
            seen.append(request_name.get())
            yield b"x"

        request_name.set("from the call")
        start_response("200 OK", [])
        return TrackedBody(chunks(), on_close=lambda: seen.append(request_name.get()))

    await fetched(app)
    assert seen == ["from the call"] * 2


async def test_contexts_of_requests_do_not_mix() -> None:
    """W-CALL-2: the next request on the same worker does not see the variables of the one
    before.
    """
    seen: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(request_name.get())
        request_name.set("of another request")
        return plain_app(environ, start_response)

    async with serving(app, workers=1) as bridge:
        for _ in range(3):
            await answered(bridge)
    assert seen == ["unset"] * 3


# --- W-CALL-3


def _raise(error: BaseException) -> Any:
    raise error


def _raising_before(where: str, error: BaseException) -> Callable[..., Any]:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        if where == "call":
            raise error
        start_response("200 OK", [])
        if where == "after start_response":
            raise error
        return TrackedBody(_raise(error) if step == 0 else b"" for step in (1, 0))

    return app


@pytest.mark.parametrize("where", ["call", "after start_response", "after an empty chunk"])
async def test_exception_before_the_headers_is_raised_as_it_is(where: str) -> None:
    """W-CALL-3: before the headers went out the server gets the very exception, and no message."""
    error = AppsOwnError("mine")
    client = Client()
    async with serving(_raising_before(where, error)) as bridge:
        await client.run(bridge)
    assert client.error is error
    assert client.messages == []


@pytest.mark.parametrize("how", ["yield", "write"])
async def test_exception_after_the_headers_breaks_the_response(how: str) -> None:
    """W-CALL-3: after the headers the exception is raised, and the cut body never looks
    complete.
    """
    error = AppsOwnError("mine")

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        write = start_response("200 OK", [])
        if how == "write":
            write(b"part")
            raise error
        return (b"part" if step else _raise(error) for step in (1, 0))

    client = Client()
    async with serving(app) as bridge:
        await client.run(bridge)
    assert client.error is error
    assert not client.complete


class ListClosedBadly(list[bytes]):
    """A list whose close() raises."""

    def close(self) -> None:
        raise AppsOwnError("in close")


@pytest.mark.parametrize("kind", ["iterator", "list"])
async def test_exception_of_close_is_raised(kind: str) -> None:
    """W-CALL-3: an exception of close() is the app's own too; the response before it was whole."""
    body: Any = ListClosedBadly([b"whole"])
    if kind == "iterator":
        body = TrackedBody([b"whole"], on_close=lambda: _raise(AppsOwnError("in close")))
    client = Client()
    async with serving(app_returning(body)) as bridge:
        await client.run(bridge)
    assert type(client.error) is AppsOwnError
    assert client.complete
    assert client.body == b"whole"


async def test_traceback_leads_into_the_app() -> None:
    """W-CALL-3: what the server logs shows the app's own line."""
    client = Client()
    async with serving(_raising_before("call", AppsOwnError("mine"))) as bridge:
        await client.run(bridge)
    assert client.error is not None
    frames = []
    traceback = client.error.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame.f_code.co_filename)
        traceback = traceback.tb_next
    assert __file__ in frames


@pytest.mark.parametrize("error_type", [SystemExit, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("where", ["call", "after an empty chunk"])
async def test_exit_of_an_app_kills_nothing(error_type: type[BaseException], where: str) -> None:
    """W-CALL-3: the server gets an AppError with the cause, and the only worker lives on."""
    error = error_type()
    failing = _raising_before(where, error)

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        chosen = failing if environ["PATH_INFO"] == "/fail" else plain_app
        return chosen(environ, start_response)

    client = Client(http_scope(path="/fail"))
    async with serving(app, workers=1) as bridge:
        await client.run(bridge)
        assert isinstance(client.error, AppError)
        assert client.error.__cause__ is error
        assert (await answered(bridge)).body == b"hello"


@pytest.mark.parametrize(
    "error_type", [StopIteration, StopAsyncIteration, asyncio.CancelledError, TimeoutError]
)
async def test_exceptions_that_mean_something_to_a_loop_hang_nothing(
    error_type: type[BaseException],
) -> None:
    """W-CALL-3: StopIteration and the like cannot be raised through a future; the request ends all
    the same.
    """
    failing = _raising_before("call", error_type("from the app"))

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        chosen = failing if environ["PATH_INFO"] == "/fail" else plain_app
        return chosen(environ, start_response)

    client = Client(http_scope(path="/fail"))
    async with serving(app, workers=1) as bridge:
        with anyio.fail_after(DEADLINE_SECONDS):
            await client.run(bridge)
        assert client.error is not None
        assert client.messages == []
        assert (await answered(bridge)).body == b"hello"


@pytest.mark.parametrize("iterable", [None, 42])
async def test_result_that_cannot_be_iterated_is_an_error_that_says_so(iterable: Any) -> None:
    """W-CALL-3: an app that returns no iterable is told so; nothing hangs and no 200 goes out."""
    client = Client()
    async with serving(app_returning(lambda environ: iterable)) as bridge:
        await client.run(bridge)
    assert isinstance(client.error, AppError | TypeError)
    assert repr(iterable) in str(client.error) or type(iterable).__name__ in str(client.error)
    assert not client.complete


# --- whole exchanges under the linters of the field


def _streaming(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"one"
    yield environ["wsgi.input"].read(100)


def _writing(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"one")
    return [environ["wsgi.input"].read(100)]


def _listing(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"one", environ["wsgi.input"].read(100)]


def _correcting(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/html")])
    try:
        raise AppsOwnError
    except AppsOwnError as error:
        info = (type(error), error, error.__traceback__)
        start_response("200 OK", [("Content-Type", "text/plain")], info)
    environ["wsgi.errors"].write("")
    environ["wsgi.errors"].flush()
    return [b"one", *environ["wsgi.input"]]


@pytest.mark.parametrize("app", [_streaming, _writing, _listing, _correcting])
@pytest.mark.parametrize("lint", [validator, LintMiddleware])
@pytest.mark.parametrize("length", [3, None], ids=["declared", "undeclared"])
async def test_whole_exchange_under_a_linter(app: Any, lint: Any, length: int | None) -> None:
    """W-ENV-1: wsgiref's validator and werkzeug's lint find nothing in a whole exchange."""
    client = await fetched(lint(app), Client(post_scope(length), [b"tw", b"o"]))
    assert client.body == b"onetwo"
    assert client.header("content-type") == "text/plain"


# --- stats()


@asynccontextmanager
async def _two_held_requests() -> AsyncIterator[tuple[WSGIToASGI, Gate]]:
    gate, entered = Gate(), Gate()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        entered.open()
        gate.wait_in_thread()
        return plain_app(environ, start_response)

    async with serving(app, workers=1) as bridge, calling(bridge, Client(), Client()):
        await entered.wait()
        await settle()
        yield bridge, gate


async def test_stats_is_a_frozen_snapshot_of_ints() -> None:
    """W-FLOW-4: stats() shows what is busy and what waits, and does not change afterwards."""
    async with _two_held_requests() as (bridge, gate):
        held = bridge.stats()
        gate.open()
    after = bridge.stats()
    names = {field.name for field in dataclasses.fields(held)}
    assert names == {
        "websockets",
        *("threads", "idle", "busy", "streaming", "queued", "in_flight"),
        *("completed", "rejected", "disconnected", "stalled", "failed", "closed"),
    }
    assert all(type(value) is int for value in dataclasses.astuple(held))
    assert (held.threads, held.busy, held.queued, held.in_flight) == (1, 1, 1, 2)
    assert (held.completed, after.completed) == (0, 2)
    assert (after.threads, after.busy, after.queued, after.in_flight) == (0, 0, 0, 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        held.busy = 0  # type: ignore[misc]


async def test_stats_counts_what_failed() -> None:
    """W-CALL-3: a raising app counts as failed, not as completed."""
    async with serving(_raising_before("call", AppsOwnError())) as bridge:
        await Client().run(bridge)
        stats = bridge.stats()
    assert (stats.failed, stats.completed, stats.in_flight) == (1, 0, 0)


async def test_stats_before_the_first_request_is_zero() -> None:
    """W-FLOW-4: nothing is started by construction."""
    async with serving(plain_app) as bridge:
        assert set(dataclasses.astuple(bridge.stats())) == {0}


async def test_close_from_a_thread_while_the_loop_runs() -> None:
    """W-CALL-3: close() in another thread ends the idle workers."""
    bridge = WSGIToASGI(plain_app)
    await answered(bridge)
    assert bridge.stats().threads == 1
    await anyio.to_thread.run_sync(bridge.close)
    assert bridge.stats().threads == 0

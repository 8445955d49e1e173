"""compat.a2wsgi's ASGIMiddleware beside a2wsgi's: the same app, the same outcome (A-CALL-1)."""

import asyncio
import contextlib
import pickle
import queue
import threading
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import a2wsgi
import a2wsgi.asgi
import httpx
import pytest

from tests.compat.conftest import BOTH
from tests.support.fake_wsgi_server import environ_for, hello, must_become, respond
from wsgi_asgi_bridge import ASGIToWSGI, ServerError
from wsgi_asgi_bridge.compat import a2wsgi as compat
from wsgi_asgi_bridge.compat.a2wsgi import asgi
from wsgi_asgi_bridge.compat.a2wsgi.asgi import ASGIMiddleware, ASGIResponder

DEADLINE_SECONDS = 10.0


@contextlib.contextmanager
def ended(middleware: Any) -> Iterator[Any]:
    """Ends what an adapter runs: a2wsgi has no way to do that itself."""
    try:
        yield middleware
    finally:
        if isinstance(middleware, compat.ASGIMiddleware):
            middleware.bridge.close()
        elif not middleware.loop.is_closed():
            loop = middleware.loop
            loop.call_soon_threadsafe(loop.stop)
            must_become(lambda: not loop.is_running(), "the end of a2wsgi's loop")
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()


def client_of(middleware: Any) -> httpx.Client:
    return httpx.Client(transport=httpx.WSGITransport(middleware), base_url="http://site:8000")


class Server:
    """A WSGI server that insists on three arguments, and never calls `close()`."""

    def __init__(self, middleware: Any) -> None:
        self.heads: list[tuple[str, Any, Any]] = []
        self._response: Iterable[bytes] = middleware(environ_for(), self._start_response)

    def _start_response(self, status: str, headers: Any, exc_info: Any) -> Any:
        self.heads.append((status, headers, exc_info))

    def body(self) -> bytes:
        return b"".join(self._response)


# --- responses


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/plain"), (b"X-Twice", b"1"), (b"X-Twice", b"2")],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def in_parts(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 201, "headers": []})
    for number in range(200):
        await send({"type": "http.response.body", "body": b"%d\n" % number, "more_body": True})
    await send({"type": "http.response.body"})


async def with_unknown_status(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 299, "headers": []})
    await send({"type": "http.response.body", "body": b"odd"})


@pytest.mark.parametrize("app", [echo, in_parts, with_unknown_status])
@pytest.mark.parametrize("body", [b"", b"hello", b"x" * 300_000], ids=len)
def test_a_response_is_the_same(app: Any, body: bytes) -> None:
    answers = []
    for adapter in BOTH.values():
        with ended(adapter.ASGIMiddleware(app)) as middleware, client_of(middleware) as client:
            answer = client.post("/", content=body)
        pairs = [(name.lower(), value) for name, value in answer.headers.multi_items()]
        answers.append((answer.status_code, pairs, answer.content))
    theirs, ours = answers
    # A body of one message gets a length from the bridge (A-OUT-7).
    assert [pair for pair in ours[1] if pair in theirs[1]] == theirs[1]
    assert {name for name, _ in set(ours[1]) - set(theirs[1])} <= {"content-length"}
    assert (ours[0], ours[2]) == (theirs[0], theirs[2])


SCOPE_KEYS = (
    "type",
    "http_version",
    "method",
    "scheme",
    "path",
    "query_string",
    "root_path",
    "headers",
    "client",
    "server",
)


def test_the_scope_is_the_same() -> None:
    """A-SCOPE-1, A-SCOPE-3"""
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append({key: scope.get(key) for key in SCOPE_KEYS})
        assert scope["wsgi_environ"]["test.key"] == "test"
        await respond(send)

    def with_more(app: Any) -> Any:
        more = {"test.key": "test", "REMOTE_PORT": "50000"}
        return lambda environ, start_response: app({**environ, **more}, start_response)

    for adapter in BOTH.values():
        with (
            ended(adapter.ASGIMiddleware(app)) as middleware,
            client_of(with_more(middleware)) as client,
        ):
            client.post("/page?query=1", json={"a": 1}, headers={"X-One": "1"})
    theirs, ours = seen
    for scope in seen:
        scope["headers"] = sorted(scope["headers"])
    assert ours == theirs


def test_start_response_is_called_with_three_arguments(adapter: Any) -> None:
    with ended(adapter.ASGIMiddleware(hello)) as middleware:
        server = Server(middleware)
        assert server.body() == b"hello"
    (status, _, exc_info) = server.heads[-1]
    assert (status, exc_info) == ("200 OK", None)


variable: ContextVar[str] = ContextVar("variable", default="unset")


# --- errors


async def raising(scope: Any, receive: Any, send: Any) -> None:
    raise LookupError("before the response")


async def raising_after_the_head(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise LookupError("before the body")


@pytest.mark.parametrize(
    ("adapter", "app"),
    [(a2wsgi, raising), (compat, raising), (compat, raising_after_the_head)],
    ids=["a2wsgi, no head", "ours, no head", "ours, after the head"],
)
def test_an_error_before_the_body_is_answered(
    adapter: Any, app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The server gets the error as `exc_info`; ours is logged besides."""
    with ended(adapter.ASGIMiddleware(app)) as middleware:
        server = Server(middleware)
        body = server.body()
    status, headers, exc_info = server.heads[-1]
    assert status == "500 Internal Server Error"
    assert dict(headers)["Content-Type"] == "text/plain; charset=utf-8"
    assert int(dict(headers)["Content-Length"]) == len(body) > 0
    assert exc_info[0] is LookupError
    assert [type(record.exc_info[1]) for record in caplog.records if record.exc_info] == (
        [LookupError] if adapter is compat else []
    )


async def raising_in_the_body(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"some", "more_body": True})
    raise LookupError("in the body")


def test_an_error_in_the_body_reaches_the_server() -> None:
    """A-OUT-4. a2wsgi ends the response without the error if its loop is quicker than its thread:
    so it does after a head without a body.
    """
    with ended(compat.ASGIMiddleware(raising_in_the_body)) as middleware:
        server = Server(middleware)
        with pytest.raises(LookupError):
            server.body()
    assert [status for status, *_ in server.heads] == ["200 OK"]


async def raising_behind_its_error_page(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 500, "headers": []})
    await send({"type": "http.response.body", "body": b"sorry"})
    raise LookupError("as Starlette does")


def test_an_error_behind_a_whole_response_does_not_cut_it(adapter: Any) -> None:
    """A-OUT-8: a server that ends a chunked body after the iteration would send no end."""
    with ended(adapter.ASGIMiddleware(raising_behind_its_error_page)) as middleware:
        server = Server(middleware)
        assert server.body() == b"sorry"
    assert [status for status, *_ in server.heads] == ["500 Internal Server Error"]


def test_an_environ_that_makes_no_sense_is_an_error_of_the_server() -> None:
    """The app has not failed: there is nothing to answer for it."""
    with ended(compat.ASGIMiddleware(hello)) as middleware, pytest.raises(ServerError):
        middleware({**environ_for(), "REQUEST_METHOD": 5}, lambda *_: None)


# --- background work


class Late:
    """Works on after its response until it is released; `ended` says how it ended."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.ended: queue.SimpleQueue[str] = queue.SimpleQueue()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await respond(send, b"ok")
            await asyncio.to_thread(self.release.wait, DEADLINE_SECONDS)
        except asyncio.CancelledError:
            self.ended.put("cancelled")
            raise
        self.ended.put("done")


def test_the_end_waits_for_background_work(adapter: Any) -> None:
    """A-OUT-9: `wait_time=None`, in the iteration, as some hosts never call `close()`."""
    app = Late()
    with ended(adapter.ASGIMiddleware(app)) as middleware:
        response = Server(middleware)
        threading.Timer(0.05, app.release.set).start()
        assert response.body() == b"ok"
        assert app.ended.get_nowait() == "done"


@pytest.mark.parametrize("wait_time", [0, 0.05])
@pytest.mark.parametrize("given_loop", [False, True], ids=["own loop", "given loop"])
def test_background_work_is_cancelled_after_wait_time(
    wait_time: float, given_loop: bool, adapter: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = Late()
    with contextlib.ExitStack() as ending:
        loop = ending.enter_context(running_loop()) if given_loop else None
        middleware = adapter.ASGIMiddleware(app, wait_time, loop)
        with contextlib.nullcontext() if given_loop and adapter is a2wsgi else ended(middleware):
            assert Server(middleware).body() == b"ok"
            assert app.ended.get(timeout=DEADLINE_SECONDS) == "cancelled"
            app.release.set()
    assert caplog.records == []


def test_close_waits_too() -> None:
    """A response that is closed before its end, by a HEAD for example."""
    app = Late()
    with ended(compat.ASGIMiddleware(app, 0.05)) as middleware:
        response = middleware(environ_for(), lambda *_: lambda data: None)
        response.close()
        response.close()
        assert app.ended.get(timeout=DEADLINE_SECONDS) == "cancelled"
        app.release.set()


def test_an_app_that_has_ended_is_not_cancelled() -> None:
    """The task of another request would be."""
    with ended(compat.ASGIMiddleware(hello, 5.0)) as middleware:
        for _ in range(3):
            assert Server(middleware).body() == b"hello"
        stats = middleware.bridge.stats()
    assert (stats.completed, stats.background) == (3, 0)


async def test_a_websocket_is_not_cancelled_when_its_thread_leaves() -> None:
    """WS-A-4: its thread is free while the app goes on."""
    left = asyncio.Event()
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await left.wait()
        ended.append("by itself")

    call = asgi._Call(app, None, cancels=True)
    task = asyncio.create_task(call.run({"type": "websocket"}, None, None))
    await asyncio.sleep(0)
    call.response_ended()
    await asyncio.sleep(0)
    left.set()
    async with asyncio.timeout(DEADLINE_SECONDS):
        await task
    assert ended == ["by itself"]


async def test_an_app_that_ends_as_it_is_to_be_cancelled() -> None:
    """The cancellation is under way when the app ends: it must not hit what the task does next."""
    may_end = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await may_end.wait()

    call = asgi._Call(app, None, cancels=True)

    async def request() -> str:
        await call.run({"type": "http"}, None, None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "what comes next"

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    may_end.set()  # the app's last step comes first,
    call.response_ended()  # and the cancellation behind it
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await task == "what comes next"


class Wrapped:
    """What a server makes of a file; it may be sent by its descriptor alone."""

    def __init__(self, file: Any, block_size: int) -> None:
        self.file = file


def test_a_file_goes_to_the_server_in_its_own_wrapper(tmp_path: Path) -> None:
    """A-OUT-6"""
    path = tmp_path / "file"
    path.write_bytes(b"content")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.pathsend", "path": str(path)})

    environ = {**environ_for(), "wsgi.file_wrapper": Wrapped}
    with ended(compat.ASGIMiddleware(app, 0)) as middleware:
        response = middleware(environ, lambda *_: lambda data: None)
        assert isinstance(response, Wrapped)
        with response.file as file:
            assert file.read() == b"content"


# --- loops


@contextlib.contextmanager
def running_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop in a thread of the test's own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="loop of the test")
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE_SECONDS)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def test_the_app_runs_in_a_given_loop(adapter: Any) -> None:
    """What was started there, by hand for want of a lifespan, works in the app."""

    async def start() -> asyncio.Queue[bytes]:
        pool: asyncio.Queue[bytes] = asyncio.Queue(1)
        await pool.put(b"connection")
        return pool

    with running_loop() as loop:
        pool = asyncio.run_coroutine_threadsafe(start(), loop).result(DEADLINE_SECONDS)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            assert asyncio.get_running_loop() is loop
            message = await receive()
            async with asyncio.timeout(DEADLINE_SECONDS):
                connection = await pool.get()
            await respond(send, connection + message["body"] + variable.get().encode())
            await pool.put(connection)

        middleware = adapter.ASGIMiddleware(app, loop=loop)
        assert middleware.loop is loop
        variable.set(", set by the caller")
        with client_of(middleware) as client:
            answers = [client.post("/", content=b" used").text for _ in range(3)]
        if adapter is compat:
            middleware.bridge.close()
    assert answers == ["connection used, set by the caller"] * 3
    variable.set("unset")


def test_its_own_loop_runs_coroutines(adapter: Any) -> None:
    """`middleware.loop` is where the app runs: programs start what it needs there."""
    loops: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        loops.append(asyncio.get_running_loop())
        await respond(send)

    async def start() -> None:
        loops.append(asyncio.get_running_loop())

    with ended(adapter.ASGIMiddleware(app)) as middleware:
        asyncio.run_coroutine_threadsafe(start(), middleware.loop).result(DEADLINE_SECONDS)
        Server(middleware).body()
        assert loops == [middleware.loop] * 2


def test_the_app_gets_no_lifespan(adapter: Any) -> None:
    """Programs that know that start it by hand; it may not run twice."""
    types: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        types.append(scope["type"])
        await respond(send)

    with ended(adapter.ASGIMiddleware(app)) as middleware:
        Server(middleware).body()
    assert types == ["http"]


def test_an_error_in_a_given_loop_is_answered(adapter: Any) -> None:
    with running_loop() as loop:
        middleware = adapter.ASGIMiddleware(raising, loop=loop)
        server = Server(middleware)
        server.body()
        if adapter is compat:
            middleware.bridge.close()
    assert server.heads[-1][0] == "500 Internal Server Error"
    assert server.heads[-1][2][0] is LookupError


def test_a_loop_that_does_not_run_is_a_warning() -> None:
    loop = asyncio.new_event_loop()
    with pytest.warns(RuntimeWarning, match="requests wait until a thread of yours runs it") as w:
        compat.ASGIMiddleware(hello, loop=loop)
    assert w[0].filename == __file__
    loop.close()


def test_a_loop_of_another_kind_is_refused() -> None:
    with pytest.raises(TypeError, match="expected an event loop of asyncio"):
        compat.ASGIMiddleware(hello, loop="uvloop")  # type: ignore[arg-type]


class Chosen(compat.ASGIMiddleware):
    """As the FastAPI addon of Odoo has it: no loop of its own, and one for each request."""

    chosen: asyncio.AbstractEventLoop

    def __init__(self, app: Any, wait_time: float | None = None) -> None:
        super().__init__(app, wait_time, False)  # type: ignore[arg-type]

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        return ASGIResponder(self.app, self.chosen)(environ, start_response)


def test_a_responder_runs_one_request_in_a_loop() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(asyncio.get_running_loop())
        await respond(send, b"ok")

    middleware = Chosen(app)
    with running_loop() as first, running_loop() as second:
        for middleware.chosen in (first, second):
            assert Server(middleware).body() == b"ok"
        assert seen == [first, second]
        responder = ASGIResponder(app, first, 5.0)
        assert (responder.app, responder.loop, responder.wait_time) == (app, first, 5.0)
        assert Server(responder).body() == b"ok"
    for wait_time in (None, 5.0):
        asgi._shared_bridge(wait_time).close()
    asgi._shared_bridge.cache_clear()


# --- attributes


def test_positions_and_names_are_the_same(adapter: Any) -> None:
    with running_loop() as loop:
        middleware = adapter.ASGIMiddleware(hello, 1.0, loop)
        assert (middleware.app, middleware.wait_time, middleware.loop) == (hello, 1.0, loop)
        assert adapter.ASGIMiddleware(app=hello, wait_time=None, loop=loop).wait_time is None


def test_the_app_may_be_set(adapter: Any) -> None:
    """W-APP-1"""
    with ended(adapter.ASGIMiddleware(raising)) as middleware:
        middleware.app = hello
        assert Server(middleware).body() == b"hello"


def test_what_the_bridge_is_set_to() -> None:
    bridge = compat.ASGIMiddleware(hello, 2.5).bridge
    assert type(bridge) is ASGIToWSGI
    assert (bridge._settings.background_wait, bridge._settings.lifespan) == (2.5, "off")


def test_it_can_be_pickled() -> None:
    """D-3"""
    middleware = pickle.loads(pickle.dumps(compat.ASGIMiddleware(f"{__name__}:echo", 2.5)))
    assert (middleware.app, middleware.wait_time) == (echo, 2.5)
    with ended(middleware), client_of(middleware) as client:
        assert client.post("/", content=b"body").text == "body"


def test_nothing_starts_at_construction() -> None:
    """A-CALL-2: a2wsgi's loop dies in a forked worker."""
    before = threading.active_count()
    ASGIMiddleware(hello)
    assert threading.active_count() == before


def test_the_wrong_kind_of_app_is_refused() -> None:
    """A-CALL-1: a2wsgi finds out with the first request."""

    def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
        return []

    with pytest.raises(TypeError, match="a WSGI app"):
        compat.ASGIMiddleware(wsgi_app)  # type: ignore[arg-type]

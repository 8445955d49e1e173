"""compat.a2wsgi's WSGIMiddleware beside a2wsgi's: the same app, the same outcome (W-CALL-1)."""

import asyncio
import contextlib
import pickle
import sys
import threading
import warnings
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import httpx
import pytest

from tests.compat.conftest import BOTH
from tests.support.fake_asgi_server import nothing_left
from wsgi_asgi_bridge import WSGIToASGI
from wsgi_asgi_bridge.compat import a2wsgi as compat
from wsgi_asgi_bridge.compat.a2wsgi.wsgi import WSGIMiddleware, WSGIResponder

DEADLINE_SECONDS = 10.0


@contextlib.asynccontextmanager
async def client_of(middleware: Any, **transport: Any) -> AsyncIterator[httpx.AsyncClient]:
    made = httpx.ASGITransport(middleware, **transport)
    try:
        async with httpx.AsyncClient(transport=made, base_url="http://site:8000") as client:
            yield client
    finally:
        await asyncio.to_thread(middleware.executor.shutdown)


# --- requests


def echo(environ: Any, start_response: Any) -> list[bytes]:
    body = environ["wsgi.input"].read()
    start_response(
        "200 OK", [("Content-Length", str(len(body))), ("X-Twice", "1"), ("X-Twice", "2")]
    )
    return [body]


def written(environ: Any, start_response: Any) -> list[bytes]:
    write = start_response("201 Created", [("Content-Type", "text/plain")])
    write(b"one ")
    write(b"two ")
    return [b"three"]


def generated(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [("Content-Type", "text/plain")])
    for number in range(200):
        yield f"{number}\n".encode()


def lines_of(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"|".join(environ["wsgi.input"])]


def nothing(environ: Any, start_response: Any) -> list[bytes]:
    start_response("204 No Content", [])
    return []


APPS = [echo, written, generated, lines_of, nothing]
BODIES = [b"", b"hello", b"a\nb\n\nc", b"x" * 300_000]


@pytest.mark.parametrize("app", APPS)
@pytest.mark.parametrize("body", BODIES, ids=len)
async def test_a_response_is_the_same(app: Any, body: bytes) -> None:
    answers = []
    for adapter in BOTH.values():
        async with client_of(adapter.WSGIMiddleware(app)) as client:
            answer = await client.post("/", content=body)
        answers.append((answer.status_code, answer.headers.multi_items(), answer.content))
    theirs, ours = answers
    # A list of one element gets a length from the bridge (W-OUT-6).
    assert ours[0] == theirs[0]
    assert [pair for pair in ours[1] if pair in theirs[1]] == theirs[1]
    assert {name for name, _ in set(ours[1]) - set(theirs[1])} <= {"content-length"}
    assert ours[2] == theirs[2]


KEYS = (
    "REQUEST_METHOD",
    "SCRIPT_NAME",
    "PATH_INFO",
    "QUERY_STRING",
    "SERVER_PROTOCOL",
    "SERVER_NAME",
    "SERVER_PORT",
    "REMOTE_ADDR",
    "REMOTE_PORT",
    "CONTENT_TYPE",
    "CONTENT_LENGTH",
    "HTTP_HOST",
    "HTTP_X_ONE",
    "wsgi.version",
    "wsgi.url_scheme",
    "wsgi.multithread",
    "wsgi.multiprocess",
    "wsgi.run_once",
)


@pytest.mark.parametrize("root_path", ["", "/mounted"])
@pytest.mark.parametrize("script_name", ["", "/of-process"])
async def test_the_environ_is_the_same(
    root_path: str, script_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W-ENV-9: a2wsgi prefers the process's SCRIPT_NAME."""
    monkeypatch.setenv("SCRIPT_NAME", script_name)
    seen: list[dict[str, Any]] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append({key: environ.get(key) for key in KEYS})
        assert dict(environ["asgi.scope"])["type"] == "http"
        assert environ["asgi.scope"]["path"].endswith("/page")
        start_response("200 OK", [])
        return [b""]

    for adapter in BOTH.values():
        async with client_of(adapter.WSGIMiddleware(app), root_path=root_path) as client:
            answer = await client.post(
                f"{root_path}/page?query=1", json={"a": 1}, headers={"X-One": "1"}
            )
            assert answer.status_code == 200
    theirs, ours = seen
    assert ours == theirs


async def test_the_scope_is_the_one_that_the_server_gave(adapter: Any) -> None:
    """W-ENV-8: what is written there is seen outside."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["asgi.scope"]["note"] = "written"
        start_response("200 OK", [])
        return []

    middleware = adapter.WSGIMiddleware(app)
    notes: list[str] = []

    async def around(scope: Any, receive: Any, send: Any) -> None:
        await middleware(scope, receive, send)
        notes.append(scope["note"])

    around.executor = middleware.executor  # type: ignore[attr-defined]
    async with client_of(around) as client:
        await client.get("/")
    assert notes == ["written"]


# --- exceptions


def raising(environ: Any, start_response: Any) -> list[bytes]:
    raise LookupError("before the response")


def raising_later(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [])
    yield b"some"
    raise LookupError("in the response")


def answering_its_error(environ: Any, start_response: Any) -> list[bytes]:
    try:
        raise LookupError("answered by the app")
    except LookupError:
        start_response("500 Internal Server Error", [("X-By", "app")], sys.exc_info())
        return [b"sorry"]


@pytest.mark.parametrize("app", [raising, raising_later, answering_its_error])
async def test_an_error_reaches_the_server(app: Any, adapter: Any) -> None:
    """W-CALL-3, and what the app has answered itself is raised all the same."""
    async with client_of(adapter.WSGIMiddleware(app)) as client:
        with pytest.raises(LookupError):
            await client.get("/")


async def test_an_error_that_the_app_answers_is_raised_behind_its_answer(adapter: Any) -> None:
    """W-OUT-2"""
    middleware = adapter.WSGIMiddleware(answering_its_error)
    async with client_of(middleware, raise_app_exceptions=False) as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.headers["x-by"], answer.text) == (500, "app", "sorry")


async def test_an_error_that_is_answered_twice_is_the_last_word(adapter: Any) -> None:
    """A later call without `exc_info` takes it back, if nothing is sent."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        try:
            raise LookupError
        except LookupError:
            start_response("500 Error", [], sys.exc_info())
        with contextlib.suppress(RuntimeError):  # ours keeps to PEP 3333
            start_response("200 OK", [])
        return [b"done"]

    middleware = adapter.WSGIMiddleware(app)
    async with client_of(middleware, raise_app_exceptions=False) as client:
        assert (await client.get("/")).text == "done"


# --- lifespan, WebSocket


async def test_the_lifespan_is_answered(adapter: Any) -> None:
    """W-LIFE-1"""
    middleware = adapter.WSGIMiddleware(echo)
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[str] = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message["type"])

    await middleware({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    middleware.executor.shutdown()


# --- context and threads


variable: ContextVar[str] = ContextVar("variable", default="unset")


async def test_context_variables_reach_the_app(adapter: Any) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [variable.get().encode()]

    middleware = adapter.WSGIMiddleware(app)
    variable.set("set by the caller")
    async with client_of(middleware) as client:
        assert (await client.get("/")).text == "set by the caller"


async def test_workers_run_at_once_and_no_more(adapter: Any) -> None:
    """W-FLOW-4: positional, as a2wsgi takes it."""
    together = threading.Barrier(3)
    running: list[int] = []
    most: list[int] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        running.append(1)
        most.append(len(running))
        together.wait(DEADLINE_SECONDS)
        running.pop()
        start_response("200 OK", [])
        return [b"ok"]

    async with client_of(adapter.WSGIMiddleware(app, 3)) as client:
        answers = await asyncio.gather(*[client.get("/") for _ in range(6)])
    assert [answer.text for answer in answers] == ["ok"] * 6
    assert max(most) <= 3


# --- attributes


def test_positions_and_names_are_the_same(adapter: Any) -> None:
    middleware = adapter.WSGIMiddleware(echo, 3, 4)
    assert middleware.app is echo
    assert middleware.send_queue_size == 4
    assert isinstance(middleware.executor, ThreadPoolExecutor)
    assert middleware.executor._max_workers == 3
    assert adapter.WSGIMiddleware(app=echo, workers=3, send_queue_size=4).app is echo


async def test_the_app_may_be_set(adapter: Any) -> None:
    """W-APP-1"""
    middleware = adapter.WSGIMiddleware(echo)
    middleware.app = written
    async with client_of(middleware) as client:
        assert (await client.get("/")).text == "one two three"


def test_the_executor_runs_what_is_submitted(adapter: Any) -> None:
    executor = adapter.WSGIMiddleware(echo).executor
    assert executor.submit(max, 1, 2).result(DEADLINE_SECONDS) == 2
    executor.shutdown()


async def test_the_executors_shutdown_ends_the_bridges_threads() -> None:
    """W-LIFE-1: now, or in the background."""
    for wait in (True, False):
        async with nothing_left():
            middleware = compat.WSGIMiddleware(echo)
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(middleware), base_url="http://site"
            ) as client:
                await client.get("/")
            assert middleware.bridge.stats().threads == 1
            await asyncio.to_thread(middleware.executor.shutdown, wait=wait)
            if wait:
                assert middleware.bridge.stats().threads == 0


def test_what_the_bridge_is_set_to() -> None:
    bridge = compat.WSGIMiddleware(echo, workers=3, send_queue_size=4).bridge
    assert type(bridge) is WSGIToASGI
    assert (bridge._settings.workers, bridge._settings.response_buffer) == (3, 4 * 65536)


class Subclass(compat.WSGIMiddleware):
    """As Lilya has it: an import string, and fewer parameters."""

    def __init__(self, app: Any, workers: int = 10) -> None:
        super().__init__(app, workers)


async def test_a_subclass() -> None:
    middleware = Subclass(f"{__name__}:echo", 2)
    async with client_of(middleware) as client:
        assert (await client.post("/", content=b"body")).text == "body"


async def test_it_can_be_pickled() -> None:
    """D-3"""
    middleware = pickle.loads(pickle.dumps(Subclass(f"{__name__}:echo", 2)))
    assert middleware.bridge._settings.workers == 2
    async with client_of(middleware) as client:
        assert (await client.post("/", content=b"body")).text == "body"


def test_nothing_starts_at_construction() -> None:
    before = threading.active_count()
    compat.WSGIMiddleware(echo)
    assert threading.active_count() == before


# --- what cannot be kept


def test_a_queue_without_a_bound_is_a_warning() -> None:
    with pytest.warns(RuntimeWarning, match="send_queue_size=0 meant a queue without a bound") as w:
        middleware = compat.WSGIMiddleware(echo, 10, 0)
    assert w[0].filename == __file__
    assert middleware.bridge._settings.response_buffer == 655360


def test_another_executor_is_refused() -> None:
    middleware = compat.WSGIMiddleware(echo)
    with pytest.raises(AttributeError, match=r"give their number: WSGIMiddleware\(app, workers="):
        middleware.executor = None  # type: ignore[assignment]


def test_a_responder_says_what_to_write() -> None:
    with pytest.raises(NotImplementedError, match=r"await WSGIMiddleware\(app\)\(scope"):
        WSGIResponder(echo, None, 10)


async def asgi_app(scope: Any, receive: Any, send: Any) -> None: ...


def test_the_wrong_kind_of_app_is_refused() -> None:
    """W-CALL-1"""
    with pytest.raises(TypeError, match="an ASGI app"):
        compat.WSGIMiddleware(asgi_app)  # type: ignore[arg-type]


def test_what_is_kept_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        WSGIMiddleware(echo, 1, 1)


async def test_a_websocket_is_refused_by_an_app_that_knows_none(adapter: Any) -> None:
    """WS-W-4"""
    middleware = adapter.WSGIMiddleware(echo)
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"site")],
        "subprotocols": [],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await middleware(scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]
    await asyncio.to_thread(middleware.executor.shutdown)

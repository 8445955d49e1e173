"""What Starlette asks of a bridge beyond a page: middleware, background tasks, file ranges."""

import contextlib
import contextvars
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from werkzeug.exceptions import NotFound
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from tests.frameworks.apps_starlette import starlette_app
from tests.frameworks.gates import WAIT_SECONDS, Gates, wait_for
from tests.frameworks.payloads import payload
from tests.frameworks.serving import SITE, caller_in_process, served_by_werkzeug
from tests.support.raw_http import Connection
from wsgi_asgi_bridge import ASGIToWSGI

current_tenant = contextvars.ContextVar("current_tenant", default="nobody")


def test_middleware_around_a_page(gates: Gates, download: Path) -> None:
    """A-OUT-2: `BaseHTTPMiddleware`, which runs the app in a task of its own, adds its header."""
    with caller_in_process(starlette_app(gates, download)) as client:
        response = client.get("/")
    assert response.headers["x-stamp"] == "GET"


def test_a_background_task_does_not_hold_the_response(gates: Gates) -> None:
    """A-OUT-5: the response is whole while its background task still waits for the test."""

    async def work() -> None:
        await gates.wait_for_client_async()
        gates.work_done.set()

    async def page(_: Request) -> Response:
        return PlainTextResponse("done", background=BackgroundTask(work))

    app = Starlette(routes=[Route("/", page)])
    with caller_in_process(app) as client:
        assert client.get("/").text == "done"
        assert not gates.work_done.is_set()
        gates.first_chunk_arrived.set()
        wait_for(gates.work_done, "the background task did not end")


def test_closing_the_bridge_waits_for_background_tasks(gates: Gates) -> None:
    """A-OUT-5: background work ends before the lifespan's shutdown begins."""
    order: list[str] = []

    async def work() -> None:
        await gates.wait_for_client_async()
        order.append("work")

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        order.append("shutdown")

    async def page(_: Request) -> Response:
        return PlainTextResponse("done", background=BackgroundTask(work))

    app = Starlette(routes=[Route("/", page)], lifespan=lifespan)
    with caller_in_process(app) as client:
        assert client.get("/").text == "done"
        gates.first_chunk_arrived.set()
    assert order == ["work", "shutdown"]


def test_a_part_of_a_file(gates: Gates, download: Path) -> None:
    """A-OUT-2: `FileResponse` answers a range with that range."""
    with caller_in_process(starlette_app(gates, download)) as client:
        response = client.get("/file", headers={"range": "bytes=70000-139999"})
    assert response.status_code == 206
    assert response.content == payload(140_000)[70_000:]


def test_a_mount_in_a_wsgi_site(gates: Gates, download: Path) -> None:
    """A-SCOPE-1: `SCRIPT_NAME` is the root path, which `path` includes, so routes still match."""

    async def where(request: Request) -> Response:
        return PlainTextResponse(
            f"{request.url_for('deep:there', name='x').path} {request.url.path}"
        )

    there = Mount("/deep", name="deep", routes=[Route("/{name}", where, name="there")])
    with ASGIToWSGI(Starlette(routes=[Route("/here", where), there])) as bridge:
        site = DispatcherMiddleware(NotFound(), {"/new": bridge})
        with httpx.Client(transport=httpx.WSGITransport(site), base_url=SITE) as client:
            assert client.get("/new/here").text == "/new/deep/x /new/here"
            assert client.get("/new/deep/y").text == "/new/deep/x /new/deep/y"
            assert client.get("/here").status_code == 404


def test_gzip_around_a_stream(gates: Gates) -> None:
    """A-OUT-2: a compressed stream is the stream."""

    async def chunks() -> AsyncIterator[str]:
        for number in range(1_000):
            yield f"line {number}\n"

    async def stream(_: Request) -> Response:
        return StreamingResponse(chunks(), media_type="text/plain")

    app = Starlette(routes=[Route("/", stream)], middleware=[Middleware(GZipMiddleware)])
    with caller_in_process(app) as client:
        response = client.get("/", headers={"accept-encoding": "gzip"})
    assert response.headers["content-encoding"] == "gzip"
    assert response.text == "".join(f"line {number}\n" for number in range(1_000))


def test_a_session_cookie() -> None:
    """A-SCOPE-1: cookies go out and come back."""

    async def visits(request: Request) -> Response:
        request.session["visits"] = request.session.get("visits", 0) + 1
        return JSONResponse(request.session["visits"])

    middleware = [Middleware(SessionMiddleware, secret_key="not a secret")]
    app = Starlette(routes=[Route("/", visits)], middleware=middleware)
    with caller_in_process(app) as client:
        assert [client.get("/").json() for _ in range(3)] == [1, 2, 3]


def test_context_variables_of_the_caller_reach_the_app() -> None:
    """A-LOOP-3: what WSGI middleware put into the context is seen in the app and its tasks."""

    async def view(_: Request) -> Response:
        seen: list[str] = []

        async def note() -> None:
            seen.append(current_tenant.get())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(note)
        return PlainTextResponse(f"{current_tenant.get()} {seen[0]}")

    app = Starlette(routes=[Route("/", view)])
    token = current_tenant.set("ann")
    try:
        with caller_in_process(app) as client:
            assert client.get("/").text == "ann ann"
    finally:
        current_tenant.reset(token)


def test_an_error_after_its_page(caplog: pytest.LogCaptureFixture) -> None:
    """A-OUT-8: Starlette sends a 500 page and raises on: the page goes out whole, and the error
    comes out of `close()`, which the client here calls after the last byte.
    """
    raised = ValueError("broken on purpose")

    async def view(_: Request) -> Response:
        raise raised

    async def fine(_: Request) -> Response:
        return PlainTextResponse("fine")

    app = Starlette(routes=[Route("/", view), Route("/fine", fine)])
    with caller_in_process(app) as client:
        parts: list[bytes] = []
        with client.stream("GET", "/") as page:
            with pytest.raises(ValueError, match="broken on purpose") as found:
                parts.extend(page.iter_raw())
            assert page.status_code == 500
        assert found.value is raised
        assert b"".join(parts) == b"Internal Server Error"
        assert client.get("/fine").text == "fine"
    assert not [record for record in caplog.records if record.exc_info]


def test_a_view_that_streams_its_request_back(gates: Gates) -> None:
    """A-IN-1, A-OUT-2: a response streams while its request still comes in, on a server whose
    `wsgi.input` gives what has come.
    """

    async def echo(request: Request) -> Response:
        return StreamingResponse(request.stream())

    body = payload(2_000_000)
    parts = (body[:1_000], body[1_000:30_000], body[30_000:])
    app = Starlette(routes=[Route("/", echo, methods=["POST"])])
    with (
        ASGIToWSGI(app) as bridge,
        served_by_werkzeug(bridge) as url,
        Connection((httpx.URL(url).host, httpx.URL(url).port or 80), WAIT_SECONDS) as client,
    ):
        client.send_head("POST", "/", content_length=len(body))
        client.send_body(parts[0])
        assert client.read_head().status == 200
        assert client.read_body_exactly(len(parts[0])) == parts[0]
        client.send_body(parts[1])
        assert client.read_body_exactly(len(parts[1])) == parts[1]
        sending = threading.Thread(target=client.send_body, args=(parts[2],))
        sending.start()
        assert client.read_body_exactly(len(parts[2])) == parts[2]
        sending.join(WAIT_SECONDS)


def test_a_cut_upload(gates: Gates) -> None:
    """A-IN-1: an upload that breaks off is a disconnect, never a short body."""
    ended: list[str] = []

    async def upload(request: Request) -> Response:
        try:
            async for _ in request.stream():
                pass
            ended.append("whole")
        except ClientDisconnect:
            ended.append("disconnect")
        finally:
            gates.work_done.set()
        return PlainTextResponse("too late")

    def parts() -> Any:
        yield payload(500_000)
        raise ConnectionAbortedError("cut on purpose")

    app = Starlette(routes=[Route("/", upload, methods=["POST"])])
    with ASGIToWSGI(app) as bridge, served_by_werkzeug(bridge) as url:
        with pytest.raises(ConnectionAbortedError):
            httpx.post(url, content=parts(), headers={"content-length": "1000000"})
        wait_for(gates.work_done, "the app did not learn of the end")
    assert ended == ["disconnect"]

"""OpenTelemetry through one bridge: one trace, and every span where a native server has it.

W-CALL-2 and A-LOOP-3 (the request's context reaches the app) are what this stands on.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, aclosing
from typing import Any

import anyio
import flask
import httpx
import pytest
from fastapi import BackgroundTasks, FastAPI
from fastapi.responses import StreamingResponse
from opentelemetry.trace import SpanKind, StatusCode

from tests.frameworks.serving import served_by_uvicorn, served_by_werkzeug
from tests.monitoring.clients import SPAN_ID, TRACE_ID, TRACEPARENT, get_asgi, get_wsgi
from tests.monitoring.native import native_fastapi_lineages, native_flask_lineages
from tests.monitoring.traced_apps import FASTAPI_PATHS, FLASK_PATHS, traced_fastapi
from tests.monitoring.traces import Traces, exceptions_of, under
from tests.support.fake_wsgi_server import (
    InThread,
    must_happen,
    on_asyncio_backends,
    on_every_backend,
)
from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI

TOGETHER = 16


def leave_after_the_first_bytes(url: str) -> None:
    with httpx.stream("GET", url) as response:
        next(response.iter_bytes())


# A WSGI app


@pytest.mark.parametrize("path", FLASK_PATHS)
async def test_w_the_spans_of_an_app_are_below_the_server_s(
    traces: Traces, flask_app: flask.Flask, path: str
) -> None:
    """W-CALL-2: wherever the app makes a span, its parents are those that a WSGI server gives, and
    above them is the span of the ASGI middleware."""
    native = native_flask_lineages(path)
    async with aclosing(WSGIToASGI(flask_app)) as bridge:
        await get_asgi(traces.asgi(bridge), path, TRACEPARENT)
    assert traces.lineages() == under(["asgi"], native)
    assert traces.trace_ids() == {TRACE_ID}


@pytest.mark.parametrize("path", FLASK_PATHS)
async def test_w_a_wsgi_middleware_inside_the_bridge(
    traces: Traces, flask_app: flask.Flask, path: str
) -> None:
    """W-CALL-2: so it is where the WSGI app brings its middleware along."""
    native = native_flask_lineages(path, middleware=True)
    async with aclosing(WSGIToASGI(traces.wsgi(flask_app))) as bridge:
        await get_asgi(bridge, path, TRACEPARENT)
    assert traces.lineages() == native
    assert traces.trace_ids() == {TRACE_ID}


async def test_w_code_that_the_app_sends_into_the_server_s_loop(
    traces: Traces, flask_app: flask.Flask
) -> None:
    """W-CALL-2: `anyio.from_thread.run` takes the app's span along into the loop."""
    async with aclosing(WSGIToASGI(flask_app)) as bridge:
        await get_asgi(traces.asgi(bridge), "/from-thread")
    assert traces.lineage_of("inside") == ("asgi", "flask", "inside")


def check_spans_of_a_traced_client(root: Any, inner: Any) -> None:
    """The server's span continues the client's trace, the framework's is within, both say how it
    went.
    """
    assert root.kind is SpanKind.SERVER
    assert root.parent is not None
    assert root.parent.is_remote
    assert (root.parent.trace_id, root.parent.span_id) == (TRACE_ID, SPAN_ID)
    assert inner.kind is SpanKind.INTERNAL
    for span in (root, inner):
        assert span.attributes is not None
        assert span.attributes["http.method"] == "GET"
        assert span.attributes["http.status_code"] == 200
        assert span.status.status_code is StatusCode.UNSET


async def test_w_the_server_s_span_continues_the_client_s_trace(
    traces: Traces, flask_app: flask.Flask
) -> None:
    """W-ENV-1: `traceparent` from outside is the parent of the one root; the status of the app is
    on both spans."""
    async with aclosing(WSGIToASGI(flask_app)) as bridge:
        await get_asgi(traces.asgi(bridge), "/view", TRACEPARENT)
    root, inner = traces.one("asgi"), traces.one("flask")
    check_spans_of_a_traced_client(root, inner)
    for span in (root, inner):
        assert span.attributes is not None
        assert span.attributes["http.target"] == "/view"
    assert traces.labels() == ["inside", "flask", "asgi"]


async def test_w_an_error_that_flask_answers_is_recorded_once(
    traces: Traces, flask_app: flask.Flask
) -> None:
    """W-CALL-3: the exception is on the span of its app; the server's span knows the 500 only."""
    async with aclosing(WSGIToASGI(flask_app)) as bridge:
        response = await get_asgi(traces.asgi(bridge), "/error")
    assert response.status_code == 500
    assert exceptions_of(traces.one("flask")) == ["LookupError"]
    assert exceptions_of(traces.one("asgi")) == []
    for name in ("flask", "asgi"):
        span = traces.one(name)
        assert span.attributes is not None
        assert span.attributes["http.status_code"] == 500
        assert span.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize("path", ["before", "during", "on-close"])
async def test_w_an_error_that_travels_is_recorded_once_in_each_span(
    traces: Traces, path: str
) -> None:
    """W-CALL-3: an exception that leaves the app, at any step, marks each span that it passes and
    is still open: the server's has ended with the body (W-OUT-9)."""

    class Response:
        def __iter__(self) -> Iterator[bytes]:
            yield b"first"
            if path == "during":
                raise LookupError("not there")

        def close(self) -> None:
            if path == "on-close":
                traces.wait_for_end_of("asgi")
                raise LookupError("not there")

    def app(environ: Any, start_response: Any) -> Any:
        if path == "before":
            raise LookupError("not there")
        start_response("200 OK", [])
        return Response()

    async with aclosing(WSGIToASGI(app)) as bridge:
        await get_asgi(traces.asgi(bridge), "/")
    expected = [] if path == "on-close" else ["LookupError"]
    assert exceptions_of(traces.one("asgi")) == expected
    failed = traces.one("asgi").status.status_code is StatusCode.ERROR
    assert failed == (path != "on-close")
    assert traces.labels() == ["asgi"]


@pytest.mark.parametrize("length", [[], [("Content-Length", "10")]], ids=["undeclared", "declared"])
async def test_w_the_server_s_span_ends_with_the_body(
    traces: Traces, length: list[tuple[str, str]]
) -> None:
    """W-OUT-9: the last message does not wait for `close()`, so the span measures the response."""
    ended_before_close: list[bool] = []

    class Response:
        def __iter__(self) -> Iterator[bytes]:
            yield b"first"
            yield b"again"

        def close(self) -> None:
            traces.wait_for_end_of("asgi")
            ended_before_close.append(True)

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", length)
        return Response()

    async with aclosing(WSGIToASGI(app)) as bridge:
        response = await get_asgi(traces.asgi(bridge), "/")
    assert response.text == "firstagain"
    assert ended_before_close == [True]


async def test_w_requests_at_the_same_time_keep_their_traces(traces: Traces) -> None:
    """W-CALL-2: sixteen requests meet in the app, and none has a span in another's trace."""
    meeting = threading.Barrier(TOGETHER)
    app = flask.Flask("meeting")

    @app.get("/<int:number>")
    def view(number: int) -> str:
        meeting.wait(10.0)
        with traces.span(f"inside {number}"):
            meeting.wait(10.0)
        return "met"

    async with (
        aclosing(WSGIToASGI(app, workers=TOGETHER)) as bridge,
        anyio.create_task_group() as requests,
    ):
        for number in range(TOGETHER):
            parent = {"traceparent": f"00-{number + 1:032x}-{SPAN_ID:016x}-01"}
            requests.start_soon(get_asgi, traces.asgi(bridge), f"/{number}", parent)
    for number in range(TOGETHER):
        span = traces.one(f"inside {number}")
        assert span.context.trace_id == number + 1
    assert len(traces.ended()) == 2 * TOGETHER
    assert {lineage[:-1] for lineage in traces.lineages()} == {(), ("asgi",)}


def test_w_a_client_that_leaves_a_stream_behind(traces: Traces) -> None:
    """W-FLOW-3, W-OUT-5: the server's span ends, and the app's, each once and none later than the
    app's next step. On a real server, whose receive() is watched meanwhile."""
    go_on = threading.Event()
    app = flask.Flask("endless")

    @app.get("/")
    def view() -> Any:
        def pieces() -> Iterator[bytes]:
            with traces.span("inside"):
                while True:
                    yield b"x" * 1000
                    must_happen(go_on, "the client's leaving")

        return flask.stream_with_context(pieces())

    bridge = WSGIToASGI(traces.wsgi(app))
    with served_by_uvicorn(traces.asgi(bridge)) as url:
        leave_after_the_first_bytes(url)
        traces.wait_for_end_of("asgi")
        go_on.set()
        traces.wait_for_end_of("wsgi")
    bridge.close()
    assert traces.lineages() == [("asgi",), ("asgi", "wsgi"), ("asgi", "wsgi", "inside")]
    assert traces.labels()[0] == "asgi"
    assert all(not exceptions_of(span) for span in traces.ended())


def test_w_spans_of_messages_can_be_left_out(traces: Traces, flask_app: flask.Flask) -> None:
    """Advice of docs/monitoring.md: one span for the request, none for each message."""
    options = {"exclude_spans": ["send", "receive"]}
    bridge = WSGIToASGI(flask_app)
    with served_by_uvicorn(traces.asgi(bridge, **options)) as url:
        assert httpx.get(f"{url}/generator").text == "firstsecond"
        traces.wait_for(4)
    assert sorted(traces.labels()) == ["asgi", "flask", "inside", "inside too"]
    assert traces.of_messages() == []


# An ASGI app


@pytest.mark.parametrize("path", FASTAPI_PATHS)
@on_every_backend
def test_a_the_spans_of_an_app_are_below_the_server_s(
    traces: Traces, backend: dict[str, Any], path: str
) -> None:
    """A-LOOP-3: wherever the app makes a span, its parents are those that an ASGI server gives, and
    above them is the span of the WSGI middleware."""
    native = native_fastapi_lineages(path)
    with traced_fastapi(traces) as app, ASGIToWSGI(app, **backend) as bridge:
        get_wsgi(traces.wsgi(bridge), path, TRACEPARENT)
    assert traces.lineages() == under(["wsgi"], native)
    assert traces.trace_ids() == {TRACE_ID}


@on_asyncio_backends
def test_a_code_that_runs_on_the_calling_thread(
    traces: Traces, fastapi_app: FastAPI, backend: dict[str, Any]
) -> None:
    """A-LOOP-4: `sync_to_async` takes the app's span along into the WSGI server's thread."""
    with ASGIToWSGI(fastapi_app, **backend) as bridge:
        get_wsgi(traces.wsgi(bridge), "/sync-to-async")
    assert traces.lineages() == under(["wsgi", "fastapi", "inside"], [])


@on_every_backend
def test_a_the_server_s_span_continues_the_client_s_trace(
    traces: Traces, fastapi_app: FastAPI, backend: dict[str, Any]
) -> None:
    """A-SCOPE-1: `traceparent` from outside is the parent of the one root; the status of the app is
    on both spans."""
    with ASGIToWSGI(fastapi_app, **backend) as bridge:
        get_wsgi(traces.wsgi(bridge), "/view", TRACEPARENT)
        traces.wait_for(3)
    root, inner = traces.one("wsgi"), traces.one("fastapi")
    check_spans_of_a_traced_client(root, inner)
    assert inner.attributes is not None
    assert inner.attributes["http.route"] == "/view"


@on_every_backend
def test_a_an_error_that_fastapi_answers_is_recorded_once(
    traces: Traces, fastapi_app: FastAPI, backend: dict[str, Any]
) -> None:
    """A-OUT-5: the exception is on the span of its app; the server's span knows the 500 only."""
    with ASGIToWSGI(fastapi_app, **backend) as bridge:
        assert get_wsgi(traces.wsgi(bridge), "/error").status_code == 500
    assert exceptions_of(traces.one("fastapi")) == ["LookupError"]
    assert exceptions_of(traces.one("wsgi")) == []
    for name in ("fastapi", "wsgi"):
        span = traces.one(name)
        assert span.attributes is not None
        assert span.attributes["http.status_code"] == 500
        assert span.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize("when", ["before", "during"])
@on_every_backend
def test_a_an_error_that_travels_is_recorded_once_in_each_span(
    traces: Traces, backend: dict[str, Any], when: str
) -> None:
    """A-OUT-4: an exception that leaves the app marks each span that it passes, once."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if when == "during":
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
        raise LookupError("not there")

    with (
        ASGIToWSGI(traces.asgi(app), lifespan="off", **backend) as bridge,
        pytest.raises(LookupError, match="not there"),
    ):
        get_wsgi(traces.wsgi(bridge), "/")
    for name in ("asgi", "wsgi"):
        span = traces.one(name)
        assert exceptions_of(span) == ["LookupError"]
        assert span.status.status_code is StatusCode.ERROR
    assert traces.labels() == ["asgi", "wsgi"]


@on_every_backend
def test_a_the_server_s_span_does_not_wait_for_background_work(
    traces: Traces, backend: dict[str, Any]
) -> None:
    """A-OUT-5: both spans of the request end with its response; the work goes on in the trace."""
    with ExitStack() as stack:
        app = stack.enter_context(traced_fastapi(traces))

        def work() -> None:
            traces.wait_for_end_of("fastapi", "wsgi")

        @app.get("/slow-background")
        async def view(tasks: BackgroundTasks) -> str:
            tasks.add_task(work)
            return "begun"

        bridge = stack.enter_context(ASGIToWSGI(app, **backend))
        get_wsgi(traces.wsgi(bridge), "/slow-background")
        traces.wait_for(3)
    assert traces.labels()[2] == "BackgroundTask work"
    assert traces.lineage_of("BackgroundTask work") == ("wsgi", "fastapi", "BackgroundTask work")


@on_every_backend
def test_a_requests_at_the_same_time_keep_their_traces(
    traces: Traces, backend: dict[str, Any]
) -> None:
    """A-LOOP-3: sixteen requests meet in the app, and none has a span in another's trace."""
    all_arrived: list[anyio.Event] = []

    with ExitStack() as stack:
        app = stack.enter_context(traced_fastapi(traces))

        @app.get("/meeting/{number}")
        async def view(number: int) -> str:
            all_arrived.append(anyio.Event())
            if len(all_arrived) == TOGETHER:
                for event in all_arrived:
                    event.set()
            mine = all_arrived[-1]
            with anyio.fail_after(10.0), traces.span(f"inside {number}"):
                await mine.wait()
            return "met"

        bridge = stack.enter_context(ASGIToWSGI(app, **backend))
        callers = [
            InThread(
                lambda number=number: get_wsgi(
                    traces.wsgi(bridge),
                    f"/meeting/{number}",
                    {"traceparent": f"00-{number + 1:032x}-{SPAN_ID:016x}-01"},
                )
            )
            for number in range(TOGETHER)
        ]
        for caller in callers:
            assert caller.result().status_code == 200
    for number in range(TOGETHER):
        span = traces.one(f"inside {number}")
        assert span.context.trace_id == number + 1
    assert len(traces.ended()) == 3 * TOGETHER
    assert {lineage[:-1] for lineage in traces.lineages()} == {(), ("wsgi",), ("wsgi", "fastapi")}


def test_a_a_client_that_leaves_a_stream_behind(traces: Traces) -> None:
    """A-IN-3, A-OUT-3: all spans of the request end, each once."""
    with ExitStack() as stack:
        app = stack.enter_context(traced_fastapi(traces))

        @app.get("/endless")
        async def view() -> Any:
            async def pieces() -> Any:
                while True:
                    yield b"x" * 1000
                    await anyio.sleep(0.001)

            return StreamingResponse(pieces())

        bridge = stack.enter_context(ASGIToWSGI(app, disconnect_poll=0.01))
        url = stack.enter_context(served_by_werkzeug(traces.wsgi(bridge)))
        leave_after_the_first_bytes(f"{url}/endless")
        traces.wait_for_end_of("wsgi", "fastapi")
    assert traces.lineages() == [("wsgi",), ("wsgi", "fastapi")]

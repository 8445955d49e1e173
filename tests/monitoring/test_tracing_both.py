"""OpenTelemetry through both bridges: still one trace, with every layer's span below the one around
it.

The tracing of each layer stands where its own side of the bridge is: a WSGI middleware around
`ASGIToWSGI`, an ASGI middleware around `WSGIToASGI`, the frameworks' own at the innermost.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, aclosing, closing
from typing import Any

import flask
import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.trace import SpanKind

from tests.frameworks.serving import served_by_uvicorn, served_by_werkzeug
from tests.monitoring.clients import SPAN_ID, TRACE_ID, TRACEPARENT, get_asgi, get_wsgi
from tests.monitoring.native import native_fastapi_lineages, native_flask_lineages
from tests.monitoring.traced_apps import FASTAPI_PATHS, FLASK_PATHS, traced_fastapi
from tests.monitoring.traces import Traces, exceptions_of, under
from tests.support.fake_wsgi_server import InThread, must_happen, on_every_backend
from wsgi_asgi_bridge import ASGIToWSGI, ClientDisconnected, WSGIToASGI

TOGETHER = 16


def kinds(traces: Traces) -> dict[str, SpanKind]:
    return {name: span.kind for name, span in zip(traces.labels(), traces.ended(), strict=True)}


# A WSGI server, an ASGI shell, a WSGI app


@pytest.mark.parametrize("path", FLASK_PATHS)
@on_every_backend
def test_flask_below_two_middlewares(
    traces: Traces, flask_app: flask.Flask, backend: dict[str, Any], path: str
) -> None:
    """A-LOOP-3, W-CALL-2: WSGI middleware, bridge, ASGI middleware, bridge, Flask."""
    native = native_flask_lineages(path)
    with (
        closing(WSGIToASGI(flask_app)) as inner,
        ASGIToWSGI(traces.asgi(inner), **backend) as outer,
    ):
        get_wsgi(traces.wsgi(outer), path, TRACEPARENT)
    assert traces.lineages() == under(["wsgi", "asgi"], native)
    assert traces.trace_ids() == {TRACE_ID}
    root = traces.one("wsgi")
    assert root.parent is not None
    assert root.parent.span_id == SPAN_ID
    assert [name for name, kind in kinds(traces).items() if kind is SpanKind.SERVER] == ["wsgi"]


@on_every_backend
def test_flask_mounted_in_fastapi_on_a_wsgi_server(
    traces: Traces, flask_app: flask.Flask, backend: dict[str, Any]
) -> None:
    """A-LOOP-3, W-CALL-2: what a migration looks like for years."""
    with ExitStack() as stack:
        shell = stack.enter_context(traced_fastapi(traces))
        shell.mount("/old", stack.enter_context(closing(WSGIToASGI(flask_app))))
        bridge = stack.enter_context(ASGIToWSGI(shell, **backend))
        old = get_wsgi(traces.wsgi(bridge), "/old/async-to-sync", TRACEPARENT)
    assert old.text == "awaited"
    assert traces.lineages() == under(["wsgi", "fastapi", "flask", "inside"], [])
    assert traces.labels() == ["inside", "flask", "fastapi", "wsgi"]
    assert traces.trace_ids() == {TRACE_ID}


# An ASGI server, a WSGI shell, an ASGI app


@pytest.mark.parametrize("path", FASTAPI_PATHS)
async def test_fastapi_below_two_middlewares(traces: Traces, path: str) -> None:
    """W-CALL-2, A-LOOP-3: ASGI middleware, bridge, WSGI middleware, bridge, FastAPI."""
    native = native_fastapi_lineages(path)
    with traced_fastapi(traces) as app, ASGIToWSGI(app) as inner:
        async with aclosing(WSGIToASGI(traces.wsgi(inner))) as outer:
            await get_asgi(traces.asgi(outer), path, TRACEPARENT)
    assert traces.lineages() == under(["asgi", "wsgi"], native)
    assert traces.trace_ids() == {TRACE_ID}
    root = traces.one("asgi")
    assert root.parent is not None
    assert root.parent.span_id == SPAN_ID
    assert [name for name, kind in kinds(traces).items() if kind is SpanKind.SERVER] == ["asgi"]


@on_every_backend
async def test_fastapi_in_any_loop_below_any_loop(
    traces: Traces, fastapi_app: FastAPI, backend: dict[str, Any]
) -> None:
    """W-CALL-2, A-LOOP-3: whichever two loops the request passes."""
    with ASGIToWSGI(fastapi_app, **backend) as inner:
        async with aclosing(WSGIToASGI(traces.wsgi(inner))) as outer:
            await get_asgi(traces.asgi(outer), "/in-a-thread")
    assert traces.lineages() == under(["asgi", "wsgi", "fastapi", "inside"], [])


# What may go wrong


@on_every_backend
def test_an_error_through_both_is_recorded_once_in_each_span(
    traces: Traces, backend: dict[str, Any]
) -> None:
    """W-CALL-3, A-OUT-4: the exception itself passes every layer."""

    def app(environ: Any, start_response: Any) -> Any:
        raise LookupError("not there")

    with (
        closing(WSGIToASGI(traces.wsgi(app))) as inner,
        ASGIToWSGI(traces.asgi(inner), **backend) as outer,
        pytest.raises(LookupError, match="not there"),
    ):
        get_wsgi(traces.wsgi(outer), "/")
    assert traces.lineages() == [("wsgi",), ("wsgi", "asgi"), ("wsgi", "asgi", "wsgi")]
    assert [exceptions_of(span) for span in traces.ended()] == [["LookupError"]] * 3


@pytest.mark.parametrize("workers", [1, TOGETHER])
def test_requests_at_the_same_time_keep_their_traces(traces: Traces, workers: int) -> None:
    """A-LOOP-3, W-CALL-2: sixteen callers, whatever the size of the inner pool."""
    meeting = threading.Barrier(workers)
    app = flask.Flask("meeting")

    @app.get("/<int:number>")
    def view(number: int) -> str:
        with traces.span(f"inside {number}"):
            meeting.wait(10.0)
        return "met"

    with (
        closing(WSGIToASGI(app, workers=workers)) as inner,
        ASGIToWSGI(traces.asgi(inner)) as outer,
    ):
        callers = [
            InThread(
                lambda number=number: get_wsgi(
                    traces.wsgi(outer),
                    f"/{number}",
                    {"traceparent": f"00-{number + 1:032x}-{SPAN_ID:016x}-01"},
                )
            )
            for number in range(TOGETHER)
        ]
        for caller in callers:
            assert caller.result().text == "met"
    for number in range(TOGETHER):
        span = traces.one(f"inside {number}")
        assert span.context.trace_id == number + 1
    assert len(traces.ended()) == 3 * TOGETHER
    assert {lineage[:-1] for lineage in traces.lineages()} == {(), ("wsgi",), ("wsgi", "asgi")}


@pytest.mark.parametrize("server", ["wsgi", "asgi"])
def test_a_client_that_leaves_a_stream_behind(traces: Traces, server: str) -> None:
    """W-FLOW-3, A-IN-3: on real servers of both kinds, every layer's span ends, once, and its
    context is left where it was entered.

    A layer whose app is silent just then is left with ClientDisconnected, others are closed.
    """
    streaming = threading.Event()

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        with traces.span("inside"):
            streaming.set()
            while True:
                yield b"x" * 1000

    with ExitStack() as stack:
        inner = stack.enter_context(closing(WSGIToASGI(app)))
        outer = stack.enter_context(ASGIToWSGI(traces.asgi(inner), disconnect_poll=0.01))
        if server == "wsgi":
            layers = ["wsgi", "asgi", "inside"]
            url = stack.enter_context(served_by_werkzeug(traces.wsgi(outer)))
        else:
            layers = ["asgi", "wsgi", "asgi", "inside"]
            outermost = stack.enter_context(closing(WSGIToASGI(traces.wsgi(outer))))
            url = stack.enter_context(served_by_uvicorn(traces.asgi(outermost)))
        with httpx.stream("GET", url) as response:
            next(response.iter_bytes())
        must_happen(streaming, "the stream")
        traces.wait_for(len(layers))
    assert traces.lineages() == under(layers, [])
    raised = {name for span in traces.ended() for name in exceptions_of(span)}
    assert raised <= {f"{ClientDisconnected.__module__}.{ClientDisconnected.__qualname__}"}

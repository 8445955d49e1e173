"""Apps that make spans at every place where an app can stand, instrumented each by its own package.

One app at a time: nothing of the frameworks is patched beyond the app itself, except for
Starlette's background tasks, which is undone.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import flask
from asgiref.sync import async_to_sync, sync_to_async
from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.responses import StreamingResponse
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.flask import FlaskInstrumentor

from tests.monitoring.traces import Traces

FLASK_PATHS = [
    "/view",
    "/generator",
    "/generator-with-context",
    "/async-view",
    "/async-to-sync",
    "/on-close",
    "/error",
]
FASTAPI_PATHS = [
    "/view",
    "/sync-view",
    "/dependency",
    "/generator",
    "/sync-generator",
    "/in-a-thread",
    "/background",
    "/error",
]


def traced_flask(traces: Traces) -> flask.Flask:
    """Makes the span `inside` at the place that the path names, or at two of them."""
    app = flask.Flask("traced")

    @app.get("/view")
    def view() -> str:
        with traces.span("inside"):
            return "seen"

    def pieces() -> Iterator[str]:
        with traces.span("inside"):
            yield "first"
        with traces.span("inside too"):
            yield "second"

    @app.get("/generator")
    def generator() -> Any:
        return pieces()

    @app.get("/generator-with-context")
    def generator_with_context() -> Any:
        return flask.stream_with_context(pieces())

    async def awaited() -> str:
        with traces.span("inside"):
            await asyncio.sleep(0)
        return "awaited"

    app.add_url_rule("/async-view", view_func=awaited)

    @app.get("/async-to-sync")
    def view_with_async_to_sync() -> str:
        return async_to_sync(awaited)()

    @app.get("/on-close")
    def on_close() -> flask.Response:
        response = flask.Response("closed")

        @response.call_on_close
        def report() -> None:
            with traces.span("inside"):
                pass

        return response

    @app.get("/from-thread")
    def view_with_from_thread() -> str:
        async def in_the_loop() -> None:
            with traces.span("inside"):
                await anyio.lowlevel.checkpoint()

        anyio.from_thread.run(in_the_loop)
        return "awaited"

    @app.get("/error")
    def error() -> str:
        with traces.span("inside"):
            raise LookupError("not there")

    @app.get("/broken-generator")
    def broken_generator() -> Any:
        def pieces() -> Iterator[str]:
            yield "first"
            raise LookupError("not there")

        return flask.stream_with_context(pieces())

    FlaskInstrumentor().instrument_app(app, tracer_provider=traces.provider)
    return app


@contextlib.contextmanager
def traced_fastapi(traces: Traces) -> Iterator[FastAPI]:
    """Makes the span `inside` at the place that the path names, or at two of them."""
    app = FastAPI()

    @app.get("/view")
    async def view() -> str:
        with traces.span("inside"):
            await anyio.lowlevel.checkpoint()
        return "seen"

    @app.get("/sync-view")
    def sync_view() -> str:
        with traces.span("inside"):
            return "seen"

    async def given() -> AsyncIterator[str]:
        with traces.span("inside"):
            await anyio.lowlevel.checkpoint()
        yield "given"
        with traces.span("inside too"):
            await anyio.lowlevel.checkpoint()

    @app.get("/dependency")
    async def view_with_dependency(value: Annotated[str, Depends(given)]) -> str:
        return value

    # No span is open while these are suspended: a generator may be left there for ever.
    async def pieces() -> AsyncIterator[str]:
        with traces.span("inside"):
            await anyio.lowlevel.checkpoint()
        yield "first"
        with traces.span("inside too"):
            await anyio.lowlevel.checkpoint()
        yield "second"

    @app.get("/generator")
    async def generator() -> StreamingResponse:
        return StreamingResponse(pieces())

    def sync_pieces() -> Iterator[str]:
        with traces.span("inside"):
            pass
        yield "first"
        with traces.span("inside too"):
            pass
        yield "second"

    @app.get("/sync-generator")
    def sync_generator() -> StreamingResponse:
        return StreamingResponse(sync_pieces())

    def blocking() -> str:
        with traces.span("inside"):
            return "done"

    @app.get("/in-a-thread")
    async def view_with_thread() -> str:
        return await anyio.to_thread.run_sync(blocking)

    @app.get("/sync-to-async")
    async def view_with_sync_to_async() -> str:
        return await sync_to_async(blocking, thread_sensitive=True)()

    async def work() -> None:
        with traces.span("inside"):
            await anyio.lowlevel.checkpoint()

    @app.get("/background")
    async def view_with_background(tasks: BackgroundTasks) -> str:
        tasks.add_task(work)
        return "begun"

    @app.get("/error")
    async def error() -> str:
        with traces.span("inside"):
            raise LookupError("not there")

    FastAPIInstrumentor.instrument_app(app, tracer_provider=traces.provider)
    try:
        yield app
    finally:
        FastAPIInstrumentor.uninstrument_app(app)

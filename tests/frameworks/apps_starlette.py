"""Starlette in `asgi_to_wsgi/test_every_framework.py`, inside a `BaseHTTPMiddleware`."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from tests.frameworks.gates import TICK_SECONDS, Gates
from tests.frameworks.payloads import summary_of_file


async def stamped(request: Request, call_next: RequestResponseEndpoint) -> Response:
    response = await call_next(request)
    response.headers["x-stamp"] = request.method
    return response


async def page(_: Request) -> Response:
    return PlainTextResponse("hello from starlette")


async def form(request: Request) -> Response:
    async with request.form() as fields:
        return PlainTextResponse(f"hello {fields['name']}")


async def upload(request: Request) -> Response:
    async with request.form() as fields:
        sent = fields["file"]
        return JSONResponse(summary_of_file(sent.filename, sent.file))


async def broken(_: Request) -> Response:
    raise LookupError("broken on purpose")


async def sorry(_: Request, __: Exception) -> Response:
    return PlainTextResponse("sorry from starlette", status_code=500)


async def missing(request: Request, _: Exception) -> Response:
    return PlainTextResponse(f"nothing at {request.url.path}", status_code=404)


def starlette_app(gates: Gates, file: Path) -> Starlette:
    async def download(_: Request) -> Response:
        return FileResponse(file)

    async def stream(_: Request) -> Response:
        return StreamingResponse(chunks())

    async def chunks() -> AsyncIterator[bytes]:
        yield b"first "
        await gates.wait_for_client_async()
        yield b"second"

    async def endless(_: Request) -> Response:
        return StreamingResponse(ticks())

    async def ticks() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"tick"
                await asyncio.sleep(TICK_SECONDS)
        finally:
            gates.stream_closed.set()

    async def silent(_: Request) -> Response:
        return StreamingResponse(tick_and_wait())

    async def tick_and_wait() -> AsyncIterator[bytes]:
        try:
            yield b"tick"
            await asyncio.Event().wait()
        finally:
            gates.stream_closed.set()

    return Starlette(
        routes=[
            Route("/", page),
            Route("/form", form, methods=["POST"]),
            Route("/upload", upload, methods=["POST"]),
            Route("/file", download),
            Route("/stream", stream),
            Route("/endless", endless),
            Route("/silent", silent),
            Route("/broken", broken),
        ],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=stamped)],
        exception_handlers={LookupError: sorry, 404: missing},
    )

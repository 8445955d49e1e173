"""FastAPI in `asgi_to_wsgi/test_every_framework.py`."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.responses import FileResponse, PlainTextResponse, StreamingResponse

from tests.frameworks.gates import TICK_SECONDS, Gates
from tests.frameworks.payloads import summary_of_file


def fastapi_app(gates: Gates, file: Path) -> FastAPI:
    app = FastAPI()

    @app.get("/", response_class=PlainTextResponse)
    async def page() -> str:
        return "hello from fastapi"

    @app.post("/form", response_class=PlainTextResponse)
    async def form(name: Annotated[str, Form()]) -> str:
        return f"hello {name}"

    @app.post("/upload")
    def upload(file: Annotated[UploadFile, File()]) -> dict[str, Any]:
        """A plain `def`: FastAPI runs it in a thread of its own pool."""
        return summary_of_file(file.filename, file.file)

    @app.get("/file")
    async def download() -> FileResponse:
        return FileResponse(file)

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(chunks())

    async def chunks() -> AsyncIterator[bytes]:
        yield b"first "
        await gates.wait_for_client_async()
        yield b"second"

    @app.get("/endless")
    async def endless() -> StreamingResponse:
        return StreamingResponse(ticks())

    async def ticks() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"tick"
                await asyncio.sleep(TICK_SECONDS)
        finally:
            gates.stream_closed.set()

    @app.get("/silent")
    async def silent() -> StreamingResponse:
        return StreamingResponse(tick_and_wait())

    async def tick_and_wait() -> AsyncIterator[bytes]:
        try:
            yield b"tick"
            await asyncio.Event().wait()
        finally:
            gates.stream_closed.set()

    @app.get("/broken")
    async def broken() -> str:
        raise LookupError("broken on purpose")

    @app.exception_handler(LookupError)
    async def sorry(_: Request, __: Exception) -> PlainTextResponse:
        return PlainTextResponse("sorry from fastapi", status_code=500)

    @app.exception_handler(404)
    async def missing(request: Request, _: Exception) -> PlainTextResponse:
        return PlainTextResponse(f"nothing at {request.url.path}", status_code=404)

    return app

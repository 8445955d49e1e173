"""Litestar in `asgi_to_wsgi/test_every_framework.py`."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from litestar import Litestar, MediaType, Request, Response, get, post
from litestar.datastructures import UploadFile
from litestar.enums import RequestEncodingType
from litestar.exceptions import NotFoundException
from litestar.params import Body
from litestar.response import File, Stream

from tests.frameworks.gates import TICK_SECONDS, Gates
from tests.frameworks.payloads import summary_of_file

FormFields = Annotated[dict[str, str], Body(media_type=RequestEncodingType.URL_ENCODED)]
FormFiles = Annotated[dict[str, UploadFile], Body(media_type=RequestEncodingType.MULTI_PART)]


@get("/", media_type=MediaType.TEXT)
async def page() -> str:
    return "hello from litestar"


@post("/form", media_type=MediaType.TEXT, status_code=200)
async def form(data: FormFields) -> str:
    return f"hello {data['name']}"


@post("/upload", status_code=200)
async def upload(data: FormFiles) -> dict[str, Any]:
    sent = data["file"]
    return summary_of_file(sent.filename, sent.file)


@get("/broken")
async def broken() -> str:
    raise LookupError("broken on purpose")


def sorry(_: Request[Any, Any, Any], __: Exception) -> Response[str]:
    return Response("sorry from litestar", status_code=500, media_type=MediaType.TEXT)


def missing(request: Request[Any, Any, Any], _: Exception) -> Response[str]:
    text = f"nothing at {request.scope['path']}"
    return Response(text, status_code=404, media_type=MediaType.TEXT)


def litestar_app(gates: Gates, file: Path) -> Litestar:
    @get("/file")
    async def download() -> File:
        return File(file)

    @get("/stream")
    async def stream() -> Stream:
        return Stream(chunks())

    async def chunks() -> AsyncIterator[bytes]:
        yield b"first "
        await gates.wait_for_client_async()
        yield b"second"

    @get("/endless")
    async def endless() -> Stream:
        return Stream(ticks())

    async def ticks() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"tick"
                await asyncio.sleep(TICK_SECONDS)
        finally:
            gates.stream_closed.set()

    @get("/silent")
    async def silent() -> Stream:
        return Stream(tick_and_wait())

    async def tick_and_wait() -> AsyncIterator[bytes]:
        try:
            yield b"tick"
            await asyncio.Event().wait()
        finally:
            gates.stream_closed.set()

    return Litestar(
        [page, form, upload, download, stream, endless, silent, broken],
        exception_handlers={LookupError: sorry, NotFoundException: missing},
        logging_config=None,
    )

"""Quart in `asgi_to_wsgi/test_every_framework.py`."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import quart

from tests.frameworks.gates import TICK_SECONDS, Gates
from tests.frameworks.payloads import summary_of_file


def quart_app(gates: Gates, file: Path) -> quart.Quart:
    app = quart.Quart("walked_through")

    @app.get("/")
    async def page() -> str:
        return "hello from quart"

    @app.post("/form")
    async def form() -> str:
        fields = await quart.request.form
        return f"hello {fields['name']}"

    @app.post("/upload")
    async def upload() -> dict[str, Any]:
        sent = (await quart.request.files)["file"]
        with sent.stream:
            return summary_of_file(sent.filename, sent.stream)

    @app.get("/file")
    async def download() -> quart.Response:
        return await quart.send_file(file)

    @app.get("/stream")
    async def stream() -> quart.Response:
        return quart.Response(chunks())

    async def chunks() -> AsyncIterator[bytes]:
        yield b"first "
        await gates.wait_for_client_async()
        yield b"second"

    @app.get("/endless")
    async def endless() -> quart.Response:
        return quart.Response(ticks())

    async def ticks() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"tick"
                await asyncio.sleep(TICK_SECONDS)
        finally:
            gates.stream_closed.set()

    @app.get("/silent")
    async def silent() -> quart.Response:
        return quart.Response(tick_and_wait())

    async def tick_and_wait() -> AsyncIterator[bytes]:
        try:
            yield b"tick"
            await asyncio.Event().wait()
        finally:
            gates.stream_closed.set()

    @app.get("/broken")
    async def broken() -> str:
        raise LookupError("broken on purpose")

    @app.errorhandler(500)
    async def sorry(_: Exception) -> tuple[str, int]:
        return "sorry from quart", 500

    @app.errorhandler(404)
    async def missing(_: Exception) -> tuple[str, int]:
        return f"nothing at {quart.request.path}", 404

    return app

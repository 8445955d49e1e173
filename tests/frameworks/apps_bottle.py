"""Bottle in `wsgi_to_asgi/test_every_framework.py`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bottle

from tests.frameworks.gates import TICK_SECONDS, Gates
from tests.frameworks.payloads import summary_of_file


def bottle_app(gates: Gates, file: Path) -> bottle.Bottle:
    app = bottle.Bottle()

    @app.get("/")
    def page() -> str:
        return "hello from bottle"

    @app.post("/form")
    def form() -> str:
        return f"hello {bottle.request.forms.getunicode('name')}"

    @app.post("/upload")
    def upload() -> dict[str, Any]:
        sent = bottle.request.files["file"]
        # Bottle keeps large ones in temporary files, and leaves closing them to the collector.
        with bottle.request.body, sent.file:
            return summary_of_file(sent.filename, sent.file)

    @app.get("/file")
    def download() -> bottle.HTTPResponse:
        return bottle.static_file(file.name, root=str(file.parent))

    @app.get("/stream")
    def stream() -> Iterator[bytes]:
        yield b"first "
        gates.wait_for_client()
        yield b"second"

    @app.get("/endless")
    def endless() -> Iterator[bytes]:
        try:
            while not gates.stream_closed.wait(TICK_SECONDS):
                yield b"tick"
        finally:
            gates.stream_closed.set()

    @app.get("/broken")
    def broken() -> str:
        raise RuntimeError("broken on purpose")

    @app.error(500)
    def sorry(_: bottle.HTTPError) -> str:
        return "sorry from bottle"

    @app.error(404)
    def missing(_: bottle.HTTPError) -> str:
        return f"nothing at {bottle.request.path}"

    return app

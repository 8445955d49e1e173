"""Flask in `wsgi_to_asgi/test_every_framework.py`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flask

from tests.frameworks.gates import TICK_SECONDS, Gates
from tests.frameworks.payloads import summary_of_file


def flask_app(gates: Gates, file: Path) -> flask.Flask:
    app = flask.Flask("walked_through")
    app.secret_key = "not a secret"

    @app.get("/")
    def page() -> str:
        return "hello from flask"

    @app.post("/form")
    def form() -> str:
        return f"hello {flask.request.form['name']}"

    @app.post("/upload")
    def upload() -> dict[str, Any]:
        sent = flask.request.files["file"]
        return summary_of_file(sent.filename, sent.stream)

    @app.get("/file")
    def download() -> flask.Response:
        return flask.send_file(file)

    @app.get("/stream")
    def stream() -> flask.Response:
        def chunks() -> Iterator[bytes]:
            yield b"first "
            gates.wait_for_client()
            yield b"second"

        return flask.Response(chunks())

    @app.get("/endless")
    def endless() -> flask.Response:
        def chunks() -> Iterator[bytes]:
            try:
                while not gates.stream_closed.wait(TICK_SECONDS):
                    yield b"tick"
            finally:
                gates.stream_closed.set()

        return flask.Response(chunks())

    @app.get("/broken")
    def broken() -> str:
        raise RuntimeError("broken on purpose")

    @app.errorhandler(500)
    def sorry(_: Exception) -> tuple[str, int]:
        return "sorry from flask", 500

    @app.errorhandler(404)
    def missing(_: Exception) -> tuple[str, int]:
        return f"nothing at {flask.request.path}", 404

    return app

"""Falcon in `wsgi_to_asgi/test_every_framework.py`."""

from collections.abc import Iterator
from pathlib import Path

import falcon

from tests.frameworks.gates import TICK_SECONDS, Gates
from tests.frameworks.payloads import summary_of_file


class Page:
    def on_get(self, _: falcon.Request, response: falcon.Response) -> None:
        response.content_type = falcon.MEDIA_TEXT
        response.text = "hello from falcon"


class Form:
    def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
        response.content_type = falcon.MEDIA_TEXT
        response.text = f"hello {request.get_media()['name']}"


class Upload:
    def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
        for part in request.get_media():
            if part.name == "file":
                response.media = summary_of_file(part.filename, part.stream)


class Download:
    def __init__(self, file: Path) -> None:
        self.file = file

    def on_get(self, _: falcon.Request, response: falcon.Response) -> None:
        # Falcon wraps it in wsgi.file_wrapper; the server closes it.
        response.set_stream(self.file.open("rb"), self.file.stat().st_size)

    def on_head(self, _: falcon.Request, response: falcon.Response) -> None:
        response.content_length = self.file.stat().st_size


class Stream:
    def __init__(self, gates: Gates) -> None:
        self.gates = gates

    def on_get(self, _: falcon.Request, response: falcon.Response) -> None:
        response.stream = self.chunks()

    def chunks(self) -> Iterator[bytes]:
        yield b"first "
        self.gates.wait_for_client()
        yield b"second"


class Endless(Stream):
    def chunks(self) -> Iterator[bytes]:
        try:
            while not self.gates.stream_closed.wait(TICK_SECONDS):
                yield b"tick"
        finally:
            self.gates.stream_closed.set()


class Broken:
    def on_get(self, _: falcon.Request, __: falcon.Response) -> None:
        raise RuntimeError("broken on purpose")


def sorry(
    _: falcon.Request, response: falcon.Response, __: Exception, ___: dict[str, object]
) -> None:
    response.status = 500
    response.text = "sorry from falcon"


def missing(
    request: falcon.Request, response: falcon.Response, _: Exception, __: dict[str, object]
) -> None:
    response.status = 404
    response.text = f"nothing at {request.path}"


def falcon_app(gates: Gates, file: Path) -> falcon.App:
    app = falcon.App()
    app.add_route("/", Page())
    app.add_route("/form", Form())
    app.add_route("/upload", Upload())
    app.add_route("/file", Download(file))
    app.add_route("/stream", Stream(gates))
    app.add_route("/endless", Endless(gates))
    app.add_route("/broken", Broken())
    app.add_error_handler(RuntimeError, sorry)
    app.add_error_handler(falcon.HTTPRouteNotFound, missing)
    return app

"""Pyramid in `wsgi_to_asgi/test_every_framework.py`."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import FileResponse, Response

from tests.frameworks.gates import TICK_SECONDS, Gates
from tests.frameworks.payloads import summary_of_file


def page(_: Request) -> Response:
    return Response("hello from pyramid")


def form(request: Request) -> Response:
    return Response(f"hello {request.POST['name']}")


def upload(request: Request) -> Response:
    sent = request.POST["file"]
    # WebOb copies a large body to a temporary file, and leaves closing it to the garbage collector.
    request.add_finished_callback(lambda request: request.body_file_raw.close())
    with sent.file:
        return Response(json=summary_of_file(sent.filename, sent.file))


def broken(_: Request) -> Response:
    raise RuntimeError("broken on purpose")


def sorry(_: Exception, __: Request) -> Response:
    return Response("sorry from pyramid", status=500)


def missing(request: Request) -> Response:
    return Response(f"nothing at {request.path_info}", status=404)


def pyramid_app(gates: Gates, file: Path) -> Any:
    def download(request: Request) -> Response:
        return FileResponse(file, request=request)

    def stream(_: Request) -> Response:
        return Response(app_iter=chunks())

    def chunks() -> Iterator[bytes]:
        yield b"first "
        gates.wait_for_client()
        yield b"second"

    def endless(_: Request) -> Response:
        return Response(app_iter=ticks())

    def ticks() -> Iterator[bytes]:
        try:
            while not gates.stream_closed.wait(TICK_SECONDS):
                yield b"tick"
        finally:
            gates.stream_closed.set()

    views: dict[str, Callable[[Request], Response]] = {
        "/": page,
        "/form": form,
        "/upload": upload,
        "/file": download,
        "/stream": stream,
        "/endless": endless,
        "/broken": broken,
    }
    with Configurator() as config:
        for path, view in views.items():
            config.add_route(view.__name__, path)
            config.add_view(view, route_name=view.__name__)
        config.add_exception_view(sorry, context=RuntimeError)
        config.add_notfound_view(missing)
        return config.make_wsgi_app()

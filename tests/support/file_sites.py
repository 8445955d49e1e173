"""Flask's `send_file`, Django's and Starlette's `FileResponse` of the files in a folder, behind
neither bridge, one or both.

The folder is named by the environment. `python -m tests.support.file_sites` measures downloads.
"""

import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flask
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from tests.support.processes import running_server
from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI

FOLDER = "WSGI_ASGI_BRIDGE_TEST_FILES"

flask_app = flask.Flask(__name__)


@flask_app.get("/<name>")
def flask_file(name: str) -> flask.Response:
    return flask.send_file(Path(os.environ[FOLDER]) / name)


async def starlette_file(request: Request) -> Response:
    return FileResponse(Path(os.environ[FOLDER]) / request.path_params["name"])


async def nothing(request: Request) -> Response:
    return Response("ready")


FILES = Mount("/static", StaticFiles(directory=os.environ.get(FOLDER), check_dir=False))
starlette_app = Starlette(
    routes=[Route("/", nothing), FILES, Route("/{name}", starlette_file, methods=["GET"])]
)

flask_bridged = WSGIToASGI(flask_app)
flask_twice = ASGIToWSGI(flask_bridged)
starlette_bridged = ASGIToWSGI(starlette_app)
starlette_twice = WSGIToASGI(starlette_bridged)


def telling(app: Callable[..., Any]) -> Callable[..., Any]:
    """The WSGI app, and at /result the type of the iterable that it returned last."""
    last = ""

    def told(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        nonlocal last
        if environ["PATH_INFO"] == "/result":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [last.encode()]
        result = app(environ, start_response)
        last = f"{type(result).__module__}.{type(result).__qualname__}"
        return result

    return told


told_starlette = telling(starlette_bridged)
told_flask_twice = telling(flask_twice)


# ------------------------------------------------------------ measuring

GIB = 1 << 30

UVICORN = ("uvicorn", "--host", "{host}", "--port", "{port}", "--no-access-log")
GRANIAN = ("granian", "--host", "{host}", "--port", "{port}", "--interface", "asgi", "--no-ws")
GUNICORN = ("gunicorn", "--bind", "{host}:{port}", "--no-control-socket")
GTHREAD = (*GUNICORN, "--worker-class", "gthread", "--threads", "4")

ROWS = {
    "Flask, gunicorn gthread (native)": (*GTHREAD, "flask_app"),
    "Flask, granian, WSGIToASGI": (*GRANIAN, "flask_bridged"),
    "Flask, uvicorn, WSGIToASGI": (*UVICORN, "flask_bridged"),
    "Starlette, uvicorn (native)": (*UVICORN, "starlette_app"),
    "Starlette, granian (native)": (*GRANIAN, "starlette_app"),
    "Starlette, gunicorn gthread, ASGIToWSGI": (*GTHREAD, "starlette_bridged"),
}


def downloaded(address: tuple[str, int], name: str) -> int:
    """Bytes of the answer's body."""
    with socket.create_connection(address, 60) as connection:
        connection.sendall(b"GET /%s HTTP/1.0\r\nHost: here\r\n\r\n" % name.encode())
        buffer = bytearray(1 << 20)
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(4096)
        total = len(head.partition(b"\r\n\r\n")[2])
        while count := connection.recv_into(buffer):
            total += count
        return total


def measure(size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.bin"
        with open(path, "wb") as file:
            file.truncate(size)
        for title, command in ROWS.items():
            *options, app = command
            line = [sys.executable, "-m", *options, f"tests.support.file_sites:{app}"]
            with running_server(line, env={FOLDER: folder}) as server:
                downloaded(server.address, path.name)  # the first one warms up
                before, began = server.cpu_seconds(), time.perf_counter()
                received = downloaded(server.address, path.name)
                seconds = time.perf_counter() - began
                cpu = server.cpu_seconds() - before
                assert received == size, f"{title}: {received} bytes"
            print(f"{title:42} {cpu:6.2f} s CPU {seconds:6.2f} s")  # noqa: T201


if __name__ == "__main__":
    measure(int(float(sys.argv[1]) * GIB) if sys.argv[1:] else GIB)

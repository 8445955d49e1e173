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

import django
import django.http
import flask
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.urls import path as route
from starlette.responses import Response

from tests.support.file_clients import FOLDER
from tests.support.processes import running_server
from tests.support.starlette_files import starlette_bridged, telling
from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI


def django_file(request: django.http.HttpRequest, name: str) -> django.http.FileResponse:
    return django.http.FileResponse(open(Path(os.environ[FOLDER]) / name, "rb"))


class RemovedFile(django.http.FileResponse):
    """It removes its file with its end."""

    def close(self) -> None:
        super().close()
        Path(self.file_to_stream.name).unlink()


def django_removed_file(request: django.http.HttpRequest, name: str) -> django.http.FileResponse:
    """A copy of the file, which is gone when the response has ended."""
    folder = Path(os.environ[FOLDER])
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as copy:
        copy.write((folder / name).read_bytes())
    return RemovedFile(open(copy.name, "rb"))


urlpatterns = [route("removed/<name>", django_removed_file), route("<name>", django_file)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], USE_TZ=True)
django.setup()
django_app = get_wsgi_application()

flask_app = flask.Flask(__name__)


@flask_app.get("/")
def flask_nothing() -> str:
    return "ready"


@flask_app.get("/<name>")
def flask_file(name: str) -> flask.Response:
    return flask.send_file(Path(os.environ[FOLDER]) / name)


flask_bridged = WSGIToASGI(flask_app)
django_bridged = WSGIToASGI(django_app)
flask_twice = ASGIToWSGI(flask_bridged)
starlette_twice = WSGIToASGI(starlette_bridged)


told_flask_twice = telling(flask_twice)


async def three_apps(scope: Any, receive: Any, send: Any) -> None:
    """Flask, Django and Starlette below their names. At /sent the last message without its bytes
    that the app has sent by an extension.
    """
    if scope["type"] == "lifespan":
        await flask_bridged(scope, receive, send)
        return
    if scope["path"] == "/sent":
        await Response(_sent.pop() if _sent else "")(scope, receive, send)
        return
    apps = {"flask": flask_bridged, "django": django_bridged, "starlette": starlette_twice}
    _, name, path = f"{scope['path']}/".split("/", 2)
    path = f"/{path.rstrip('/')}"

    async def noted(message: Any) -> None:
        if message["type"].endswith("send"):
            _sent[:] = [message["type"]]
        await send(message)

    inner = {**scope, "path": path, "raw_path": path.encode()}
    await apps.get(name, flask_bridged)(inner, receive, noted)


_sent: list[str] = []


# ------------------------------------------------------------ measuring

GIB = 1 << 30

UVICORN = ("uvicorn", "--host", "{host}", "--port", "{port}", "--no-access-log")
GRANIAN = ("granian", "--host", "{host}", "--port", "{port}", "--interface", "asgi", "--no-ws")
GUNICORN = ("gunicorn", "--bind", "{host}:{port}", "--no-control-socket")
GTHREAD = (*GUNICORN, "--worker-class", "gthread", "--threads", "4")

ROWS = {
    "Flask, gunicorn gthread (native)": (*GTHREAD, "flask_app"),
    "Flask, granian, WSGIToASGI": (*GRANIAN, "flask_bridged"),
    "the same in blocks": (*GRANIAN, "flask_in_blocks"),
    "Flask, uvicorn, WSGIToASGI": (*UVICORN, "flask_bridged"),
    "Starlette, uvicorn (native)": (*UVICORN, "starlette_app"),
    "Starlette, granian (native)": (*GRANIAN, "starlette_app"),
    "Starlette, gunicorn gthread, ASGIToWSGI": (*GTHREAD, "starlette_bridged"),
    "the same in blocks ": (*GTHREAD, "starlette_in_blocks"),
    "Flask, gunicorn gthread, both bridges": (*GTHREAD, "flask_twice"),
    "Starlette, granian, both bridges": (*GRANIAN, "starlette_twice"),
}


async def flask_in_blocks(scope: Any, receive: Any, send: Any) -> None:
    """Without the server's extension."""
    await flask_bridged({**scope, "extensions": {}}, receive, send)


def starlette_in_blocks(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    """Without the server's wrapper."""
    # In a copy: gunicorn itself looks for it afterwards.
    return starlette_bridged({**environ, "wsgi.file_wrapper": None}, start_response)


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
        size = size >> 20 << 20
        with open(path, "wb") as file:
            block = os.urandom(1 << 20)
            for _ in range(size >> 20):
                file.write(block)
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

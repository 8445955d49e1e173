"""A Flask-Sock app for gunicorn, as it is and behind both bridges; the environment says which.

`WEBSOCKETS_HIDDEN` hides the package that ASGIToWSGI needs for WebSockets of its own.
"""

import os
import sys
from typing import Any

from flask import Flask, request
from flask_sock import Sock  # pyright: ignore[reportMissingTypeStubs]

if os.environ.get("WEBSOCKETS_HIDDEN"):
    modules: dict[str, Any] = sys.modules
    modules["websockets"] = None

from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI

flask_app = Flask(__name__)
sock = Sock(flask_app)


@flask_app.route("/")
def index() -> str:
    return "hello"


@sock.route("/echo")
def echo(ws: Any) -> None:
    """Say which socket was found, then echo."""
    ws.send(type(request.environ["gunicorn.socket"]).__qualname__)
    while True:
        ws.send(ws.receive())


inner = WSGIToASGI(flask_app)
both = ASGIToWSGI(inner)


async def middleware(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI app, as far as the outer bridge can see."""
    await inner(scope, receive, send)


with_middleware = ASGIToWSGI(middleware)

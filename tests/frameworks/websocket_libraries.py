"""WSGI apps that speak WebSocket by libraries of the field, on one bridge.

`/NAME` is an echo: it sends every message back, text as text and bytes as bytes, closes after
"close" as its library closes, and raises after "raise". `/sio/` is a Flask-SocketIO app, `/live`
gives the names of the threads that are alive.
"""

import json
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import bottle
import django
import falcon
import flask
import flask_sock
import flask_socketio
import simple_websocket
from bottle_websocket import websocket as bottle_websocket
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from eventlet.websocket import WebSocketWSGI
from pyramid.config import Configurator
from pyramid.request import Request as PyramidRequest
from pyramid.response import Response as PyramidResponse
from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.sync.connection import Connection
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from tests.support.bridged_wsgi import Observed
from wsgi_asgi_bridge import WSGIToASGI

Environ = dict[str, Any]

CLOSE, RAISE = "close", "raise"
CODE, REASON = 4001, "asked to"


class ToldToFail(Exception):
    pass


def answer(message: str | bytes | None) -> str | bytes | None:
    """What an echo sends; None when it is to end."""
    if message == RAISE:
        raise ToldToFail("told to fail")
    return None if message == CLOSE else message


def echo_by_simple_websocket(websocket: simple_websocket.Server) -> None:
    """Until the client leaves, which raises ConnectionClosed."""
    while (reply := answer(websocket.receive())) is not None:
        websocket.send(reply)
    websocket.close(CODE, REASON)


def echo_in_a_view(environ: Environ) -> None:
    with suppress(simple_websocket.ConnectionClosed):
        echo_by_simple_websocket(simple_websocket.Server.accept(environ))


# Flask-Sock

flask_sock_app = flask.Flask("flask_sock_app")
sock = flask_sock.Sock(flask_sock_app)


@sock.route("/")
def sock_echo(websocket: simple_websocket.Server) -> None:
    echo_by_simple_websocket(websocket)


@flask_sock_app.get("/page")
def page() -> str:
    return "a page beside"


# simple-websocket in other frameworks

settings.configure(
    ROOT_URLCONF=__name__, SECRET_KEY="not a secret", ALLOWED_HOSTS=["*"], MIDDLEWARE=[]
)
django.setup()


def django_echo(request: HttpRequest) -> HttpResponse:
    echo_in_a_view(request.environ)  # type: ignore[attr-defined]
    return HttpResponse()


urlpatterns = [path("", django_echo)]

bottle_app = bottle.Bottle()


@bottle_app.route("/")
def bottle_echo() -> str:
    echo_in_a_view(bottle.request.environ)
    return ""


class FalconEcho:
    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        echo_in_a_view(request.env)


falcon_app = falcon.App()
falcon_app.add_route("/", FalconEcho())


def pyramid_echo(request: PyramidRequest) -> PyramidResponse:
    echo_in_a_view(request.environ)
    return PyramidResponse()


def pyramid_app() -> Any:
    with Configurator() as config:
        config.add_route("echo", "/")
        config.add_view(pyramid_echo, route_name="echo")
        return config.make_wsgi_app()


# gevent-websocket's API


def echo_by_wsgi_websocket(websocket: Any) -> None:
    while (message := websocket.receive()) is not None:
        reply = answer(message)
        if reply is None:
            websocket.close(CODE, REASON.encode())
            return
        websocket.send(reply)


bottle_websocket_app = bottle.Bottle()


@bottle_websocket_app.route("/", apply=[bottle_websocket])
def bottle_websocket_echo(websocket: Any) -> None:
    echo_by_wsgi_websocket(websocket)


flask_sockets_app = flask.Flask("flask_sockets_app")


@flask_sockets_app.route("/", websocket=True)
def flask_sockets_echo() -> str:
    """As Flask-Sockets calls its views."""
    echo_by_wsgi_websocket(flask.request.environ["wsgi.websocket"])
    return ""


# eventlet.websocket


@WebSocketWSGI
def eventlet_app(websocket: Any) -> None:
    while (message := websocket.wait()) is not None:
        reply = answer(message)
        if reply is None:
            websocket.close((CODE, REASON))
            return
        websocket.send(reply)


# websockets.sync


def websockets_sync_app(environ: Environ, start_response: Any) -> Iterable[bytes]:
    """A Connection takes the socket once the handshake has been answered."""
    headers = Headers(
        {
            key[5:].replace("_", "-").title(): value
            for key, value in environ.items()
            if key.startswith("HTTP_")
        }
    )
    protocol = ServerProtocol(state=OPEN)
    response = protocol.accept(Request(environ["PATH_INFO"] or "/", headers))
    connection = environ["werkzeug.socket"]
    connection.sendall(response.serialize())
    with Connection(connection, protocol) as websocket:
        for message in websocket:
            reply = answer(message)
            if reply is None:
                websocket.close(CODE, REASON)
                break
            websocket.send(reply)
    return []


# Flask-SocketIO

socketio_app = flask.Flask("socketio_app")
socketio = flask_socketio.SocketIO(socketio_app, async_mode="threading")


@socketio.on("say")
def say(data: Any) -> Any:
    """Acknowledged with what was said."""
    return data


@socketio.on("enter")
def enter(room: str) -> str:
    flask_socketio.join_room(room)
    return "entered"


@socketio.on("tell")
def tell(room: str, data: Any) -> None:
    """To all in the room."""
    flask_socketio.emit("told", data, to=room)


@socketio.on("leave")
def leave() -> None:
    flask_socketio.disconnect()


# All of them in one

ECHOES: dict[str, Callable[..., Any]] = {
    "/flask-sock": flask_sock_app,
    "/django": get_wsgi_application(),
    "/bottle": bottle_app,
    "/falcon": falcon_app,
    "/pyramid": pyramid_app(),
    "/bottle-websocket": bottle_websocket_app,
    "/flask-sockets": flask_sockets_app,
    "/eventlet": eventlet_app,
    "/websockets-sync": websockets_sync_app,
}


def live(environ: Environ, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([thread.name for thread in threading.enumerate()]).encode()]


def hello(environ: Environ, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello\n"]


served = Observed(
    WSGIToASGI(
        DispatcherMiddleware(hello, {**ECHOES, "/sio": socketio_app, "/live": live}),
        workers=10,
    )
)

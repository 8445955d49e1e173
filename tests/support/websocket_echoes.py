"""Apps that echo a WebSocket's messages: natively in ASGI, and in WSGI by either face.

For ASGI servers: `bridged` serves all of them by path. For WSGI servers: an `ASGIToWSGI` of
`native_echo`.
"""

from collections.abc import Callable, Iterable
from typing import Any

import simple_websocket

from wsgi_asgi_bridge import WSGIToASGI

SOCKET_ECHO = "/socket"
MESSAGE_ECHO = "/message"
NATIVE_ECHO = "/native"


async def native_echo(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI app; to anything but a WebSocket it answers with an empty page."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})
    if scope["type"] != "websocket":
        return
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") is not None:
            await send({"type": "websocket.send", "text": message["text"]})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})


def socket_echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """By simple-websocket, which frames on the socket that it finds in the environ."""
    websocket = simple_websocket.Server.accept(environ)
    try:
        while True:
            websocket.send(websocket.receive())
    except simple_websocket.ConnectionClosed:
        return []


def message_echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """By `wsgi.websocket`, gevent-websocket's API."""
    websocket = environ["wsgi.websocket"]
    while (message := websocket.receive()) is not None:
        websocket.send(message)
    return []


def wsgi_echoes(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    echo = {SOCKET_ECHO: socket_echo, MESSAGE_ECHO: message_echo}.get(environ["PATH_INFO"])
    if echo is None:
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"no such echo\n"]
    return echo(environ, start_response)


_bridge = WSGIToASGI(wsgi_echoes)


async def bridged(scope: Any, receive: Any, send: Any) -> None:
    """The native echo beside the bridged ones."""
    if scope["type"] == "websocket" and scope["path"] == NATIVE_ECHO:
        await native_echo(scope, receive, send)
    else:
        await _bridge(scope, receive, send)

"""Whether the handshake of a WebSocket is served as one, refused, or left to the app (WS-A-1)."""

from collections.abc import Callable
from functools import partial

from .._crossing.greenlets import patched_by
from .._protocol.carried import OUTER_WEBSOCKET
from .._protocol.websocket_session import WebSocketSession, websockets_is_installed
from .._protocol.websocket_upgrade import Refusal, refusal_of_upgrade
from ..typing import Environ
from .connection import find_connection
from .connection_handshake import ConnectionHandshake
from .handshake import Handshake
from .outer_websocket import OuterHandshake
from .runtime import Runtime
from .settings import Settings

__all__ = ["MakeHandshake", "offered_websocket"]

MakeHandshake = Callable[[Runtime], Handshake]


def offered_websocket(environ: Environ, settings: Settings) -> MakeHandshake | Refusal | None:
    """`environ` is that of a handshake. None: the app gets it as a plain request, as natively.

    In the calling thread.
    """
    if "asgi.scope" in environ:  # the calling thread is one of a WSGIToASGI
        outer = environ.get(OUTER_WEBSOCKET)
        return None if outer is None else partial(OuterHandshake, outer)
    connection = find_connection(environ)
    if connection is None or not websockets_is_installed():
        return None
    refusal = refusal_of_upgrade(environ)
    if refusal is not None:
        return refusal
    if settings.release == "off":
        connection.keeps_thread = True
    # gevent.pywsgi says that it has one thread; it has greenlets.
    if connection.keeps_thread and not (environ.get("wsgi.multithread") or patched_by()):
        text = "this server's one thread cannot serve a WebSocket beside its requests"
        return Refusal("501 Not Implemented", text)
    session = WebSocketSession(
        environ,
        max_message_size=settings.max_message_size,
        compression=settings.websocket_compression,
    )
    return session.refusal or partial(ConnectionHandshake, connection, session)

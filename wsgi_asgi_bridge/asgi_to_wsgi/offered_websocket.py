"""Whether the handshake of a WebSocket is served as one, refused, or left to the app (WS-A-1)."""

from typing import NamedTuple

from .._protocol.websocket_session import WebSocketSession, websockets_is_installed
from .._protocol.websocket_upgrade import Refusal, refusal_of_upgrade
from ..typing import Environ
from .connection import Connection, find_connection
from .settings import Settings

__all__ = ["OfferedWebSocket", "offered_websocket"]


class OfferedWebSocket(NamedTuple):
    """What a WebSocket needs."""

    connection: Connection
    session: WebSocketSession


def offered_websocket(environ: Environ, settings: Settings) -> OfferedWebSocket | Refusal | None:
    """`environ` is that of a handshake. None: the app gets it as a plain request, as natively.

    In the calling thread.
    """
    connection = find_connection(environ)
    if connection is None or not websockets_is_installed():
        return None
    refusal = refusal_of_upgrade(environ)
    if refusal is not None:
        return refusal
    if settings.release == "off":
        connection.keeps_thread = True
    if connection.keeps_thread and not environ.get("wsgi.multithread"):
        text = "this server's one thread cannot serve a WebSocket beside its requests"
        return Refusal("501 Not Implemented", text)
    session = WebSocketSession(
        environ,
        max_message_size=settings.max_message_size,
        compression=settings.websocket_compression,
    )
    return session.refusal or OfferedWebSocket(connection, session)

"""Apps that echo a WebSocket's messages behind both bridges, for servers of either kind."""

from typing import Any

from tests.support.websocket_echoes import native_echo, wsgi_echoes
from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI

_inner = WSGIToASGI(wsgi_echoes)


async def _middleware(scope: Any, receive: Any, send: Any) -> None:
    """Without it the WSGI app would find the server's own socket (D-5)."""
    await _inner(scope, receive, send)


on_wsgi_server = ASGIToWSGI(_middleware)
on_asgi_server = WSGIToASGI(ASGIToWSGI(native_echo))

"""The handshake of a WebSocket in an environ: what is wrong with it, and its scope."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..typing import Environ
from .scope import scope_from_environ

__all__ = ["Refusal", "refusal_of_upgrade", "websocket_scope"]

KEY_BYTES = 16
HTTP_RESPONSE = "websocket.http.response"
SCHEMES = {"http": "ws", "https": "wss"}


class Refusal(NamedTuple):
    """An answer to a handshake that the bridge gives by itself."""

    status: str
    text: str
    headers: tuple[tuple[str, str], ...] = ()


def refusal_of_upgrade(environ: Environ) -> Refusal | None:
    """What to answer if the request of a WebSocket is malformed (RFC 6455 4.2, WS-A-1)."""
    version = environ.get("HTTP_SEC_WEBSOCKET_VERSION")
    if version != "13":
        return Refusal(
            "426 Upgrade Required",
            f"Sec-WebSocket-Version is {version!r}, expected '13'",
            (("Sec-WebSocket-Version", "13"),),
        )
    if environ.get("CONTENT_LENGTH") not in (None, "", "0") or "HTTP_TRANSFER_ENCODING" in environ:
        return _bad("the request of a WebSocket has no body")
    key = environ.get("HTTP_SEC_WEBSOCKET_KEY", "")
    try:
        size = len(base64.b64decode(key, validate=True))
    except (binascii.Error, ValueError):
        size = -1
    if size != KEY_BYTES:
        return _bad(f"Sec-WebSocket-Key is {key!r:.100}, expected 16 bytes in base64")
    return None


def _bad(text: str) -> Refusal:
    return Refusal("400 Bad Request", text)


def websocket_scope(environ: Environ, root_path: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """The scope of ASGI WebSocket 2.5. Raises what `scope_from_environ` raises.

    It has a copy of `environ`: uWSGI uses the dict again once its thread is back.
    """
    scope = scope_from_environ(dict(environ), root_path, state)
    del scope["method"]
    scope["type"] = "websocket"
    scope["scheme"] = SCHEMES.get(scope["scheme"], scope["scheme"])
    offered = environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", "").split(",")
    # A folded header (RFC 9112 5.2) may come as it was sent; the app's choice goes into the 101.
    scope["subprotocols"] = [
        name for each in offered if (name := each.strip()) and name.isprintable()
    ]
    for name in [name for name in scope["extensions"] if name.startswith("http.")]:
        del scope["extensions"][name]  # those of a response
    outer = environ.get("asgi.scope")
    if outer is None or HTTP_RESPONSE in (outer.get("extensions") or {}):
        scope["extensions"][HTTP_RESPONSE] = {}
    return scope

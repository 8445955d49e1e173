"""What the servers of the WebSocket tests import: one app behind bridges of several options."""

from collections.abc import Iterable
from typing import Any

from tests.support.websocket_apps import STATS, websocket_site
from wsgi_asgi_bridge import ASGIToWSGI

SMALL_MESSAGE = 1024
FEW = 2
PING_SECONDS = 0.2


def bridged(**options: Any) -> ASGIToWSGI:
    """The site, whose scopes have the `stats` of its bridge."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await websocket_site({**scope, STATS: bridge.stats}, receive, send)

    bridge = ASGIToWSGI(app, **options)
    return bridge


BRIDGES = {
    "small": bridged(max_message_size=SMALL_MESSAGE),
    "few": bridged(max_released=FEW),
    "uncompressed": bridged(websocket_compression=False),
    "pinging": bridged(ping_interval=PING_SECONDS, ping_timeout=PING_SECONDS),
    "kept": bridged(release="off"),
    "trio": bridged(backend="trio"),
}
default = bridged()


def site(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """`/NAME/...` is served by the bridge of that name, all else by `default`.

    To a bridge this is a middleware, so event streams keep their thread here.
    """
    name, _, rest = environ["PATH_INFO"].lstrip("/").partition("/")
    if name in BRIDGES:
        environ["PATH_INFO"] = f"/{rest}"
    return BRIDGES.get(name, default)(environ, start_response)

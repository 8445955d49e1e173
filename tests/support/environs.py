"""The environ that a WSGI app was called with."""

from collections.abc import Callable
from typing import Any

from tests.support.fake_asgi_server import (
    Client,
    Scope,
    fetched,
    plain_app,
)
from tests.support.fake_websocket import WebSocketClient


async def environ_of(scope: Scope, **options: Any) -> dict[str, Any]:
    """The environ that the app was called with."""
    client, environs = await asked(scope, **options)
    assert client.status == 200
    assert len(environs) == 1
    return environs[0]


async def asked(scope: Scope, **options: Any) -> tuple[Client, list[dict[str, Any]]]:
    """The client after its request, and what `collecting()` has."""
    environs: list[dict[str, Any]] = []
    client = WebSocketClient(scope) if scope["type"] == "websocket" else Client(scope)
    return await fetched(collecting(environs), client, **options), environs


def collecting(environs: list[dict[str, Any]]) -> Callable[..., list[bytes]]:
    """An app that adds each environ to the list."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environs.append(environ)
        return plain_app(environ, start_response)

    return app

"""What the tests of a WebSocket's endings share: nothing is left after them, not even the port."""

import gc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from tests.support.fake_asgi_server import nothing_left, serving
from tests.support.fake_websocket import WebSocketClient
from wsgi_asgi_bridge import WSGIToASGI
from wsgi_asgi_bridge.wsgi_to_asgi import websocket as exchange_module

__all__ = ["AppsOwnError", "Ports", "counted", "ended_by", "row", "taken_error"]

App = Callable[[dict[str, Any], Any], Any]


class AppsOwnError(Exception):
    """What an app raises on its own account."""


class Ports:
    """Weak references to every port that was made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.references: list[weakref.ref[Any]] = []
        original = exchange_module.MessagePort

        def noted(*args: Any, **options: Any) -> Any:
            port = original(*args, **options)
            self.references.append(weakref.ref(port))
            return port

        monkeypatch.setattr(exchange_module, "MessagePort", noted)

    def alive(self) -> list[Any]:
        return [port for reference in self.references if (port := reference()) is not None]


@asynccontextmanager
async def row(app: App, ports: Ports, **options: Any) -> AsyncIterator[WSGIToASGI]:
    """The bridge of one row: after it nothing is left, without a run of the garbage collector."""
    options.setdefault("stream_after", 0.05)
    gc.collect()
    gc.disable()
    try:
        async with nothing_left():
            async with serving(app, **options) as bridge:
                yield bridge
            stats = bridge.stats()
            assert (stats.in_flight, stats.threads, stats.busy, stats.queued) == (0,) * 4
            assert (stats.streaming, stats.websockets) == (0, 0)
        for _ in range(50):
            if not ports.alive():
                break
            await anyio.sleep(0.002)  # the last frame of a thread or task
        assert ports.alive() == []
    finally:
        gc.enable()


async def ended_by(
    app: App, ports: Ports, code: tuple[int, str], error: type[Exception] | None
) -> WebSocketClient:
    """The client of an app that ends its WebSocket with this code, and by this error if any."""
    client = WebSocketClient()
    async with row(app, ports) as bridge:
        await client.run(bridge)
        assert counted(bridge) == {"failed" if error else "completed": 1}
        assert type(taken_error(client)) is (error or type(None))
    assert client.closed_with == code
    return client


def taken_error(client: WebSocketClient) -> BaseException | None:
    """What the server got, whose traceback leads to the port."""
    error, client.error = client.error, None
    return error


def counted(bridge: WSGIToASGI) -> dict[str, int]:
    names = ("completed", "rejected", "disconnected", "stalled", "failed", "closed")
    return {name: value for name in names if (value := getattr(bridge.stats(), name))}

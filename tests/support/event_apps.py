"""ASGI apps that send event streams, step by step."""

from typing import Any

from tests.support.fake_wsgi_server import Gate, finish, must_become, stream
from tests.support.watched_apps import Watched
from wsgi_asgi_bridge import ASGIToWSGI

EVENT = b"data: tick\n\n"


async def start_events(
    send: Any, content_type: bytes = b"text/event-stream", status: int = 200, *more: Any
) -> None:
    headers = [(b"content-type", content_type), (b"cache-control", b"no-store"), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})


class Events(Watched):
    """Sends its head, an event at each opening of `gates`, and the end."""

    def __init__(self, count: int = 2, **head: Any) -> None:
        super().__init__(self._events)
        self.gates = [Gate() for _ in range(count)]
        self._head = head

    async def _events(self, app: Watched, receive: Any, send: Any) -> None:
        await start_events(send, **self._head)
        for number, gate in enumerate(self.gates):
            await gate.wait()
            await stream(send, b"data: %d\n\n" % number)
        await finish(send)

    def open_all(self) -> None:
        for gate in self.gates:
            gate.open()


def becomes_released(bridge: ASGIToWSGI, count: int = 1) -> None:
    """The loop takes over what the server's thread, which is free by now, has left to it."""
    must_become(lambda: bridge.stats().released_event_streams == count, "the release")


def is_released(bridge: ASGIToWSGI) -> bool:
    return bridge.stats().released_event_streams == 1

"""ASGI apps that speak WebSocket in the test's own process."""

from typing import Any

from tests.support.fake_wsgi_server import Message, Receive, Send


async def accept(receive: Receive, send: Send, **how: Any) -> None:
    assert await receive() == {"type": "websocket.connect"}
    await send({"type": "websocket.accept", **how})


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    """Sends back what comes, until the disconnect."""
    await accept(receive, send)
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


def disconnect(code: int, reason: str = "") -> Message:
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


def receive_message(data: str | bytes) -> Message:
    kind = "text" if isinstance(data, str) else "bytes"
    return {"type": "websocket.receive", kind: data}


def send_message(data: str | bytes) -> Message:
    kind = "text" if isinstance(data, str) else "bytes"
    return {"type": "websocket.send", kind: data}

"""The client of one WebSocket in memory, and apps that speak gevent-websocket's API.

As `Client`, which it is but for the messages, it watches that the bridge speaks legal ASGI: one
handshake or one answer, nothing after a close, never two `receive()` or `send()` at once.
"""

from collections.abc import Callable
from typing import Any

import anyio.lowlevel

from tests.support.fake_asgi_server import Client, Message, Scope, websocket_scope

__all__ = ["HTTP_RESPONSE", "WebSocketClient", "echoing"]

HTTP_RESPONSE: dict[str, Any] = {"extensions": {"websocket.http.response": {}}}
"""What a scope has if the server carries an answer other than the handshake."""

_ANSWERS = ("websocket.http.response.start", "websocket.http.response.body")


class WebSocketClient(Client):
    """One WebSocket. What it says is received in order, before its end."""

    def __init__(self, scope: Scope | None = None, **options: Any) -> None:
        super().__init__(websocket_scope() if scope is None else scope, body_ends=False, **options)
        self._connect_given = False
        self._end: Message | None = None

    # what the client does

    def say(self, *payloads: str | bytes) -> None:
        """Send these messages, once the handshake is made."""
        for payload in payloads:
            text, data = (payload, None) if isinstance(payload, str) else (None, payload)
            self._inbox.append({"type": "websocket.receive", "text": text, "bytes": data})
        self._notify()

    def close(self, code: int | None = 1000, reason: str | None = "") -> None:
        """Close with a close frame, after the handshake; a blocked `send` returns."""
        assert self.accepted, "before the handshake a client can only leave"
        self._end = {"type": "websocket.disconnect", "code": code, "reason": reason}
        self.leave()

    # what the client saw

    @property
    def accepted(self) -> bool:
        return bool(self.messages) and self.messages[0]["type"] == "websocket.accept"

    @property
    def heard(self) -> list[str | bytes]:
        """The messages that came."""
        sent = [message for message in self.messages if message["type"] == "websocket.send"]
        return [
            message["bytes"] if message.get("text") is None else message["text"] for message in sent
        ]

    @property
    def closed_with(self) -> tuple[int, str] | None:
        """The code and reason of the bridge's close after the handshake."""
        if not (self.accepted and self.complete):
            return None
        last = self.messages[-1]
        return last["code"], last["reason"]

    @property
    def kinds(self) -> list[str]:
        return [message["type"] for message in self.messages]

    async def until_accepted(self) -> None:
        await self.until(lambda client: client.messages)
        assert self.accepted, self.messages

    async def until_heard(self, count: int) -> list[str | bytes]:
        """The first `count` messages."""
        await self.until(lambda client: len(self.heard) >= count)
        return self.heard[:count]

    async def until_closed(self) -> tuple[int, str] | None:
        await self.until(lambda client: client.complete)
        return self.closed_with

    # what the server does

    async def receive(self) -> Message:
        if not self._connect_given:
            self._connect_given = True
            await anyio.lowlevel.checkpoint()
            return {"type": "websocket.connect"}
        self.receive_calls += 1
        self._receiving += 1
        self._complain_if(self._receiving > 1, "W-FLOW-2: two receive() calls at once")
        self._notify()
        try:
            # Nobody speaks before the handshake.
            while not ((self._inbox and self.accepted) or self.gone or self.complete):
                await self._changed.wait()
            await anyio.lowlevel.checkpoint()
        finally:
            self._receiving -= 1
        if self._inbox and not self.complete:
            return self._inbox.popleft()
        if self._end is not None:
            return self._end
        code = self.messages[-1].get("code", 1006) if self.complete else 1006
        return {"type": "websocket.disconnect", "code": code, "reason": ""}

    def _check(self, message: Message) -> None:
        kind = message["type"]
        if self.gone:
            return
        self._complain_if(self.complete, f"{kind} after the end")
        if not self.messages:
            first = ("websocket.accept", "websocket.close", _ANSWERS[0])
            self._complain_if(kind not in first, f"{kind} before the handshake")
        elif self.accepted:
            after = ("websocket.send", "websocket.close")
            self._complain_if(kind not in after, f"{kind} after the handshake")
        else:
            self._complain_if(kind != _ANSWERS[1], f"{kind} after the start of an answer")
        if kind == "websocket.send":
            text, data = message.get("text"), message.get("bytes")
            legal = type(text) is str if data is None else text is None and type(data) is bytes
            self._complain_if(not legal, f"payload {message!r}")
        elif kind == _ANSWERS[0]:
            self._check_start(message)
        elif kind == _ANSWERS[1]:
            self._complain_if(type(message.get("body", b"")) is not bytes, f"body {message!r}")


def echoing(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """Sends back what it receives, until the end."""
    websocket = environ["wsgi.websocket"]
    while (message := websocket.receive()) is not None:
        websocket.send(message)
    return []

"""A WebSocket as `environ["wsgi.websocket"]`: whole messages, by gevent-websocket's API.

bottle-websocket, Flask-Sockets and WSocket are written for it. Its server has made the handshake
before it calls the app; here the first use makes it, so that an app may answer otherwise.
"""

import sys
from typing import Any

from .._protocol.close_codes import (
    INTERNAL_ERROR,
    MAX_REASON_BYTES,
    NORMAL,
    is_sendable_close_code,
)
from ..typing import Environ
from .websocket_call import WebSocketCall

__all__ = ["MessageSocket"]


class MessageSocket:
    """`environ["wsgi.websocket"]`. Any thread, several at once.

    After the end `receive` gives None once; then, as `send` does, it raises gevent-websocket's
    WebSocketError if the app has imported that, else BrokenPipeError. Both are OSErrors.
    """

    OPCODE_CONTINUATION, OPCODE_TEXT, OPCODE_BINARY = 0x0, 0x1, 0x2
    OPCODE_CLOSE, OPCODE_PING, OPCODE_PONG = 0x8, 0x9, 0xA

    def __init__(self, call: WebSocketCall, environ: Environ) -> None:
        self._call = call
        self._receive = call.port.receive_from_thread
        self._accepted = False
        self.closed: bool = False
        """Whether the app has closed, or has found the end."""
        self.path: str | None = environ.get("PATH_INFO")
        self.origin: str | None = environ.get("HTTP_ORIGIN")
        self.protocol: str | None = environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL")
        self.version: str | None = environ.get("HTTP_SEC_WEBSOCKET_VERSION")

    def receive(self) -> str | bytearray | None:
        """The next message: `str` for text, `bytearray` for binary. None at the end."""
        if self.closed:
            raise _error("Connection is already closed")
        if not self._accepted and not self._accept():
            return None
        message = self._receive()
        if type(message) is bytes:
            return bytearray(message)
        if message is None:
            self.closed = True
        return message  # type: ignore[no-any-return]

    def send(self, message: Any, binary: bool | None = None) -> None:
        """Send one message: text if it is a `str` or `binary` is False."""
        if self.closed:
            raise _error("Socket is dead")
        if type(message) is str and not binary and message.isascii():  # the usual, without a call
            payload: str | bytes = message
        elif binary or (binary is None and not isinstance(message, str)):
            payload = bytes(message)  # pyright: ignore[reportArgumentType]
        else:
            payload = _text(message)
        if not self._accepted and not self._accept():
            raise _error("Socket is dead")
        try:
            self._call.send(payload)
        except ConnectionError as exc:
            self.closed = True
            raise _error("Socket is dead") from exc

    def send_frame(self, message: Any, opcode: int) -> None:
        """As `send`. A ping or pong is left out: the server sends its own."""
        if opcode in (self.OPCODE_TEXT, self.OPCODE_BINARY):
            self.send(message, binary=opcode == self.OPCODE_BINARY)
        elif opcode == self.OPCODE_CLOSE:
            self.close(message=message)
        elif self.closed:
            raise _error("Connection is already closed")

    def close(self, code: int = NORMAL, message: str | bytes | None = b"") -> None:
        """Close with this code and reason; without a handshake, make it first."""
        if self.closed or (not self._accepted and not self._accept()):
            return
        self.closed = True
        if not is_sendable_close_code(code):
            code = INTERNAL_ERROR
        reason = _text(message or "").encode()[:MAX_REASON_BYTES].decode("utf-8", "ignore")
        self._call.close(code, reason)

    def _accept(self) -> bool:
        """Make the handshake. False if there is nobody any more to make it with."""
        try:
            self._call.accept()
        except ConnectionRefusedError:
            raise
        except ConnectionError:
            self.closed = True
            return False
        self._accepted = True
        return True


def _text(message: Any) -> str:
    """`message` as text that can be sent. Raises UnicodeError."""
    if not isinstance(message, str):
        return (
            bytes(message).decode()
            if isinstance(message, bytes | bytearray | memoryview)
            else str(message)
        )
    if not message.isascii():
        message.encode()  # surrogates are refused here rather than in the server
    return message


def _error(text: str) -> OSError:
    theirs = sys.modules.get("geventwebsocket.exceptions")
    made: OSError = (theirs.WebSocketError if theirs is not None else BrokenPipeError)(text)
    return made

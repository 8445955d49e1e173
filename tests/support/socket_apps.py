"""A small WebSocket library for the tests, which speaks over the socket that it finds in environ.

It writes what it is told to, right or wrong, and reads frames as a server does.
"""

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha1
from typing import Any

__all__ = ["BINARY", "CLOSE", "CONTINUATION", "PING", "PONG", "TEXT", "ServerSocket", "frame"]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def frame(opcode: int, payload: bytes = b"", *, last: bool = True) -> bytes:
    """As a server writes it."""
    first, size = opcode | (0x80 if last else 0), len(payload)
    if size < 126:
        return bytes([first, size]) + payload
    if size < 65536:
        return bytes([first, 126]) + size.to_bytes(2, "big") + payload
    return bytes([first, 127]) + size.to_bytes(8, "big") + payload


def close_frame(code: int, reason: str = "") -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason.encode())


class ServerSocket:
    """The server's side of one WebSocket, over `environ["werkzeug.socket"]`."""

    def __init__(self, environ: dict[str, Any], *, receive_bytes: int = 4096) -> None:
        self.sock = environ["werkzeug.socket"]
        self._key = environ["HTTP_SEC_WEBSOCKET_KEY"]
        self._receive_bytes = receive_bytes
        self._buffer = b""

    # writing

    def head(self, *lines: str, status: str = "101 Switching Protocols") -> bytes:
        accept = b64encode(sha1((self._key + GUID).encode()).digest()).decode()
        own = ("Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept}")
        return "\r\n".join((f"HTTP/1.1 {status}", *own, *lines, "", "")).encode("latin-1")

    def accept(self, *lines: str) -> "ServerSocket":
        self.sock.sendall(self.head(*lines))
        return self

    def send(self, payload: str | bytes) -> None:
        text = isinstance(payload, str)
        data = payload.encode() if isinstance(payload, str) else payload
        self.sock.send(frame(TEXT if text else BINARY, data))

    def write(self, *frames: bytes) -> None:
        self.sock.send(b"".join(frames))

    def close(self, code: int = 1000, reason: str = "") -> None:
        self.sock.send(close_frame(code, reason))

    # reading

    def read(self) -> tuple[int, bytes] | None:
        """The next frame, opcode and payload; None at the end of the stream."""
        head = self._exactly(2)
        if head is None:
            return None
        assert head[0] & 0x70 == 0
        assert head[0] & 0x80, "a message comes in one frame"
        assert head[1] & 0x80, "a client masks its frames"
        size = head[1] & 0x7F
        if size >= 126:
            size = int.from_bytes(self._exactly(2 if size == 126 else 8) or b"", "big")
        key, payload = self._exactly(4) or b"", self._exactly(size) or b""
        return head[0] & 0x0F, bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))

    def read_all(self) -> list[tuple[int, bytes]]:
        """Every frame up to the end of the stream."""
        frames = []
        while (taken := self.read()) is not None:
            frames.append(taken)
        return frames

    def echo(self) -> Sequence[bytes]:
        """Send back what comes, answer a close, until the end; a WSGI app's response."""
        while (taken := self.read()) is not None:
            opcode, payload = taken
            self.sock.send(frame(opcode, payload))
            if opcode == CLOSE:
                break
        return []

    def _exactly(self, size: int) -> bytes | None:
        while len(self._buffer) < size:
            data = self.sock.recv(self._receive_bytes)
            if not data:
                assert not self._buffer, "the stream ends inside a frame"
                return None
            self._buffer += data
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

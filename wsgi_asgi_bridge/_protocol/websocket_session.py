"""One WebSocket between its handshake and its end, as bytes and ASGI messages.

The frames are the `websockets` package's: its `ServerProtocol` does no I/O. Three of its gaps are
closed here. Control frames are legal between the fragments of a message (RFC 6455 5.4), a Close
too, and whatever is left of the limit. Text is checked as it comes, so that a message that is not
UTF-8 ends at its first wrong byte. And however many frames have come, one call takes a portion of
them, so that no client keeps the loop.

`websockets` is optional: it is imported with the first WebSocket.
"""

import base64
import codecs
import functools
import hashlib
import io
import logging
from collections.abc import Generator, Mapping
from typing import Any, NamedTuple

from ..errors import AppError
from ..typing import Environ, Message
from .asgi_response import ASGIResponse
from .close_codes import (
    INTERNAL_ERROR,
    INVALID_DATA,
    MAX_REASON_BYTES,
    NO_CLOSE_FRAME,
    NORMAL,
    TOO_BIG,
    is_sendable_close_code,
)
from .websocket_frames import MAX_CONTROL_BYTES
from .websocket_upgrade import Refusal

__all__ = [
    "Close",
    "WebSocketSession",
    "checked_accept",
    "checked_close",
    "payload_of",
    "websockets_is_installed",
]

ACCEPT = "websocket.accept"
WINDOW_BITS = 12
MEMORY_LEVEL = 5
"""A small window: by zlib's defaults each connection would take 300 KB."""

PORTION_BYTES = 262144
"""The bytes of payloads, once inflated, after which the rest waits for the next portion."""
LEAST_FRAME_BYTES = 1024
"""What even an empty frame counts for: a frame takes about 10 microseconds."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455 1.3."""

_quiet = logging.getLogger("wsgi_asgi_bridge.websockets")
"""Says no word of each connection; what a client does wrong the app learns by its close code."""
_quiet.setLevel(logging.ERROR)


class Close(NamedTuple):
    """How a WebSocket has ended (RFC 6455 7.4)."""

    code: int
    reason: str


class _Package(NamedTuple):
    """What is used of `websockets`."""

    engine: Any
    deflate: Any
    headers: Any
    open: Any
    bad_offer: type[Exception]


def _engine() -> Any:
    """The class of the engine. Raises ImportError."""
    from websockets.exceptions import PayloadTooBig
    from websockets.frames import Opcode
    from websockets.server import ServerProtocol
    from websockets.streams import StreamReader

    class Reader(StreamReader):
        taken = 0
        """What the frames of this portion count for."""

        def at_eof(self) -> Generator[None, None, bool]:
            # The engine asks before each frame. It takes this for a wait for the client.
            while self.taken >= PORTION_BYTES:
                yield
            return (yield from super().at_eof())

    class Engine(ServerProtocol):
        reader: Reader

        def __init__(self, max_size: int, **how: Any) -> None:
            # It applies its limit before it knows what the frame is, so it leaves control frames
            # room beside it.
            super().__init__(max_size=max_size + MAX_CONTROL_BYTES, **how)
            self.limit = max_size

        def parse(self) -> Generator[None, None, None]:
            self.reader = Reader()
            yield from super().parse()

        def recv_frame(self, frame: Any) -> None:
            size = len(frame.data)
            self.reader.taken += size + LEAST_FRAME_BYTES
            if frame.opcode is Opcode.CLOSE:
                self.current_size = None  # else it takes an unfinished message for an error
            elif frame.opcode < Opcode.CLOSE and (self.current_size or 0) + size > self.limit:
                raise PayloadTooBig(size, self.limit)
            super().recv_frame(frame)

        def fail(self, code: int, reason: str = "") -> None:
            if code == TOO_BIG:  # its own reason has the limit that it applies
                reason = f"a message may have {self.limit} bytes"
            super().fail(code, reason)

        def discard(self) -> Generator[None, None, None]:
            self.reader.taken = 0  # what comes now is dropped at once
            yield from super().discard()

    return Engine


@functools.cache
def _package() -> _Package | None:
    try:
        from websockets.datastructures import Headers
        from websockets.exceptions import InvalidHandshake
        from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
        from websockets.protocol import State

        engine = _engine()
    except ImportError:
        return None
    deflate = ServerPerMessageDeflateFactory(
        server_max_window_bits=WINDOW_BITS,
        client_max_window_bits=WINDOW_BITS,
        compress_settings={"memLevel": MEMORY_LEVEL},
    )
    return _Package(engine, [deflate], Headers, State.OPEN, InvalidHandshake)


def websockets_is_installed() -> bool:
    return _package() is not None


class WebSocketSession:
    """One WebSocket. Whoever calls it sends `take_output()` afterwards."""

    __slots__ = (
        "_engine",
        "_extensions",
        "_key",
        "_package",
        "_parts",
        "_size",
        "_text",
        "end",
        "failed",
        "refusal",
    )

    def __init__(self, environ: Environ, *, max_message_size: int, compression: bool) -> None:
        """`environ`: of a handshake without a `refusal_of_upgrade`."""
        package = _package()
        assert package is not None, "websockets is installed"
        self._package = package
        self._engine = package.engine(
            extensions=package.deflate if compression else None,
            max_size=max_message_size,
            logger=_quiet,
            state=package.open,
        )
        self._key = environ["HTTP_SEC_WEBSOCKET_KEY"]
        self._extensions = ""
        """The extensions that are accepted, as a header's value."""
        self.refusal: Refusal | None = None
        """What to answer to a malformed offer of extensions."""
        offer = environ.get("HTTP_SEC_WEBSOCKET_EXTENSIONS")
        if offer and compression:
            self._negotiate(offer)
        self.end: Close | None = None
        """How it has ended: by the first close frame, of either side, or without one."""
        self.failed: bool = False
        """Whether it was the client's fault: it broke the protocol, or left without a close frame.
        """
        self._text = False
        self._parts: bytearray | _TextParts | None = None
        """The fragments so far, joined as they come: a million of a byte each are a megabyte."""
        self._size = 0

    # ------------------------------------------------------------ the handshake

    def _negotiate(self, offer: str) -> None:
        headers = self._package.headers({"Sec-WebSocket-Extensions": offer})
        try:
            accepted, self._engine.extensions = self._engine.process_extensions(headers)
        except self._package.bad_offer:
            self.refusal = Refusal("400 Bad Request", "Sec-WebSocket-Extensions is malformed")
        else:
            self._extensions = accepted or ""

    @property
    def is_compressed(self) -> bool:
        return bool(self._engine.extensions)

    def accept(self, message: Mapping[str, Any], offered: list[str]) -> bytes:
        """Return the head of the 101 for the app's `websocket.accept`.

        `offered`: the client's subprotocols. Raises AppError, and may then be called again.
        """
        subprotocol, headers = checked_accept(message, offered)
        digest = hashlib.sha1(self._key.encode() + _GUID, usedforsecurity=False).digest()
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}",
        ]
        if self._extensions:
            lines.append(f"Sec-WebSocket-Extensions: {self._extensions}")
        if subprotocol is not None:
            lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
        lines += [f"{name}: {value}" for name, value in headers]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    # ------------------------------------------------------------ from the client

    def feed(self, data: bytes) -> None:
        """Keep bytes of the client for `receive`."""
        if not self._engine.reader.eof:
            self._engine.reader.feed_data(data)

    @property
    def has_more(self) -> bool:
        """Whether `receive` has left some of what was fed to its next call."""
        reader = self._engine.reader
        return bool(reader.taken >= PORTION_BYTES and reader.buffer)

    def receive(self) -> list[tuple[Message, int]]:
        """Take a portion of what was fed; return the messages that it completes, and their sizes.

        `end` is set if the client has closed, or is at fault.
        """
        engine = self._engine
        if engine.reader.eof:
            return []
        engine.reader.taken = 0
        engine.receive_data(b"")
        messages: list[tuple[Message, int]] = []
        for frame in engine.events_received():
            if frame.opcode < 3:  # a message, or a fragment of one
                if (message := self._message(frame)) is not None:
                    messages.append(message)
                elif self.end is not None:
                    break
        if self.end is None:
            if engine.close_rcvd is not None and engine.parser_exc is None:
                self.end = Close(int(engine.close_rcvd.code), engine.close_rcvd.reason)
            elif engine.parser_exc is not None:
                sent = engine.close_sent
                self.end = Close(int(sent.code), sent.reason) if sent else _LOST
                self.failed = True
        return messages

    def _message(self, frame: Any) -> tuple[Message, int] | None:
        """The message that `frame` completes, if it does; None after the end too."""
        if self.end is not None:
            return None
        data = frame.data
        if frame.opcode:
            self._text = frame.opcode == 1
            if frame.fin:
                return self._whole(data)
            self._size = 0
            self._parts = _TextParts() if self._text else bytearray()
        self._size += len(data)
        parts = self._parts
        if isinstance(parts, _TextParts):
            try:
                parts.add(data, last=frame.fin)
            except UnicodeDecodeError:
                self._fail(INVALID_DATA, "the text is not UTF-8")
                return None
        elif parts is not None:
            parts += data
        if not frame.fin or parts is None:
            return None
        self._parts = None
        if isinstance(parts, _TextParts):
            return {"type": "websocket.receive", "text": parts.text()}, self._size
        return {"type": "websocket.receive", "bytes": bytes(parts)}, self._size

    def _whole(self, data: Any) -> tuple[Message, int] | None:
        """The message of one frame."""
        if not self._text:
            return {"type": "websocket.receive", "bytes": bytes(data)}, len(data)
        try:
            return {"type": "websocket.receive", "text": str(data, "utf-8")}, len(data)
        except UnicodeDecodeError:
            self._fail(INVALID_DATA, "the text is not UTF-8")
            return None

    def receive_end(self) -> None:
        """The connection has ended, or is lost."""
        self._engine.receive_eof()
        if self.end is None:
            self.end = _LOST
            self.failed = True

    def let_go(self) -> None:
        """Nothing more comes or goes: break the cycle of the engine and its parser."""
        self._engine.parser.close()

    # ------------------------------------------------------------ to the client

    def send(self, message: Mapping[str, Any]) -> int:
        """Send the app's `websocket.send`; return its size. Raises AppError."""
        payload = payload_of(message)
        if isinstance(payload, str):
            encoded = payload.encode()
            self._engine.send_text(encoded)
            return len(encoded)
        self._engine.send_binary(payload)
        return len(payload)

    def close(self, code: int, reason: str) -> None:
        """Send a close frame with what `checked_close` has passed, unless it has ended."""
        if self.end is None:
            self._engine.send_close(code, reason)
            self.end = Close(code, reason)

    def give_up(self, reason: str) -> None:
        """The client seems to be gone: tell it, if it is there after all. Not after the end."""
        self.end = Close(NO_CLOSE_FRAME, reason)
        self.failed = True
        self._engine.fail(INTERNAL_ERROR, reason)

    def _fail(self, code: int, reason: str) -> None:
        """End it because of what the client has sent."""
        self.end = Close(code, reason)
        self.failed = True
        self._engine.fail(code, reason)

    def ping(self) -> None:
        """Ask the client for a sign of life."""
        self._engine.send_ping(b"")

    def take_output(self) -> tuple[list[bytes], bool]:
        """The bytes to send now, and whether they are the last."""
        chunks: list[bytes] = self._engine.data_to_send()
        last = bool(chunks) and not chunks[-1]
        return (chunks[:-1] if last else chunks), last


_LOST = Close(NO_CLOSE_FRAME, "")


class _TextParts:
    """Fragments of a text, decoded one by one."""

    __slots__ = ("_decoder", "_parts")

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._parts = io.StringIO()

    def add(self, data: bytes, *, last: bool) -> None:
        """Raises UnicodeDecodeError at the first byte that no text can have there."""
        self._parts.write(self._decoder.decode(data, last))

    def text(self) -> str:
        return self._parts.getvalue()


def payload_of(message: Mapping[str, Any]) -> str | bytes:
    """The payload of the app's `websocket.send`. Raises AppError."""
    data, text = message.get("bytes"), message.get("text")
    if data is not None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise AppError(f"websocket.send: bytes is {data!r:.100}, expected bytes")
        return data if type(data) is bytes else bytes(data)
    if not isinstance(text, str):
        raise AppError(f"websocket.send: expected bytes or text: {message!r:.200}")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            raise AppError(f"websocket.send: the text is not Unicode: {exc}") from None
    return text


def checked_close(message: Mapping[str, Any]) -> Close:
    """The code and the reason of the app's `websocket.close` (WS-A-12). Raises AppError."""
    code, reason = message.get("code"), message.get("reason") or ""
    if code is None:
        code = NORMAL
    if not isinstance(code, int) or not is_sendable_close_code(code):
        raise AppError(f"websocket.close: the code is {code!r:.100}, expected one that may be sent")
    try:
        size = len(reason.encode()) if isinstance(reason, str) else None
    except UnicodeEncodeError:
        size = None
    if size is None or size > MAX_REASON_BYTES:
        raise AppError(
            f"websocket.close: the reason is {reason!r:.200}, expected text of at most "
            f"{MAX_REASON_BYTES} bytes"
        )
    return Close(int(code), reason)


def checked_accept(
    message: Mapping[str, Any], offered: list[str]
) -> tuple[str | None, list[tuple[str, str]]]:
    """The subprotocol and headers of the app's `websocket.accept`, checked as those of a response
    (WS-A-12). Raises AppError.
    """
    checked = ASGIResponse("GET")
    headers = message.get("headers") or ()
    try:
        checked.accept({"type": "http.response.start", "status": 200, "headers": headers})
    except AppError as exc:
        raise AppError(str(exc).replace("http.response.start", ACCEPT)) from None
    for name, _ in checked.headers:
        if name.startswith("Sec-Websocket-"):
            raise AppError(f"{ACCEPT}: the header {name!r} is the bridge's; use `subprotocol`")
    subprotocol = message.get("subprotocol")
    if subprotocol is not None and subprotocol not in offered:
        raise AppError(
            f"{ACCEPT}: the subprotocol is {subprotocol!r:.100}, expected one that the client "
            f"offers: {offered!r:.200}"
        )
    return subprotocol, [pair for pair in checked.headers if pair[0] != "Content-Length"]

"""The frames that a WSGI app's WebSocket library exchanges with the bridge (RFC 6455).

The library plays the server, so it reads masked frames and writes unmasked ones; no extension is
agreed on. The frames stay in this process: masking guards proxies on a wire, so the key is zero,
which leaves a payload as it is.
"""

import re
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import NamedTuple, TypeAlias

from ..errors import AppError
from .close_codes import (
    INVALID_DATA,
    MAX_REASON_BYTES,
    NO_STATUS,
    PROTOCOL_ERROR,
    TOO_BIG,
    is_sendable_close_code,
)
from .headers import TOKEN

__all__ = [
    "BINARY",
    "CLOSE",
    "MAX_CONTROL_BYTES",
    "MAX_HEAD_BYTES",
    "PING",
    "PONG",
    "TEXT",
    "Close",
    "Event",
    "FrameError",
    "FrameParser",
    "HeadParser",
    "Ping",
    "Pong",
    "ResponseHead",
    "accept_arguments",
    "close_payload",
    "encode_frame",
    "encode_frame_head",
]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_FIN = 0x80
_MASKED = 0x80

SWITCHING_PROTOCOLS = 101
MAX_CONTROL_BYTES = 125
MAX_HEAD_BYTES = 65536
"""The longest head of a 101 that is taken; libraries write a few hundred bytes."""

_SHORT_HEAD = Struct("!BBI").pack
_MEDIUM_HEAD = Struct("!BBHI").pack
_LONG_HEAD = Struct("!BBQI").pack
_FIRST_BYTES = frozenset(
    {CONTINUATION, TEXT, BINARY}
    | {_FIN | opcode for opcode in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG)}
)
"""The first byte of a legal frame: its opcode, perhaps with FIN, and no extension's bit."""

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [^\x00-\x08\x0a-\x1f\x7f]*)?")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class Ping(NamedTuple):
    payload: bytes


class Pong(NamedTuple):
    payload: bytes


class Close(NamedTuple):
    """A close frame; its code is NO_STATUS if it has none."""

    code: int
    reason: str


Event: TypeAlias = str | bytes | Ping | Pong | Close
"""What a library has written: a text message, a binary message, or a control frame."""


class FrameError(AppError):
    """The app's library broke RFC 6455. `close_code` is what a client would close with."""

    def __init__(self, message: str, close_code: int = PROTOCOL_ERROR) -> None:
        super().__init__(f"the app's WebSocket library {message}")
        self.close_code: int = close_code


def encode_frame(opcode: int, payload: bytes) -> bytes:
    """One whole frame as a client sends it."""
    length = len(payload)
    if length <= 125:  # the usual, without a call
        return _SHORT_HEAD(_FIN | opcode, _MASKED | length, 0) + payload
    return encode_frame_head(opcode, length) + payload


def encode_frame_head(opcode: int, length: int) -> bytes:
    """What stands before a payload of `length` bytes, so that a long one need not be copied."""
    if length <= 125:
        return _SHORT_HEAD(_FIN | opcode, _MASKED | length, 0)
    if length <= 0xFFFF:
        return _MEDIUM_HEAD(_FIN | opcode, _MASKED | 126, length, 0)
    return _LONG_HEAD(_FIN | opcode, _MASKED | 127, length, 0)


def close_payload(code: int, reason: str = "") -> bytes | None:
    """The payload of a close frame; None for a code that no frame may hold, such as 1006.

    Empty for NO_STATUS. A reason that is too long is cut at a character.
    """
    if code == NO_STATUS:
        return b""
    if not is_sendable_close_code(code):
        return None
    cut = reason.encode("utf-8", "replace")[:MAX_REASON_BYTES]
    return code.to_bytes(2, "big") + cut.decode("utf-8", "ignore").encode()


class FrameParser:
    """Takes the frames apart that the library writes, in whatever pieces, and joins fragments.

    One caller at a time. It is of no more use after it has raised FrameError.
    """

    __slots__ = (
        "_buffer",
        "_closed",
        "_fragments",
        "_fragments_size",
        "_kind",
        "_max_message_size",
        "_position",
    )

    def __init__(self, max_message_size: int | None = None) -> None:
        """Args: max_message_size: in bytes, of the fragments together; None for no limit."""
        self._buffer: bytes | bytearray = b""
        self._position = 0  # of the next frame in the buffer
        self._kind = CONTINUATION  # TEXT or BINARY in the middle of a message
        self._fragments: list[bytes] = []
        self._fragments_size = 0
        self._max_message_size = max_message_size
        self._closed = False

    def small_message(self, data: bytes | bytearray | memoryview) -> str | bytes | None:
        """The message, if `data` is one short frame with nothing around it: the usual case.

        None: it is to be fed.
        """
        size = len(data) - 2
        if (
            not 0 <= size <= MAX_CONTROL_BYTES
            or data[1] != size
            or self._kind
            or self._position != len(self._buffer)
            or self._closed
            or (self._max_message_size is not None and self._max_message_size < size)
        ):
            return None
        if data[0] == _FIN | BINARY:
            return bytes(data[2:])
        if data[0] != _FIN | TEXT:
            return None
        try:
            return str(data[2:], "utf-8")
        except UnicodeDecodeError:
            return None

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Event]:
        """What is complete now, parsed step by step. What is not taken comes with the next call.

        Nothing follows a close frame; later bytes are dropped. The iterator raises FrameError where
        the first wrong frame stands, after all that came before it; this call may raise that of the
        very first.
        """
        if self._closed:
            return iter(())
        if self._position == len(self._buffer):
            self._buffer = data if isinstance(data, bytes) else bytes(data)
            self._position = 0
        else:
            if not isinstance(self._buffer, bytearray):
                self._buffer = bytearray(self._buffer)
            del self._buffer[: self._position]
            self._position = 0
            self._buffer += data
        return iter(self._next_event, None)

    def _next_event(self) -> Event | None:
        while (frame := self._next_frame()) is not None:
            first, payload = frame
            if isinstance(payload, str) or first == _FIN | BINARY:
                return payload
            opcode = first & 0x0F
            if opcode >= CLOSE:
                return self._control_event(opcode, payload)
            if opcode:
                self._kind = opcode
            if payload:  # empty ones would make a list without an end
                self._fragments.append(payload)
                self._fragments_size += len(payload)
            if first & _FIN:
                kind, whole = self._kind, b"".join(self._fragments)
                self._kind, self._fragments, self._fragments_size = CONTINUATION, [], 0
                return whole if kind == BINARY else _text(whole, "text message")
        return None

    def _next_frame(self) -> tuple[int, str | bytes] | None:
        """The first byte and the payload of the next frame; None if it is not complete.

        A whole text message is decoded in place: at 1 MiB that saves most of the time.
        """
        buffer, start = self._buffer, self._position + 2
        if len(buffer) < start:
            return None
        first, length = buffer[start - 2], buffer[start - 1]
        self._check_head(first, length)
        if length > MAX_CONTROL_BYTES:
            extended = 2 if length == 126 else 8
            if len(buffer) < start + extended:
                return None
            length = _extended_length(buffer[start : start + extended])
            start += extended
        limit = self._max_message_size
        if limit is not None and first < _FIN + CLOSE and self._fragments_size + length > limit:
            raise FrameError(f"sent a message longer than max_message_size={limit}", TOO_BIG)
        end = start + length
        if len(buffer) < end:
            return None
        payload: str | bytes
        with memoryview(buffer) as whole, whole[start:end] as part:
            payload = _text(part, "text message") if first == _FIN | TEXT else bytes(part)
        self._position = end
        if end == len(buffer):
            self._buffer, self._position = b"", 0
        return first, payload

    def _check_head(self, first: int, second: int) -> None:
        if first not in _FIRST_BYTES:
            raise FrameError(
                f"sent a frame that begins with 0x{first:02x}: an extension's bit, an unknown"
                " opcode or a fragmented control frame (RFC 6455 5.2)"
            )
        if second >= _MASKED:
            raise FrameError("sent a masked frame, as only a client may (RFC 6455 5.1)")
        if first >= _FIN + CLOSE:
            if second > MAX_CONTROL_BYTES:
                raise FrameError("sent a control frame longer than 125 bytes (RFC 6455 5.5)")
        elif (first & 0x0F == CONTINUATION) != (self._kind != CONTINUATION):
            raise FrameError(
                f"sent a frame of opcode {first & 0x0F}"
                f" {'inside' if self._kind else 'outside'} a fragmented message (RFC 6455 5.4)"
            )

    def _control_event(self, opcode: int, payload: bytes) -> Event:
        if opcode == PING:
            return Ping(payload)
        if opcode == PONG:
            return Pong(payload)
        self._closed = True
        self._buffer, self._position, self._fragments = b"", 0, []
        return _close_event(payload)


def _extended_length(encoded: bytes | bytearray) -> int:
    length = int.from_bytes(encoded, "big")
    if length <= (MAX_CONTROL_BYTES if len(encoded) == 2 else 0xFFFF) or length >> 63:
        raise FrameError(f"sent a length of 0x{encoded.hex()}, not the shortest (RFC 6455 5.2)")
    return length


def _text(encoded: bytes | memoryview, name: str) -> str:
    try:
        return str(encoded, "utf-8")
    except UnicodeDecodeError as error:
        raise FrameError(f"sent a {name} that is not UTF-8: {error}", INVALID_DATA) from None


def _close_event(payload: bytes) -> Close:
    if not payload:
        return Close(NO_STATUS, "")
    code = int.from_bytes(payload[:2], "big")
    if not is_sendable_close_code(code):
        raise FrameError(f"sent a close frame with the code {code} (RFC 6455 7.4)")
    return Close(code, _text(payload[2:], "close reason"))


class ResponseHead(NamedTuple):
    """The head of an HTTP/1 response, with lower-case names, and what was written after it."""

    status: int
    headers: list[tuple[bytes, bytes]]
    rest: bytes


class HeadParser:
    """Collects the head with which the library answers the handshake. One caller at a time."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> ResponseHead | None:
        """The head once it is complete. Raises AppError for what is none."""
        buffer = self._buffer
        searched = max(0, len(buffer) - 3)
        buffer += data
        end = buffer.find(b"\r\n\r\n", searched, MAX_HEAD_BYTES)
        if end < 0:
            if len(buffer) >= MAX_HEAD_BYTES:
                raise AppError(
                    f"the app wrote no end of a head in {MAX_HEAD_BYTES} bytes to the socket"
                )
            return None
        lines = bytes(buffer[:end]).split(b"\r\n")
        return ResponseHead(
            _status(lines[0]), [_header(line) for line in lines[1:]], bytes(buffer[end + 4 :])
        )


_OWN_HEADERS = frozenset(
    {
        # The server makes them for its own handshake.
        b"upgrade",
        b"connection",
        b"sec-websocket-accept",
        b"sec-websocket-version",
        b"date",
        b"server",
        # A 101 has no body.
        b"content-length",
        b"content-type",
        b"transfer-encoding",
    }
)


def accept_arguments(
    head: ResponseHead, offered: Iterable[str]
) -> tuple[str | None, list[tuple[bytes, bytes]]]:
    """The subprotocol and the other headers of a 101, for `websocket.accept` (WS-W-3).

    Raises AppError for a head that is not a 101, and for what the client has not offered.
    """
    if head.status != SWITCHING_PROTOCOLS:
        raise AppError(
            f"the app answered the handshake with {head.status} on the socket; "
            "return a WSGI response instead, or write the 101"
        )
    chosen = [value for name, value in head.headers if name == b"sec-websocket-protocol"]
    subprotocol = b",".join(chosen).decode("latin-1") if chosen else None
    if subprotocol is not None and subprotocol not in offered:
        raise AppError(
            f"the app chose the subprotocol {subprotocol!r}, the client offered {[*offered]}"
        )
    if any(name == b"sec-websocket-extensions" for name, _ in head.headers):
        raise AppError("the app chose an extension of WebSocket, and none was offered")
    others = (b"sec-websocket-protocol", *_OWN_HEADERS)
    return subprotocol, [pair for pair in head.headers if pair[0] not in others]


def _status(line: bytes) -> int:
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise AppError(
            f"the app wrote {line!r:.200} to the socket, expected the status line of HTTP/1.1"
        )
    return int(match[1])


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    value = value.strip(b" \t")
    if not colon or TOKEN.fullmatch(name) is None or _CONTROL.search(value) is not None:
        raise AppError(f"the app wrote the header line {line!r:.200} to the socket (RFC 9112 5)")
    return name.lower(), value

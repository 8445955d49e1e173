"""A WebSocket as the socket of its connection: `werkzeug.socket` and `gunicorn.socket`.

simple-websocket (Flask-Sock, Flask-SocketIO), eventlet.websocket and the sync side of websockets
take the server's connection out of the environ and speak RFC 6455 over it by themselves: they write
the 101, then frames. Here they find an object in memory that looks like that connection. What they
write is parsed, and what they read is made, in their own threads; only messages cross to the loop.

Locks: `_writing` guards the parsers, `_reading` the bytes that wait to be read. Neither is held
while a thread waits, so two threads that write at the same time send their messages in either
order, each whole.
"""

import errno
import socket
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, Self

from .._crossing.readiness import Readiness
from .._protocol.close_codes import INTERNAL_ERROR, NO_STATUS, NORMAL
from .._protocol.websocket_frames import (
    BINARY,
    CLOSE,
    PONG,
    TEXT,
    Close,
    Event,
    FrameError,
    FrameParser,
    HeadParser,
    Ping,
    Pong,
    accept_arguments,
    close_payload,
    encode_frame,
    encode_frame_head,
)
from ..errors import connection_closed
from .websocket_call import WebSocketCall, counted_size

__all__ = ["MemorySocket"]

_DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)

COPIED_BYTES = 4096
"""A longer payload is read beside its frame's head, without a copy that joins the two."""

_Parsed = tuple[Any, list[Event], FrameError | None]
_NOTHING: _Parsed = (None, [], None)
"""Never changed."""


class MemorySocket:
    """The connection of one WebSocket, as far as a library for the server's side uses it.

    Any thread; two may read and write at once. It blocks unless a time-out is set, and a write
    blocks also with a time-out of 0. Beside what sockets raise, a write raises AppError for a head
    or a frame that cannot be passed on (WS-W-3, WS-W-9).
    """

    family: int = socket.AF_INET
    type: int = socket.SOCK_STREAM
    proto: int = 0

    def __init__(
        self, call: WebSocketCall, offered: Sequence[str], client: Any, server: Any
    ) -> None:
        self._call = call
        self._port = call.port
        self._offered = offered
        self._names = client, server
        self._timeout: float | None = None
        self._closed = False
        self._writing = threading.Lock()
        self._head: HeadParser | None = HeadParser()
        self._frames = FrameParser()
        self._reading = threading.Lock()
        self._waiting: deque[bytes | memoryview] = deque()
        """What is to be read next."""
        self._end_is_read = False
        self._readiness: Readiness | None = None

    # ------------------------------------------------------------ writing

    def send(self, data: Any, flags: int = 0) -> int:
        """Write all of `data`: a part of the head, or frames.

        Raises BrokenPipeError after the end, TimeoutError, AppError.
        """
        self._check_open()
        with self._writing:
            message = self._frames.small_message(data) if self._head is None else None
            accepts, events, failure = _NOTHING if message is not None else self._parsed(data)
        if message is not None:
            self._send_message(message)
            return len(data)
        if accepts is not None:
            self._call.accept(*accepts)
        for event in events:
            self._pass_on(event)
        if failure is not None:
            try:
                # The app's fault, whatever the frame's was; after the end it is none any more.
                if self._call.close(INTERNAL_ERROR, ""):
                    raise failure
            finally:
                failure = None  # its traceback leads to this frame
        if accepts is None and not events and self._port.has_ended():
            raise connection_closed()
        return len(data)

    def sendall(self, data: Any, flags: int = 0) -> None:
        self.send(data)

    def _parsed(self, data: Any) -> _Parsed:
        """Holding `_writing`: the arguments of `accept`, if the head is complete now; the events
        that are complete; what is wrong behind them.
        """
        accepts = None
        if self._head is not None:
            head = self._head.feed(data)
            if head is None:
                return None, [], None
            accepts = accept_arguments(head, self._offered)
            self._head, data = None, head.rest
        events: list[Event] = []
        try:
            events += self._frames.feed(data)
        except FrameError as error:
            return accepts, events, error
        return accepts, events, None

    def _pass_on(self, event: Event) -> None:
        if type(event) is str or type(event) is bytes:
            self._send_message(event)
        elif isinstance(event, Close):
            # The library reads the answer next, and then the end (WS-W-6).
            self._call.close(NORMAL if event.code == NO_STATUS else event.code, event.reason)
        elif isinstance(event, Ping):  # answered here: no ASGI message carries it (WS-W-8)
            if self._port.has_ended():
                raise connection_closed()
            self._port.put(Pong(event.payload), counted_size(event.payload))

    def _send_message(self, message: str | bytes) -> None:
        if not self._call.send(message, self._timeout or None):
            raise TimeoutError("timed out")

    # ------------------------------------------------------------ reading

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Up to `size` bytes of what a client would send; `b""` at the end.

        Raises TimeoutError, or BlockingIOError with a time-out of 0.
        """
        self._check_open()
        with self._reading:
            if self._waiting or self._end_is_read:
                return self._taken(size, flags)
        frames = self._received(flags)
        if len(frames) == 1 and len(frames[0]) <= size and not flags and self._readiness is None:
            return frames[0]
        with self._reading:
            self._waiting.extend(frames)
            return self._taken(size, flags)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        with memoryview(buffer) as view, view.cast("B") as octets:
            data = self.recv(nbytes or len(octets), flags)
            octets[: len(data)] = data
        return len(data)

    def _received(self, flags: int) -> list[bytes]:
        """Wait for the next message or the end: its frame, none at the end of the stream."""
        timeout = 0 if flags & _DONT_WAIT else self._timeout
        try:
            message = self._port.receive_from_thread(timeout)
        except TimeoutError:
            if timeout == 0:
                raise BlockingIOError(errno.EAGAIN, "nothing can be read now") from None
            raise
        if message is not None:
            return _frames_of(message)
        with self._reading:
            is_first, self._end_is_read = not self._end_is_read, True
        return self._last_frame() if is_first else []

    def _last_frame(self) -> list[bytes]:
        """The close frame before the end; none if the connection was lost (WS-W-6, WS-W-7)."""
        payload = close_payload(*self._port.end()) if self._port.was_opened() else None
        return [] if payload is None else [encode_frame(CLOSE, payload)]

    def _taken(self, size: int, flags: int) -> bytes:
        """Holding `_reading`: the next bytes, `b""` if there are none."""
        if not self._waiting:
            return b""
        first = self._waiting[0]
        data = first if len(first) <= size else memoryview(first)[:size]
        if not flags & socket.MSG_PEEK:
            if len(first) <= size:
                self._waiting.popleft()
            else:
                self._waiting[0] = memoryview(first)[size:]
        if self._readiness is not None:
            self._readiness.has_bytes = bool(self._waiting)
            self._readiness.update()
        return data if isinstance(data, bytes) else bytes(data)

    def fileno(self) -> int:
        """A descriptor that is readable while `recv` would not wait; -1 once closed.

        It is made when first asked for, and only for select() and its like.
        """
        with self._reading:
            if self._closed:
                return -1
            readiness = self._readiness
            if readiness is None:
                readiness = self._readiness = Readiness(self._port, bool(self._waiting))
        readiness.update()
        return readiness.fileno()

    # ------------------------------------------------------------ the end

    def shutdown(self, how: int) -> None:
        """Without a close frame before it, the app has broken off: 1011 (WS-W-5)."""
        self._check_open()
        if how != socket.SHUT_RD:
            self._call.close(INTERNAL_ERROR, "")

    def close(self) -> None:
        """As `shutdown`; then only `close` may be called."""
        with self._reading:
            if self._closed:
                return
            self._closed = True
            readiness, self._readiness = self._readiness, None
        self._call.close(INTERNAL_ERROR, "")
        if readiness is not None:
            readiness.close()

    def detach(self) -> int:
        raise OSError(errno.EOPNOTSUPP, "no descriptor stands behind this WebSocket")

    def dup(self) -> Self:
        raise OSError(errno.EOPNOTSUPP, "no descriptor stands behind this WebSocket")

    def _check_open(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "the socket is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # ------------------------------------------------------------ settings

    def settimeout(self, seconds: float | None) -> None:
        self._timeout = seconds

    def gettimeout(self) -> float | None:
        return self._timeout

    def setblocking(self, flag: bool) -> None:
        self._timeout = None if flag else 0.0

    def getblocking(self) -> bool:
        return self._timeout != 0

    @property
    def timeout(self) -> float | None:
        return self._timeout

    def getpeername(self) -> Any:
        return _address(self._names[0])

    def getsockname(self) -> Any:
        return _address(self._names[1])

    def setsockopt(self, *args: Any) -> None:
        """Options of TCP have no meaning here."""

    def getsockopt(self, *args: Any) -> int:
        return 0


def _frames_of(message: str | bytes | Pong) -> list[bytes]:
    """The frame of a message; a long payload beside its head."""
    if isinstance(message, str):
        opcode, payload = TEXT, message.encode()
    elif isinstance(message, bytes):
        opcode, payload = BINARY, message
    else:
        opcode, payload = PONG, message.payload
    if len(payload) < COPIED_BYTES:
        return [encode_frame(opcode, payload)]
    return [encode_frame_head(opcode, len(payload)), payload]


def _address(pair: Any) -> Any:
    """As a socket gives it: a pair, or the path of a Unix socket."""
    if not pair:
        return "", 0
    name, port = [*pair, None][:2]
    return name if port is None else (name, port)

"""The worker's half of a WebSocket: the call of the app around it, and the app's way to the port.

The app has one environ and two ways to go on: it makes the handshake by one of the sockets in it,
or it answers as to any request. The port decides which it was: it is opened once, or left unopened.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from .._crossing.message_port import MessagePort
from .._protocol.close_codes import GOING_AWAY, NO_CLOSE_FRAME
from ..errors import BridgeClosed, client_reads_nothing
from ..typing import Environ, Headers, WSGIApp

__all__ = [
    "LOST",
    "MESSAGE_BYTES",
    "SHUTTING_DOWN",
    "WIDEST_CHARACTER_BYTES",
    "End",
    "WebSocketCall",
    "WebSocketRefused",
    "counted_size",
]

End = tuple[int, str]
"""How a WebSocket ended: the close code, and the reason."""

LOST: End = (NO_CLOSE_FRAME, "")
"""The connection ended without a close frame."""
SHUTTING_DOWN: End = (GOING_AWAY, "the server is shutting down")

MESSAGE_BYTES = 256
"""What a message counts for beside its payload: about the memory that it takes."""

WIDEST_CHARACTER_BYTES = 4
"""The bytes of a character in memory, and in UTF-8, at most."""

_REPLACES_THE_HEAD = (Exception, Exception(), None)
"""An `exc_info` for start_response, by which a second call replaces the first (PEP 3333)."""


_WHOLE = (list, tuple, type(None))


class WebSocketRefused(BridgeClosed):
    """The app wanted the handshake and did not get it; its client is answered 503."""


class PoolCall(Protocol):
    """As much of an AppCall as is used here."""

    def detach(self) -> bool: ...


def counted_size(payload: str | bytes) -> int:
    """The bytes that a message counts for in the budgets."""
    if isinstance(payload, str) and not payload.isascii():
        return MESSAGE_BYTES + WIDEST_CHARACTER_BYTES * len(payload)
    return MESSAGE_BYTES + len(payload)


class WebSocketCall:
    """A WSGI app around the app, for the one request that may become a WebSocket (WS-W-4).

    An AppCall runs it. After the handshake it gives an empty response, which nobody looks at. Its
    other methods may be called in any thread.
    """

    __slots__ = (
        "_answered",
        "_app",
        "_forward",
        "_refused",
        "_stall_timeout",
        "_write",
        "call",
        "port",
        "status",
    )

    def __init__(self, app: WSGIApp, port: MessagePort, stall_timeout: float) -> None:
        self._app = app
        self._stall_timeout = stall_timeout
        self._answered = self._refused = False
        self._forward: Callable[..., Callable[[bytes], object]]
        self._write: Callable[[bytes], object]
        self.port: MessagePort = port
        self.status: int = 200
        """What the app's response said after the handshake."""
        self.call: PoolCall | None = None
        """Runs this, in the pool. None when the exchange is over, to break the cycle."""

    # ------------------------------------------------------------ the worker

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        self._forward = start_response
        chunks = None
        try:
            iterable: Any = self._app(environ, self._start_response)
            if type(iterable) not in _WHOLE:
                chunks = self._chunks(iterable)  # the handshake may be made on the way
                return chunks
            # None is not missed after the handshake, and before it AppCall complains.
            return self._empty() if self._leave(None) else iterable
        except BaseException as error:
            if not self._leave(error):
                raise
            return self._empty()
        finally:
            if chunks is None:
                self._forward = self._write = _over  # they lead to the AppCall, which holds this

    def _chunks(self, iterable: Iterable[bytes]) -> Iterator[bytes]:
        """The app's response up to the handshake; after that its chunks are dropped."""
        try:
            try:
                for chunk in iterable:
                    if self._answers_by(chunk):
                        yield chunk
            finally:
                close = getattr(iterable, "close", None)
                if close is not None:
                    close()
            if self._leave(None):
                self._empty()
        except BaseException as error:
            if not self._leave(error):
                raise
            self._empty()
        finally:
            self._forward = self._write = _over

    def _leave(self, error: BaseException | None) -> bool:
        """The app's call is over, by `error` or without.

        Whether it has made the handshake, and `error` is a way to end that. Raises WebSocketRefused
        if the app was refused it.
        """
        client_left = self.port.has_ended()
        opened = self.port.leave_from_thread(LOST)
        if not opened and self._refused and not self._answered:
            raise WebSocketRefused("no WebSocket can be opened now") from error
        if error is None or not opened:
            return opened
        # Libraries leave gunicorn and werkzeug by these, which know no other way.
        if isinstance(error, StopIteration | ConnectionError):
            return True
        return client_left and isinstance(error, OSError)

    def _empty(self) -> Sequence[bytes]:
        """An empty response, whatever the app had begun before the handshake."""
        self._forward("200 OK", [], _REPLACES_THE_HEAD)
        return []

    def _answers_by(self, chunk: bytes) -> bool:
        """Whether the app answers by `chunk`, since it has not made the handshake.

        From the first bytes on it cannot.
        """
        if not chunk:  # a step; AppCall complains of what are no bytes
            return not self.port.was_opened()
        self._answered = not self.port.leave_from_thread(LOST, unless_open=True)
        return self._answered

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        try:
            if not self.port.was_opened():
                self._write = self._forward(status, headers, exc_info)
            elif (code := str(status)[:3]).isdecimal():
                self.status = int(code)
        finally:
            del exc_info  # its traceback may lead to this frame
        return self._written

    def _written(self, chunk: bytes) -> None:
        if self._answers_by(chunk):
            self._write(chunk)

    # ------------------------------------------------------------ what the sockets call

    def accept(self, subprotocol: str | None = None, headers: Headers | None = None) -> None:
        """Make the handshake, unless it is made (WS-W-3, WS-W-11).

        Raises ConnectionRefusedError if the pool has no thread left for it, BrokenPipeError if the
        client has left, the app has answered otherwise, or the bridge is closing.
        """
        if self.port.was_opened() and not self.port.has_ended():
            return
        call = self.call
        self._refused = True
        if call is not None and not call.detach():
            raise ConnectionRefusedError("max_streams threads of the bridge are streaming")
        self.port.open_from_thread(
            {"type": "websocket.accept", "subprotocol": subprotocol, "headers": headers or []}
        )
        self._refused = False

    def send(self, payload: str | bytes, timeout: float | None = None) -> bool:
        """Send one message; wait while the client has enough to read (WS-W-10).

        False after `timeout` seconds, if that is less than `stall_timeout`, in which the client has
        read nothing. Raises BrokenPipeError after the end, and ClientStalled: the loop, whose
        send() has not returned for as long, then ends the exchange.
        """
        if isinstance(payload, str):
            message: dict[str, Any] = {"type": "websocket.send", "text": payload}
            size = counted_size(payload)
        else:
            message = {"type": "websocket.send", "bytes": payload}
            size = MESSAGE_BYTES + len(payload)
        waits = stall_timeout = self._stall_timeout
        if timeout is not None and timeout < stall_timeout:
            waits = timeout
        if self.port.send_from_thread(message, size, waits):
            return True
        if waits < stall_timeout:
            return False
        raise client_reads_nothing(stall_timeout)

    def close(self, code: int, reason: str) -> bool:
        """Close with a code that may go on a wire (WS-W-6). False if it was closed before."""
        message = {"type": "websocket.close", "code": code, "reason": reason}
        return self.port.close_from_thread(message, (code, reason))


def _over(*_: object) -> Any:
    """`start_response` and `write` after the app's call."""

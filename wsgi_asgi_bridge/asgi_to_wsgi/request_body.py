"""A request's body: `RequestBody` reads it in the calling thread, `ReceivedBody` holds what has
been read until the app's `receive()` takes it (A-IN-1).
"""

import errno
import io
import logging
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Final

from .._crossing.calling_thread import CallingThread
from .._crossing.calling_thread_executor import call_from_task
from .._crossing.loops import LoopEvent
from ..errors import BridgeError, ClientDisconnected
from ..typing import Environ, Message
from .disconnects import client_disconnected

__all__ = ["BodyState", "ReceivedBody", "RequestBody", "request_body"]

logger: logging.Logger = logging.getLogger("wsgi_asgi_bridge")


class BodyState(Enum):
    """Whether more of the body follows the parts that have been read."""

    MORE = "more parts, or the end"
    COMPLETE = "nothing, the body is complete"
    BROKEN = "nothing, the body ends before its declared length"


# An attribute of an Enum class costs a call in Python 3.11.
_MORE: Final = BodyState.MORE
_COMPLETE: Final = BodyState.COMPLETE
_BROKEN: Final = BodyState.BROKEN


class RequestBody:
    """Reads `wsgi.input` of one request, in the calling thread.

    `length`: bytes of the body, None if it is not declared. `block`: bytes read at a time.
    `held_back`: the client sends the body only after `100 Continue`, which the first read causes.
    """

    __slots__ = ("_at_once", "_block", "_input", "_remaining", "empty", "small")

    def __init__(
        self,
        source: io.BufferedIOBase | None,
        length: int | None,
        block: int,
        *,
        held_back: bool = False,
    ) -> None:
        self._input = source
        self._block = block
        self._remaining = length
        self.empty: bool = length == 0
        self.small: bool = length is not None and 0 < length <= block and not held_back
        """Whether to read the body before the app starts: then `receive()` costs no hand-over
        (A-IN-1).
        """
        # read1() of a plain BufferedReader, which wsgiref and werkzeug give, returns what has come
        # without waiting for a whole block. Other inputs are read by read() only: PEP 3333 has no
        # read1(), so a middleware that counts or limits an input need not wrap it.
        self._at_once = (
            source.read1 if type(source) is io.BufferedReader and not self.small else None
        )

    def read_all(self) -> tuple[bytes, BodyState]:
        """Return all that is left, as `read` does; raise what it raises."""
        parts: list[bytes] = []
        while True:
            part, state = self.read()
            parts.append(part)
            if state is not _MORE:
                return parts[0] if len(parts) == 1 else b"".join(parts), state

    def read(self) -> tuple[bytes, BodyState]:
        """Return the next part and what follows it.

        Raises ClientDisconnected if the input raises, since then the client has left. If the input
        ends early, returns BROKEN: the client may have shut down only its sending side.
        """
        remaining = self._remaining
        if remaining == 0:
            return b"", _COMPLETE
        size = self._block if remaining is None else min(self._block, remaining)
        try:
            part = self._part(size)
        except BridgeError:
            raise  # from a bridge around this one, such as BodyTooLarge
        except Exception as exc:
            logger.debug("wsgi.input.read() raised; taken for a disconnect", exc_info=True)
            raise ClientDisconnected(
                errno.EPIPE, "the client disconnected before the end of the request's body"
            ) from exc
        if remaining is None:
            return (part, _MORE) if part else (b"", _BROKEN if part is None else _COMPLETE)
        if not part:
            return b"", _BROKEN
        self._remaining = remaining - len(part)
        return part, _MORE if self._remaining else _COMPLETE

    def _part(self, size: int) -> bytes | None:
        """Return at most `size` bytes, b"" at the end, None if a non-blocking connection has
        nothing to read now.
        """
        if self._at_once is not None:
            part = self._at_once(size)
            if part:
                return part
            # read1() returns b"" also if a connection would block; read() then returns None.
        return self._input.read(size) if self._input is not None else b""


class ReceivedBody:
    """The parts that have been read and not yet taken, and the app's `receive()`.

    The loop's own, except for the methods named `_from_thread`. `lost_client_in_loop` is called
    with the error of a read that fails.
    """

    __slots__ = (
        "_caller",
        "_closed",
        "_delivered",
        "_lost_client_in_loop",
        "_parts",
        "_reader",
        "_reading",
        "_reads_on",
        "_state",
        "receivers",
    )

    def __init__(
        self,
        caller: CallingThread,
        reader: RequestBody,
        lost_client_in_loop: Callable[[BridgeError], None],
    ) -> None:
        self._caller = caller
        self._reader = reader
        self._lost_client_in_loop = lost_client_in_loop
        self._parts: list[bytes] = []  # mostly one: the next is read when the app asks
        self._state = _COMPLETE if reader.empty else _MORE
        self._delivered = False
        """Whether the app has received the end, or the disconnect of a body that is broken."""
        self._reading = False
        """Whether the calling thread has been asked for a part."""
        self._reads_on = False
        """Whether the app's last `receive()` took a part."""
        self._closed = False
        self.receivers: list[LoopEvent] = []
        """Tasks of the app that wait in `receive()`."""

    def read_from_thread(self) -> None:
        """Read one part, and post it or the error to the loop. A job of the calling thread."""
        if self._caller.is_over():
            return
        try:
            part, state = self._reader.read()
        except BridgeError as exc:
            self._caller.loop.post(partial(self._lost_client_in_loop, exc))
            return
        except BaseException:  # Ctrl-C, which below `async_to_sync` gets no further than asgiref
            self._caller.loop.post(partial(self._lost_client_in_loop, client_disconnected()))
            raise
        self._caller.loop.post(partial(self.add_in_loop, part, state))

    def add_in_loop(self, part: bytes, state: BodyState) -> None:
        """Add `part`, which has been read; `state` says whether more follows."""
        self._reading = False
        if part:
            self._parts.append(part)
        self._state = state
        if self.receivers:
            self._wake_receivers()

    def close_in_loop(self) -> None:
        """Let `receive()` return a disconnect from now on: the request has ended."""
        self._closed = True
        self._lost_client_in_loop = _nothing  # break the cycle: the task refers to this object
        if self.receivers:
            self._wake_receivers()

    def is_read(self) -> bool:
        """Whether nothing of the body is left for the calling thread to read."""
        return self._state is _COMPLETE

    def has_delivered_break(self) -> bool:
        return self._delivered and self._state is _BROKEN

    async def receive(self) -> Message:
        """The app's `receive()`; any number of its tasks may wait here."""
        asked = False
        while True:
            message = self._next_message()
            if message is not None:
                return message
            if self._state is _MORE and not self._reading:
                if not (asked or self._reads_on):
                    # A read may block for as long as the client likes, and delays the response.
                    # Frameworks poll by a receive() that they cancel at once: it ends here, before
                    # a read. An app whose last receive() took a part is reading, so skip this.
                    asked = True
                    await self._caller.loop.checkpoint()
                    continue
                self._reading = call_from_task(self._caller, self.read_from_thread)
            event = self._caller.loop.create_event()
            self.receivers.append(event)
            try:
                await event
            finally:
                self.receivers.remove(event)

    def _next_message(self) -> Message | None:
        """Return the message that `receive()` returns now; None if it has to wait.

        A broken body ends in a disconnect. The app may still answer, since a client that has only
        shut its sending side still reads.
        """
        if self._closed:
            return {"type": "http.disconnect"}
        if self._parts or (self._state is _COMPLETE and not self._delivered):
            part = self._parts.pop(0) if self._parts else b""
            self._delivered = self._state is _COMPLETE and not self._parts
            self._reads_on = True
            return {"type": "http.request", "body": part, "more_body": not self._delivered}
        if self._state is _BROKEN:
            self._delivered = True
            return {"type": "http.disconnect"}
        return None

    def _wake_receivers(self) -> None:
        for event in self.receivers:
            self._caller.loop.set_event(event)


def _nothing(error: BridgeError) -> None: ...


_NO_BODY = RequestBody(None, 0, 0)
"""Shared by all requests without a body: reading changes nothing in it."""


def request_body(environ: Environ, length: int | None, block: int) -> RequestBody:
    """Return the reader of a request's body; `length` is its CONTENT_LENGTH."""
    if length == 0 or (length is None and not _has_undeclared_body(environ)):
        return _NO_BODY
    # Not read before the app asks for it: a read sends `100 Continue`, and the app may refuse.
    held_back = "HTTP_EXPECT" in environ
    return RequestBody(environ.get("wsgi.input"), length, block, held_back=held_back)


def _has_undeclared_body(environ: Environ) -> bool:
    """Whether there may be a body without a CONTENT_LENGTH that the server ends (A-IN-1).

    Some servers set `wsgi.input_terminated` on every request; a GET without a header that announces
    a body has none.
    """
    if not environ.get("wsgi.input_terminated"):
        return False
    if "HTTP_TRANSFER_ENCODING" in environ:
        return True
    if environ.get("REQUEST_METHOD", "GET") not in ("GET", "HEAD"):
        return True
    # A WSGIToASGI removes that header; its `wsgi.input` is a BytesIO unless the body streams.
    return "asgi.scope" in environ and isinstance(environ.get("wsgi.input"), io.BufferedReader)

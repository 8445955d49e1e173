"""An event stream whose connection the loop has taken over, so that no thread waits for it.

    the loop                              the calling thread
    the app sends the head: offer    ->   waits in `take_from_thread`
    (the app goes on; what it sends       called by the server, and a plain connection?
    waits for the thread as ever)         no: the response is the thread's, as any other
                                          yes: start_response(), take_over(), leave_from_thread()
    adopt the connection, and what   <-   posts both, returns an iterable of one empty chunk
    the thread has not taken              the server writes its head to the stand-in
    read that head, pass it on
    send the body, framed as the head says

Why the thread takes over, and not the loop. The loop would have to wait for an answer: only the
thread can see who has called it. An app may send from thread-sensitive code, which runs in that
very thread, and then both would wait for ever. And while the thread itself replaces the descriptor,
the server that has called it cannot close it.

Why nothing depends on who is quicker. The thread sees the offer before any chunk, end or error,
whatever the app has done since. Chunks are put under the lock under which the thread leaves, so
the loop gets those that were put before, and keeps those that come after (`put`) behind them.
"""

import contextvars
import logging
from enum import Enum
from functools import partial
from socket import socket
from typing import Final, Protocol, Self

from .._crossing.calling_thread import CallingThread, Leftover
from .._crossing.loops import BackgroundTask, LoopEvent
from .._crossing.socket_stream import (
    FULL_BYTES,
    SocketStream,
    StreamCallbacks,
    open_socket_stream,
)
from .._crossing.stand_in import Handover, receive_some, take_over
from .._protocol.asgi_response import ASGIResponse
from .._protocol.server_head import Framing, ServerHead, framed_end, framed_part
from ..errors import ServerError
from ..typing import Environ, StartResponse
from .connection import Connection, find_connection
from .released import EVENT_STREAM
from .runtime import InFlight, Runtime
from .server_call import is_called_by_server

__all__ = ["EventStream"]

logger: logging.Logger = logging.getLogger("wsgi_asgi_bridge")

FINISH_SECONDS = 10.0
"""How long a client may send or read nothing after the end of its stream."""

LEAST_PART_BYTES = 512
"""What even an empty part counts for when the loop's other tasks are due."""


class BodyEnd(Enum):
    """How the body has ended."""

    OPEN = "not yet"
    WHOLE = "with its last part"
    CUT = "before it"


# An attribute of an Enum class costs a call in Python 3.11.
_OPEN: Final = BodyEnd.OPEN
_WHOLE: Final = BodyEnd.WHOLE
_CUT: Final = BodyEnd.CUT


class Streaming(InFlight, Protocol):
    """What this module uses of the app's task."""

    caller: CallingThread
    response: ASGIResponse

    def caller_left_in_loop(self) -> None: ...

    def bridge_closes_in_loop(self) -> None: ...

    def stream_ended_in_loop(self) -> None: ...


class EventStream:
    """One event stream: offered to its thread, then taken over or not.

    The loop's own, save the methods named `_from_thread`.
    """

    kind: str = EVENT_STREAM

    __slots__ = (
        "_body_end",
        "_connection",
        "_framing",
        "_handover",
        "_is_aborted",
        "_pending",
        "_pending_bytes",
        "_room",
        "_runtime",
        "_serving",
        "_stream",
        "_task",
        "_unbroken",
        "is_open",
        "may_go_on",
    )

    def __init__(self, task: Streaming, runtime: Runtime) -> None:
        self._task: Streaming | None = task
        """None once the connection is closed or left to the thread: the task refers to this."""
        self._runtime = runtime
        self.is_open: bool = False
        """Whether the connection is taken over and not closed yet."""
        self.may_go_on: bool = True
        """The same, or the thread has not answered the offer yet."""
        self._connection: Connection | None = None  # the calling thread's
        self._stream: SocketStream | None = None
        self._handover: Handover | None = None
        """Set by the thread, for good: a child that is forked at any moment closes what is open."""
        self._framing: Framing | None = None
        """None until that head is passed on."""
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        """Of them, those that the app has sent since the thread left."""
        self._room: list[LoopEvent] = []
        self._unbroken = 0
        self._body_end = _OPEN
        self._is_aborted = False
        self._serving: BackgroundTask | None = None

    @classmethod
    def for_response(cls, task: Streaming, runtime: Runtime, *, body_is_read: bool) -> Self | None:
        """Return a stream if the response, of which the head is known, may go on without its thread
        (R-1). If there are `max_released` connections, the thread stays.
        """
        if not (body_is_read and _needs_no_thread(task.response, runtime)):
            return None
        stream = cls(task, runtime)
        return stream if runtime.released.reserve(stream) else None

    # ------------------------------------------------------------ the calling thread

    def may_leave_from_thread(self, environ: Environ, start_response: StartResponse) -> bool:
        """Whether the thread may leave (R-1, R-2). False: the offer is over."""
        if is_called_by_server(start_response):
            connection = find_connection(environ)
            if connection is not None and not connection.keeps_thread:
                self._connection = connection
                return True
        self._runtime.handle.post(self.withdraw)
        return False

    def leave_from_thread(self, caller: CallingThread) -> Leftover | None:
        """Take the connection over, give it to the loop, and leave the exchange to it.

        After `may_leave_from_thread` and the server's `start_response`. None: the thread stays.
        """
        connection, self._connection = self._connection, None
        assert connection is not None
        loop = self._runtime.handle
        try:
            handover = self._handover = Handover(*take_over(connection.held))
        except OSError:
            logger.warning("an event stream keeps its thread", exc_info=True)
            loop.post(self.withdraw)
            return None
        left: Leftover | None = None
        is_posted = False
        try:
            # A further request: the server would serve it on the stand-in, and answer nobody.
            connection.take_read_ahead()
            left = caller.leave_from_thread()
            is_posted = left is not None and loop.post(partial(self.adopt, handover, left))
        finally:
            # Ctrl-C, the loop's end, or another thread's close(): then the client gets an end.
            if not is_posted and handover.closed():
                loop.post(self.lose)
        return left

    # ------------------------------------------------------------ taken over or not

    def withdraw(self) -> None:
        """The connection is not taken over. May be called again."""
        if not self.is_open:
            self.may_go_on = False
            self._runtime.released.discard(self)
            self._wake_senders()
            task, self._task = self._task, None
            if task is not None:
                task.stream_ended_in_loop()

    def lose(self) -> None:
        """The same, but the thread may have left all the same: for the app the client has."""
        if self._task is not None:
            self._task.caller_left_in_loop()
        self.withdraw()

    def adopt(self, handover: Handover, left: Leftover) -> None:
        """Go on where the thread has left, unless Ctrl-C has come between: `lose` follows then."""
        sockets = handover.taken()
        if sockets is None:
            return
        (ours, far), task, runtime = sockets, self._task, self._runtime
        assert task is not None
        self.is_open = True
        runtime.released.took_over(self)
        runtime.in_flight.add(task)
        self._pending[:0] = left.chunks
        if left.error is not None and not self._is_aborted:
            self.fail(left.error)
        elif left.ended:
            self._body_end = _WHOLE
        # In an empty context: it belongs to the connection, not to who has posted this.
        serve = partial(self._serve, ours, far)
        self._serving = runtime.handle.spawn(serve, contextvars.Context())
        if not runtime.takes_requests:
            self.bridge_closes_in_loop()

    async def _serve(self, ours: socket, far: socket) -> None:
        """Open the stream, pass the server's head on, and leave the stand-in to be drained."""
        try:
            await self._open(ours)
            await self._pass_head_on(far)
        except OSError:
            self._closed()
        except BaseException:  # cancelled: the loop ends
            far.close()
            if self._stream is None:
                self._closed()
            else:
                self._stream.abort()
            raise
        finally:
            self._serving = None
        self._runtime.released.drain(far)

    async def _open(self, ours: socket) -> None:
        detects = self._runtime.settings.detects_disconnects
        self._stream = await open_socket_stream(
            self._runtime.handle,
            ours,
            StreamCallbacks(
                on_data=_drop,  # a further request, which the close answers
                on_end=self._client_left if detects else _nothing,
                on_closed=self._closed,
            ),
        )
        if self._is_aborted:
            self._stream.abort()

    async def _pass_head_on(self, far: socket) -> None:
        """Read the head from the stand-in, and send it with what has come since."""
        stream, task = self._stream, self._task
        assert stream is not None
        if task is None or self._is_aborted:
            return
        head = ServerHead(task.response.status[:3])
        try:
            while data := await receive_some(self._runtime.handle, far):
                if head.feed(data):
                    break
            else:
                raise ServerError("the server has written no whole head")
        except (ServerError, OSError) as error:
            if not stream.closed:
                logger.error("an event stream ends before it begins: %s", error)
                self._client_left()
            return
        self._framing = framing = head.framing
        pending, self._pending = self._pending, []
        self._pending_bytes = 0
        framed = (piece for part in pending for piece in framed_part(framing, part))
        stream.write(head.lines, *framed)
        self._wake_senders()
        if self._body_end is not _OPEN:
            self._conclude()

    # ------------------------------------------------------------ the body

    def put(self, part: bytes, last: bool) -> bool:
        """Send one part, when the head is sent; `last` ends the body with it.

        True: `wait_for_room` has to follow.
        """
        if last and self._body_end is _OPEN:
            self._body_end = _WHOLE
        stream, framing = self._stream, self._framing
        if framing is None or stream is None:
            self._pending.append(part)
            self._pending_bytes += len(part)
            return self._pending_bytes > FULL_BYTES
        self._unbroken += len(part) + LEAST_PART_BYTES
        stream.write(*framed_part(framing, part))
        if last:
            self._conclude()
        return self._unbroken > FULL_BYTES or stream.is_full()

    async def wait_for_room(self) -> None:
        """Wait while the client takes less than the app sends, and give other tasks their turn."""
        loop = self._runtime.handle
        while self._framing is None and self._pending_bytes > FULL_BYTES and self.may_go_on:
            event = loop.create_event()
            self._room.append(event)
            await event
        if self._stream is not None:
            await self._stream.wait_for_room()
        if self._unbroken > FULL_BYTES:
            self._unbroken = 0
            await loop.checkpoint()

    def fail(self, error: BaseException) -> None:
        """The app has ended with `error` before the end of its body, and the thread has left."""
        if self._body_end is _OPEN:
            logger.error("the app failed in the middle of an event stream", exc_info=error)
            self._body_end = _CUT
            if self._framing is not None:
                self._conclude()

    def _conclude(self) -> None:
        """End the connection as the body has ended: cut, it must not look whole (R-4)."""
        stream, framing = self._stream, self._framing
        assert stream is not None
        assert framing is not None
        if self._body_end is _WHOLE:
            stream.write(*framed_end(framing))
        elif framing is Framing.UNTIL_CLOSE:
            self.abort()
            return
        if self._runtime.takes_requests:
            stream.finish(FINISH_SECONDS, self.abort)
        else:
            stream.close()  # the process ends soon: no wait for the client's end

    # ------------------------------------------------------------ the end

    def _client_left(self) -> None:
        if self._task is not None:
            self._task.caller_left_in_loop()
        self.abort()

    def _closed(self) -> None:
        """The connection is closed."""
        task, self._task = self._task, None
        self.is_open = self.may_go_on = False
        self._runtime.released.discard(self)
        self._wake_senders()
        if task is not None:
            task.caller_left_in_loop()
            task.stream_ended_in_loop()

    def _wake_senders(self) -> None:
        waiting, self._room = self._room, []
        for event in waiting:
            self._runtime.handle.set_event(event)

    def bridge_closes_in_loop(self) -> None:
        """Cut the body; of one that has ended the rest is sent (R-5)."""
        if not self.is_open:
            return  # the thread is still there
        if self._body_end is _OPEN:
            self._body_end = _CUT
            if self._task is not None:
                self._task.bridge_closes_in_loop()
        if self._framing is not None:
            self._conclude()
        elif self._body_end is _CUT:
            self.abort()

    def abort(self) -> None:
        """Close the connection at once, cut where it is."""
        self._is_aborted = True
        if (stream := self._stream) is not None:
            is_sent = self._body_end is _WHOLE and not stream.kept_bytes()
            ends_body = self._framing is Framing.UNTIL_CLOSE
            (stream.reset if ends_body and not is_sent else stream.abort)()

    def forget_after_fork(self) -> None:
        if self._handover is not None:
            self._handover.close_in_child()


def _needs_no_thread(response: ASGIResponse, runtime: Runtime) -> bool:
    """After a 5xx the app's error is to be raised by `close()` (A-OUT-8), and `background_wait` is
    a wait in it (A-OUT-9).
    """
    return (
        response.is_endless()
        and response.status[0] != "5"
        and runtime.settings.release != "off"
        and not runtime.settings.background_wait
        and runtime.takes_requests
    )


def _nothing() -> None: ...


def _drop(data: bytes) -> None: ...

"""How a request ends in the loop.

    end            set by                               the app's receive(), send()
    RUNNING        -                                    work
    COMPLETED      the last part of the response        disconnect; send() as ASGIResponse says
    DISCONNECTED   the calling thread has left, or the  disconnect; send() raises
                   app ends after a broken body
    FAILED         the app ends without a response      disconnect; send() raises
    CLOSED         the bridge is closed                 disconnect; send() raises
    REJECTED       the bridge is being closed           the app is not called

`_finish` sets it once and counts the request.
"""

from enum import Enum
from typing import Final, Protocol

from .._crossing.calling_thread import CallingThread
from .._crossing.loops import BackgroundTask
from .._protocol.asgi_response import ASGIResponse, ASGIResponseState
from ..errors import ClientDisconnected, bridge_shut_down
from .context_changes import NotedChanges
from .disconnects import client_disconnected
from .event_stream import EventStream
from .request_body import ReceivedBody
from .runtime import Runtime

__all__ = [
    "CLOSED",
    "COMPLETED",
    "DISCONNECTED",
    "FAILED",
    "REJECTED",
    "RUNNING",
    "End",
    "RequestEnd",
]


class End(Enum):
    """How a request has ended; see the module's table. The values name the counters."""

    RUNNING = "running"
    COMPLETED = "completed"
    DISCONNECTED = "disconnected"
    FAILED = "failed"
    CLOSED = "closed"
    REJECTED = "rejected"


# An attribute of an Enum class costs a call in Python 3.11.
RUNNING: Final = End.RUNNING
COMPLETED: Final = End.COMPLETED
DISCONNECTED: Final = End.DISCONNECTED
FAILED: Final = End.FAILED
CLOSED: Final = End.CLOSED
REJECTED: Final = End.REJECTED


class Held(Protocol):
    """The last part of a response, which waits for the end of the app."""

    def release(self) -> None: ...

    def release_with(self, error: BaseException | None) -> BaseException | None: ...


class RequestEnd(NotedChanges):
    """The part of an app's task that ends its request. The loop's own."""

    # Set by AppTask, without one more call for each request.
    __slots__ = (
        "_end",
        "_held",
        "_received",
        "_runtime",
        "_sending",
        "_task",
        "caller",
        "response",
        "stream",
    )

    caller: CallingThread
    response: ASGIResponse
    stream: EventStream | None
    """What the response goes on in if its thread leaves early (R-1)."""
    _runtime: Runtime
    _task: BackgroundTask | None
    _end: End
    _held: Held | None
    _received: ReceivedBody | None
    _sending: int
    """How many tasks of the app wait in `send()`."""

    def _finish(self, end: End) -> None:
        """End the request unless it has ended: count it, and let `receive()` give a disconnect."""
        if self._end is not RUNNING:
            return
        self._end = end
        counts = self._runtime.counts
        if end is COMPLETED:
            counts.completed += 1
            counts.background += 1
        else:
            counts.add(end.value)
        if self._received is not None:
            self._received.close_in_loop()

    def caller_left_in_loop(self) -> None:
        """The calling thread has left before the end, or is about to: for the app that is the
        client's disconnect (A-OUT-3).

        An app that waits in `receive()` or `send()` gets the disconnect there. If it is silent in
        the middle of its response, it is cancelled, as frameworks do to their own streams.
        """
        if self.stream is not None and not self.caller.left_early:
            self.stream.withdraw()
        self._break_off(DISCONNECTED)

    def bridge_closes_in_loop(self) -> None:
        """The same for a stream without a thread, as the bridge is being closed (R-5)."""
        self._break_off(CLOSED)

    def _break_off(self, end: End) -> None:
        if self._end is not RUNNING:
            return
        waits = self._sending or (self._received is not None and self._received.receivers)
        self._finish(end)
        is_silent = not waits and self.response.state is ASGIResponseState.STARTED
        if is_silent and self._task is not None:
            self._task.cancel()

    def _disconnected(self) -> ClientDisconnected:
        """End the request since the thread has finished; return what `send()` raises (A-OUT-3)."""
        self._finish(DISCONNECTED)
        return client_disconnected()

    def shut_down_in_loop(self) -> None:
        """End the thread's wait, and the app with its background work: the bridge is closed."""
        if self._held is not None:
            self._held.release()
        self.caller.fail_in_loop(bridge_shut_down())
        if self._task is not None:
            self._task.cancel()  # before _finish: a receive() of this task is cancelled first
        self._finish(CLOSED)
        if self.stream is not None:
            self.stream.abort()

    def stream_ended_in_loop(self) -> None:
        """The stream's connection is closed, or stays with the thread. The app may have ended."""
        if self._task is None:
            self._runtime.ended_in_loop(self)

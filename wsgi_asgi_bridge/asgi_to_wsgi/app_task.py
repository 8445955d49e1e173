"""The loop's half of a request: the app's task, its `send()`, and how it ends.

    end            set by                               the app's receive(), send()
    RUNNING        -                                    work
    COMPLETED      the last part of the response        disconnect; send() as ASGIResponse says
    DISCONNECTED   the calling thread has left, or the  disconnect; send() raises
                   app ends after a broken body
    FAILED         the app ends without a response      disconnect; send() raises
    CLOSED         the bridge is closed                 disconnect; send() raises
    REJECTED       the bridge is being closed           the app is not called

`_finish` sets it once and counts the request. The app may go on after each of them, as background
work; `_app_ended` ends the task.
"""

import contextvars
import logging
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Final

from .._crossing.calling_thread import CallingThread, current_calling_thread
from .._crossing.contexts import Changes, changes, notes_on, own_context, unchanged
from .._crossing.loops import BackgroundTask
from .._protocol.asgi_response import ASGIResponse, ASGIResponseState
from .._protocol.scope import scope_from_environ
from ..errors import (
    AppError,
    BridgeClosed,
    BridgeError,
    ClientDisconnected,
    bridge_shut_down,
    presentable,
)
from ..typing import Environ, Message
from .disconnects import client_disconnected, is_consequence
from .extensions import SentFile, carried_out
from .request_body import ReceivedBody, RequestBody, request_body
from .response import log_late_error
from .runtime import Runtime

__all__ = ["AppTask"]

logger: logging.Logger = logging.getLogger("wsgi_asgi_bridge")

PASSED_OVER_BYTES = 1048576
"""Bytes that an app may send for a response without a body, before it gets a disconnect: more than
a page has, less than an endless stream.
"""

TURNS_FOR_THE_APP = 16
"""Turns of the loop that an app has to end after its response, if its error or context matters. A
framework's error page raises in the same turn; each `BaseHTTPMiddleware` around it takes three.
"""


App = Callable[..., Awaitable[None]]
"""An ASGI 3 callable."""


class End(Enum):
    """How a request has ended; see the module's table."""

    RUNNING = "running"
    COMPLETED = "completed"
    DISCONNECTED = "disconnected"
    FAILED = "failed"
    CLOSED = "closed"
    REJECTED = "rejected"


# An attribute of an Enum class costs a call in Python 3.11.
_RUNNING: Final = End.RUNNING
_COMPLETED: Final = End.COMPLETED
_DISCONNECTED: Final = End.DISCONNECTED
_FAILED: Final = End.FAILED
_CLOSED: Final = End.CLOSED
_REJECTED: Final = End.REJECTED


class AppTask:
    """One request in the private loop.

    The loop's own, except for what `Response` uses of it and the methods named `_from_thread`.
    """

    # Slots, because each instance would get a full dict: instances share the keys of their dicts
    # only if all attributes are set early, and the loop sets some late.
    __slots__ = (
        "_app",
        "_before",
        "_bridge",
        "_context",
        "_end",
        "_held",
        "_mirrors_changes",
        "_received",
        "_runtime",
        "_scope",
        "_seen",
        "_sending",
        "_task",
        "body",
        "caller",
        "changes",
        "file",
        "response",
    )

    def __init__(
        self, app: App, runtime: Runtime, environ: Environ, length: int | None, bridge: object
    ) -> None:
        settings = runtime.settings
        self._app = app
        self._runtime = runtime
        self._bridge = bridge  # a reference: it is not collected while a request runs in its loop
        self.caller: CallingThread = CallingThread(
            runtime.handle, settings.response_buffer, settings.background_wait > 0
        )
        self._scope = scope_from_environ(environ, settings.root_path, runtime.state)
        self.response: ASGIResponse = ASGIResponse(self._scope["method"], self._scope["extensions"])
        self.file: SentFile | None = None
        """The body, if the app has sent the path of a file. Set before that is opened."""
        self.body: RequestBody = request_body(environ, length, settings.request_buffer)
        """Used by the calling thread only."""
        self.changes: Changes | None = None
        """What the app's task has set in its context, to be repeated in the caller's."""
        self._mirrors_changes = "asgi.scope" in environ and _is_below_a_task(environ)
        self._context = own_context()
        self._before: contextvars.Context
        """The app's context when it began."""
        self._seen: contextvars.Context
        self._task: BackgroundTask | None = None
        self._end: End = _RUNNING
        self._held: HeldEnd | None = None
        self._received: ReceivedBody | None = None
        """Made by the first `receive()`, since few apps call it if there is no body."""
        self._sending = 0  # tasks of the app that wait in send()

    # ------------------------------------------------------------ the calling thread

    def read_small_body_from_thread(self) -> None:
        """Read a small body before the task begins. Raises what `RequestBody.read` raises."""
        self._received = self._make_received()
        try:
            self._received.add_in_loop(*self.body.read_all())
        except BaseException:
            self.caller.loop.post(self.caller_left_in_loop)
            raise

    def run_elsewhere_from_thread(self, jobs: list[Callable[[], None]]) -> None:
        """Run the jobs of a thread that has left, except reads of the request's body."""
        for job in jobs:
            if self._received is None or job != self._received.read_from_thread:
                self._runtime.executor.run_in_fallback(job)

    def check_loop_from_thread(self) -> None:
        if not self._runtime.private.thread.is_alive():
            raise BridgeClosed("the private event loop ended while this request was in flight")

    # ------------------------------------------------------------ the task

    def begin_in_loop(self) -> None:
        runtime = self._runtime
        if not runtime.takes_requests:
            self._finish(_REJECTED)
            reason = "the bridge is being closed and takes no new requests"
            self.caller.fail_in_loop(BridgeClosed(reason))
            return
        runtime.in_flight.add(self)
        self._task = runtime.handle.spawn(self.run, self._context)

    async def run(self) -> None:
        """All of the app's work, as one task in the caller's context (A-LOOP-3).

        Lets nothing escape but trio's cancellation.
        """
        error: BaseException | None = None
        runtime = self._runtime
        try:
            if runtime.handle.backend == "asyncio":
                if not runtime.executor.entered_in_loop(self.caller):
                    await runtime.executor.enter_own_in_loop()
            else:
                current_calling_thread.set(self.caller)
            self._before = self._seen = contextvars.copy_context()
            await self._app(self._scope, self._receive, self._send)
        except BaseException as exc:  # SystemExit too: it ends its request, not the loop (A-LOOP-5)
            error = exc
        try:
            self._app_ended(error)
            if runtime.handle.backend == "trio" and isinstance(error, runtime.handle.cancelled):
                raise error
        finally:
            # Break the cycles: the error's traceback refers to this frame, and the context to this
            # object if the app has put its request there.
            del error
            self._task = None
            self._context = self._before = self._seen = _NO_CONTEXT

    # ------------------------------------------------------------ receive and send

    def _receive(self) -> Awaitable[Message]:
        if self._received is None:
            self._received = self._make_received()
            if self._end is not _RUNNING:
                self._received.close_in_loop()
        return self._received.receive()

    def _make_received(self) -> ReceivedBody:
        return ReceivedBody(self.caller, self.body, self._lost_client_in_loop)

    async def _send(self, message: Message) -> None:
        if self._end is not _RUNNING and self._end is not _COMPLETED:
            raise client_disconnected()
        part = self.response.accept(message)
        if part is None:
            if self.caller.remark is not None:
                self.response.set_reason(self.caller.remark)
            if self.response.beside is None:
                return
            part = await carried_out(self, self._scope["wsgi_environ"])
            if part is None:
                return
        body, last = part
        if self.response.bodyless:
            await _pass_over(self, last)
            return
        if self._mirrors_changes:
            self._note_changes()
        if last and (self.changes or self.response.status[0] == "5"):
            self._hold_end(body)
            return
        wait = self.caller.put_in_loop(body, last)
        if wait is None:
            raise self._found_left()
        if last:
            self._finish(_COMPLETED)
        elif wait:
            self._sending += 1
            try:
                await self.caller.wait_for_room_in_loop()
            finally:
                self._sending -= 1
            if self.caller.finished() and self._end is not _COMPLETED:
                raise self._found_left()

    def _hold_end(self, body: bytes) -> None:
        """Hold back `body`, the last part, until the app ends: `close()` raises its error after a
        5xx (A-OUT-8), and the caller gets the context variables that it resets (D-2).
        """
        if not self.caller.hold_end_in_loop():
            raise self._found_left()
        self._finish(_COMPLETED)
        self._held = HeldEnd(self, body)
        self._held.count_turns()

    def _note_changes(self) -> None:
        """Note what the app's first task has set in its context. Its other tasks have contexts of
        their own, which no caller sees.
        """
        now = self._context.copy()
        if not unchanged(self._seen, now):
            self._seen = now
            self.changes = changes(self._before, now)

    def note_last_changes(self, error: BaseException | None) -> None:
        """The same when the app has ended, by raising `error` or, if None, by returning."""
        self._note_changes()
        if not self._mirrors_changes and self.changes is not None:
            # Every caller gets what a monitoring tool around the app has noted about this error, so
            # that another one, around the bridge, does not report it again.
            self.changes = None if error is None else notes_on(error, self.changes)

    # ------------------------------------------------------------ the end

    def _finish(self, end: End) -> None:
        """End the request unless it has ended: count it, and let `receive()` give a disconnect."""
        if self._end is not _RUNNING:
            return
        self._end = end
        counts = self._runtime.counts
        if end is _COMPLETED:
            counts.completed += 1
            counts.background += 1
        elif end is _DISCONNECTED:
            counts.disconnected += 1
        elif end is _FAILED:
            counts.failed += 1
        elif end is _CLOSED:
            counts.closed += 1
        else:
            counts.rejected += 1
        if self._received is not None:
            self._received.close_in_loop()

    def _app_ended(self, error: BaseException | None) -> None:
        if self._held is not None:
            error = self._held.release_with(error)
        if self._end is _RUNNING:
            self._end_unanswered(error)
        if self._end is _COMPLETED:
            self._runtime.counts.background -= 1
            if error is not None and not is_consequence(error, (ClientDisconnected,)):
                log_late_error(error)
        elif (
            self._end is not _FAILED
            and error is not None
            and not is_consequence(error, (ClientDisconnected, self._runtime.handle.cancelled))
        ):
            logger.error("the app raised after its client had left", exc_info=error)
        self._runtime.ended_in_loop(self)
        if self._runtime.settings.background_wait:
            self.caller.release_in_loop()

    def _end_unanswered(self, error: BaseException | None) -> None:
        """The app has ended before its response, by raising `error` or, if None, by returning."""
        if self._received is not None and self._received.has_delivered_break():
            # It received a disconnect and ended without an answer, as the ASGI spec asks.
            self._finish(_DISCONNECTED)
            self.caller.fail_in_loop(client_disconnected())
            return
        self._finish(_FAILED)
        self.note_last_changes(error)
        if error is None:
            returned = f"the app returned {self.response.state.value}"
            error = AppError(f"{returned}, without ending its response")
        self.caller.fail_in_loop(presentable(error))

    def _lost_client_in_loop(self, error: BridgeError) -> None:
        """End the request after a failed read; the thread raises `error` after the waiting chunks.

        In one step of the loop, so that the app neither sends nor ends between. A response that has
        ended stays whole.
        """
        if self._held is not None:
            self._held.release()
        self.caller_left_in_loop()
        self.caller.fail_in_loop(error)

    def caller_left_in_loop(self) -> None:
        """The calling thread has left before the end, or is about to: for the app that is the
        client's disconnect (A-OUT-3).

        An app that waits in `receive()` or `send()` gets the disconnect there. If it is silent in
        the middle of its response, it is cancelled, as frameworks do to their own streams.
        """
        if self._end is not _RUNNING:
            return
        waits = self._sending or (self._received is not None and self._received.receivers)
        self._finish(_DISCONNECTED)
        is_silent = not waits and self.response.state is ASGIResponseState.STARTED
        if is_silent and self._task is not None:
            self._task.cancel()

    def _found_left(self) -> ClientDisconnected:
        """End the request after the thread has left; return what `send()` raises (A-OUT-3)."""
        self._finish(_DISCONNECTED)
        return client_disconnected()

    def shut_down_in_loop(self) -> None:
        """End the thread's wait, and the app with its background work: the bridge is closed."""
        if self._held is not None:
            self._held.release()
        self.caller.fail_in_loop(bridge_shut_down())
        if self._task is not None:
            self._task.cancel()  # before _finish: a receive() of this task is cancelled first
        self._finish(_CLOSED)


async def _pass_over(task: AppTask, last: bool) -> None:
    """Drop a body part of a response that has no body (HEAD, 204, 304); the first one ends it.

    `send()` raises a disconnect after `PASSED_OVER_BYTES`, so that no app goes on for ever.
    """
    if task._end is _RUNNING:
        if task._mirrors_changes:
            task._note_changes()
        if task.changes or task.response.status[0] == "5":
            task._hold_end(b"")
        elif task.caller.put_in_loop(b"", last=True) is None:
            raise task._found_left()
        else:
            task._finish(_COMPLETED)
    if not last:
        await task._runtime.handle.checkpoint()
        if task.response.passed_over > PASSED_OVER_BYTES:
            raise client_disconnected()


class HeldEnd:
    """The last part of a response: put when the app has ended, or after `TURNS_FOR_THE_APP`."""

    __slots__ = ("_body", "_task", "_turns")

    def __init__(self, task: AppTask, body: bytes) -> None:
        self._task: AppTask | None = task
        """None once the part is put, to break the cycle: the task refers to this object."""
        self._body = body
        self._turns = TURNS_FOR_THE_APP

    def count_turns(self) -> None:
        """Called by the loop, once a turn."""
        task = self._task
        if task is None:
            return
        if self._turns:
            self._turns -= 1
            task.caller.loop.call_later(0.0, self.count_turns)
            return
        if task.changes:
            task.changes = {}  # the app may still reset them, too late for the caller
        self.release()

    def release(self) -> None:
        """Put the part, unless the thread has left meanwhile."""
        task, self._task = self._task, None
        if task is not None:
            task.caller.put_in_loop(self._body, last=True)

    def release_with(self, error: BaseException | None) -> BaseException | None:
        """Put the part when the app has ended, by raising `error` or, if None, by returning.

        Returns the error that the caller is to log: None if `close()` raises it.
        """
        task = self._task
        if task is None:
            return error
        task.note_last_changes(error)
        if (
            error is not None
            and task.response.status[0] == "5"
            and not is_consequence(error, (ClientDisconnected,))
            and task.caller.follow_with_error_in_loop(presentable(error))
        ):
            error = None
        self.release()
        return error


_NO_CONTEXT = contextvars.Context()


def _is_below_a_task(environ: Environ) -> bool:
    """Whether the outermost bridge of this request is a WSGIToASGI. Then its caller is a task, so
    mirrored changes stay out of a WSGI server's thread.
    """
    scope = environ.get("asgi.scope")
    while scope is not None:
        outer = scope.get("wsgi_environ")
        if outer is None:
            return True
        scope = outer.get("asgi.scope")
    return False

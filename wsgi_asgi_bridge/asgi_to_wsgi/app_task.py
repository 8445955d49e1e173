"""The loop's half of a request: the app's task, its `send()`, and what it leaves.

`request_end.py` has the ends of a request. The app may go on after each of them, as background
work; `_app_ended` ends the task.
"""

import contextvars
import logging
from collections.abc import Awaitable, Callable

from .._crossing.calling_thread import CallingThread
from .._crossing.calling_thread_executor import waits_for_this_task
from .._crossing.contexts import Changes, own_context
from .._protocol.asgi_response import ASGIResponse
from .._protocol.scope import scope_from_environ
from ..errors import (
    AppError,
    BridgeError,
    ClientDisconnected,
    bridge_closing,
    loop_has_ended,
    presentable,
)
from ..typing import Environ, Message
from .context_changes import is_below_a_task
from .disconnects import client_disconnected, is_consequence
from .event_stream import EventStream
from .extensions import SentFile, carried_out
from .request_body import ReceivedBody, RequestBody, request_body
from .request_end import COMPLETED, DISCONNECTED, FAILED, REJECTED, RUNNING, RequestEnd
from .response import log_late_error, log_untaken_error
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


class AppTask(RequestEnd):
    """One request in the private loop.

    The loop's own, except for what `Response` uses of it and the methods named `_from_thread`.
    """

    # Slots, because each instance would get a full dict: instances share the keys of their dicts
    # only if all attributes are set early, and the loop sets some late.
    __slots__ = ("_app", "_bridge", "_scope", "body", "file")

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
        self._mirrors_changes = "asgi.scope" in environ and is_below_a_task(environ)
        self._context = own_context()
        self._task = None
        self._end = RUNNING
        self._held = None
        self._received = None  # made by the first `receive()`, which few apps call without a body
        self._sending = 0
        self.stream: EventStream | None = None

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
            raise loop_has_ended()

    # ------------------------------------------------------------ the task

    def begin_in_loop(self) -> None:
        runtime = self._runtime
        if not runtime.takes_requests:
            self._finish(REJECTED)
            self.caller.fail_in_loop(bridge_closing())
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
            if not runtime.executor.entered_in_loop(self.caller):
                await runtime.executor.enter_own_in_loop()
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
            if self._end is not RUNNING:
                self._received.close_in_loop()
        return self._received.receive()

    def _make_received(self) -> ReceivedBody:
        return ReceivedBody(self.caller, self.body, self._lost_client_in_loop)

    async def _send(self, message: Message) -> None:
        if self._end is not RUNNING and self._end is not COMPLETED:
            raise client_disconnected()
        part = self.response.accept(message)
        if part is None:
            if self.caller.reply_line is not None:
                self.response.set_reason(self.caller.reply_line)
            if self.response.is_event_stream and self.stream is None:
                self._offer_release()
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
            wait = self._stream_without_thread().put(body, last)
        if last:
            self._finish(COMPLETED)
        elif wait:
            if waits_for_this_task(self.caller) and self.caller.is_full():
                raise _waits_for_itself(self._runtime.settings.response_buffer)
            self._sending += 1
            try:
                await self.caller.wait_for_room_in_loop()
                if self.stream is not None:
                    await self.stream.wait_for_room()
            finally:
                self._sending -= 1
            if self.caller.finished() and self._end is not COMPLETED:
                self._stream_without_thread()

    def _offer_release(self) -> None:
        received = self._received
        body_is_read = self.body.empty or (received is not None and received.is_read())
        self.stream = EventStream.for_response(self, self._runtime, body_is_read=body_is_read)
        if self.stream is not None:
            self.caller.offer_leave_in_loop()  # last of all: the thread may look at once

    def _stream_without_thread(self) -> EventStream:
        """The stream that goes on. Raises what `send()` raises if the client has left; the calling
        thread has finished.
        """
        if self.stream is None or not self.caller.left_early:
            self._finish(DISCONNECTED)
        if self.stream is None or self._end is not RUNNING:
            raise client_disconnected()
        return self.stream

    def _hold_end(self, body: bytes) -> None:
        """Hold back `body`, the last part, until the app ends: `close()` raises its error after a
        5xx (A-OUT-8), and the caller gets the context variables that it resets (D-2).
        """
        if not self.caller.hold_end_in_loop():
            raise self._disconnected()
        self._finish(COMPLETED)
        self._held = HeldEnd(self, body)
        self._held.count_turns()

    # ------------------------------------------------------------ the end

    def _app_ended(self, error: BaseException | None) -> None:
        if self._held is not None:
            error = self._held.release_with(error)
        if self._end is RUNNING:
            self._end_unanswered(error)
        if self._end is COMPLETED:
            self._runtime.counts.background -= 1
            if error is not None and not is_consequence(error, (ClientDisconnected,)):
                log_late_error(error)
        elif (
            self._end is not FAILED
            and error is not None
            and not is_consequence(error, (ClientDisconnected, self._runtime.handle.cancelled))
        ):
            logger.error("the app raised after its client had left", exc_info=error)
        # Not while the thread may still give the connection to the loop: `close()` waits for that.
        if self.stream is None or not self.stream.may_go_on:
            self._runtime.ended_in_loop(self)
        if self._runtime.settings.background_wait:
            self.caller.release_in_loop()

    def _end_unanswered(self, error: BaseException | None) -> None:
        """The app has ended before its response, by raising `error` or, if None, by returning."""
        if self._received is not None and self._received.has_delivered_break():
            # It received a disconnect and ended without an answer, as the ASGI spec asks.
            self._finish(DISCONNECTED)
            self.caller.fail_in_loop(client_disconnected())
            return
        self._finish(FAILED)
        self.note_last_changes(error)
        if error is None:
            returned = f"the app returned {self.response.state.value}"
            error = AppError(f"{returned}, without ending its response")
        if self.caller.fail_in_loop(presentable(error)):
            return
        if self.stream is not None and self.caller.left_early:
            self.stream.fail(error)
        else:
            log_untaken_error(error)

    def _lost_client_in_loop(self, error: BridgeError) -> None:
        """End the request after a failed read; the thread raises `error` after the waiting chunks.

        In one step of the loop, so that the app neither sends nor ends between. A response that has
        ended stays whole.
        """
        if self._held is not None:
            self._held.release()
        self.caller_left_in_loop()
        self.caller.fail_in_loop(error)


def _waits_for_itself(budget: int) -> RuntimeError:
    return RuntimeError(
        "send() would wait for the calling thread, which waits for this send(): in thread-"
        f"sensitive code async_to_sync(send) takes no more than response_buffer={budget} bytes; "
        "send from a coroutine that the app awaits, or set a larger response_buffer"
    )


async def _pass_over(task: AppTask, last: bool) -> None:
    """Drop a body part of a response that has no body (HEAD, 204, 304); the first one ends it.

    `send()` raises a disconnect after `PASSED_OVER_BYTES`, so that no app goes on for ever.
    """
    if task._end is RUNNING:
        if task._mirrors_changes:
            task._note_changes()
        if task.changes or task.response.status[0] == "5":
            task._hold_end(b"")
        elif task.caller.put_in_loop(b"", last=True) is None:
            raise task._disconnected()
        else:
            task._finish(COMPLETED)
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

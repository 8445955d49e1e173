"""One HTTP request in its event loop, from top to bottom. The worker's half is in app_call.py.

    COLLECTING --> QUEUED --> IN_APP --> HEAD_SENT --> LAST_MESSAGE --> BODY_SENT

    phase         begins when                    what may end the request here
    COLLECTING    the request comes              400, 413, 503; a stall: 408; a disconnect
    QUEUED        the pool has no free thread    a disconnect or close(): its job is withdrawn
    IN_APP        a thread has it, or soon will  an app error; 400, 408, 413; a disconnect
    HEAD_SENT     send() gets the head           an app error; a stall; a disconnect
    LAST_MESSAGE  send() gets the last message   a stall; a disconnect, if send() hangs or raises
    BODY_SENT     that send() has returned       an app error; else the request is completed

Each end calls `finish(outcome, reason)`, and the first call decides: the watch that received the
disconnect, a send() or receive() of this task that failed, a cancellation by the server, a stall
that the tick found, `shut_down`, and the end of a whole response. Whether a request is over is kept
beside its phase: trio may let this task take one more step after another task called `finish`.
`finish` counts a request that is broken off; a completed one is counted when its task ends.
"""

import io
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import anyio

from .._crossing.calling_thread import current_calling_thread
from .._crossing.contexts import own_context
from .._crossing.loops import CancelScope
from .._crossing.workers import Admission, Job, QueueFull
from .._protocol.environ import environ_from_scope
from ..errors import (
    BadRequest,
    BodyTooLarge,
    BridgeClosed,
    ClientDisconnected,
    ClientStalled,
    ServerError,
    bridge_shut_down,
    client_disconnected,
    client_reads_nothing,
    presentable,
)
from ..typing import Environ
from .app_call import AppCall, exchange_over, run_with_body
from .client_watch import CLIENT_LEFT, CLIENT_STALLED, ClientWatch
from .request_body import NO_BODY, RequestBody, drop_unread, may_have_body
from .response import (
    BODY_SENT,
    COLLECTING,
    HEAD_SENT,
    HTTP,
    IN_APP,
    LAST_MESSAGE,
    QUEUED,
    Response,
    nobody,
)
from .runtime import Runtime
from .stats import CLOSED, COMPLETED, DISCONNECTED, FAILED, REJECTED, STALLED, ClientLeft

__all__ = ["Exchange"]

_STARTING = Admission.STARTING
_ANSWERS: dict[type[Exception], int] = {
    BadRequest: 400,
    BodyTooLarge: 413,
    QueueFull: 503,
    BridgeClosed: 503,
}
"""The bridge's answers to what it cannot give to the app."""
_REFUSALS = tuple(_ANSWERS)


class Exchange:
    """One request in flight, in its loop; body, response and watch keep their own state."""

    __slots__ = (
        "_body",
        "_call",
        "_cancel_scope",
        "_is_counted",
        "_is_over",
        "_is_polled",
        "_job",
        "_outcome",
        "_receive",
        "_response",
        "_runtime",
        "_scope",
        "_watch",
        "queued_in_round",
    )

    def __init__(self, runtime: Runtime, scope: Any, receive: Any, send: Any) -> None:
        self._runtime = runtime
        self._scope = scope
        self._receive = receive
        self._cancel_scope: CancelScope | None = None
        self._outcome: str | None = None
        """The counter of this request."""
        self._is_counted = False
        self._is_over = False
        self._body = NO_BODY
        self._response = Response(runtime.handle, runtime.settings.response_buffer, HTTP, send)
        self._watch: ClientWatch | None = None
        self._is_polled = False
        """The app has asked whether the client has left. Any thread may set it."""
        self._call: AppCall | None = None
        self._job: Job | None = None
        """`_call`, as the pool runs it."""
        self.queued_in_round: int | None = None
        """The watch round in which it was queued behind other requests, until it is watched."""

    # ------------------------------------------------------------ from the first step to the last

    async def run(self) -> None:
        runtime, response = self._runtime, self._response
        runtime.exchanges.add(self)
        if not runtime.ticking:
            runtime.begin_ticking()
        scope = self._cancel_scope = runtime.handle.cancel_scope()
        try:
            with scope:
                first = response.out.expect_in_loop()
                call = await self._begin()
                if call is not None:
                    await first
                    response.phase = IN_APP
                    await response.send(call, self.begin_watching)
                    if call.error is not None or call.late_error is not None:
                        await self._report_error(call)
            if scope.reason is None:
                self.finish(COMPLETED)
            else:
                self._log_unraised_error()
                await self._answer_cut(scope.reason)
        except ClientLeft:
            self.finish(DISCONNECTED, client_disconnected)
            self._log_unraised_error()
        except BaseException as exc:
            was_over = self._is_over
            cancelled = isinstance(exc, runtime.handle.cancelled)
            self.finish(
                DISCONNECTED if cancelled or isinstance(exc, OSError) else FAILED,
                # If the app raised, its worker has left already.
                None if not cancelled and response.out.finished() else _given_up,
            )
            self._log_unraised_error()
            # Once over, the channels raise it in this task; else it is the app's own.
            if not (was_over and isinstance(exc, ClientDisconnected)):
                raise
        finally:
            runtime.exchanges.discard(self)
            if self._outcome is COMPLETED:
                runtime.counts.completed += 1
            elif not self._is_counted:
                runtime.counts.add(self._outcome or FAILED)
            if self._watch is not None:
                self._watch.stop()
            # Break the cycles by way of environ, body and context: all is freed without a gc.
            self._call = self._job = self._cancel_scope = response.mirror_of_app = None
            self._receive = response.send_message = nobody
            if self._body is not NO_BODY:
                self._body.break_off(exchange_over)  # for a thread of the app's own that reads on
                self._body = NO_BODY

    async def _begin(self) -> AppCall | None:
        """Give the app's call to the pool, with its environ and the request's body; or answer."""
        settings = self._runtime.settings
        try:
            environ = environ_from_scope(
                self._scope, settings.template, max_header_repeats=settings.max_header_repeats
            )
            if may_have_body(environ):
                self._body = RequestBody(
                    settings, self._runtime.handle, self.begin_watching, self._waiting_worker
                )
                environ["wsgi.input"] = await self._body.open(environ, self._receive)
                if self._is_over:
                    return None  # trio's extra step must take no thread (W-FLOW-4)
            else:
                environ["wsgi.input"] = io.BytesIO()
            return self._submit(environ)
        except _REFUSALS as exc:
            if self._is_over:
                return None
            await self._answer(_ANSWERS[type(exc)], str(exc) or "Too many requests are waiting.")
            return None
        except ServerError:
            self._outcome = REJECTED
            raise

    def _submit(self, environ: Environ) -> AppCall:
        """Give the call of the app to the pool. Raises QueueFull, BridgeClosed."""
        runtime = self._runtime
        environ.setdefault("wsgi.errors", sys.stderr)  # behind both bridges the outer one's
        environ["wsgi_asgi_bridge.client_disconnected"] = self._client_disconnected
        if runtime.settings.extra_environ:
            environ.update(runtime.settings.extra_environ)
        before = own_context()
        # Where the calls of both bridges are nested, the outer one's thread waits for this app.
        caller = current_calling_thread.get(None) if "wsgi_environ" in self._scope else None
        out = self._response.out
        call = self._call = AppCall(
            *(runtime.app_binding, environ, out, before, caller, self._stall_from_thread),
            self._scope.get("extensions"),
        )
        # All of the app's work runs in the context of the request (W-CALL-2).
        run: Job = call.run if caller is None else call.run_for_caller
        if self._body.reader is not None:
            run = partial(run_with_body, call, self._body.reader, run)
        job = self._job = partial(before.copy().run, run)  # type: ignore[call-arg]
        admission = runtime.submit(job)
        if admission is _STARTING:
            self._response.phase = IN_APP
        else:
            self._response.phase = QUEUED
            # A client that leaves now must not take a thread later (W-FLOW-4).
            if admission is Admission.SATURATED:
                self.begin_watching()
            else:
                self.queued_in_round = runtime.join_watch_round()
        return call

    async def _report_error(self, call: AppCall) -> None:
        """Raise the app's error to the server, or send the client the answer that it stands for."""
        if self._body.unread_since is not None:
            await drop_unread(self._body, self._runtime.handle, exchange_over)
        error = call.take_error()
        try:
            if isinstance(error, ClientDisconnected) and self._is_over:
                return
            if self._response.phase < HEAD_SENT and (status := _status_of(error, self._body)):
                await self._answer(status, str(error))
            elif isinstance(error, ClientDisconnected) and self._body.is_cut_short:
                self.finish(DISCONNECTED)  # the server ends the response, as after a disconnect
            elif error is not None:
                self._outcome = FAILED  # also after a whole body
                raise presentable(error)
        finally:
            del error  # its traceback leads to this frame

    # ------------------------------------------------------------ the bridge's own answers

    async def _answer_cut(self, reason: BaseException) -> None:
        """What follows when `finish` has ended the work of this task."""
        if self._response.phase == COLLECTING and isinstance(reason, ClientStalled):
            with anyio.move_on_after(self._runtime.settings.stall_timeout):
                await self._answer(408, str(reason))
        elif not isinstance(reason, ClientDisconnected):
            raise reason

    async def _answer(self, status: int, text: str) -> None:
        """The bridge's own answer, which decides the outcome."""
        if self._outcome is None:
            self._outcome = STALLED if status == 408 else REJECTED
        await self._response.answer(status, text, is_head=self._scope.get("method") == "HEAD")

    # ------------------------------------------------------------ the client

    def begin_watching(self) -> None:
        """Wait for the client's disconnect, unless that would ask the client for its body."""
        watch = self._watch = self._watch or ClientWatch()
        if (
            watch.task is None
            and not self._is_over
            and (not self._body.is_held_back or self._response.phase >= HEAD_SENT)
        ):
            watch.begin(self._runtime.handle, self._receive, self._body, self._client_left)

    def watch_unless_begun(self) -> None:
        """Still queued after a whole watch round: a client that leaves must be noticed."""
        if self._job is not None and self._runtime.has_queued(self._job):
            self.begin_watching()

    def _client_left(self) -> None:
        """The watch received the disconnect."""
        # With the last message on its way the server may report a disconnect that only says that
        # all is over. If that send() hangs, the next tick takes it for a disconnect.
        if self._response.phase < LAST_MESSAGE:
            self.finish(DISCONNECTED, client_disconnected)

    def _client_disconnected(self) -> bool:
        """Whether the client has left, for the app's environ (W-FLOW-3). Any thread.

        The first call begins to watch, so it may be the second that returns True.
        """
        if not self._is_polled:
            self._is_polled = True
            self._runtime.handle.post(self.begin_watching)
        return self._response.out.broken()

    def tick(self, now: float) -> None:
        """Check the time-outs. `now` is in seconds that the loop has waited for clients."""
        body, response = self._body, self._response
        if self._is_over:
            return
        if response.phase == COLLECTING:
            if body.clock.has_stalled(now):
                self.finish(STALLED, body.stalled)
            return
        if body.unread_since is not None:
            if response.phase >= LAST_MESSAGE and response.out.finished():
                body.break_off(exchange_over)  # send() may wait until it is received (W-IN-8)
            elif response.phase >= HEAD_SENT or (
                self._call is not None and self._call.has_begun_to_give()
            ):
                body.check_unread(now, response.out.is_full())
        if self._watch is None:
            self._watch = ClientWatch()
        found = self._watch.tick(now, response, self._runtime.settings.stall_timeout)
        if found is CLIENT_STALLED:
            self.finish(STALLED, self._reads_nothing)
        elif found is CLIENT_LEFT:
            self.finish(DISCONNECTED, client_disconnected)
        elif found is not None and response.phase < BODY_SENT:
            if body.is_held_back and self._watch.task is None:
                body.check_held_back(now)
            self.begin_watching()

    def _waiting_worker(self) -> AbstractContextManager[object]:
        call = self._call  # the exchange may end in this moment, while a thread of the app's reads
        return call.waiting() if call is not None else nullcontext()

    # ------------------------------------------------------------ endings

    def finish(self, outcome: str, reason: Callable[[], Exception] | None = None) -> None:
        """End the request, in its loop; the first call decides.

        With `reason`, which makes the error, work that still goes on is ended: the worker's at its
        next step, or before it has begun, and that of this exchange's task.
        """
        if self._is_over:
            return
        self._is_over = True
        if self._outcome is None:
            # A client that has the whole response has left, or was cut off, too late to matter.
            self._outcome = COMPLETED if self._response.phase == BODY_SENT else outcome
        if reason is None:
            return
        if self._outcome is not COMPLETED:  # that may still turn to FAILED
            # Now: the server's send() may hold this task until the client has left.
            self._is_counted = True
            self._runtime.counts.add(self._outcome)
        if self._job is not None:
            self._runtime.withdraw(self._job)
        if self._call is not None:
            self._call.file = None  # if the worker sets it later, it finds the channel broken
        # This one first: a thread that wakes up in read() may ask whether its client has left.
        self._response.out.break_in_loop(reason)
        self._body.break_off(reason)
        if self._cancel_scope is not None:
            self._cancel_scope.cancel(reason())  # nothing, if this task calls: it is outside

    def begin_shutdown(self) -> None:
        """The bridge is being closed; a request in flight goes on."""

    def shut_down(self) -> None:
        self.finish(CLOSED, bridge_shut_down)

    def _stall_from_thread(self) -> None:
        self._runtime.handle.post(partial(self.finish, STALLED, self._reads_nothing))

    def _reads_nothing(self) -> ClientStalled:
        return client_reads_nothing(self._runtime.settings.stall_timeout)

    def _log_unraised_error(self) -> None:
        """Log an app error that can no longer be raised: the client left as the worker finished."""
        if self._call is not None and self._response.out.finished():
            self._call.log_unraised_error()


def _status_of(error: BaseException | None, body: RequestBody) -> int | None:
    """The answer to an app that could not read its body to the end and raised just that."""
    if isinstance(error, BodyTooLarge):
        return 413
    if isinstance(error, ClientDisconnected):
        return 400 if body.is_cut_short else 408 if body.is_given_up else None
    return 408 if isinstance(error, ClientStalled) else None


def _given_up() -> ClientDisconnected:
    return ClientDisconnected("the server gave this request up")

"""The calling thread's half of a request: it waits for the app, and hands the response on.

`Response.respond` is the request as the server's thread sees it. `AppTask` is the loop's half, of
which this one uses what `LoopHalf` names. Between them stands `CallingThread`, whose lock orders
their accesses: the loop writes `response` and `changes` before it puts a chunk, and the thread
reads them after it took one.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from types import FrameType
from typing import Protocol

from .._crossing.calling_thread import CallingThread
from .._crossing.contexts import Changes, ContextMirror
from .._protocol.asgi_response import ASGIResponse
from .._protocol.blocks import SPLIT_BYTES, blocks
from ..errors import BridgeClosed
from ..typing import Environ, StartResponse
from .disconnects import client_disconnected, disconnect_probe
from .settings import Settings

__all__ = ["Response", "log_late_error"]

logger = logging.getLogger("wsgi_asgi_bridge")


class LoopHalf(Protocol):
    """What this thread uses of the loop's half."""

    caller: CallingThread
    response: ASGIResponse
    changes: Changes | None

    def caller_left_in_loop(self) -> None: ...

    def check_loop_from_thread(self) -> None: ...

    def run_elsewhere_from_thread(self, jobs: list[Callable[[], None]]) -> None: ...


class Response(Iterator[bytes]):
    """One response, and the iterable that the server gets unless a list will do.

    Everything here is the calling thread's own.
    """

    __slots__ = (
        "__weakref__",
        "_blocks",
        "_caller",
        "_client_has_left",
        "_environ",
        "_last",
        "_left",
        "_mirror",
        "_settings",
        "_task",
    )

    def __init__(self, task: LoopHalf, environ: Environ, settings: Settings) -> None:
        self._task = task
        self._caller = task.caller
        self._environ = environ
        self._settings = settings
        self._client_has_left: Callable[[], bool] | None = None
        self._blocks = _NO_BLOCKS
        self._mirror: ContextMirror | None = None
        self._last = False
        """Whether this thread has taken the end of the response."""
        self._left = False

    def respond(self, start_response: StartResponse) -> Iterable[bytes]:
        """Wait for the app's first bytes or its end, and hand the head to the server."""
        chunks = self._take()
        response = self._task.response
        # Many servers add a Content-Length to a list. So what the app sent decides, not how much of
        # it this thread was in time to take (A-OUT-7).
        whole = self._last and not response.in_parts
        if whole and (self._caller.late_error is not None or self._settings.background_wait):
            whole = False  # a list has no close()
            response.add_length(sum(map(len, chunks)))
        try:
            start_response(response.status, response.headers)
        except BaseException:
            self.close()
            raise
        if whole and not self._caller.has_unfinished_work():
            if self._task.changes is not None:
                self._forget_changes()
            # A long body is cut as the server takes it.
            if len(chunks) == 1 and len(chunks[0]) <= SPLIT_BYTES:
                return chunks
            if sum(map(len, chunks)) <= SPLIT_BYTES:
                return list(blocks(chunks))
        self._blocks = blocks(chunks)
        return self

    def __next__(self) -> bytes:
        while True:
            for block in self._blocks:
                return block
            if self._last or self._left:
                raise StopIteration
            self._blocks = blocks(self._take())

    def close(self) -> None:
        """End the exchange: the server is done with this response, finished or not.

        May be called again, and in another thread. After a whole response it returns when a WSGI
        app behind both bridges has closed its own. An app that is still running may undo its
        context changes, so those are dropped.

        With `background_wait` it waits for the app's background work and runs the thread-sensitive
        part of it (A-OUT-9, A-LOOP-4). Raises, once, what the app raised right after a response of
        its own with a 5xx status (A-OUT-8).
        """
        self._blocks = _NO_BLOCKS
        try:
            if self._last and not self._left:
                self._caller.run_jobs_from_thread(self._settings.background_wait)
        finally:  # Ctrl-C
            self._leave()
        if self._last and self._caller.has_unfinished_work():
            self._wait_for_work()
        elif not self._last and self._mirror is not None:
            self._mirror.apply({})
        self._forget_changes()
        error = self._caller.late_error_from_thread()
        if error is not None:
            try:
                if not _is_below_opentelemetry():
                    raise error
                log_late_error(error)
            finally:
                del error  # its traceback leads to this frame

    def _wait_for_work(self) -> None:
        """Wait for a thread that works for the app, and apply what it has set in the end."""
        with suppress(BridgeClosed):
            self._caller.wait_for_work_from_thread(
                self._settings.check_interval, self._task.check_loop_from_thread
            )
        self._caller.changes = self._caller.last_changes  # None if the work was given up
        self._mirror_changes()

    def _take(self) -> list[bytes]:
        """Return what the app has sent; run its jobs in this thread meanwhile.

        Raises what ended the exchange otherwise.
        """
        try:
            chunks, self._last = self._caller.take_from_thread(
                self._settings.check_interval, self._check_alive
            )
        except BaseException:
            self._mirror_changes()
            self._forget_changes()
            self._leave()
            log_late_error(self._caller.late_error_from_thread())
            raise
        if self._caller.changes is not None or self._task.changes is not None:
            self._mirror_changes()
        if self._last and not self._settings.background_wait:
            self._leave()  # before the server sends what was taken: no job waits for a slow client
        return chunks

    def _check_alive(self) -> None:
        """Raise if the client has left or the loop has ended, while the app is silent."""
        if self._client_has_left is None:  # most requests are over before the first check
            detects = self._settings.detects_disconnects
            self._client_has_left = disconnect_probe(self._environ) if detects else bool
        if self._client_has_left():
            raise client_disconnected()
        self._task.check_loop_from_thread()

    def _mirror_changes(self) -> None:
        """Set in the caller's context what was set for it on the app's side: by a WSGI app behind
        both bridges, and by all of the app if the caller's context is this request's own.
        """
        by_thread, by_task = self._caller.changes, self._task.changes
        if self._mirror is None:
            if by_thread is None and by_task is None:
                return
            # A WSGI server's thread keeps its context from one request to the next, where a
            # variable with the current user must not stay; a WSGIToASGI makes one per request.
            self._mirror = ContextMirror(context_lasts="asgi.scope" not in self._environ)
        self._mirror.apply({**(by_thread or {}), **(by_task or {})})

    def _forget_changes(self) -> None:
        """Break the cycle from this exchange to a value that refers to it, so that reference
        counting frees both.
        """
        self._task.changes = self._mirror = None

    def _leave(self) -> None:
        """This thread serves the exchange no longer."""
        if self._left:
            return
        self._left = True
        jobs = self._caller.finish_from_thread()
        # Another thread may write _last meanwhile: a server may close in one thread what it
        # iterates in another. If this one reads False too early, the loop has put the end already,
        # and the callback does nothing.
        if not self._last:
            self._caller.loop.post(self._task.caller_left_in_loop)
        if jobs:
            self._task.run_elsewhere_from_thread(jobs)


_NO_BLOCKS: Iterator[bytes] = iter(())


def log_late_error(error: BaseException | None) -> None:
    if error is not None:
        logger.error("the app raised after its response had ended", exc_info=error)


def _is_below_opentelemetry() -> bool:
    """Whether OpenTelemetry's WSGI middleware is among the callers.

    After a `close()` that raises, it neither ends its span nor leaves its context, in which the
    next requests of this thread would then be traced.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == "opentelemetry.instrumentation.wsgi":
            return True
        frame = frame.f_back
    return False

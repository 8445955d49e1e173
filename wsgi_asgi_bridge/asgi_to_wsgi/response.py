"""The calling thread's half of a request: it waits for the app and gives the server the response.

`AppTask` is the loop's half; `LoopHalf` names what this half uses of it. The lock of the
`CallingThread` between them orders their accesses: the loop writes `response` and `changes` before
it puts a chunk, and the thread reads them after it has taken one.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Protocol

from .._crossing.calling_thread import CallingThread, Leftover
from .._crossing.contexts import Changes, ContextMirror
from .._protocol.asgi_response import ASGIResponse
from .._protocol.blocks import SPLIT_BYTES, blocks
from ..errors import AppError, BridgeClosed, BridgeError
from ..typing import Environ, StartResponse
from .disconnects import client_disconnected, disconnect_probe
from .extensions import FILE_BLOCK_BYTES, SentFile
from .settings import Settings

__all__ = ["Response", "log_late_error", "log_untaken_error"]

logger: logging.Logger = logging.getLogger("wsgi_asgi_bridge")


class Offer(Protocol):
    """The loop's offer to go on without this thread; `EventStream` keeps it."""

    def may_leave_from_thread(self, environ: Environ, start_response: StartResponse) -> bool: ...

    def leave_from_thread(self, caller: CallingThread) -> Leftover | None: ...


class LoopHalf(Protocol):
    """What this thread uses of the loop's half."""

    caller: CallingThread
    response: ASGIResponse
    file: SentFile | None
    changes: Changes | None

    @property
    def stream(self) -> Offer | None: ...

    def caller_left_in_loop(self) -> None: ...

    def check_loop_from_thread(self) -> None: ...

    def run_elsewhere_from_thread(self, jobs: list[Callable[[], None]]) -> None: ...


class Response(Iterator[bytes]):
    """One response. It is also the iterable that the server gets, unless a list is enough.

    Used by the calling thread only.
    """

    __slots__ = (
        "__weakref__",
        "_blocks",
        "_caller",
        "_client_has_left",
        "_environ",
        "_if_dropped",
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
        self._if_dropped: _EndIfDropped | None = None
        """Made when the server gets this object, which has a part to do."""

    def respond(self, start_response: StartResponse) -> Iterable[bytes]:
        """Wait for the app's first bytes or its end, call `start_response`, return the iterable."""
        chunks = self._take()
        if not chunks and not self._last:
            left = self._leave_early(start_response)
            if left is not None:
                return left
            chunks = self._take()
        if self._task.file is not None:
            return self._respond_with_file(self._task.file, start_response)
        response = self._task.response
        # Many servers add a Content-Length to a list. So the app's messages decide whether it is
        # one, not how much of them this thread has taken by now (A-OUT-7).
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
            # A long body is cut into blocks as the server iterates.
            if len(chunks) == 1 and len(chunks[0]) <= SPLIT_BYTES:
                return chunks
            if sum(map(len, chunks)) <= SPLIT_BYTES:
                return list(blocks(chunks))
        self._blocks = blocks(chunks)
        return self._for_server()

    def _for_server(self) -> Iterable[bytes]:
        if not self._left:
            self._if_dropped = _EndIfDropped(self._task)
        return self

    def _respond_with_file(self, file: SentFile, start_response: StartResponse) -> Iterable[bytes]:
        """Return the server's own wrapper of the file: only that it sends by itself (A-OUT-6).

        Nothing of this request is left to do then, so that the server may close the wrapper, and
        with it the file, whenever and in whatever thread it likes.
        """
        response = self._task.response
        try:
            response.add_length(file.length)
            start_response(response.status, response.headers)
            if self._caller.has_unfinished_work():
                self._wait_for_work()
            wrapper = self._environ.get("wsgi.file_wrapper")
            # Some servers send a file to its end, whatever Content-Length says.
            if (
                wrapper is not None
                and file.length == file.size
                and self._caller.late_error is None
                and not self._settings.background_wait
            ):
                self._forget_changes()
                return wrapper(file.raw, FILE_BLOCK_BYTES)  # type: ignore[no-any-return]
        except BaseException:
            self.close()
            raise
        self._blocks = file.blocks()
        return self._for_server()

    def _leave_early(self, start_response: StartResponse) -> Iterable[bytes] | None:
        """Answer the loop's offer; None if this thread has to stay (R-2)."""
        offer = self._task.stream
        if offer is None or not offer.may_leave_from_thread(self._environ, start_response):
            return None
        response = self._task.response
        try:
            start_response(response.status, response.headers)
            left = offer.leave_from_thread(self._caller)
        except BaseException:
            self.close()
            raise
        if left is None:
            return self._for_server()
        self._last = self._left = True
        if left.jobs:
            self._task.run_elsewhere_from_thread(left.jobs)
        # One empty chunk, not none: wsgiref would add the length 0.
        return iter((b"",))

    def __next__(self) -> bytes:
        while True:
            for block in self._blocks:
                return block
            if self._last or self._left:
                raise StopIteration
            self._blocks = blocks(self._take())

    def close(self) -> None:
        """End the request, whether or not the response is complete.

        May be called again, and in another thread. After a complete response it waits until a WSGI
        app behind both bridges has run its own `close()`. An app that is still running may undo its
        context changes, so those are dropped.

        With `background_wait` it waits for the app's background work and runs the thread-sensitive
        part of it (A-OUT-9, A-LOOP-4). Raises, once, what the app raised right after its own 5xx
        response (A-OUT-8).
        """
        self._blocks = _NO_BLOCKS
        self._close_file()
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
                del error  # break the cycle: its traceback refers to this frame

    def _close_file(self) -> None:
        if self._task.file is not None:
            self._task.file.close()

    def _wait_for_work(self) -> None:
        """Wait for the worker of a bridge behind this one; apply its last context changes."""
        with suppress(BridgeClosed):
            self._caller.wait_for_work_from_thread(
                self._settings.check_interval, self._task.check_loop_from_thread
            )
        self._caller.changes = self._caller.last_changes  # None if the work was given up
        self._mirror_changes()

    def _take(self) -> list[bytes]:
        """Wait for chunks or the end, and return the chunks; run the app's jobs meanwhile.

        Raises the error that ended the request before its end.
        """
        try:
            chunks, self._last = self._caller.take_from_thread(
                self._settings.check_interval, self._check_alive
            )
        except BaseException:
            self._mirror_changes()
            self._forget_changes()
            self._leave()
            self._close_file()
            log_late_error(self._caller.late_error_from_thread())
            raise
        if self._caller.changes is not None or self._task.changes is not None:
            self._mirror_changes()
        if self._last and not self._settings.background_wait:
            self._leave()  # before the server sends these chunks: no job waits for a slow client
        return chunks

    def _check_alive(self) -> None:
        """Raise if the client has left or the loop has ended, while the app is silent."""
        if self._client_has_left is None:  # most requests are over before the first check
            detects = self._settings.detects_disconnects
            self._client_has_left = disconnect_probe(self._environ) if detects else bool
        # The loop may have taken the connection over just now, in which case the probe sees the
        # stand-in's end. That happens together with the end of the exchange, under one lock.
        if self._client_has_left() and not self._caller.is_over():
            raise client_disconnected()
        self._task.check_loop_from_thread()

    def _mirror_changes(self) -> None:
        """Set in the caller's context what a WSGI app behind both bridges has set in its own, and
        what the ASGI app has set if the caller's context belongs to this request alone.
        """
        by_thread, by_task = self._caller.changes, self._task.changes
        if self._mirror is None:
            if by_thread is None and by_task is None:
                return
            # A WSGI server's thread keeps its context from one request to the next, so a variable
            # with the current user must not stay in it; a WSGIToASGI makes one per request.
            self._mirror = ContextMirror(context_lasts="asgi.scope" not in self._environ)
        self._mirror.apply({**(by_thread or {}), **(by_task or {})})

    def _forget_changes(self) -> None:
        """Break the cycle between this request and a value that refers to it, so that reference
        counting frees both.
        """
        self._task.changes = self._mirror = None

    def _leave(self) -> None:
        """Stop serving the request in this thread; pass on its jobs."""
        if self._left:
            return
        self._left = True
        if self._if_dropped is not None:
            self._if_dropped.disarm()
        jobs = self._caller.finish_from_thread()
        # A server may iterate in one thread and close in another, so _last may be written here in
        # between. If this reads False just before, the loop has put the end already, and the
        # callback does nothing. A thread that Ctrl-C meets as it leaves a stream to the loop has no
        # more to say.
        if not self._last and not self._caller.left_early:
            self._caller.loop.post(self._task.caller_left_in_loop)
            log_untaken_error(self._caller.untaken_error_from_thread())
        if jobs:
            self._task.run_elsewhere_from_thread(jobs)


class _EndIfDropped:
    """Ends a request whose iterable is gone without a `close()`, as Python ends a generator.

    A middleware loses the iterable if it raises after it has called the app.
    """

    __slots__ = ("_task",)

    def __init__(self, task: LoopHalf) -> None:
        self._task: LoopHalf | None = task

    def disarm(self) -> None:
        self._task = None

    def __del__(self) -> None:
        # The garbage collector may run this in any thread with any lock held, so it only posts.
        if self._task is not None:
            self._task.caller.loop.post(partial(_dropped_in_loop, self._task))


def _dropped_in_loop(task: LoopHalf) -> None:
    jobs = task.caller.finish_from_thread()
    task.caller_left_in_loop()
    log_untaken_error(task.caller.untaken_error_from_thread())
    log_late_error(task.caller.late_error_from_thread())
    if jobs:
        task.run_elsewhere_from_thread(jobs)


_NO_BLOCKS: Iterator[bytes] = iter(())


def log_untaken_error(error: BaseException | None) -> None:
    """Log what the app has raised for nobody: the server had given its response up, or does now."""
    if error is not None and (isinstance(error, AppError) or not isinstance(error, BridgeError)):
        logger.error("the app raised in a response that the server gave up", exc_info=error)


def log_late_error(error: BaseException | None) -> None:
    if error is not None:
        logger.error("the app raised after its response had ended", exc_info=error)


def _is_below_opentelemetry() -> bool:
    """Whether OpenTelemetry's WSGI middleware is among the callers.

    If `close()` raises, it neither ends its span nor leaves its context, so the thread's next
    requests would be traced as part of this one.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == "opentelemetry.instrumentation.wsgi":
            return True
        frame = frame.f_back
    return False

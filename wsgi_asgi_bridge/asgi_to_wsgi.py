"""An ASGI app under a WSGI server: `ASGIToWSGI`, and one HTTP exchange from top to bottom.

`_Exchange.respond` is the request as the calling thread sees it, `_Exchange.run` as the private
loop sees it. Between them stands `CallingThread`. Its lock orders every access to `_response`,
which the loop writes before it puts a chunk, and the thread reads after it took one.
"""

import contextvars
import errno
import inspect
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import FrameType, TracebackType
from typing import Any, Self

from asgiref.compatibility import guarantee_single_callable

from ._crossing.at_exit import closed_at_exit
from ._crossing.calling_thread import CallingThread, current_calling_thread
from ._crossing.calling_thread_executor import CallingThreadExecutor
from ._crossing.contexts import Changes, ContextMirror, changes, notes_on, own_context, unchanged
from ._crossing.event_loop import LoopFactory, PrivateLoop, default_loop_factory
from ._crossing.fork import reset_in_child
from ._crossing.loops import BackgroundTask, LoopEvent
from ._crossing.sockets import peer_has_closed
from ._crossing.thread_event import ThreadEvent
from ._lifespan_task import LifespanTask
from ._options import count, imported_app, seconds
from ._protocol.asgi_response import ASGIResponse, ASGIResponseState
from ._protocol.blocks import SPLIT_BYTES, blocks
from ._protocol.scope import LengthRequired, declared_length, is_websocket, scope_from_environ
from ._request_body import request_body
from .errors import (
    AppError,
    BadRequest,
    BridgeClosed,
    BridgeError,
    ClientDisconnected,
    ServerError,
    presentable,
)
from .typing import ASGIApp, Backend, Environ, LifespanMode, Message, StartResponse

__all__ = ["ASGIToWSGI", "ASGIToWSGIStats"]

logger: logging.Logger = logging.getLogger("wsgi_asgi_bridge")

BACKENDS = ("asyncio", "trio")
LIFESPAN_MODES = ("auto", "on", "off")

PASSED_OVER_BYTES = 1048576
"""How much of a body that may not be sent an app may make: more than a page, less than a stream."""

TURNS_FOR_THE_APP = 16
"""How many turns of the loop an app has to end after its response, where it matters how it ends. A
framework's error page raises in the same turn; each `BaseHTTPMiddleware` around it takes three.
"""

LOOP_CHECK_SECONDS = 1.0
"""How often a thread that waits makes sure that the loop lives, where `disconnect_poll` is None."""

CANCEL_SECONDS = 1.0
"""How long a cancelled app may clean up before the lifespan ends without it."""


@dataclass(frozen=True, slots=True)
class ASGIToWSGIStats:
    """A snapshot of one bridge in this process.

    The first three say what is now, the others count since the loop started. Each request that is
    over is in exactly one of those.
    """

    running: bool
    """Whether the private loop runs."""
    in_flight: int
    """Requests whose response has not ended."""
    background: int
    """App calls that go on after their response."""
    completed: int
    """Responses that the app sent whole."""
    disconnected: int
    """Requests whose client left, or whose iterable the server closed, before the end."""
    failed: int
    """Requests whose app ended without finishing its response."""
    rejected: int
    """Requests that the app never saw: answered by the bridge itself (400, 411, 501), or refused
    since the bridge was being closed, its startup had failed, or the environ makes no sense.
    """
    closed: int
    """Requests that were broken off because the bridge was closed."""


class ASGIToWSGI:
    """Makes a WSGI app of an ASGI app.

    `app` is an ASGI 3 or ASGI 2 app or an import string `"pkg.module:attribute"`. All its requests
    run in one private event loop in a thread of its own, started by the first request of each
    process (A-CALL-2), by `startup()` or by `with`.

    - `backend`: `"asyncio"` or `"trio"`. `loop_factory`: makes asyncio's loop; None takes uvloop
      where it is installed.
    - `lifespan`: `"auto"`, `"on"` or `"off"`, as uvicorn means them (A-LOOP-2). `startup_timeout`:
      seconds that startup may take.
    - `shutdown_timeout`: seconds that `close()` gives to background work, and again to the
      lifespan's shutdown (A-OUT-5).
    - `request_buffer`, `response_buffer`: bytes that wait in memory for the app, or for the server,
      per request (A-IN-1, A-OUT-2).
    - `disconnect_poll`: seconds between two looks at whether the client is still there, while the
      app is silent. None does not look: for a proxy that shuts its sending side (A-IN-3).
    - `background_wait`: seconds that `close()` of a whole response waits for what the app does
      after it; for tests and hosts that serve one request (A-OUT-9).
    - `root_path`: comes before SCRIPT_NAME, for a proxy that strips a prefix; begins with a slash.

    Raises TypeError, ValueError or ImportError for arguments that make no sense.
    """

    def __init__(
        self,
        app: ASGIApp | str,
        *,
        backend: Backend = "asyncio",
        loop_factory: LoopFactory | None = None,
        lifespan: LifespanMode = "auto",
        startup_timeout: float = 60.0,
        shutdown_timeout: float = 30.0,
        request_buffer: int = 524288,
        response_buffer: int = 524288,
        disconnect_poll: float | None = 0.25,
        background_wait: float = 0.0,
        root_path: str | None = None,
    ) -> None:
        self.app = app
        if backend not in BACKENDS:
            raise ValueError(f"backend is {backend!r}, expected one of {BACKENDS}")
        if lifespan not in LIFESPAN_MODES:
            raise ValueError(f"lifespan is {lifespan!r}, expected one of {LIFESPAN_MODES}")
        if loop_factory is not None and not callable(loop_factory):
            raise TypeError(
                f"loop_factory is {loop_factory!r}, "
                "expected a callable that makes an asyncio event loop"
            )
        if loop_factory is not None and backend == "trio":
            raise ValueError(
                "loop_factory makes asyncio's loop, it has no meaning for backend 'trio'"
            )
        if root_path is not None and not isinstance(root_path, str):
            raise TypeError(f"root_path is {root_path!r}, expected a str")
        if root_path and not root_path.startswith("/"):
            raise ValueError(f"root_path is {root_path!r}, expected a path that begins with '/'")
        self._backend = backend
        self._loop_factory = loop_factory
        self._lifespan_mode = lifespan
        self._startup_timeout = seconds("startup_timeout", startup_timeout)
        self._shutdown_timeout = seconds("shutdown_timeout", shutdown_timeout)
        self._request_buffer = count("request_buffer", request_buffer, least=1)
        self._response_buffer = count("response_buffer", response_buffer, least=1)
        self._looks_for_client = disconnect_poll is not None
        self._check_interval = (
            LOOP_CHECK_SECONDS
            if disconnect_poll is None
            else seconds("disconnect_poll", disconnect_poll)
        )
        self._background_wait = seconds("background_wait", background_wait, zero=True)
        self._root_path = (root_path or "").rstrip("/")
        self._begin()
        reset_in_child(self)

    def _begin(self) -> None:
        """The state that a forked child does not share with its parent."""
        self._lock = threading.RLock()
        """Held for a few statements, none of which waits: neither a signal's handler that comes in
        between nor a greenlet finds it held for long.
        """
        self._start: _Start | None = None
        """While the loop starts: the first request starts it, the others wait for that."""
        self._side: _LoopSide | None = None
        self._private: PrivateLoop | None = None
        """The loop that was started last, from before its lifespan's startup on."""
        self._process = os.getpid()
        self._counting = threading.Lock()
        self._rejected = 0
        """Requests that were refused in their own thread; `_counting` guards its writers."""

    def reset_after_fork(self) -> None:
        """Forget the parent's loop; the child starts its own on first use.

        Called by the fork itself (A-CALL-2).
        """
        closed_at_exit.notice_fork()
        if self._side is not None:
            self._side.abandon()
        self._begin()

    def _notice_fork(self) -> None:
        """Some servers fork without Python's hooks (uWSGI by default); then nobody has called
        `reset_after_fork`.
        """
        process = os.getpid()
        if self._process != process:
            # The bridge's own lock may have been held in the parent. setdefault is one step: all
            # threads get one lock.
            with _after_fork.setdefault(process, threading.Lock()):
                if self._process != process:
                    self.reset_after_fork()

    @property
    def app(self) -> ASGIApp:
        """The ASGI app.

        May be set, in any thread, with the constructor's checks: requests that begin afterwards run
        in the new one (W-APP-1). A lifespan that runs is the old one's until the loop ends.
        """
        return self._given_app

    @app.setter
    def app(self, app: ASGIApp | str) -> None:
        given = imported_app(app, kind="an ASGI app")
        self._app = _single_callable(given)
        self._given_app: ASGIApp = given

    # ------------------------------------------------------------ WSGI

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """The WSGI app.

        In any thread but the loop's own, where it raises RuntimeError. Raises what the app raised
        before its response, AppError, ServerError, BridgeClosed.
        """
        if is_websocket(environ):
            return self._refuse(
                environ, start_response, "501 Not Implemented", "WebSockets are not served here."
            )
        try:
            length = declared_length(environ)
        except LengthRequired as exc:
            return self._refuse(environ, start_response, "411 Length Required", str(exc))
        except BadRequest as exc:
            return self._refuse(environ, start_response, "400 Bad Request", str(exc))
        try:
            side = self._running_side("a request")
        except BaseException:
            self._count_rejected()
            raise
        try:
            exchange = _Exchange(self, side, environ, length)
        except ServerError:
            self._count_rejected()
            raise
        return exchange.respond(start_response)

    # ------------------------------------------------------------ the private loop

    def _running_side(self, waits: str) -> "_LoopSide":
        """Raises RuntimeError in the loop's own thread, for which `waits` would wait."""
        if self._process != os.getpid():
            self._notice_fork()
        # Without a lock. The loop's own thread sees its number, and the loop itself here, since
        # both were written before the app's first step in it. Another thread sees what it may, but
        # never its own number.
        if (private := self._private) is not None and private.thread_id == threading.get_ident():
            raise _in_the_loops_own_thread(waits)
        # Without the lock, since a side stands here only once it is started; reading an attribute
        # is one step.
        side = self._side
        if side is None or side.private.ended:
            side = self._started_side(waits)
        if side.refusal is not None:
            raise BridgeClosed(side.refusal)
        return side

    def _started_side(self, waits: str) -> "_LoopSide":
        """Start the loop, or wait for the thread that does."""
        own = _Start()
        while True:
            try:
                with self._lock:
                    if (side := self._side) is not None and not side.private.ended:
                        return side
                    if (others := self._start) is None:
                        self._start = own
                if others is None:
                    self._side = _LoopSide.started(self, own)
                    return self._side
            finally:
                if self._start is own:
                    self._start = None
                    own.over.set()
            if others.thread_id == threading.get_ident():
                raise RuntimeError(
                    f"{waits} waits for the private loop, whose start this thread is in the middle "
                    "of; a signal's handler cannot wait for what it has interrupted"
                )
            others.over.wait()

    def startup(self) -> None:
        """Start the private loop and run the lifespan's startup now. Any thread but the loop's own,
        where it raises RuntimeError.

        Raises BridgeClosed when the startup failed (A-LOOP-2).
        """
        self._running_side("startup()")

    def close(self) -> None:
        """End background work, the lifespan and the private loop, in that order.

        Any thread but the loop's own, where it raises RuntimeError.

        A bridge used again afterwards starts a new loop. A signal's handler may call it; a start
        that the handler has interrupted raises BridgeClosed when the handler returns.
        """
        self._notice_fork()
        if (private := self._private) is not None and private.thread_id == threading.get_ident():
            raise _in_the_loops_own_thread("close()")
        with self._lock:
            start, side = self._start, self._side
        if start is not None:
            if start.thread_id != threading.get_ident():
                start.over.wait()
                side = self._side
            else:  # in a signal's handler, which has interrupted the start
                start.given_up = True
                side = start.side
        if side is None:
            return
        side.close()
        with self._lock:
            if self._side is side:
                self._side = self._private = None
                self._rejected = 0

    def __enter__(self) -> Self:
        self.startup()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def stats(self) -> ASGIToWSGIStats:
        """What the bridge does now and has done since its loop started.

        Any thread, also in a signal's handler; without waiting for a startup.
        """
        side = self._side if self._process == os.getpid() else None
        if side is None:
            return ASGIToWSGIStats(False, 0, 0, 0, 0, 0, self._rejected, 0)
        background = side.background
        return ASGIToWSGIStats(
            running=side.refusal is None,
            in_flight=max(0, len(side.exchanges) - background),
            background=background,
            completed=side.completed,
            disconnected=side.disconnected,
            failed=side.failed,
            rejected=self._rejected + side.rejected,
            closed=side.closed,
        )

    def _count_rejected(self) -> None:
        """In a calling thread, of which there are many."""
        with self._counting:
            self._rejected += 1

    def _refuse(
        self, environ: Environ, start_response: StartResponse, status: str, text: str
    ) -> list[bytes]:
        self._count_rejected()
        return _plain_answer(environ, start_response, status, text)


class _Start:
    """One start of a private loop, made by one thread; others wait until it is over."""

    def __init__(self) -> None:
        self.thread_id = threading.get_ident()
        self.over = threading.Event()
        self.side: _LoopSide | None = None
        """From when its loop runs."""
        self.given_up = False
        """Whether a signal's handler has closed the bridge in the middle of it."""


class _LoopSide:
    """The private loop of one bridge in one process, its lifespan and what runs in it."""

    def __init__(self, bridge: ASGIToWSGI) -> None:
        # Not the bridge itself: a bridge that nobody holds any more is collected, and its loop
        # ended.
        self._app = bridge._app
        self._shutdown_timeout = bridge._shutdown_timeout
        self._unused: weakref.finalize[Any, Any] | None = None
        self.refusal: str | None = None
        """Why requests are refused: the startup failed."""
        self.state: dict[str, Any] = {}
        """The lifespan's state; a copy of it is in each scope."""
        self.private = PrivateLoop.started(
            backend=bridge._backend,
            loop_factory=bridge._loop_factory or default_loop_factory(),
            name="wsgi_asgi_bridge-loop",
        )
        self.handle = self.private.handle
        self._lifespan: LifespanTask | None = None
        if bridge._lifespan_mode != "off":
            required = bridge._lifespan_mode == "on"
            self._lifespan = LifespanTask(self.private, self._app, self.state, required=required)
        # The loop's own; the counters may be read by anyone.
        self.exchanges: set[_Exchange] = set()
        self.background = self.completed = self.disconnected = self.failed = 0
        self.rejected = self.closed = 0
        self._on_empty: Callable[[], None] | None = None
        self.takes_requests = True
        """False once `close` has begun. The loop's own."""
        self.executor = CallingThreadExecutor("wsgi_asgi_bridge-sync")
        self._closing = threading.RLock()
        """Held while the loop ends: whoever calls `close` meanwhile returns when it has.

        Re-entered at the exit of a closing process.
        """
        self._closed = False
        self._process = os.getpid()

    @classmethod
    def started(cls, bridge: ASGIToWSGI, start: _Start) -> "_LoopSide":
        """With its loop running and the lifespan's startup over."""
        side = cls(bridge)
        start.side = side
        bridge._private = side.private
        closed_at_exit.add(side)
        try:
            if side._lifespan is not None and not start.given_up:
                side.refusal = side._lifespan.startup(bridge._startup_timeout)
            if start.given_up:
                raise BridgeClosed("the bridge was closed while it was starting")
        except BaseException:  # Ctrl-C
            side.close()
            raise
        if side.refusal is not None:
            logger.error("%s; all requests are refused", side.refusal)
        # The collector may run in any thread, at any place, with any lock held: it only posts.
        side._unused = weakref.finalize(bridge, side.end_unused)
        side._unused.atexit = False
        return side

    def abandon(self) -> None:
        """In a forked child: not closed when the bridge is collected, as little as at the exit."""
        if self._unused is not None:
            self._unused.detach()

    # ------------------------------------------------------------ ending

    def close(self) -> None:
        """Background work, lifespan, loop. In a thread."""
        if self._process != os.getpid():
            return  # a child's exit: the loop is its parent's
        with self._closing:
            if not self._closed:
                self._closed = True
                try:
                    self._end()
                except BaseException:  # Ctrl-C: the next close() goes on
                    self._closed = False
                    raise
                closed_at_exit.discard(self)

    def _end(self) -> None:
        if self._unused is not None:
            self._unused.detach()
        if not self._wait(self._when_empty, self._shutdown_timeout):
            logger.warning(
                "shutdown_timeout=%s s is over: %d app calls are cancelled",
                self._shutdown_timeout,
                len(self.exchanges),
            )
            # Before the lifespan ends: what they still use is there while they clean up.
            self.handle.post_at_any_moment(self._cancel_all)
            self._wait(self._when_empty, CANCEL_SECONDS)
        if self._lifespan is not None:
            self._lifespan.shutdown(self._shutdown_timeout)
        if not self.private.stop(self._shutdown_timeout):
            logger.error(
                "the private loop did not end within shutdown_timeout=%s s", self._shutdown_timeout
            )
        self.executor.close()

    def end_unused(self) -> None:
        """The bridge was collected: nobody can send requests any more."""
        if self._process == os.getpid():
            self.handle.post(self._end_unused_in_loop)

    def _end_unused_in_loop(self) -> None:
        threading.Thread(target=self.close, name="wsgi_asgi_bridge-close", daemon=True).start()

    def _wait(self, when: Callable[[Callable[[], None]], None], timeout: float) -> bool:
        """Wait for what `when`, called in the loop, promises to report.

        False after `timeout` seconds.
        """
        event = ThreadEvent()
        if not self.handle.post_at_any_moment(lambda: when(event.set)):
            return True
        return event.wait(timeout)

    def _when_empty(self, report: Callable[[], None]) -> None:
        self.takes_requests = False
        self._on_empty = report
        self.exchange_ended(None)

    def _cancel_all(self) -> None:
        for exchange in list(self.exchanges):
            exchange.shut_down_in_loop()

    def exchange_ended(self, exchange: "_Exchange | None") -> None:
        """In the loop."""
        if exchange is not None:
            self.exchanges.discard(exchange)
        if not self.exchanges and self._on_empty is not None:
            report, self._on_empty = self._on_empty, None
            report()


class _Exchange(Iterator[bytes]):
    """One request in flight, and the iterable that the server gets."""

    # Without slots each would get a dict of its own: instances share the names of their attributes
    # only where the first one has set them all before there are many, and the loop sets some late.
    __slots__ = (
        "__weakref__",
        "_before",
        "_blocks",
        "_body",
        "_body_broken",
        "_body_ended",
        "_body_told",
        "_bridge",
        "_caller",
        "_changes",
        "_client_is_gone",
        "_context",
        "_environ",
        "_gone",
        "_held",
        "_is_counted",
        "_is_inner",
        "_last",
        "_left",
        "_mirror_of_app",
        "_over",
        "_parts",
        "_reading",
        "_reads_on",
        "_receivers",
        "_response",
        "_scope",
        "_seen",
        "_sending",
        "_side",
        "_task",
        "_tells_changes",
        "_turns",
    )

    def __init__(
        self, bridge: ASGIToWSGI, side: _LoopSide, environ: Environ, length: int | None
    ) -> None:
        # A bridge that only its responses hold is not to be collected under them.
        self._bridge = bridge
        self._side = side
        self._caller = CallingThread(
            side.handle, bridge._response_buffer, bridge._background_wait > 0
        )
        self._scope = scope_from_environ(environ, bridge._root_path, side.state)
        self._response = ASGIResponse(self._scope["method"])
        self._context = own_context()
        # A WSGI server's thread keeps its context from one request to the next, where a variable
        # that says who is logged in must not stay; a WSGIToASGI makes one for each request.
        self._is_inner = "asgi.scope" in environ
        self._tells_changes = self._is_inner and _is_below_a_task(environ)
        """Opened when the app has ended, where `close()` waits for that."""
        # The calling thread's.
        self._body = request_body(environ, length, bridge._request_buffer)
        self._environ = environ
        self._client_is_gone: Callable[[], bool] | None = None
        self._blocks = _NO_BLOCKS
        self._mirror_of_app: ContextMirror | None = None
        self._last = False
        self._left = False
        # The loop's.
        self._task: BackgroundTask
        self._before: contextvars.Context
        """The app's context when it began."""
        self._seen: contextvars.Context
        self._changes: Changes | None = None
        self._parts: list[bytes] = []  # one as a rule: the next is read when the app asks
        self._body_ended = self._body.empty
        self._body_told = False
        self._body_broken = False
        self._reading = False
        self._reads_on = False  # whether the app's last receive() took a part of the body
        self._gone = False
        self._over = False
        self._is_counted = False
        """The bridge was closed meanwhile, and this request counts as such, however it ends."""
        self._held: bytes | None = None
        """The last part of the body, while it waits for how the app ends."""
        self._turns: int
        self._receivers: list[LoopEvent] = []  # tasks of the app that wait in receive()
        self._sending = 0  # tasks of the app that wait in send()
        if self._body.small:
            # Before the loop knows of this exchange, so this thread may.
            try:
                self._took_body(*self._body.read_all())
            except BaseException:  # nobody is there to call the app for
                side.handle.post(self._note_gone)
                raise

    # ------------------------------------------------------------ the calling thread

    def respond(self, start_response: StartResponse) -> Iterable[bytes]:
        """Start the app, wait for its first bytes or its end, and hand the head to the server."""
        if not self._side.handle.post(self._begin_in_loop):
            self._bridge._count_rejected()
            raise BridgeClosed("the private event loop has ended")
        chunks = self._take()
        response = self._response
        # A list tells the server that this is all, and many add a Content-Length to it. So what the
        # app sent decides, not how much of it this thread was in time to take (A-OUT-7).
        whole = self._last and not response.in_parts
        if whole and (self._caller.late_error is not None or self._bridge._background_wait):
            whole = False  # a list has no close()
            response.add_length(sum(map(len, chunks)))
        try:
            start_response(response.status, response.headers)
        except BaseException:
            self.close()
            raise
        if whole and not self._caller.has_unfinished_work():
            if self._changes is not None:
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
        """The server is done with this response, finished or not.

        May be called again, and in another thread. After a whole response it returns when a WSGI
        app behind both bridges has closed its own. Of an app that goes on, nobody knows what it
        will take back, so the caller's context keeps nothing of it.

        Where `background_wait` says so, it waits for the app's background work and runs what of it
        is thread-sensitive (A-OUT-9, A-LOOP-4). Raises, once, what the app raised right after a
        response of its own that says 5xx (A-OUT-8).
        """
        self._blocks = _NO_BLOCKS
        try:
            if self._last and not self._left:
                self._caller.run_jobs_from_thread(self._bridge._background_wait)
        finally:  # Ctrl-C
            self._leave()
        if self._last and self._caller.has_unfinished_work():
            with suppress(BridgeClosed):
                self._caller.wait_for_work_from_thread(
                    self._bridge._check_interval, self._check_loop
                )
            self._caller.changes = self._caller.last_changes  # None of an app that was given up
            self._mirror_changes()
        elif not self._last and self._mirror_of_app is not None:
            self._mirror_of_app.apply({})
        self._forget_changes()
        error = self._caller.late_error_from_thread()
        if error is not None:
            try:
                if not _is_below_opentelemetry():
                    raise error
                _log_late_error(error)
            finally:
                del error  # its traceback leads to this frame

    def _take(self) -> list[bytes]:
        """What the app has sent; serves it with this thread meanwhile.

        Raises what ended the exchange otherwise.
        """
        try:
            chunks, self._last = self._caller.take_from_thread(
                self._bridge._check_interval, self._check_alive
            )
        except BaseException:
            self._mirror_changes()
            self._forget_changes()
            self._leave()
            _log_late_error(self._caller.late_error_from_thread())
            raise
        if self._caller.changes is not None or self._changes is not None:
            self._mirror_changes()
        if self._last and not self._bridge._background_wait:
            self._leave()  # before the server sends what was taken: no job waits for a slow client
        return chunks

    def _check_alive(self) -> None:
        """While the app is silent: is there anybody left to wait for?"""
        if self._client_is_gone is None:  # most requests are over before the first check_alive
            looks = self._bridge._looks_for_client
            self._client_is_gone = _disconnect_probe(self._environ) if looks else bool
        if self._client_is_gone():
            raise _client_gone()
        self._check_loop()

    def _check_loop(self) -> None:
        if not self._side.private.thread.is_alive():
            raise BridgeClosed("the private event loop ended while this request was in flight")

    def _mirror_changes(self) -> None:
        """Set in the caller's context what was set for it on the app's side: by a WSGI app behind
        both bridges, and by all of the app where the caller's context is this request's own.
        """
        by_thread, by_task = self._caller.changes, self._changes
        if self._mirror_of_app is None:
            if by_thread is None and by_task is None:
                return
            self._mirror_of_app = ContextMirror(context_lasts=not self._is_inner)
        self._mirror_of_app.apply({**(by_thread or {}), **(by_task or {})})

    def _forget_changes(self) -> None:
        """What the app has set may refer to this exchange: neither is to wait for the garbage
        collector.
        """
        self._changes = self._mirror_of_app = None

    def _leave(self) -> None:
        if self._left:
            return
        self._left = True
        jobs = self._caller.finish_from_thread()
        # Whether the loop has to be told. One thread may close what another iterates, and write
        # _last meanwhile, but it does not matter when it is read: it is set only by a thread that
        # has taken the end, under the caller's lock, where the loop had put it, and so the loop
        # knows. Leaving is no end: a thread that is woken by it takes nothing. Where the end was
        # taken just now and is not seen here yet, the loop is told of what it knows.
        if not self._last:
            self._side.handle.post(self._caller_left_in_loop)
        for job in jobs:
            self._side.executor.run_in_fallback(job)

    def _read_body(self) -> None:
        """A job: the app waits for more of the request."""
        if self._left or self._last:
            return
        try:
            part, ended = self._body.read()
        except BridgeError as exc:
            self._side.handle.post(partial(self._lost_client_in_loop, exc))
            return
        self._side.handle.post(lambda: self._took_body(part, ended))

    # ------------------------------------------------------------ the loop

    def _begin_in_loop(self) -> None:
        side = self._side
        if not side.takes_requests:
            self._over = True
            side.rejected += 1
            self._caller.fail_in_loop(
                BridgeClosed("the bridge is being closed and takes no new requests")
            )
            return
        side.exchanges.add(self)
        self._task = side.handle.spawn(self.run, self._context)

    async def run(self) -> None:
        """All of the app's work, as one task in the caller's context (A-LOOP-3).

        Lets nothing escape but trio's cancellation.
        """
        error: BaseException | None = None
        side = self._side
        try:
            if side.handle.backend == "asyncio":
                if not side.executor.entered_in_loop(self._caller):
                    await side.executor.enter_own_in_loop()
            else:
                current_calling_thread.set(self._caller)
            self._before = self._seen = contextvars.copy_context()
            await self._bridge._app(self._scope, self._receive, self._send)
        except BaseException as exc:  # SystemExit too: it ends its request, not the loop (A-LOOP-5)
            error = exc
        try:
            self._app_ended(error)
            if (
                error is not None
                and side.handle.backend == "trio"
                and isinstance(error, side.handle.cancelled)
            ):
                raise error
        finally:
            # Its traceback leads to this frame, and the context to this exchange where the app has
            # put its request there: together they would wait for the garbage collector.
            del error, self._task
            self._context = self._before = self._seen = _NO_CONTEXT

    def _note_changes(self) -> None:
        """What the app's first task has set, as its caller would see it in one context; its other
        tasks have contexts of their own.
        """
        now = self._context.copy()
        if not unchanged(self._seen, now):
            self._seen = now
            self._changes = changes(self._before, now)

    def _app_ended(self, error: BaseException | None) -> None:
        side = self._side
        if self._held is not None:
            error = self._end_with_app(error)
        if self._body_broken and self._body_told:
            # It was told that its client has left, and ends without having answered: it did what
            # the spec asks for. Changes nothing where the response has ended.
            self._note_gone()
            self._caller.fail_in_loop(_client_gone())
        if self._over:
            side.background -= 1
            if error is not None and not _is_consequence(error, (ClientDisconnected,)):
                _log_late_error(error)
        elif self._gone:
            if error is not None and not _is_consequence(
                error, (ClientDisconnected, side.handle.cancelled)
            ):
                logger.error("the app raised after its client had left", exc_info=error)
        else:
            if not self._is_counted:
                side.failed += 1
            self._note_last_changes(error)
            self._caller.fail_in_loop(
                AppError(
                    f"the app returned {self._response.state.value}, without ending its response"
                )
                if error is None
                else presentable(error)
            )
        self._over = True
        if self._receivers:
            self._open_receivers()
        side.exchange_ended(self)
        if self._bridge._background_wait:
            self._caller.release_in_loop()

    def _note_last_changes(self, error: BaseException | None) -> None:
        """With the app's end, which raised `error`."""
        self._note_changes()
        if not self._tells_changes and self._changes is not None:
            # Any caller may know what a monitor around the app has noted about this exception;
            # another one, around the bridge, would report it again.
            self._changes = None if error is None else notes_on(error, self._changes)

    async def _send(self, message: Message) -> None:
        if self._gone:
            raise _client_gone()
        part = self._response.accept(message)
        if part is None:
            if self._caller.remark is not None:
                self._response.set_reason(self._caller.remark)
            return
        body, last = part
        if self._response.bodyless:
            await self._pass_over(last)
            return
        if self._tells_changes:
            self._note_changes()
        if last and (self._changes or self._response.status[0] == "5"):
            self._hold_end(body)
            return
        wait = self._caller.put_in_loop(body, last)
        if wait is None:
            raise self._found_gone()
        if last:
            self._note_end()
        elif wait:
            self._sending += 1
            try:
                await self._caller.wait_for_room_in_loop()
            finally:
                self._sending -= 1
            if self._caller.finished() and not self._over:
                raise self._found_gone()

    def _note_end(self) -> None:
        """The caller has the last part of the body."""
        self._side.completed += 1
        self._side.background += 1
        self._over = True
        if self._receivers:
            self._open_receivers()

    def _hold_end(self, body: bytes) -> None:
        """The thread gets `body`, the last part, when the app has ended: only then it is known what
        the app raises after a 5xx (A-OUT-8), and which context variables it has reset (D-2).

        An app that goes on, with background work, is waited for a few turns of the loop, no longer.
        """
        if not self._caller.hold_end_in_loop():
            raise self._found_gone()
        self._held = body
        self._turns = TURNS_FOR_THE_APP
        self._note_end()
        self._side.handle.call_later(0.0, self._count_turn)

    def _count_turn(self) -> None:
        if self._held is None:
            return
        self._turns -= 1
        if self._turns:
            self._side.handle.call_later(0.0, self._count_turn)
        else:
            if self._changes:
                self._changes = {}  # it may still reset them, and nobody would be told
            self._release_end()

    def _release_end(self) -> None:
        """Put the end that was held back. A thread that has left meanwhile has no use for it."""
        body, self._held = self._held, None
        if body is not None:
            self._caller.put_in_loop(body, last=True)

    def _end_with_app(self, error: BaseException | None) -> BaseException | None:
        """The app has ended while its end was held back.

        Gives what is left to be logged: the error, unless `close()` raises it.
        """
        self._note_last_changes(error)
        if (
            error is not None
            and self._response.status[0] == "5"
            and not _is_consequence(error, (ClientDisconnected,))
            and self._caller.follow_with_error_in_loop(presentable(error))
        ):
            error = None
        self._release_end()
        return error

    async def _pass_over(self, last: bool) -> None:
        """A body part of a response that has no body (HEAD, 204, 304): the client has all already.

        An app that goes on for ever is told, after a while, that nobody is there.
        """
        if not self._over:
            if self._tells_changes:
                self._note_changes()
            if self._changes or self._response.status[0] == "5":
                self._hold_end(b"")
            elif self._caller.put_in_loop(b"", last=True) is None:
                raise self._found_gone()
            else:
                self._note_end()
        if not last:
            await self._side.handle.checkpoint()
            if self._response.passed_over > PASSED_OVER_BYTES:
                raise _client_gone()

    async def _receive(self) -> Message:
        asked = False
        while True:
            if self._gone or self._over:
                return {"type": "http.disconnect"}
            if self._body_broken and not self._parts:
                self._body_told = True
                return {"type": "http.disconnect"}
            if not self._body_told:
                if self._parts or self._body_ended:
                    body = self._parts.pop(0) if self._parts else b""
                    self._body_told = self._body_ended and not self._parts
                    self._reads_on = True
                    return {"type": "http.request", "body": body, "more_body": not self._body_told}
                if not self._reading:
                    if not (asked or self._reads_on):
                        # A read may block for as long as the client likes, and holds the response
                        # back meanwhile. Frameworks poll by a receive() that is cancelled as it
                        # begins: that ends here, on any loop, before anything has been asked of
                        # the thread. An app whose last receive() took a part does not poll, it
                        # reads; a turn of the loop each time would cost it a third more.
                        asked = True
                        await self._side.handle.checkpoint()
                        continue
                    self._reading = self._caller.call_in_thread(self._read_body)
            event = self._side.handle.create_event()
            self._receivers.append(event)
            try:
                await event
            except BaseException:  # cancelled: frameworks poll this way
                self._reads_on = False
                raise
            finally:
                self._receivers.remove(event)

    def _took_body(self, part: bytes, ended: bool | None) -> None:
        """The thread has read `part`; `ended` None: the body breaks off with it.

        Then the app is told of a disconnect. It may answer all the same, since a client that has
        shut down its sending side only still reads.
        """
        self._reading = False
        if part:
            self._parts.append(part)
        if ended is None:
            self._body_broken = True
        elif ended:
            self._body_ended = True
        if self._receivers:
            self._open_receivers()

    def _lost_client_in_loop(self, error: BridgeError) -> None:
        """The thread found its client gone as it read, and raises `error` once it has taken what
        waits.

        In the loop and not in the thread, so that nothing comes between: the app neither sends to
        nobody nor ends as one that was never told. A response that has ended stays whole.
        """
        self._release_end()
        self._caller_left_in_loop()
        self._caller.fail_in_loop(error)

    def _caller_left_in_loop(self) -> None:
        """The calling thread has gone before the end, or is about to: for the app that is the
        client's disconnect (A-OUT-3).

        An app that listens, or sends, learns of it. One that is silent in the middle of its
        response would not; it is cancelled, as frameworks do to their own streams where the server
        lets them listen.
        """
        knows = self._gone or bool(self._receivers or self._sending)
        self._note_gone()
        if self._gone and not knows and self._response.state is ASGIResponseState.STARTED:
            self._task.cancel()

    def _note_gone(self) -> None:
        if not (self._gone or self._over):
            self._gone = True
            if not self._is_counted:
                self._side.disconnected += 1
            if self._receivers:
                self._open_receivers()

    def _found_gone(self) -> ClientDisconnected:
        """What `send()` raises once the calling thread has gone before the end (A-OUT-3)."""
        self._note_gone()
        return _client_gone()

    def shut_down_in_loop(self) -> None:
        """The bridge is closed: nobody waits any longer, neither the thread for the app nor the app
        for its background work.
        """
        self._release_end()
        if not (self._gone or self._over or self._is_counted):
            self._is_counted = True
            self._side.closed += 1
        self._caller.fail_in_loop(
            BridgeClosed("the bridge was shut down while this request was in flight")
        )
        self._task.cancel()

    def _open_receivers(self) -> None:
        for event in self._receivers:
            self._side.handle.set_event(event)


_NO_BLOCKS: Iterator[bytes] = iter(())
_NO_CONTEXT = contextvars.Context()


def _disconnect_probe(environ: Environ) -> Callable[[], bool]:
    """How this server shows whether the client is still there, if it does (A-IN-3).

    The nearest first: a WSGIToASGI around this bridge carries what an outer server says.
    """
    told = environ.get("wsgi_asgi_bridge.client_disconnected") or environ.get(
        "waitress.client_disconnected"
    )
    if told is not None:
        return told  # type: ignore[no-any-return]
    connection = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    if connection is not None:
        return partial(peer_has_closed, connection)
    return bool  # which says False


def _is_below_a_task(environ: Environ) -> bool:
    """Whether the outermost bridge of this request is a WSGIToASGI, so that no server's thread is
    told what is told here.
    """
    scope = environ.get("asgi.scope")
    while scope is not None:
        outer = scope.get("wsgi_environ")
        if outer is None:
            return True
        scope = outer.get("asgi.scope")
    return False


def _in_the_loops_own_thread(waits: str) -> RuntimeError:
    return RuntimeError(
        f"{waits} waits for the private loop, and this is that loop's own thread, which would wait "
        "for itself; call from another thread, for example by asyncio.to_thread()"
    )


def _client_gone() -> ClientDisconnected:
    """With the number that a write to this client would have raised: servers know it and keep
    quiet.
    """
    return ClientDisconnected(errno.EPIPE, "the client disconnected before the exchange was over")


def _is_below_opentelemetry() -> bool:
    """Whether OpenTelemetry's WSGI middleware is among the callers.

    After a `close()` that raises it neither ends its span nor leaves its context, in which the next
    requests of this thread would then be traced.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == "opentelemetry.instrumentation.wsgi":
            return True
        frame = frame.f_back
    return False


def _log_late_error(error: BaseException | None) -> None:
    if error is not None:
        logger.error("the app raised after its response had ended", exc_info=error)


def _is_consequence(error: BaseException, causes: tuple[type[BaseException], ...]) -> bool:
    """Whether `error` is one of `causes` or was raised because of one, as frameworks translate
    them: `raise ... from` one, or a group of nothing else.

    What was raised while one was being handled (`__context__`) is a bug in a `finally` as well as a
    translation, so it counts only where its class says what it is: Starlette raises its
    ClientDisconnect so.
    """
    return _leads_to(error, causes, frozenset())


def _leads_to(
    error: BaseException, causes: tuple[type[BaseException], ...], above: frozenset[int]
) -> bool:
    """`above`: what has been looked at on the way, since an exception may be its own cause."""
    current: BaseException | None = error
    while current is not None and id(current) not in above:
        if isinstance(current, causes):
            return True
        above |= {id(current)}
        if isinstance(current, BaseExceptionGroup) and all(
            _leads_to(member, causes, above) for member in current.exceptions
        ):
            return True
        if current.__cause__ is None and "Disconnect" in type(current).__name__:
            current = current.__context__
        else:
            current = current.__cause__
    return False


def _single_callable(app: Any) -> Any:
    """`app` as an ASGI 3 callable (A-CALL-4).

    One that takes three arguments is one, whatever else it looks like.
    """
    try:
        inspect.signature(app).bind(None, None, None)
    except (TypeError, ValueError):
        return guarantee_single_callable(app)  # type: ignore[no-untyped-call]
    return app


def _plain_answer(
    environ: Environ, start_response: StartResponse, status: str, text: str
) -> list[bytes]:
    """An answer of the bridge's own.

    To a HEAD without its body: most servers would send it, and the client would take it for the
    head of the next response.
    """
    body = text.encode() + b"\n"
    start_response(
        status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    )
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]


_after_fork: dict[int, threading.Lock] = {}
"""By process: who notices a fork first."""

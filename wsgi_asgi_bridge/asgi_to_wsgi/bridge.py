"""`ASGIToWSGI`: an ASGI app under a WSGI server.

`ASGIToWSGI.__call__` is one HTTP request: an `AppTask` runs the app in the private loop, and a
`Response` waits for it in the calling thread.
"""

import inspect
import os
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from asgiref.compatibility import guarantee_single_callable

from .._crossing.at_exit import closed_at_exit
from .._crossing.event_loop import LoopFactory, PrivateLoop
from .._crossing.fork import reset_in_child
from .._kinds import refuse_wsgi_app
from .._options import count, imported_app, optional_seconds, seconds
from .._pickling import PickledAsNew, keeping_options
from .._protocol.scope import LengthRequired, declared_length, is_websocket
from ..errors import BadRequest, BridgeClosed, ServerError
from ..typing import ASGIApp, Backend, Environ, LifespanMode, ReleaseMode, StartResponse
from .app_task import AppTask
from .released import EVENT_STREAM, WEBSOCKET
from .response import Response
from .runtime import Runtime, RuntimeStart
from .settings import Settings, checked_root_path
from .stats import ASGIToWSGIStats

__all__ = ["ASGIToWSGI", "ASGIToWSGIStats"]

LOOP_CHECK_SECONDS = 1.0
"""How often a waiting thread checks that the loop is alive if `disconnect_poll` is None."""


class ASGIToWSGI(PickledAsNew):
    """Makes a WSGI app of an ASGI app.

    `app` is an ASGI 3 or ASGI 2 app or an import string `"pkg.module:attribute"`. All its requests
    run in one private event loop in a thread of its own, started by the first request of each
    process (A-CALL-2), by `startup()` or by `with`.

    - `backend`: `"asyncio"` or `"trio"`. `loop_factory`: makes asyncio's loop; None takes uvloop
      if it is installed.
    - `lifespan`: `"auto"`, `"on"` or `"off"`, as uvicorn means them (A-LOOP-2). `startup_timeout`:
      seconds that startup may take.
    - `shutdown_timeout`: seconds that `close()` waits for background work, and then again for the
      lifespan's shutdown (A-OUT-5).
    - `request_buffer`, `response_buffer`: bytes that wait in memory for the app, or for the server,
      per request (A-IN-1, A-OUT-2).
    - `disconnect_poll`: seconds between two checks, while the app is silent, whether the client has
      left. None makes no checks, for a proxy that shuts its sending side (A-IN-3).
    - `background_wait`: seconds that a complete response's `close()` waits for what the app does
      after it; for tests and hosts that serve one request (A-OUT-9).
    - `root_path`: put before SCRIPT_NAME, for a proxy that strips a prefix; begins with a slash.

    Raises TypeError, ValueError or ImportError for invalid arguments.
    """

    @keeping_options
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
        release: ReleaseMode = "auto",
        max_released: int = 10000,
        max_message_size: int = 16777216,
        ping_interval: float | None = 20.0,
        ping_timeout: float | None = 20.0,
        websocket_compression: bool = True,
    ) -> None:
        self.app = app
        self._settings = Settings(
            backend=backend,
            loop_factory=loop_factory,
            lifespan=lifespan,
            startup_timeout=seconds("startup_timeout", startup_timeout),
            shutdown_timeout=seconds("shutdown_timeout", shutdown_timeout),
            request_buffer=count("request_buffer", request_buffer, least=1),
            response_buffer=count("response_buffer", response_buffer, least=1),
            detects_disconnects=disconnect_poll is not None,
            check_interval=LOOP_CHECK_SECONDS
            if disconnect_poll is None
            else seconds("disconnect_poll", disconnect_poll),
            background_wait=seconds("background_wait", background_wait, zero=True),
            root_path=checked_root_path(root_path),
            release=release,
            max_released=count("max_released", max_released, least=0),
            max_message_size=count("max_message_size", max_message_size, least=1),
            ping_interval=optional_seconds("ping_interval", ping_interval),
            ping_timeout=optional_seconds("ping_timeout", ping_timeout),
            websocket_compression=websocket_compression,
        )
        self._begin()
        reset_in_child(self)

    def _begin(self) -> None:
        """The state that a forked child does not share with its parent."""
        self._lock = threading.RLock()
        """Held for a few statements, none of which waits; a signal's handler may re-enter it."""
        self._start: RuntimeStart | None = None
        """Set while the loop starts: one thread starts it, the others wait for that."""
        self._runtime: Runtime | None = None
        self._private: PrivateLoop | None = None
        """The loop that was started last; set before its lifespan's startup."""
        self._process = os.getpid()
        self._counting = threading.Lock()
        self._rejected = 0
        """Requests that were refused in their own thread; `_counting` guards its writers."""

    def reset_after_fork(self) -> None:
        """Forget the parent's loop; the child starts its own on first use.

        Called by the fork itself (A-CALL-2).
        """
        closed_at_exit.notice_fork()
        if self._runtime is not None:
            self._runtime.abandon()
        self._begin()

    def _notice_fork(self) -> None:
        """Call `reset_after_fork` in a child of a server that forks without Python's hooks, as
        uWSGI does by default.
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
        return self._found_app

    @app.setter
    def app(self, app: ASGIApp | str) -> None:
        found = imported_app(app, kind="an ASGI app")
        refuse_wsgi_app(found)
        self._app = _single_callable(found)
        self._found_app: ASGIApp = found
        self._given_app = app

    # ------------------------------------------------------------ WSGI

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """The WSGI app.

        Any thread but the loop's own, in which it raises RuntimeError. Raises what the app raised
        before its response, AppError, ServerError, BridgeClosed, ClientDisconnected.
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
            runtime = self._running_runtime("a request")
        except BaseException:
            self._count_rejected()
            raise
        try:
            task = AppTask(self._app, runtime, environ, length, self)
        except ServerError:
            self._count_rejected()
            raise
        if task.body.small:
            task.read_small_body_from_thread()
        response = Response(task, environ, runtime.settings)
        if not runtime.handle.post(task.begin_in_loop):
            self._count_rejected()
            raise BridgeClosed("the private event loop has ended")
        return response.respond(start_response)

    # ------------------------------------------------------------ the private loop

    def _running_runtime(self, waits: str) -> Runtime:
        """Return the runtime, started if there is none.

        Raises RuntimeError in the loop's own thread, whose work `waits`, a name, would wait for.
        """
        if self._process != os.getpid():
            self._notice_fork()
        # Without a lock: `_private` and its `thread_id` were written before the app's first step in
        # the loop, so the loop's thread reads its own id here. No other thread reads its own id.
        if (private := self._private) is not None and private.thread_id == threading.get_ident():
            raise _in_the_loops_own_thread(waits)
        # Without the lock: a runtime is stored here only once it is started, and an attribute is
        # read in one step.
        runtime = self._runtime
        if runtime is None or runtime.private.ended:
            runtime = self._started_runtime(waits)
        if runtime.refusal is not None:
            raise BridgeClosed(runtime.refusal)
        return runtime

    def _started_runtime(self, waits: str) -> Runtime:
        """Start the loop, or wait for the thread that does."""
        own = RuntimeStart()
        while True:
            try:
                with self._lock:
                    if (runtime := self._runtime) is not None and not runtime.private.ended:
                        return runtime
                    if (others := self._start) is None:
                        self._start = own
                if others is None:
                    return self._start_runtime(own)
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

    def _start_runtime(self, start: RuntimeStart) -> Runtime:
        runtime = Runtime(self._app, self._settings)
        start.runtime = runtime
        self._private = runtime.private
        runtime.startup(self, start)
        self._runtime = runtime
        return runtime

    def startup(self) -> None:
        """Start the private loop and run the lifespan's startup now.

        Any thread but the loop's own, in which it raises RuntimeError. Raises BridgeClosed if the
        startup failed (A-LOOP-2).
        """
        self._running_runtime("startup()")

    def close(self) -> None:
        """End background work, the lifespan and the private loop, in that order.

        Any thread but the loop's own, in which it raises RuntimeError. Each of the three may take
        `shutdown_timeout` seconds (A-OUT-5).

        A bridge that is used again afterwards starts a new loop. A signal's handler may call it; a
        start that the handler has interrupted raises BridgeClosed when the handler returns.
        """
        self._notice_fork()
        if (private := self._private) is not None and private.thread_id == threading.get_ident():
            raise _in_the_loops_own_thread("close()")
        with self._lock:
            start, runtime = self._start, self._runtime
        if start is not None:
            if start.thread_id != threading.get_ident():
                start.over.wait()
                runtime = self._runtime
            else:  # in a signal's handler, which has interrupted the start
                start.given_up = True
                runtime = start.runtime
        if runtime is None:
            return
        runtime.close()
        with self._lock:
            if self._runtime is runtime:
                self._runtime = self._private = None
                self._rejected = 0

    def __enter__(self) -> Self:
        self.startup()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def stats(self) -> ASGIToWSGIStats:
        """Return what the bridge does now and has done since its loop started.

        Any thread, also in a signal's handler. Does not wait for a startup.
        """
        runtime = self._runtime if self._process == os.getpid() else None
        if runtime is None:
            return ASGIToWSGIStats(False, 0, 0, 0, 0, 0, self._rejected, 0)
        counts = runtime.counts
        background = counts.background
        return ASGIToWSGIStats(
            running=runtime.refusal is None,
            in_flight=max(0, len(runtime.in_flight) - background),
            background=background,
            completed=counts.completed,
            disconnected=counts.disconnected,
            failed=counts.failed,
            rejected=self._rejected + counts.rejected,
            closed=counts.closed,
            released_websockets=runtime.released.count(WEBSOCKET),
            released_event_streams=runtime.released.count(EVENT_STREAM),
        )

    def _count_rejected(self) -> None:
        """Count a refused request. Any calling thread."""
        with self._counting:
            self._rejected += 1

    def _refuse(
        self, environ: Environ, start_response: StartResponse, status: str, text: str
    ) -> list[bytes]:
        self._count_rejected()
        return _plain_answer(environ, start_response, status, text)


def _in_the_loops_own_thread(waits: str) -> RuntimeError:
    return RuntimeError(
        f"{waits} waits for the private loop, and this is that loop's own thread, which would wait "
        "for itself; call from another thread, for example by asyncio.to_thread()"
    )


def _single_callable(app: Any) -> Any:
    """Return `app` as an ASGI 3 callable (A-CALL-4).

    An app that takes three arguments is one already, whatever asgiref would guess.
    """
    try:
        inspect.signature(app).bind(None, None, None)
    except (TypeError, ValueError):
        return guarantee_single_callable(app)  # type: ignore[no-untyped-call]
    return app


def _plain_answer(
    environ: Environ, start_response: StartResponse, status: str, text: str
) -> list[bytes]:
    """Answer a request by the bridge itself.

    A HEAD gets no body: most servers would send it, and the client would take it for the head of
    the next response.
    """
    body = text.encode() + b"\n"
    start_response(
        status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    )
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]


_after_fork: dict[int, threading.Lock] = {}
"""By process id: the lock under which one thread resets the bridges of a forked child."""

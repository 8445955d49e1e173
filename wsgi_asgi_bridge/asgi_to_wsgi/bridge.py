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

from .._crossing.event_loop import LoopFactory
from .._crossing.fork import reset_in_child
from .._kinds import refuse_wsgi_app
from .._options import count, imported_app, optional_seconds, seconds
from .._pickling import PickledAsNew, keeping_options
from .._protocol.carried import serves_wsgi
from .._protocol.scope import LengthRequired, declared_length, is_websocket
from .._protocol.websocket_upgrade import Refusal
from ..errors import AppError, BadRequest, BridgeClosed, ServerError
from ..typing import ASGIApp, Backend, Environ, LifespanMode, ReleaseMode, StartResponse
from .app_task import AppTask
from .offered_websocket import offered_websocket
from .released import EVENT_STREAM, WEBSOCKET
from .response import Response
from .settings import Settings, checked_root_path
from .starting import RuntimeStarter, in_the_loops_own_thread
from .stats import ASGIToWSGIStats
from .websocket import WebSocketTask

__all__ = ["ASGIToWSGI", "ASGIToWSGIStats"]

LOOP_CHECK_SECONDS = 1.0
"""How often a waiting thread checks that the loop is alive if `disconnect_poll` is None."""


class ASGIToWSGI(RuntimeStarter, PickledAsNew):
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
    - `release`: `"auto"`, or `"off"` to take no connection over from the server (WS-A-2, R-1).
      `max_released`: how many WebSockets and event streams may be open so (WS-A-8, R-5).
      `max_message_size`: bytes of a client's message (WS-A-9). `ping_interval`, `ping_timeout`:
      seconds between two pings, and in which a client may then send nothing; None turns either off
      (WS-A-13).
      `websocket_compression`: whether permessage-deflate is accepted.

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
        # Its app finds the server's own connection in the environ, as natively (D-5).
        self._app_serves_wsgi = serves_wsgi(found)
        self._found_app: ASGIApp = found
        self._given_app = app

    # ------------------------------------------------------------ WSGI

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """The WSGI app.

        Any thread but the loop's own, in which it raises RuntimeError. Raises what the app raised
        before its response, AppError, ServerError, BridgeClosed, ClientDisconnected.
        """
        if is_websocket(environ) and not self._app_serves_wsgi:
            answer = self._websocket(environ, start_response)
            if answer is not None:
                return answer
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
        try:
            return response.respond(start_response)
        except AppError as exc:
            if not isinstance(exc.__cause__, StopIteration):
                raise
            stop = exc.__cause__
        # The app behind WSGIToASGI leaves gunicorn by it, which knows no other end of a WebSocket.
        try:
            raise stop
        finally:
            del stop  # its traceback leads to this frame

    def _websocket(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes] | None:
        """The same for the handshake of a WebSocket; None: it is a plain request (WS-A-1)."""
        offer = offered_websocket(environ, self._settings)
        if offer is None:
            return None
        if isinstance(offer, Refusal):
            return self._refuse(environ, start_response, *offer)
        try:
            runtime = self._running_runtime("a WebSocket")
            task = WebSocketTask(self._app, runtime, environ, offer(runtime), self)
            response = Response(task.handshake, environ, runtime.settings)
            if not runtime.handle.post(task.begin_in_loop):
                raise BridgeClosed("the private event loop has ended")
        except BaseException:
            self._count_rejected()
            raise
        return response.respond(task.handshake.starting_from_thread(start_response))

    # ------------------------------------------------------------ the private loop

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
            raise in_the_loops_own_thread("close()")
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
        self,
        environ: Environ,
        start_response: StartResponse,
        status: str,
        text: str,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> list[bytes]:
        self._count_rejected()
        return _plain_answer(environ, start_response, status, text, headers)


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
    environ: Environ,
    start_response: StartResponse,
    status: str,
    text: str,
    headers: tuple[tuple[str, str], ...],
) -> list[bytes]:
    """Answer a request by the bridge itself.

    A HEAD gets no body: most servers would send it, and the client would take it for the head of
    the next response.
    """
    body = text.encode() + b"\n"
    kind = ("Content-Type", "text/plain; charset=utf-8")
    start_response(status, [kind, ("Content-Length", str(len(body))), *headers])
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]

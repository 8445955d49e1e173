"""The adapter `WSGIToASGI`: its options, the ASGI entry, the lifespan, the pool and its shutdown.

One HTTP request, from top to bottom, is in exchange.py.
"""

import logging
import threading
from _thread import start_new_thread
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import anyio

from .._crossing.at_exit import closed_at_exit
from .._crossing.fork import reset_in_child
from .._crossing.loops import running_loop
from .._crossing.thread_event import ThreadEvent
from .._crossing.workers import WorkerPool
from .._kinds import refuse_asgi_app
from .._options import imported_app
from .._pickling import PickledAsNew, keeping_options
from ..errors import ServerError
from ..typing import Receive, Scope, Send, WSGIApp
from .exchange import Exchange
from .runtime import Runtime
from .settings import Settings
from .stats import Counts, WSGIToASGIStats
from .websocket import WebSocketExchange

__all__ = ["WSGIToASGI"]

logger: logging.Logger = logging.getLogger("wsgi_asgi_bridge")


class WSGIToASGI(PickledAsNew):
    """Makes an ASGI 3 app of a WSGI app.

    `app` is a WSGI callable or an import string `"pkg.module:attribute"`. It runs in a pool of
    threads, one request in one thread.

    - `workers`: threads that run the app at once; started as needed (W-FLOW-4). With 1, the app is
      given `wsgi.multithread` False.
    - `max_queued`: requests that may wait for a thread; the next gets 503 (W-FLOW-4).
    - `max_streams`, `stream_after`: a response that streams longer than `stream_after` seconds, and
      an event stream with its first chunk, is detached: it does not count against `workers`, up
      to `max_streams` of them (W-FLOW-8).
    - `request_buffer`, `response_buffer`: bytes that wait in memory for the app, or for the client,
      per request (W-IN-4, W-FLOW-1).
    - `small_body`: bytes, at most `request_buffer`; a request body that fits is collected before a
      thread is taken, and of a larger one no more waits until the app reads (W-IN-5).
    - `max_body_size`: bytes; a larger request body is refused with 413, None allows any (W-IN-6).
    - `max_message_size`: bytes; a larger message of a client closes its WebSocket with 1009, None
      allows any (WS-W-10).
    - `max_header_repeats`: how often one header name may come; above it is 400 (W-ENV-5).
    - `stall_timeout`: seconds that a client may neither send nor read before its request is given
      up (W-IN-7, W-FLOW-5).
    - `min_upload_rate`: bytes a second, over each `stall_timeout` in which the body is waited for;
      a client that sends less has stalled as well. 0 allows any rate (W-IN-7).
    - `shutdown_timeout`: seconds that shutdown waits for requests in flight (W-LIFE-1).
    - `environ`: constant pairs that the deployer adds to every environ; they win (W-ENV-9).

    One object serves any number of event loops at once, asyncio, uvloop or trio. Raises TypeError,
    ValueError or ImportError for arguments that are wrong.
    """

    _serves_wsgi = True
    """For an ASGIToWSGI around it (D-5)."""

    @keeping_options
    def __init__(
        self,
        app: WSGIApp | str,
        *,
        workers: int = 40,
        max_queued: int = 1000,
        max_streams: int = 1000,
        stream_after: float = 1.0,
        request_buffer: int = 524288,
        small_body: int = 65536,
        response_buffer: int = 524288,
        max_body_size: int | None = None,
        max_message_size: int | None = 16777216,
        max_header_repeats: int = 100,
        stall_timeout: float = 60.0,
        min_upload_rate: int = 100,
        shutdown_timeout: float = 30.0,
        environ: Mapping[str, Any] | None = None,
    ) -> None:
        self._app, self._given_app = _wsgi_app(app), app
        self._settings = Settings.checked(
            workers=workers,
            max_queued=max_queued,
            max_streams=max_streams,
            stream_after=stream_after,
            request_buffer=request_buffer,
            small_body=small_body,
            response_buffer=response_buffer,
            max_body_size=max_body_size,
            max_message_size=max_message_size,
            max_header_repeats=max_header_repeats,
            stall_timeout=stall_timeout,
            min_upload_rate=min_upload_rate,
            shutdown_timeout=shutdown_timeout,
            environ=environ,
        )
        self._begin()
        reset_in_child(self)

    def _begin(self) -> None:
        """The state that a forked child does not share with its parent."""
        # Held for a few statements; a loop may take it. Re-entered by a signal's handler that asks
        # for stats() or closes the bridge. What those read is written in one step.
        self._lock = threading.RLock()
        self._pool: WorkerPool | None = None
        self._left_pools: tuple[WorkerPool, ...] = ()
        """Closed, with threads that were stuck in the app then."""
        self._known: tuple[tuple[Runtime, ...], Counts] = ((), Counts())
        """The runtimes of the loops, and the counts of loops that have ended."""
        self._lifespans = 0
        self._last_runtime: Runtime | None = None
        """Of the loop that was served last: nearly always the only one."""

    def reset_after_fork(self) -> None:
        """Forget the parent's threads and loops; the child starts its own on first use.

        Called by the fork itself.
        """
        closed_at_exit.notice_fork()
        self._begin()

    @property
    def app(self) -> WSGIApp:
        """The WSGI app.

        May be set, in any thread, with the constructor's checks: requests that begin afterwards run
        in the new one (W-APP-1).
        """
        return self._app

    @app.setter
    def app(self, app: WSGIApp | str) -> None:
        checked = _wsgi_app(app)
        with self._lock:
            self._app, self._given_app = checked, app
            for runtime in self._known[0]:
                runtime.use_app(checked)

    # ------------------------------------------------------------ ASGI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI app.

        In any event loop. Raises what the WSGI app raised, AppError, ServerError, ClientStalled
        (W-CALL-3).
        """
        kind = scope["type"]
        if kind == "http":
            await Exchange(self._runtime(), scope, receive, send).run()
        elif kind == "lifespan":
            await self._lifespan(receive, send)
        elif kind == "websocket":
            await WebSocketExchange(self._runtime(), scope, receive, send).run()
        else:
            raise ServerError(
                f"scope type {kind!r} is unknown, expected 'http', 'websocket' or 'lifespan'"
            )

    def _runtime(self) -> Runtime:
        """The runtime of this bridge in the running loop."""
        runtime = self._last_runtime
        loop = running_loop()
        if runtime is None or runtime.loop is not loop:
            runtime = self._last_runtime = self._runtime_of(loop)
        return runtime

    def _runtime_of(self, loop: object) -> Runtime:
        runtimes, _ = self._known
        for runtime in runtimes:
            if runtime.handle.loop is loop:
                return runtime
        # Nothing reports the end of a loop, so a new loop looks for ended ones and keeps their
        # counts.
        ended = [runtime for runtime in runtimes if not runtime.handle.post(_nothing)]
        new = Runtime(self._settings, self._app, self._running_pool)
        with self._lock:
            runtimes, past = self._known
            for runtime in ended:
                if runtime in runtimes:  # another thread may have been quicker
                    past = past.plus(runtime.counts)
            new.use_app(self._app)  # another thread may have set another one meanwhile
            self._known = ((*(each for each in runtimes if each not in ended), new), past)
        return new

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """W-LIFE-1. Several loops may each send a lifespan; the last shutdown drains the pool."""
        await _lifespan_message(receive, "lifespan.startup")
        with self._lock:
            self._lifespans += 1
        try:
            self._running_pool()
            await send({"type": "lifespan.startup.complete"})
            await _lifespan_message(receive, "lifespan.shutdown")
        finally:
            with self._lock:
                self._lifespans -= 1
                last = not self._lifespans
        if last:
            await self.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    # ------------------------------------------------------------ the pool

    def _running_pool(self) -> WorkerPool:
        """The pool, started if there is none."""
        with self._lock:
            pool = self._pool
            if pool is None or pool.drained():
                pool = self._pool = WorkerPool(
                    limit=self._settings.workers,
                    max_queued=self._settings.max_queued,
                    max_detached=self._settings.max_streams,
                    stream_after=self._settings.stream_after,
                    name="wsgi_asgi_bridge-worker",
                )
                closed_at_exit.add_weakly(self)
            return pool

    def close(self) -> None:
        """Drain the pool: requests in flight have `shutdown_timeout` seconds to end.

        Any thread that runs no event loop.

        A bridge used again afterwards starts a new pool.
        """
        if (pool := self._pool) is None:
            return
        event = ThreadEvent()
        _uninterrupted(partial(self._begin_drain, pool, event.set))
        if not event.wait(self._settings.shutdown_timeout):
            self._break_all(pool)
            if not event.wait(self._settings.tick):
                self._report_left(pool)
        self._let_go(pool)

    async def aclose(self) -> None:
        """`close` for those who run in an event loop: it waits without blocking the loop."""
        if (pool := self._pool) is None:
            return
        handle = self._runtime().handle
        event = handle.create_event()

        def report() -> None:
            handle.post(lambda: handle.set_event(event))

        self._begin_drain(pool, report)
        with anyio.move_on_after(self._settings.shutdown_timeout):
            await event
        if not pool.drained():
            self._break_all(pool)
            await anyio.sleep(self._settings.tick)
            self._report_left(pool)
        self._let_go(pool)

    def _begin_drain(self, pool: WorkerPool, on_drained: Callable[[], None]) -> None:
        # In this order: what was submitted before the drain is in its runtime by then.
        pool.drain(on_drained)
        for runtime in self._known[0]:
            if runtime.handle.is_stopped():  # as Daphne leaves its loop: no callback would run
                runtime.begin_shutdown()
            else:
                runtime.handle.post_at_any_moment(runtime.begin_shutdown)

    def _break_all(self, pool: WorkerPool) -> None:
        """End every exchange: its app finds the bridge closed at its next step, and none begins."""
        pool.drop_queued()
        for runtime in self._known[0]:
            runtime.handle.post(runtime.shut_down)

    def _let_go(self, pool: WorkerPool) -> None:
        """The next request starts a new pool, whatever is stuck in this one (W-LIFE-2)."""
        with self._lock:
            # In this order: stats() without the lock misses no pool.
            self._left_pools = tuple(
                left for left in {*self._left_pools, pool} if not left.drained()
            )
            if self._pool is pool:
                self._pool = None

    def _report_left(self, pool: WorkerPool) -> None:
        if not pool.drained():
            logger.warning(
                "shut down with %d requests still in the app after shutdown_timeout=%s s; "
                "their threads end at the app's next step",
                pool.counts().busy,
                self._settings.shutdown_timeout,
            )

    def stats(self) -> WSGIToASGIStats:
        """What the bridge does now and has done so far.

        Any thread, also in a signal's handler (W-STAT-1).
        """
        current, left = self._pool, self._left_pools
        pools = {*left, current} if current is not None else left
        counts = [pool.counts() for pool in pools]
        runtimes, total = self._known
        for runtime in runtimes:
            total = total.plus(runtime.counts)
        return WSGIToASGIStats(
            threads=sum(pool.threads for pool in counts),
            idle=sum(pool.idle for pool in counts),
            busy=sum(pool.busy for pool in counts),
            streaming=sum(pool.detached for pool in counts),
            queued=sum(pool.queued for pool in counts),
            in_flight=sum(len(runtime.exchanges) for runtime in runtimes),
            websockets=sum(runtime.open_websockets for runtime in runtimes),
            completed=total.completed,
            rejected=total.rejected,
            disconnected=total.disconnected,
            stalled=total.stalled,
            failed=total.failed,
            closed=total.closed,
        )


async def _lifespan_message(receive: Receive, expected: str) -> None:
    """Wait for the server's message of this type, past messages of unknown types.

    Raises ServerError for the message of the other known type.
    """
    while (kind := (await receive())["type"]) != expected:
        if kind in _LIFESPAN_MESSAGES:
            raise ServerError(f"lifespan message {kind!r} came, expected {expected!r}")


_LIFESPAN_MESSAGES = ("lifespan.startup", "lifespan.shutdown")


def _wsgi_app(app: WSGIApp | str) -> WSGIApp:
    found: WSGIApp = imported_app(app, kind="a WSGI app: a callable (environ, start_response)")
    refuse_asgi_app(found)
    return found


def _nothing() -> None:
    pass


def _uninterrupted(work: Callable[[], None]) -> None:
    """Run `work`, which holds a lock for a moment, in a thread that no signal's handler interrupts.

    A handler that closes the bridge waits for threads that need this lock.
    """
    if threading.current_thread() is threading.main_thread():
        try:
            # Not by Thread.start(), which holds a lock of its own that the new thread needs.
            start_new_thread(work, ())
        except RuntimeError:  # the interpreter is at its end, or the system gives no more threads
            work()
    else:
        work()

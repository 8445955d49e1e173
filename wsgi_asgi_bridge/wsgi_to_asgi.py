"""A WSGI app under an ASGI server: `WSGIToASGI`, and one HTTP exchange as its loop sees it, from
top to bottom.

What the worker does meanwhile is in _app_call.py.
"""

import io
import logging
import sys
import threading
from _thread import start_new_thread
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from inspect import iscoroutinefunction
from time import monotonic
from typing import Any, cast
from wsgiref.util import FileWrapper

import anyio

from ._app_call import AppBinding, AppCall, exchange_over
from ._crossing.at_exit import closed_at_exit
from ._crossing.body import ChannelReader
from ._crossing.calling_thread import current_calling_thread
from ._crossing.channel import LoopToThread, ThreadToLoop
from ._crossing.contexts import Changes, ContextMirror, own_context
from ._crossing.fork import reset_in_child
from ._crossing.loop_binding import LoopBinding
from ._crossing.loops import BackgroundTask, CancelScope, running_loop, running_loop_handle
from ._crossing.thread_event import ThreadEvent
from ._crossing.workers import Admission, Job, QueueFull, WorkerPool
from ._options import count, imported_app, seconds
from ._protocol.blocks import SPLIT_BYTES, blocks
from ._protocol.environ import environ_from_scope, environ_template
from .errors import (
    AppError,
    BadRequest,
    BodyTooLarge,
    BridgeClosed,
    BridgeError,
    ClientDisconnected,
    ClientStalled,
    ServerError,
    presentable,
)
from .typing import Environ, Receive, Scope, Send, WSGIApp

__all__ = ["WSGIToASGI", "WSGIToASGIStats"]

logger: logging.Logger = logging.getLogger("wsgi_asgi_bridge")

FILE_BLOCK_BYTES = 65536
"""`wsgi.file_wrapper` reads blocks of at least this size, whatever smaller one the app asks for."""

RETRY_AFTER_SECONDS = 1
"""What a 503 tells the client: the queue of a pool that works at all is shorter a second later."""

STRAY_MESSAGES = 4
"""Maximum number of messages to skip after the end of the body while waiting for the disconnect;
one or two are usual.
"""

TICKS_PER_TIMEOUT = 8
"""Time-outs are looked at this often; one is noticed at most a quarter late, and never early.

Of very short ones see LEAST_TICK_SECONDS.
"""

LEAST_TICK_SECONDS = 0.001
"""Time-outs are not looked at more often, however short they are: the loop has other work."""

READER_PATIENCE = 10
"""How many times `stall_timeout` an app may leave its request's body alone while it responds, once
it has begun to read: it may work on each line for long, and a buffer of lines is read as one.
"""

PART_COST_BYTES = 256
"""What a part of a body costs beside its bytes, when the loop counts how much it did at once."""

UNDECLARED_PAUSE_SECONDS = 0.25
"""A small body without a Content-Length is collected until its client pauses for this long: then it
may be waiting for an answer. At most an eighth of `stall_timeout`; seen at the next tick.
"""

QUEUE_GRACE_SECONDS = 0.01
"""How long a request may wait behind others, while a thread is on its way, before its client is
watched; at most twice as long. Watching costs a task.
"""


@dataclass(frozen=True, slots=True)
class WSGIToASGIStats:
    """A snapshot of one bridge in this process.

    The first six say what is now, the others count since construction. Each request that is over is
    in exactly one of those.
    """

    threads: int
    """Pool threads alive."""
    idle: int
    """Threads that wait for work."""
    busy: int
    """Threads that run the app."""
    streaming: int
    """Busy threads that do not count against `workers`, since they stream for long or wait for
    their client.
    """
    queued: int
    """Requests that wait for a thread."""
    in_flight: int
    """Requests between their first and last step, in any loop."""
    completed: int
    """Responses sent whole."""
    rejected: int
    """Requests answered by the bridge itself (400, 413, 503), and those with a scope that makes no
    sense.
    """
    disconnected: int
    """Requests whose client left before the end, or that the server cancelled."""
    stalled: int
    """Requests given up because the client did nothing for `stall_timeout`, or sent too little;
    also with a 408.
    """
    failed: int
    """Requests whose app raised or broke PEP 3333, or whose response the server refused by an
    exception.
    """
    closed: int
    """Requests that were broken off because the bridge was closed."""


@dataclass(frozen=True, slots=True)
class _Settings:
    request_buffer: int
    small_body: int
    response_buffer: int
    max_body_size: int | None
    max_header_repeats: int
    stall_timeout: float
    min_upload_rate: int
    least_upload: float
    """Bytes that a client must send in `stall_timeout` seconds."""
    pause: float
    tick: float
    template: Environ
    extra_environ: Environ


class WSGIToASGI:
    """Makes an ASGI 3 app of a WSGI app.

    `app` is a WSGI callable or an import string `"pkg.module:attribute"`. It runs in a pool of
    threads, one request in one thread.

    - `workers`: threads that run the app at once; started as needed (W-FLOW-4). With 1, the app is
      told so by `wsgi.multithread`.
    - `max_queued`: requests that may wait for a thread; the next gets 503 (W-FLOW-4).
    - `max_streams`, `stream_after`: a response that streams longer than `stream_after` seconds, and
      an event stream with its first chunk, leaves the count of `workers`, up to `max_streams` of
      them (W-FLOW-8).
    - `request_buffer`, `response_buffer`: bytes that wait in memory for the app, or for the client,
      per request (W-IN-4, W-FLOW-1).
    - `small_body`: bytes, at most `request_buffer`; a request body that fits is collected before a
      thread is taken, and of a larger one no more waits until the app reads (W-IN-5).
    - `max_body_size`: bytes; a larger request body is refused with 413, None allows any (W-IN-6).
    - `max_header_repeats`: how often one header name may come; above it is 400 (W-ENV-5).
    - `stall_timeout`: seconds that a client may neither send nor read before its request is given
      up (W-IN-7, W-FLOW-5).
    - `min_upload_rate`: bytes a second, over each `stall_timeout` in which the body is waited for;
      a client that sends less has stalled as well. 0 allows any rate (W-IN-7).
    - `shutdown_timeout`: seconds that shutdown waits for requests in flight (W-LIFE-1).
    - `environ`: constant pairs that the deployer adds to every environ; they win (W-ENV-9).

    One object serves any number of event loops at once, asyncio, uvloop or trio. Raises TypeError,
    ValueError or ImportError for arguments that make no sense.
    """

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
        max_header_repeats: int = 100,
        stall_timeout: float = 60.0,
        min_upload_rate: int = 100,
        shutdown_timeout: float = 30.0,
        environ: Mapping[str, Any] | None = None,
    ) -> None:
        self._app = _wsgi_app(app)
        self._workers = count("workers", workers, least=1)
        self._max_queued = count("max_queued", max_queued, least=0)
        self._max_streams = count("max_streams", max_streams, least=0)
        self._stream_after = seconds("stream_after", stream_after)
        self._shutdown_timeout = seconds("shutdown_timeout", shutdown_timeout)
        if max_body_size is not None:
            count("max_body_size", max_body_size, least=0)
        self._settings = _Settings(
            request_buffer=count("request_buffer", request_buffer, least=1),
            small_body=min(count("small_body", small_body, least=0), request_buffer),
            response_buffer=count("response_buffer", response_buffer, least=1),
            max_body_size=max_body_size,
            max_header_repeats=count("max_header_repeats", max_header_repeats, least=1),
            stall_timeout=seconds("stall_timeout", stall_timeout),
            min_upload_rate=count("min_upload_rate", min_upload_rate, least=0),
            least_upload=min_upload_rate * stall_timeout,
            pause=min(UNDECLARED_PAUSE_SECONDS, stall_timeout / TICKS_PER_TIMEOUT),
            tick=max(LEAST_TICK_SECONDS, min(stall_timeout, stream_after) / TICKS_PER_TIMEOUT),
            template=environ_template(multithread=workers > 1, file_wrapper=_FileWrapper),
            extra_environ=_constant_pairs(environ),
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
        self._known: tuple[tuple[_LoopSide, ...], _Counts] = ((), _Counts())
        """This bridge in each loop, and the counts of loops that have ended."""
        self._lifespans = 0
        self._last_side: _LoopSide | None = None
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
            self._app = checked
            for side in self._known[0]:
                side.use_app(checked)

    # ------------------------------------------------------------ ASGI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI app.

        In any event loop. Raises what the WSGI app raised, AppError, ServerError, ClientStalled
        (W-CALL-3).
        """
        kind = scope["type"]
        if kind == "http":
            await _Exchange(self._side(), scope, receive, send).run()
        elif kind == "lifespan":
            await self._lifespan(receive, send)
        elif kind == "websocket":
            await self._refuse_websocket(scope, receive, send)
        else:
            raise ServerError(
                f"scope type {kind!r} is unknown, expected 'http', 'websocket' or 'lifespan'"
            )

    def _side(self) -> "_LoopSide":
        """This bridge's side in the running loop."""
        side = self._last_side
        loop = running_loop()
        if side is None or side.loop is not loop:
            side = self._last_side = self._side_of(loop)
        return side

    def _side_of(self, loop: object) -> "_LoopSide":
        sides, _ = self._known
        for side in sides:
            if side.handle.loop is loop:
                return side
        # Nobody tells when a loop ends; the next one finds out, and keeps its counts.
        ended = [side for side in sides if not side.handle.post(_nothing)]
        new = _LoopSide(self)
        with self._lock:
            sides, past = self._known
            for side in ended:
                if side in sides:  # another thread may have been quicker
                    past = past.plus(side.counts)
            new.use_app(self._app)  # another thread may have set another one meanwhile
            self._known = ((*(side for side in sides if side not in ended), new), past)
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

    async def _refuse_websocket(self, scope: Any, receive: Receive, send: Send) -> None:
        """W-WS-1: no app finds a socket yet, so each connection is refused, with the app's own
        words where the server can carry them.
        """
        message: Any = await receive()
        if message["type"] != "websocket.connect":
            return
        if "websocket.http.response" in (scope.get("extensions") or {}):
            await _Exchange(self._side(), scope, receive, send).run()
        else:
            self._side().counts.rejected += 1
            await send({"type": "websocket.close", "code": 1000, "reason": ""})

    # ------------------------------------------------------------ the pool

    def _running_pool(self) -> WorkerPool:
        """The pool, started if there is none."""
        with self._lock:
            pool = self._pool
            if pool is None or pool.drained():
                pool = self._pool = WorkerPool(
                    limit=self._workers,
                    max_queued=self._max_queued,
                    max_detached=self._max_streams,
                    stream_after=self._stream_after,
                    name="wsgi_asgi_bridge-worker",
                )
                closed_at_exit.add_unheld(self)
            return pool

    def close(self) -> None:
        """Drain the pool: requests in flight have `shutdown_timeout` seconds to end.

        Any thread that runs no event loop.

        A bridge used again afterwards starts a new pool.
        """
        if (pool := self._pool) is None:
            return
        event = ThreadEvent()
        _uninterrupted(partial(pool.drain, event.set))
        if not event.wait(self._shutdown_timeout):
            self._break_all(pool)
            if not event.wait(self._settings.tick):
                self._report_left(pool)
        self._let_go(pool)

    async def aclose(self) -> None:
        """`close` for those who run in an event loop: it waits without blocking the loop."""
        if (pool := self._pool) is None:
            return
        handle = self._side().handle
        event = handle.create_event()

        def report() -> None:
            handle.post(lambda: handle.set_event(event))

        pool.drain(report)
        with anyio.move_on_after(self._shutdown_timeout):
            await event
        if not pool.drained():
            self._break_all(pool)
            await anyio.sleep(self._settings.tick)
            self._report_left(pool)
        self._let_go(pool)

    def _break_all(self, pool: WorkerPool) -> None:
        """End every exchange: its app finds the bridge closed at its next step, and none begins."""
        pool.drop_queued()
        for side in self._known[0]:
            side.handle.post(side.break_all)

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
                self._shutdown_timeout,
            )

    def stats(self) -> WSGIToASGIStats:
        """What the bridge does now and has done so far.

        Any thread, also in a signal's handler (W-STAT-1).
        """
        current, left = self._pool, self._left_pools
        pools = {*left, current} if current is not None else left
        counts = [pool.counts() for pool in pools]
        sides, total = self._known
        for side in sides:
            total = total.plus(side.counts)
        return WSGIToASGIStats(
            threads=sum(pool.threads for pool in counts),
            idle=sum(pool.idle for pool in counts),
            busy=sum(pool.busy for pool in counts),
            streaming=sum(pool.detached for pool in counts),
            queued=sum(pool.queued for pool in counts),
            in_flight=sum(len(side.exchanges) for side in sides),
            completed=total.completed,
            rejected=total.rejected,
            disconnected=total.disconnected,
            stalled=total.stalled,
            failed=total.failed,
            closed=total.closed,
        )


@dataclass(slots=True)
class _Counts:
    """What has happened to the requests of one loop; see WSGIToASGIStats."""

    completed: int = 0
    rejected: int = 0
    disconnected: int = 0
    stalled: int = 0
    failed: int = 0
    closed: int = 0

    def add(self, outcome: str) -> None:
        setattr(self, outcome, getattr(self, outcome) + 1)

    def plus(self, other: "_Counts") -> "_Counts":
        return _Counts(
            self.completed + other.completed,
            self.rejected + other.rejected,
            self.disconnected + other.disconnected,
            self.stalled + other.stalled,
            self.failed + other.failed,
            self.closed + other.closed,
        )


_COMPLETED = "completed"
_REJECTED = "rejected"
_DISCONNECTED = "disconnected"
_STALLED = "stalled"
_FAILED = "failed"
_CLOSED = "closed"
"""How a request may end: the names of its counters (W-STAT-1)."""


class _LoopSide:
    """What one event loop knows of one bridge.

    Used in that loop's thread only, save for the counters, which anyone may read.
    """

    def __init__(self, bridge: WSGIToASGI) -> None:
        self.handle = running_loop_handle()
        self.loop = self.handle.loop
        self.settings = bridge._settings
        self.app_setting = AppBinding(
            bridge._app, LoopBinding(self.handle), bridge._settings.stall_timeout
        )
        self._bridge = bridge
        self.exchanges: set[_Exchange] = set()
        self.pool: WorkerPool | None = None
        """The pool that this loop submitted to last."""
        self.ticking = False
        self._ticked = 0.0
        self._waited = 0.0
        """Seconds that this loop has waited for its clients; see `_tick`."""
        self._round_is_due = False
        self._watch_round = 0
        self.counts = _Counts()

    def use_app(self, app: WSGIApp) -> None:
        """For the requests that begin from now on. Any thread: they read one attribute."""
        self.app_setting = self.app_setting._replace(app=app)

    def begin_ticking(self) -> None:
        """While requests are in flight; the tick ends itself."""
        self.ticking = True
        self._ticked = monotonic()
        self.handle.call_later(self.settings.tick, self._tick)

    def submit(self, job: Job) -> Admission:
        """Give the job to the pool, as WorkerPool.submit does; a pool that was shut down meanwhile
        is replaced.
        """
        if self.pool is None:
            self.pool = self._bridge._running_pool()
        try:
            return self.pool.submit(job)
        except BridgeClosed:
            pool = self._bridge._running_pool()
            if pool is self.pool:
                raise  # it is being drained
            self.pool = pool
            return pool.submit(job)

    def has_queued(self, job: Job) -> bool:
        return self.pool is not None and self.pool.has_queued(job)

    def withdraw(self, job: Job) -> None:
        if self.pool is not None:
            self.pool.withdraw(job)

    def _tick(self) -> None:
        """While requests are in flight: who has stalled, and which streams leave the pool's
        count.
        """
        now, before = monotonic(), self._ticked
        self._ticked = now
        # A loop that was held up has not waited meanwhile: what its clients did is still unseen.
        usual = max(2 * self.settings.tick, 2 * self.settings.stall_timeout / TICKS_PER_TIMEOUT)
        self._waited += min(now - before, usual)
        self.ticking = bool(self.exchanges)
        if self.ticking:
            self.handle.call_later(self.settings.tick, self._tick)
        for exchange in list(self.exchanges):
            exchange.look_at_client(self._waited)
        if self.pool is not None:
            self.pool.detach_streams()

    def current_watch_round(self) -> int:
        """The beat in which a request comes to wait behind others.

        It begins a moment later as a rule; only one that has not after a whole beat is worth a task
        that watches its client. They are not listed: a list would keep them after their end.
        """
        if not self._round_is_due:
            self._round_is_due = True
            self.handle.call_later(QUEUE_GRACE_SECONDS, self._watch_those_behind)
        return self._watch_round

    def _watch_those_behind(self) -> None:
        before, self._watch_round = self._watch_round, self._watch_round + 1
        self._round_is_due = False
        for exchange in list(self.exchanges):
            if exchange.queued_in_round is None:
                continue
            if exchange.queued_in_round < before:
                exchange.queued_in_round = None
                exchange.watch_unless_begun()
            else:
                self.current_watch_round()

    def break_all(self) -> None:
        for exchange in list(self.exchanges):
            exchange.abort(
                _CLOSED,
                lambda: BridgeClosed("the bridge was shut down while this request was in flight"),
            )


class _Exchange:
    """One request in flight, as the loop sees it.

    The worker's part is `AppCall`; the channels are all that the two share beside it.
    """

    __slots__ = (
        "_aborted",
        "_ahead",
        "_answered",
        "_body",
        "_call",
        "_came",
        "_collecting",
        "_cut",
        "_gone",
        "_holds_back",
        "_is_chunked",
        "_is_cut_short",
        "_is_given_up",
        "_is_slow",
        "_job",
        "_length",
        "_mirror_of_app",
        "_out",
        "_outcome",
        "_polled",
        "_pump_task",
        "_quiet_since",
        "_receive",
        "_scope",
        "_send",
        "_sent_head",
        "_settings",
        "_settled",
        "_side",
        "_types",
        "_unread",
        "_unread_since",
        "_waiting_since",
        "queued_in_round",
    )

    def __init__(self, side: _LoopSide, scope: Any, receive: Any, send: Any) -> None:
        self._side = side
        self._settings = side.settings
        self._scope = scope
        self._receive = receive
        self._send = send
        self._types = _HTTP if scope["type"] == "http" else _WEBSOCKET
        self._cut: CancelScope
        # The app.
        self._out = ThreadToLoop(side.handle, side.settings.response_buffer)
        self._call: AppCall | None = None
        self._job: Job | None = None
        """`_call`, as the pool runs it."""
        self._mirror_of_app: ContextMirror | None = None
        """What the app's thread has set in its context, in this one."""
        self.queued_in_round: int | None = None
        """The beat of the queue in which it was put behind other requests, until it is watched."""
        # The request's body.
        self._length: int | None = None
        """The Content-Length of the request."""
        self._body: LoopToThread | None = None
        """The request's body, where it streams."""
        self._ahead: bytes | bytearray = b""
        """What came of a body before it was known to stream."""
        self._unread_since: float | None = None
        """Since when there is no room for more of the body."""
        self._unread = 0
        """Bytes of the body that waited for the app when a tick saw that last."""
        self._is_cut_short = False
        """It ended before its Content-Length, with nobody known to have left."""
        self._collecting = False
        self._came = 0
        """Bytes of a body that is collected, since its client was last seen to send fast enough."""
        self._settled: Any = None
        """Opens when an undeclared body is whole, or known to stream."""
        self._quiet_since: float | None = None
        """Since when nothing more of that body has come."""
        self._is_chunked = False
        self._holds_back = False
        """The client waits for `100 Continue`."""
        # The client.
        self._pump_task: BackgroundTask | None = None
        self._waiting_since: float | None = None
        """Since when a receive() or send() is pending: the client is waited for."""
        self._is_given_up = False
        """A read of the body has timed out."""
        self._is_slow = False
        """A tick has seen the app work."""
        self._polled = False
        self._sent_head = False
        self._answered = False
        """The last message is on its way."""
        self._gone = False
        """The server reported a disconnect after the last message had been given to it."""
        self._aborted = False
        self._outcome: str | None = None
        """The counter that this request will be in."""

    # ------------------------------------------------------------ from the first step to the last

    async def run(self) -> None:
        side = self._side
        side.exchanges.add(self)
        if not side.ticking:
            side.begin_ticking()
        cut = self._cut = side.handle.cancel_scope()
        try:
            with cut:
                await self._serve()
            if cut.reason is not None:
                self._log_unraised_error()
                await self._answer_cut(cut.reason)
        except ClientDisconnected:
            if not self._aborted:
                # The app's own, whatever it means by it, or that of another bridge's receive().
                self._note(_DISCONNECTED)
                raise
            self._log_unraised_error()
        except BaseException as exc:
            # The server cancelled this request, or its send() raised: the worker learns of it as of
            # a disconnect (W-FLOW-6). Where the app raised, its worker has left already.
            cancelled = isinstance(exc, side.handle.cancelled)
            self._note(_DISCONNECTED if cancelled or isinstance(exc, OSError) else _FAILED)
            if not self._aborted and (cancelled or not self._out.finished()):
                self._break_off(lambda: ClientDisconnected("the server gave this request up"))
            self._log_unraised_error()
            raise
        finally:
            self._aborted = True  # nothing is begun any more
            side.exchanges.discard(self)
            if self._outcome is _COMPLETED:
                side.counts.completed += 1
            else:
                side.counts.add(self._outcome or _FAILED)
            if self._pump_task is not None:
                self._pump_task.cancel()
                # A cancelled task keeps its traceback, which leads here.
                self._pump_task = None
            # The call refers to the environ, which refers to this exchange: apart, neither waits
            # for the garbage collector.
            self._call = self._job = self._mirror_of_app = None
            if self._body is not None:
                # For a thread of the app's own that still reads.
                self._body.break_in_loop(exchange_over)
            # Nor does what the app has set in its context, which may refer to the environ: it is in
            # this task's context, and is told to the other bridge where both are here.
            del self._cut
            self._receive = self._send = _nobody

    async def _serve(self) -> None:
        settings, side = self._settings, self._side
        try:
            environ = environ_from_scope(
                self._scope, settings.template, max_header_repeats=settings.max_header_repeats
            )
            environ["wsgi.input"] = self._body_at_hand(environ) or await self._collected(environ)
        except BadRequest as exc:
            await self._answer(400, str(exc))
            return
        except BodyTooLarge as exc:
            await self._answer(413, str(exc))
            return
        except ServerError:
            self._note(_REJECTED)
            raise
        environ.setdefault("wsgi.errors", sys.stderr)  # carried, where both bridges are here
        environ["wsgi_asgi_bridge.client_disconnected"] = self._client_disconnected
        if settings.extra_environ:
            environ.update(settings.extra_environ)
        before = own_context()
        # Where the calls of both bridges are nested, the outer one's thread waits for this app.
        caller = current_calling_thread.get(None) if "wsgi_environ" in self._scope else None
        call = self._call = AppCall(
            side.app_setting, environ, self._out, before, caller, self._stall_from_thread
        )
        first = self._out.expect_in_loop()
        # All of the app's work runs in the context of the request (W-CALL-2).
        run: Job = call.run if caller is None else call.run_for_caller
        if self._body is not None:
            reader: ChannelReader = cast(Any, environ["wsgi.input"]).raw
            run = partial(call.run_with_body, reader, run)
        job = self._job = partial(before.copy().run, run)  # type: ignore[call-arg]
        try:
            admission = side.submit(job)
        except QueueFull:
            await self._answer(503, "Too many requests are waiting.", busy=True)
            return
        except BridgeClosed as exc:
            await self._answer(503, str(exc), busy=True)
            return
        if admission is not _STARTING:
            # Who leaves now must not take a thread later (W-FLOW-4).
            if admission is Admission.SATURATED:
                self.watch()
            else:
                self.queued_in_round = side.current_watch_round()
        await first
        await self._send_response(call)
        if call.error is not None or call.late_error is not None:
            await self._report_error(call)

    async def _send_response(self, call: AppCall) -> None:
        """Send what the worker gives, until it has left."""
        out, send = self._out, self._send
        start, body_part = self._types
        chunks, ended = out.taken_in_loop() or await out.take_in_loop()
        try:
            if ended and len(chunks) == 1 and len(chunks[0]) <= SPLIT_BYTES and call.error is None:
                # What most apps give, without the questions that only longer bodies raise.
                assert call.head is not None, "a body has a head before it"
                status, headers = call.head
                whole = self._sent_head = True
                if call.changes is not None:
                    self._mirror(call, call.changes)
                self._waiting_since = CLOCK_NOT_STARTED
                await send({"type": start, "status": status, "headers": headers})
                if call.last_changes is not None:
                    self._mirror(call, call.last_changes)
                self._answered = True
                self._waiting_since = CLOCK_NOT_STARTED
                await send({"type": body_part, "body": chunks[0], "more_body": False})
                self._waiting_since = None
            else:
                whole = await self._send_pieces(call, chunks, ended)
        except OSError as exc:
            # send() may be another bridge's, and its error one of this package's as well: only an
            # exchange that has been broken off already raised it here.
            if self._aborted and isinstance(exc, BridgeError):
                raise
            raise self._disconnected() from exc
        if whole and self._outcome is None:
            self._outcome = _COMPLETED
        if not out.finished_at_take:
            await out.wait_finished_in_loop()
        if call.last_changes is not None:
            self._mirror(call, call.last_changes)

    async def _send_pieces(self, call: AppCall, chunks: list[bytes], ended: bool) -> bool:
        """Send a body that comes in pieces, `chunks` first. Whether it came to its end."""
        out, send, side = self._out, self._send, self._side
        start, body_part = self._types
        # A server that takes as fast as a worker gives would let them keep the loop for themselves.
        budget = self._settings.response_buffer
        unbroken = 0
        while True:
            whole = ended and call.error is None
            if not self._sent_head and call.head is not None:
                self._sent_head = True
                if call.changes is not None:
                    self._mirror(call, call.changes)
                status, headers = call.head
                self._waiting_since = CLOCK_NOT_STARTED
                await send({"type": start, "status": status, "headers": headers})
            if ended and call.last_changes is not None:
                self._mirror(call, call.last_changes)
            sent = 0
            pieces = blocks(chunks)
            piece = next(pieces, _END)
            while piece or whole:
                following = next(pieces, _END)  # who sends one must know whether it is the last
                more = not whole or following is not _END
                # With the last message the server may report a disconnect that only says that
                # all is over.
                self._answered = not more
                self._waiting_since = CLOCK_NOT_STARTED
                await send({"type": body_part, "body": piece, "more_body": more})
                if not more:
                    break
                size = len(piece)
                if not ended:
                    out.release_in_loop(size)
                piece = following
                sent += size
                if sent > budget:  # never of many chunks that had to wait for room
                    unbroken = sent = 0
                    self._waiting_since = None
                    await side.handle.checkpoint()
            self._waiting_since = None
            if ended:
                return whole
            self.watch()
            unbroken += sent
            if unbroken > budget:
                unbroken = 0
                await side.handle.checkpoint()
            chunks, ended = out.taken_in_loop() or await out.take_in_loop()

    def _mirror(self, call: AppCall, changes: Changes) -> None:
        """Set in the context of the ASGI task what the app has set in its own, and let a WSGI
        server's thread that waits for both bridges do so too.
        """
        if self._mirror_of_app is None:
            self._mirror_of_app = ContextMirror()
        self._mirror_of_app.apply(changes)
        if call.caller is not None:
            call.caller.changes = changes

    async def _report_error(self, call: AppCall) -> None:
        """Raise the app's error to the server, or give the client the answer that it stands for."""
        error = call.late_error if call.error is None else call.error  # an exception may be false
        # Its traceback leads back to this exchange, and to this frame: none of them is to wait for
        # the garbage collector.
        call.error = call.late_error = None
        try:
            if isinstance(error, ClientDisconnected) and self._aborted:
                return
            if not self._sent_head and isinstance(error, BodyTooLarge):
                await self._answer(413, str(error))
            elif self._is_cut_short and isinstance(error, ClientDisconnected):
                if self._sent_head:  # the server ends what has no end, as after any disconnect
                    self._note(_DISCONNECTED)
                else:
                    await self._answer(400, str(error))
            elif not self._sent_head and (
                isinstance(error, ClientStalled)
                or (self._is_given_up and isinstance(error, ClientDisconnected))
            ):
                self._note(_STALLED)
                await self._answer(408, str(error))
            elif error is not None:
                self._outcome = _FAILED  # also after a whole body
                raise presentable(error)
        finally:
            del error

    async def _answer_cut(self, reason: BaseException) -> None:
        """What follows when the exchange was cut short from this side."""
        if isinstance(reason, ClientDisconnected):
            return
        if self._collecting and isinstance(reason, ClientStalled):
            with anyio.move_on_after(self._settings.stall_timeout):
                await self._answer(408, str(reason))
        else:
            raise reason

    async def _answer(self, status: int, text: str, *, busy: bool = False) -> None:
        """The bridge's own answer; the app has not begun its."""
        self._note(_REJECTED)
        start, body_part = self._types
        body = text.encode("utf-8", "replace") + b"\n"
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
        ]
        if busy:
            headers.append((b"retry-after", b"%d" % RETRY_AFTER_SECONDS))
        if self._scope.get("method") == "HEAD":
            body = b""
        self._waiting_since = CLOCK_NOT_STARTED
        try:
            await self._send({"type": start, "status": status, "headers": headers})
            self._answered = True
            await self._send({"type": body_part, "body": body, "more_body": False})
        except OSError as exc:
            raise self._disconnected() from exc

    def _log_unraised_error(self) -> None:
        """The client left in the very moment in which the worker did, with an error that nobody
        raises any more.
        """
        call = self._call
        if call is not None and self._out.finished_before_break():
            call.log_unraised_error()

    # ------------------------------------------------------------ the request's body

    def _body_at_hand(self, environ: Environ) -> io.BytesIO | io.BufferedReader | None:
        """`wsgi.input` where nobody need be waited for: none, or a stream. None: it is to be
        collected (W-IN-5).

        Raises BodyTooLarge.
        """
        declared = environ.get("CONTENT_LENGTH")
        if self._types is _WEBSOCKET:
            environ.pop("HTTP_TRANSFER_ENCODING", None)
            return io.BytesIO()
        if declared is None:
            length = None
            # The server has de-chunked it; an app that saw this would do so again (W-IN-2).
            self._is_chunked = environ.pop("HTTP_TRANSFER_ENCODING", None) is not None
            if not self._is_chunked and _has_no_body(environ):
                return io.BytesIO()
        else:
            length = self._length = int(declared)
            if not length:
                return io.BytesIO()
            self._refuse_large_body(length)
        self._holds_back = "100-continue" in environ.get("HTTP_EXPECT", "").lower()
        if self._holds_back or (length is not None and length > self._settings.small_body):
            return self._body_stream()
        return None

    async def _collected(self, environ: Environ) -> io.BytesIO | io.BufferedReader:
        """The whole body as `wsgi.input`, with its CONTENT_LENGTH, or a stream if it turns out to
        be one.

        Waits in the loop, holding no thread. Raises BadRequest for a body shorter than declared,
        BodyTooLarge, ClientDisconnected.
        """
        length = self._length
        self._collecting = True
        self._waiting_since = CLOCK_NOT_STARTED
        body: Any
        stream = None
        if length is None and (self._is_chunked or _may_converse(environ)):
            body, stream = await self._undeclared(b"")
        else:
            message = await self._receive()
            if message["type"] != "http.request":
                raise self._disconnected()
            body = message.get("body", b"")
            if message.get("more_body", False):
                if length is None:
                    body, stream = await self._undeclared(body)
                else:
                    body, stream = await self._declared(body)
        self._collecting = False
        self._waiting_since = None
        if stream is not None:
            return stream
        size = len(body)
        if length is None:
            if size:
                environ["CONTENT_LENGTH"] = str(size)
        elif size < length:
            raise BadRequest(
                f"the body ended after {size} of the {length} bytes that Content-Length declares"
            )
        self._refuse_large_body(size)
        return io.BytesIO(body)

    async def _declared(
        self, first: bytes | bytearray
    ) -> tuple[bytearray, io.BufferedReader | None]:
        """A small body of which only `first` has come; a stream if the server gives more than was
        declared.
        """
        body = bytearray(first)
        self._note_progress(len(first))
        while len(body) <= self._settings.small_body:
            message = await self._receive()
            if message["type"] != "http.request":
                raise self._disconnected()
            part = message.get("body", b"")
            if part:
                body += part
                self._note_progress(len(part))
            if not message.get("more_body", False):
                return body, None
            if not part:
                # No progress, and a server that has many of them is not to keep the loop.
                await self._side.handle.checkpoint()
        return body, self._body_stream(body)

    async def _undeclared(self, first: bytes) -> tuple[bytes, io.BufferedReader | None]:
        """A body without a length of which `first` has come, or nothing: whole if it ends within
        `small_body` and without a pause, since some apps read nothing without a length (Django);
        else a stream, since its client may converse with the app, and wait for its first word.
        """
        settled = self._settled = self._side.handle.create_event()
        self._note_progress(len(first))
        stream = self._body_stream(first)
        await settled
        assert self._body is not None
        parts = self._body.whole_in_loop()
        if parts is None:
            return b"", stream
        self._body = None
        return b"".join(parts), None

    def _note_progress(self, size: int) -> None:
        """Of a body that is collected `size` bytes have come; too few do not set the clock anew
        (W-IN-7).
        """
        self._quiet_since = CLOCK_NOT_STARTED
        self._came += size
        if self._came >= self._settings.least_upload:
            self._came = 0
            self._waiting_since = CLOCK_NOT_STARTED

    def _settle(self) -> None:
        settled, self._settled = self._settled, None
        if settled is not None:
            self._side.handle.set_event(settled)

    def _refuse_large_body(self, size: int) -> None:
        limit = self._settings.max_body_size
        if limit is not None and size > limit:
            raise BodyTooLarge(f"the body has {size} bytes or more, max_body_size is {limit}")

    def _body_stream(self, ahead: bytes | bytearray = b"") -> io.BufferedReader:
        """`wsgi.input` over a channel that the pump fills, after `ahead`, which has come already
        (W-IN-4).
        """
        settings = self._settings
        # What BufferedReader keeps is waiting as well; it takes its share of the budget.
        kept = min(io.DEFAULT_BUFFER_SIZE, max(1, settings.request_buffer // 4))
        self._body = LoopToThread(
            self._side.handle,
            max(1, settings.request_buffer - kept),
            # Many requests may wait for a thread (W-IN-5). One byte more, so that the end of a body
            # of just this size is received.
            unread_budget=settings.small_body + 1,
        )
        self._ahead = ahead
        begin = self._ask_for_body_from_thread if self._holds_back else None
        reader = ChannelReader(
            self._body,
            begin=begin,
            timeout=settings.stall_timeout,
            least=settings.least_upload,
            memory=settings.request_buffer,
            waiting=self._waiting_worker,
            stalled=self._body_stalled,
            given_up=self._body_given_up,
        )
        if not self._holds_back:
            self.watch()
        return io.BufferedReader(reader, kept)

    def _body_stalled(self) -> ClientStalled:
        """In the thread that reads."""
        self._is_given_up = True  # the loop looks at it when the worker has left
        return ClientStalled(self._sent_too_little())

    def _body_given_up(self) -> ClientDisconnected:
        """In the thread that reads on after that."""
        return ClientDisconnected(f"{self._sent_too_little()}, and was given up before")

    def _sent_too_little(self) -> str:
        rate, timeout = self._settings.min_upload_rate, self._settings.stall_timeout
        if not rate:
            return f"the client sent nothing for stall_timeout={timeout} s"
        return (
            f"the client sent less than min_upload_rate={rate} bytes a second, or nothing, for "
            f"stall_timeout={timeout} s"
        )

    def _waiting_worker(self) -> AbstractContextManager[object]:
        call = self._call  # the exchange may end in this moment, while a thread of the app's reads
        return call.waiting() if call is not None else nullcontext()

    def _ask_for_body_from_thread(self) -> None:
        """The app reads: now the client may be told to send."""
        self._side.handle.post(self._admit_body)

    def _admit_body(self) -> None:
        self._holds_back = False
        self.watch()

    def watch(self) -> None:
        """Start the pump, if it does not run yet and asking the server does not ask the client for
        its body.
        """
        if (
            self._pump_task is None
            and not self._aborted
            and (not self._holds_back or self._sent_head)
        ):
            self._unread_since = None
            self._pump_task = self._side.handle.spawn(self._pump)

    async def _pump(self) -> None:
        """From here on the only caller of receive() (W-FLOW-2): feeds the body, then waits for the
        disconnect.
        """
        try:
            if self._body is not None:
                await self._feed(self._body)
            # A server that gave the end of the body again and again would keep the loop busy for
            # ever.
            strays = 0
            while strays < STRAY_MESSAGES:
                message = await self._receive()
                if message["type"] in _DISCONNECTS:
                    break
                if message.get("more_body", False):
                    # A part of a body that nobody reads: each is an event of its own, and no stray.
                    await self._side.handle.checkpoint()
                else:
                    strays += 1
            else:
                return
        except self._side.handle.cancelled:
            raise
        except ClientDisconnected:
            pass
        except BaseException:
            logger.debug("the server's receive() raised; taken for a disconnect", exc_info=True)
        if self._answered:
            # Either all is over, or the client left with the last message on its way. A server that
            # lets go of that message says which; the tick asks those that do not.
            self._gone = True
        else:
            self._end_for_disconnect()

    def _end_for_disconnect(self) -> None:
        self.abort(_DISCONNECTED, _disconnect)

    async def _feed(self, body: LoopToThread) -> None:
        """Bring the whole body into the channel.

        Raises ClientDisconnected when it breaks off before its end. What comes after the channel is
        broken is received and dropped: the server reports a disconnect only behind it.
        """
        length, limit = self._length, self._settings.max_body_size
        receive, put, budget = self._receive, body.put_in_loop, self._settings.request_buffer
        size = unbroken = 0
        part, more = self._ahead, True
        self._ahead = b""
        while True:
            size += len(part)
            unbroken += len(part) + PART_COST_BYTES
            if limit is not None and size > limit:
                body.break_in_loop(
                    lambda: BodyTooLarge(f"the body has more than max_body_size={limit} bytes")
                )
                self._settle()
            has_room = put(part)
            if not more:
                break
            if not has_room:
                self._settle()
                self._unread_since = CLOCK_NOT_STARTED
                if await body.wait_for_room_in_loop():
                    unbroken = 0
                self._unread_since = None
            if unbroken > budget:
                # A worker that reads as fast as the server gives, or a server that gives empty
                # parts, would otherwise keep the loop for itself.
                unbroken = 0
                await self._side.handle.checkpoint()
            message = await receive()
            if message["type"] != "http.request":
                raise _disconnect()
            part, more = message.get("body", b""), message.get("more_body", False)
            if part and self._settled is not None:
                self._note_progress(len(part))
        if length is not None and size < length:
            self._is_cut_short = True
            body.break_in_loop(
                lambda: ClientDisconnected(
                    f"the body ended after {size} of the {length} bytes that Content-Length "
                    "declares"
                )
            )
        else:
            body.end_in_loop()
        self._settle()

    # ------------------------------------------------------------ endings

    def watch_unless_begun(self) -> None:
        if self._pump_task is None and self._job is not None and self._side.has_queued(self._job):
            self.watch()

    def look_at_client(self, now: float) -> None:
        """The loop's tick: how long has this client been waited for? `now` is in seconds that the
        loop has waited for clients.
        """
        if self._settled is not None:
            self._look_at_pause(now)
        if (
            self._unread_since is not None
            and self._body is not None
            and self._pump_task is not None
            and self._is_responding()
        ):
            self._look_at_unread_body(self._body, now)
        since = self._waiting_since
        if since is None:
            # The app works. Whether its client is still there is worth a task for the slow ones.
            if self._is_slow and not self._answered:
                if self._holds_back and self._pump_task is None:
                    self._look_at_held_body(now)
                self.watch()
            self._is_slow = True
        elif since is CLOCK_NOT_STARTED:
            self._waiting_since = now
        elif self._gone:
            self._end_for_disconnect()
        elif since <= now - self._settings.stall_timeout:
            self._stall(self._sent_too_little() if self._collecting else self._read_nothing())
        elif not self._collecting:
            # A send() that hangs; some servers do not even end it when the client leaves.
            self.watch()

    def _look_at_held_body(self, now: float) -> None:
        """Of a client that waits for `100 Continue`. None waits for ever (RFC 9110 10.1.1): at last
        it is asked to send, since an app that polls cannot learn otherwise that it has left.
        """
        if self._unread_since is None:
            self._unread_since = now
        elif self._unread_since <= now - self._settings.stall_timeout:
            self._holds_back = False

    def _look_at_pause(self, now: float) -> None:
        """Of the client of an undeclared body; one that pauses may be waiting for the app."""
        if self._quiet_since is CLOCK_NOT_STARTED:
            self._quiet_since = now
        elif self._quiet_since is not None and self._quiet_since <= now - self._settings.pause:
            self._settle()

    def _is_responding(self) -> bool:
        """Whether the response has begun, be it with an empty chunk only."""
        return self._sent_head or (self._call is not None and self._call.has_begun_to_give())

    def _look_at_unread_body(self, body: LoopToThread, now: float) -> None:
        """An app that streams its response and leaves its request unread hides its client's
        leaving, which the server tells only behind the body: at last what is left of that is thrown
        detached (W-FLOW-3).
        """
        if self._out.is_full():
            self._unread_since = CLOCK_NOT_STARTED  # the app sleeps for its client, and cannot read
            return
        unread, begun = body.held_in_loop()
        if self._unread_since is CLOCK_NOT_STARTED or unread != self._unread:
            self._unread_since, self._unread = now, unread
            return
        patience = self._settings.stall_timeout
        if begun and not self._is_given_up:
            patience *= READER_PATIENCE
        if self._unread_since is not None and self._unread_since <= now - patience:
            body.break_in_loop(
                lambda: AppError(
                    f"the app read nothing of the request's body for {patience:g} s while it sent "
                    "its response; what was left of the body is gone"
                )
            )

    def _stall(self, why: str) -> None:
        self.abort(_STALLED, lambda: ClientStalled(why))

    def _stall_from_thread(self) -> None:
        self._side.handle.post(lambda: self._stall(self._read_nothing()))

    def _read_nothing(self) -> str:
        return f"the client read nothing for stall_timeout={self._settings.stall_timeout} s"

    def _disconnected(self) -> ClientDisconnected:
        """For the exchange's own task: break off, and the error to raise."""
        if not self._aborted:
            self._note(_DISCONNECTED)
            self._break_off(_disconnect)
        return _disconnect()

    def _note(self, outcome: str) -> None:
        """How this request ends; what was noted first stands."""
        if self._outcome is None:
            self._outcome = outcome

    def abort(self, outcome: str, reason: Callable[[], Exception]) -> None:
        """End the exchange, from any other task or callback of its loop.

        The first reason stands.
        """
        if not self._aborted:
            self._note(outcome)
            self._break_off(reason)
            self._cut.cancel(reason())

    def _break_off(self, reason: Callable[[], Exception]) -> None:
        """Let the worker find the exchange over at its next step; if none has begun, none will."""
        self._aborted = True
        if self._job is not None:
            self._side.withdraw(self._job)
        # First what tells the app that its client is gone: whoever wakes up in read() may ask.
        self._out.break_in_loop(reason)
        if self._body is not None:
            self._body.break_in_loop(reason)

    def _client_disconnected(self) -> bool:
        """`environ["wsgi_asgi_bridge.client_disconnected"]`: whether the client is known to be
        gone. Any thread (W-FLOW-3).

        The first call begins to watch, so it may be the second that tells.
        """
        if not self._polled:
            self._polled = True
            self._side.handle.post(self.watch)
        return self._out.broken()


class _FileWrapper(FileWrapper):
    """`wsgi.file_wrapper` (PEP 3333), in large blocks."""

    def __init__(self, filelike: Any, blksize: int = FILE_BLOCK_BYTES) -> None:
        super().__init__(filelike, max(blksize, FILE_BLOCK_BYTES))


_HTTP = ("http.response.start", "http.response.body")
_WEBSOCKET = ("websocket.http.response.start", "websocket.http.response.body")
_STARTING = Admission.STARTING
CLOCK_NOT_STARTED = float("inf")
"""Since when a wait lasts that no tick has seen yet: its time begins with the first that does, so
that nobody is given up early.
"""
_END = b""
"""What is left to send when the body has no more bytes: its end. No block is empty."""

_DISCONNECTS = frozenset({"http.disconnect", "websocket.disconnect"})


def _disconnect() -> ClientDisconnected:
    return ClientDisconnected("the client disconnected before the exchange was over")


async def _nobody(*_: object) -> Any:
    """A server's `receive` and `send` once the exchange is over."""
    raise _disconnect()


async def _lifespan_message(receive: Receive, expected: str) -> None:
    """Wait for the server's message of this type, past any that nobody knows.

    Raises ServerError for one of the other type that is known.
    """
    while (kind := (await receive())["type"]) != expected:
        if kind in _LIFESPAN_MESSAGES:
            raise ServerError(f"lifespan message {kind!r} came, expected {expected!r}")


_LIFESPAN_MESSAGES = ("lifespan.startup", "lifespan.shutdown")


def _wsgi_app(app: WSGIApp | str) -> WSGIApp:
    found: WSGIApp = imported_app(app, kind="a WSGI app: a callable (environ, start_response)")
    _refuse_asgi(found)
    return found


def _refuse_asgi(app: Any) -> None:
    """An `async def` cannot be a WSGI app; swapped adapters are the usual reason."""
    if iscoroutinefunction(app) or iscoroutinefunction(
        getattr(app, "__call__", None)  # noqa: B004
    ):
        raise TypeError(
            f"app is {app!r}, an async callable; WSGIToASGI takes a WSGI app, "
            "ASGIToWSGI an ASGI app"
        )


def _constant_pairs(environ: Mapping[str, Any] | None) -> Environ:
    if environ is None:
        return {}
    if not isinstance(environ, Mapping):
        raise TypeError(f"environ is {environ!r}, expected a mapping of str keys")
    for key in environ:
        if not isinstance(key, str):
            raise TypeError(f"environ has the key {key!r}, expected str keys only")
        if key in ("wsgi.input", "asgi.scope") or key.startswith("wsgi_asgi_bridge."):
            raise ValueError(f"environ has the key {key!r}, which belongs to each request")
    return dict(environ)


def _has_no_body(environ: Environ) -> bool:
    """Whether there is none for certain where no header announces one, so that nobody need ask
    (RFC 9112 6.3).
    """
    return environ["REQUEST_METHOD"] in ("GET", "HEAD") and environ["SERVER_PROTOCOL"] in (
        "HTTP/1.1",
        "HTTP/1.0",
    )


def _may_converse(environ: Environ) -> bool:
    """Whether a body without a header that announces one may yet be sent piece by piece: HTTP/2
    needs no header for that, but a request whose method expects no body has none as a rule.
    """
    return environ["REQUEST_METHOD"] in ("POST", "PUT", "PATCH") and environ[
        "SERVER_PROTOCOL"
    ] not in ("HTTP/1.1", "HTTP/1.0")


def _nothing() -> None:
    pass


def _uninterrupted(work: Callable[[], None]) -> None:
    """Run `work`, which holds a lock for a moment, out of the main thread, where a signal's handler
    may interrupt it: one that closes the bridge waits for threads that need this very lock.
    """
    if threading.current_thread() is threading.main_thread():
        try:
            # Not by Thread.start(), which holds a lock of its own that the new thread needs.
            start_new_thread(work, ())
        except RuntimeError:  # the interpreter is at its end, or the system gives no more threads
            work()
    else:
        work()

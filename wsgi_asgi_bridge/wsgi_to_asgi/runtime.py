"""One bridge in one event loop: its exchanges, the checks of their time-outs, the way to the pool,
and the counts.
"""

from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

from .._crossing.loop_binding import LoopBinding
from .._crossing.loops import LoopHandle, running_loop_handle
from .._crossing.workers import Admission, Job, WorkerPool
from ..errors import BridgeClosed
from ..typing import WSGIApp
from .app_call import AppBinding
from .settings import TICKS_PER_TIMEOUT, Settings
from .stats import Counts

__all__ = ["Runtime"]

QUEUE_GRACE_SECONDS = 0.01
"""A request that is queued behind others is watched after this time, at most twice as long, because
watching costs a task. A thread that is being started usually takes it before.
"""


class InFlight(Protocol):
    """As much of an exchange as its runtime uses."""

    queued_in_round: int | None
    """The watch round in which it was queued behind other requests, until it is watched."""

    def tick(self, now: float) -> None: ...

    def watch_unless_begun(self) -> None: ...

    def begin_shutdown(self) -> None: ...

    def shut_down(self) -> None: ...


class Runtime:
    """What the requests of one bridge in one event loop share.

    Used in that loop's thread only, save for the counters, which any thread may read.
    """

    def __init__(
        self, settings: Settings, app: WSGIApp, running_pool: Callable[[], WorkerPool]
    ) -> None:
        self.handle: LoopHandle = running_loop_handle()
        self.loop: Any = self.handle.loop
        self.settings = settings
        self.app_binding: AppBinding = AppBinding(
            app, LoopBinding(self.handle), settings.stall_timeout
        )
        self.exchanges: set[InFlight] = set()
        self.counts: Counts = Counts()
        self.open_websockets: int = 0
        self.ticking: bool = False
        self._running_pool = running_pool
        self._pool: WorkerPool | None = None
        """The pool that this loop submitted to last."""
        self._last_tick = 0.0
        self._waited = 0.0
        """Seconds that this loop has waited for its clients; see `_tick`."""
        self._round_ends = False
        self._watch_round = 0

    def use_app(self, app: WSGIApp) -> None:
        """For the requests that begin from now on. Any thread: they read one attribute."""
        self.app_binding = self.app_binding._replace(app=app)

    def begin_shutdown(self) -> None:
        """The bridge is being closed: exchanges that would not end by themselves begin to end."""
        for exchange in list(self.exchanges):
            exchange.begin_shutdown()

    def shut_down(self) -> None:
        """End every exchange."""
        for exchange in list(self.exchanges):
            exchange.shut_down()

    # ------------------------------------------------------------ the pool

    def submit(self, job: Job) -> Admission:
        """Give the job to the pool, as WorkerPool.submit does; a pool that was shut down meanwhile
        is replaced.
        """
        if self._pool is None:
            self._pool = self._running_pool()
        try:
            return self._pool.submit(job)
        except BridgeClosed:
            pool = self._running_pool()
            if pool is self._pool:
                raise  # it is being drained
            self._pool = pool
            return pool.submit(job)

    def has_queued(self, job: Job) -> bool:
        return self._pool is not None and self._pool.has_queued(job)

    def withdraw(self, job: Job) -> None:
        if self._pool is not None:
            self._pool.withdraw(job)

    # ------------------------------------------------------------ time-outs

    def begin_ticking(self) -> None:
        """While requests are in flight; the tick ends itself."""
        self.ticking = True
        self._last_tick = monotonic()
        self.handle.call_later(self.settings.tick, self._tick)

    def _tick(self) -> None:
        """While requests are in flight: check which clients have stalled, and detach long streams
        from the pool's count.
        """
        now, before = monotonic(), self._last_tick
        self._last_tick = now
        # A loop that was blocked has not waited meanwhile: what its clients did is still unseen.
        usual = max(2 * self.settings.tick, 2 * self.settings.stall_timeout / TICKS_PER_TIMEOUT)
        self._waited += min(now - before, usual)
        self.ticking = bool(self.exchanges)
        if self.ticking:
            self.handle.call_later(self.settings.tick, self._tick)
        for exchange in list(self.exchanges):
            exchange.tick(self._waited)
        if self._pool is not None:
            self._pool.detach_streams()

    # ------------------------------------------------------------ requests behind others

    def join_watch_round(self) -> int:
        """Return the number of the watch round, and have it end soon.

        A request that is still queued at the end of the next one is watched.
        """
        # The queued requests are not listed: a list would keep them after their end.
        if not self._round_ends:
            self._round_ends = True
            self.handle.call_later(QUEUE_GRACE_SECONDS, self._end_watch_round)
        return self._watch_round

    def _end_watch_round(self) -> None:
        before, self._watch_round = self._watch_round, self._watch_round + 1
        self._round_ends = False
        for exchange in list(self.exchanges):
            if exchange.queued_in_round is None:
                continue
            if exchange.queued_in_round < before:
                exchange.queued_in_round = None
                exchange.watch_unless_begun()
            else:
                self.join_watch_round()  # one more round, for this request

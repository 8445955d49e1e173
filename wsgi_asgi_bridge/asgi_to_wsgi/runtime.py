"""The private loop of one bridge in one process: its start, lifespan, requests and end."""

import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from .._crossing.at_exit import closed_at_exit
from .._crossing.calling_thread import CallingThread
from .._crossing.calling_thread_executor import CallingThreadExecutor
from .._crossing.event_loop import PrivateLoop, default_loop_factory
from .._crossing.loops import LoopHandle
from .._crossing.thread_event import ThreadEvent
from ..errors import BridgeClosed
from .lifespan import LifespanTask
from .released import ReleasedConnections
from .settings import Settings
from .stats import Counts

__all__ = ["InFlight", "Runtime", "RuntimeStart"]

logger: logging.Logger = logging.getLogger("wsgi_asgi_bridge")

CANCEL_SECONDS = 1.0
"""How long the lifespan's shutdown waits for cancelled apps to clean up."""


class InFlight(Protocol):
    """What the runtime uses of a request in the loop."""

    def shut_down_in_loop(self) -> None: ...


class RuntimeStart:
    """One start of a private loop, made by one thread; others wait until it is over."""

    def __init__(self) -> None:
        self.thread_id: int = threading.get_ident()
        self.over: threading.Event = threading.Event()
        self.runtime: Runtime | None = None
        """Set once its loop runs, before the lifespan's startup."""
        self.given_up = False
        """Whether a signal's handler has closed the bridge in the middle of it."""


class Runtime:
    """A running private loop, its lifespan and the requests in it."""

    def __init__(self, app: Callable[..., Any], settings: Settings) -> None:
        self.settings = settings
        self._unused: weakref.finalize[Any, Any] | None = None
        self.refusal: str | None = None
        """Why requests are refused: the startup failed. None if it did not."""
        self.state: dict[str, Any] = {}
        """The lifespan's state; a copy of it is in each scope."""
        self.private: PrivateLoop = PrivateLoop.started(
            backend=settings.backend,
            loop_factory=settings.loop_factory or default_loop_factory(),
            name="wsgi_asgi_bridge-loop",
        )
        self.handle: LoopHandle = self.private.handle
        self._lifespan: LifespanTask | None = None
        if settings.lifespan != "off":
            required = settings.lifespan == "on"
            self._lifespan = LifespanTask(self.private, app, self.state, required=required)
        # The loop's own; the counts may be read by any thread.
        self.in_flight: set[InFlight] = set()
        self.counts: Counts = Counts()
        self.released: ReleasedConnections = ReleasedConnections(self.handle, settings.max_released)
        self._on_empty: Callable[[], None] | None = None
        self.takes_requests: bool = True
        """False once `close` has begun. The loop's own."""
        self.executor: CallingThreadExecutor = CallingThreadExecutor(
            "wsgi_asgi_bridge-sync", backend=settings.backend
        )
        self.nobody: CallingThread = CallingThread(self.handle, 1)
        """A thread that has left: thread-sensitive code that must not wait for the real one runs in
        the executor's own.
        """
        self.nobody.finish_from_thread()
        self._closing = threading.RLock()
        """Held while the loop ends: a second caller of `close` returns once the first has ended it.

        Re-entered if the process exits while it closes.
        """
        self._closed = False
        self._process = os.getpid()

    def startup(self, bridge: object, start: RuntimeStart) -> None:
        """Run the lifespan's startup, as part of `start`.

        `bridge` is not held: when it is collected, its loop ends.
        """
        closed_at_exit.add(self)
        try:
            if self._lifespan is not None and not start.given_up:
                self.refusal = self._lifespan.startup(self.settings.startup_timeout)
            if start.given_up:
                raise BridgeClosed("the bridge was closed while it was starting")
        except BaseException:  # Ctrl-C
            self.close()
            raise
        if self.refusal is not None:
            logger.error("%s; all requests are refused", self.refusal)
        # The garbage collector may run this in any thread with any lock held, so it only posts.
        self._unused = weakref.finalize(bridge, self.end_unused)
        self._unused.atexit = False

    def abandon(self) -> None:
        """In a forked child: neither the bridge's collection nor the exit closes this loop."""
        if self._unused is not None:
            self._unused.detach()
        self.released.forget_after_fork()

    # ------------------------------------------------------------ ending

    def close(self) -> None:
        """End background work, the lifespan and the loop. In a thread."""
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
        timeout = self.settings.shutdown_timeout
        if self._unused is not None:
            self._unused.detach()
        if not self._wait(self._when_empty, timeout):
            logger.warning(
                "shutdown_timeout=%s s is over: %d app calls are cancelled",
                timeout,
                len(self.in_flight),
            )
            # Before the lifespan ends, since they may need its resources to clean up.
            self.handle.post_at_any_moment(self._cancel_all)
            self._wait(self._when_empty, CANCEL_SECONDS)
        if self._lifespan is not None:
            self._lifespan.shutdown(timeout)
        if not self.private.stop(timeout):
            logger.error("the private loop did not end within shutdown_timeout=%s s", timeout)
        self.executor.close()
        self.released.end()

    def end_unused(self) -> None:
        """Close the loop of a bridge that was garbage-collected. Any thread."""
        if self._process == os.getpid():
            self.handle.post(self._end_unused_in_loop)

    def _end_unused_in_loop(self) -> None:
        threading.Thread(target=self.close, name="wsgi_asgi_bridge-close", daemon=True).start()

    def _wait(self, when: Callable[[Callable[[], None]], None], timeout: float) -> bool:
        """Call `when` in the loop with a callback, and wait until that is called.

        False after `timeout` seconds.
        """
        event = ThreadEvent()
        if not self.handle.post_at_any_moment(lambda: when(event.set)):
            return True
        return event.wait(timeout)

    def _when_empty(self, report: Callable[[], None]) -> None:
        if self.takes_requests:
            self.takes_requests = False
            self.released.bridge_closes()
        self._on_empty = report
        self._report_if_empty()

    def _cancel_all(self) -> None:
        for request in list(self.in_flight):
            request.shut_down_in_loop()

    def ended_in_loop(self, request: InFlight) -> None:
        self.in_flight.discard(request)
        if self._on_empty is not None:
            self._report_if_empty()

    def _report_if_empty(self) -> None:
        if not self.in_flight and self._on_empty is not None:
            report, self._on_empty = self._on_empty, None
            report()

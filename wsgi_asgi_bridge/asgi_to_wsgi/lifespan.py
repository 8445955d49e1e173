"""The lifespan of an ASGI app: one task of the private loop, started and stopped by threads
(A-LOOP-2).
"""

import contextvars
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from .._crossing.event_loop import PrivateLoop
from .._crossing.loops import BackgroundTask, LoopEvent
from .._crossing.thread_event import ThreadEvent
from .._protocol.lifespan import Lifespan, LifespanState
from ..typing import Message

__all__ = ["LifespanTask"]

logger: logging.Logger = logging.getLogger("wsgi_asgi_bridge")

STARTUP, SHUTDOWN = "lifespan.startup", "lifespan.shutdown"

_NOT_YET = {LifespanState.STARTING: "startup", LifespanState.STOPPING: "shutdown"}


class LifespanTask:
    """One lifespan.

    A thread calls `startup` and `shutdown`, once each; everything else runs in the loop.
    """

    def __init__(
        self,
        private: PrivateLoop,
        app: Callable[..., Any],
        state: dict[str, Any],
        *,
        required: bool,
    ) -> None:
        self._private = private
        self._app = app
        self._scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": state,
        }
        self._lifespan = Lifespan(required=required)
        # The loop's own.
        self._task: BackgroundTask | None = None  # kept here, since asyncio refers to tasks weakly
        self._given: str | None = None  # the type of the message that the app received last
        self._asked_to_stop = False
        self._receiver: LoopEvent | None = None  # what the app's receive() waits for
        # Wakes the thread that waits for the next state.
        self._report: Callable[[], None] | None = None

    # ------------------------------------------------------------ threads

    def startup(self, timeout: float) -> str | None:
        """Run the app's startup.

        Returns why it failed; None if the app has started or does not support lifespan.
        """
        event = ThreadEvent()
        outcome: list[str | None] = []

        def report() -> None:
            # Read in the loop, at once: a later failure of the lifespan is not the startup's.
            failed = self._lifespan.state is LifespanState.FAILED
            outcome.append(
                f"the app's lifespan startup failed: {self._lifespan.failure!r}" if failed else None
            )
            event.set()

        def begin_in_loop() -> None:
            self._report = report
            self._task = self._private.handle.spawn(self._run, contextvars.Context())

        if not self._private.handle.post(begin_in_loop) or not event.wait(timeout):
            return f"the app's lifespan startup took longer than startup_timeout={timeout} s"
        return outcome[0]

    def shutdown(self, timeout: float) -> None:
        """Run the app's shutdown if the app has started. Errors are logged.

        Returns after `timeout` seconds at the latest.
        """
        event = ThreadEvent()
        post = self._private.handle.post_at_any_moment
        if post(partial(self._stop_in_loop, event.set)) and not event.wait(timeout):
            logger.error(
                "the app's lifespan shutdown took longer than shutdown_timeout=%s s", timeout
            )

    # ------------------------------------------------------------ the loop

    def _stop_in_loop(self, report: Callable[[], None]) -> None:
        if self._lifespan.state is not LifespanState.RUNNING:
            report()
            return
        self._report = report
        self._lifespan.stop()
        self._asked_to_stop = True
        if self._receiver is not None:
            self._private.handle.set_event(self._receiver)

    async def _run(self) -> None:
        lifespan, cancelled = self._lifespan, self._private.handle.cancelled
        error: BaseException | None = None
        try:
            await self._app(self._scope, self._receive, self._send)
        except BaseException as exc:  # SystemExit too, which would end the loop
            error = exc
        if isinstance(error, cancelled):
            pass  # the loop ends
        elif (
            error is not None and lifespan.state is LifespanState.STARTING and not lifespan.required
        ):
            logger.info("the app seems not to support lifespan: it raised %r", error)
        elif error is not None:
            logger.error("the app's lifespan raised", exc_info=error)
        lifespan.app_ended(error)
        self._moved()
        if isinstance(error, cancelled) and self._private.handle.backend == "trio":
            raise error

    async def _receive(self) -> Message:
        # A message counts as given only when it is returned: an app may cancel its receive().
        if self._given is None:
            self._given = STARTUP
        else:
            while self._given == SHUTDOWN or not self._asked_to_stop:  # after the last, for ever
                self._receiver = self._private.handle.create_event()
                await self._receiver
            self._given = SHUTDOWN
        return {"type": self._given}

    async def _send(self, message: Message) -> None:
        phase = _NOT_YET.get(self._lifespan.state)
        self._lifespan.accept(message)
        if self._lifespan.state is LifespanState.FAILED:
            logger.error("the app's lifespan %s failed: %s", phase, self._lifespan.failure)
        self._moved()

    def _moved(self) -> None:
        """Wake the waiting thread if the app has completed or failed the phase."""
        if self._lifespan.state not in _NOT_YET:
            report, self._report = self._report, None
            if report is not None:
                report()

"""One event loop in a thread of its own: asyncio (uvloop where it is installed), or trio.

The thread is a daemon, so that it does not delay the interpreter's exit; whoever made the loop ends
it.

A task that raises SystemExit or KeyboardInterrupt makes asyncio's `run_forever` raise. That is
logged and the loop runs again, with every other task as it was (A-LOOP-5).
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack

from .eventfd_wakeup import EventfdWakeup
from .greenlets import cooperative_loop, noted_in_this_greenlet_only, patched_by
from .loops import LoopHandle, running_loop_handle
from .thread_event import ThreadEvent

__all__ = ["LoopFactory", "PrivateLoop", "default_loop_factory"]

logger = logging.getLogger("wsgi_asgi_bridge")

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def default_loop_factory() -> LoopFactory | None:
    """uvloop's, if it is installed and threads are not greenlets."""
    if patched_by() is not None:
        return cooperative_loop
    try:
        import uvloop
    except ImportError:
        return None
    factory: LoopFactory = uvloop.new_event_loop
    return factory


class PrivateLoop:
    """A running loop. Made by `PrivateLoop.started`; `handle.post` reaches it from any thread."""

    def __init__(self, *, backend: str, loop_factory: LoopFactory | None, name: str) -> None:
        self._backend = backend
        self._loop_factory = loop_factory
        self._running = ThreadEvent()
        self._error: BaseException | None = None
        self._stop: Callable[[], None]
        self._stopping = False
        self.handle: LoopHandle
        self.ended: bool = False
        self.thread_id: int | None = None
        """`threading.get_ident()` of the loop's thread while it runs; after its end the system
        gives the number to another.
        """
        self.thread: threading.Thread = threading.Thread(target=self._run, name=name, daemon=True)

    @classmethod
    def started(cls, *, backend: str, loop_factory: LoopFactory | None, name: str) -> "PrivateLoop":
        """Start a loop and wait until it runs. Raises what kept it from running."""
        private = cls(backend=backend, loop_factory=loop_factory, name=name)
        private.thread.start()
        private._running.wait()
        if private._error is not None:
            private.thread.join()
            raise private._error
        return private

    def stop(self, timeout: float) -> bool:
        """Cancel what still runs and end the thread.

        Not from the loop itself. False if it has not ended after `timeout` seconds.
        """
        self.handle.post_at_any_moment(self._stop)
        self.thread.join(timeout)
        return not self.thread.is_alive()

    # ------------------------------------------------------------ the loop's thread

    def _run(self) -> None:
        self.thread_id = threading.get_ident()
        try:
            if self._backend == "trio":
                self._run_trio()
            else:
                self._run_asyncio_to_end()
        except BaseException as exc:
            if not hasattr(self, "handle"):
                self._error = exc
                self._running.set()
            else:
                logger.critical("the private event loop ended by an exception", exc_info=True)
        finally:
            self.ended = True
            self.thread_id = None

    def _run_asyncio_to_end(self) -> None:
        try:
            self._run_asyncio()
        except RuntimeError as exc:
            # asyncio ends its default executor in a new thread, and Python 3.12 starts none at its
            # exit. The loop is closed all the same, and Python joins the executor's threads.
            if not (self._stopping and "new thread" in str(exc)):
                raise
            logger.debug("the loop's default executor is left to the interpreter's exit")

    def _run_asyncio(self) -> None:
        with ExitStack() as ending, asyncio.Runner(loop_factory=self._loop_factory) as runner:
            loop = runner.get_loop()
            if patched_by() is not None:
                _check_cooperates(loop)
                ending.callback(noted_in_this_greenlet_only())
            wakeup = EventfdWakeup.create_if_supported(loop)
            if wakeup is not None:
                ending.callback(wakeup.close)  # after the runner has closed the loop

            def begin() -> None:
                self.handle = running_loop_handle(wakeup)
                self._running.set()

            def stop() -> None:
                self._stopping = True
                loop.stop()

            self._stop = stop
            loop.call_soon(begin)
            while not self._stopping:
                try:
                    loop.run_forever()
                except (SystemExit, KeyboardInterrupt):
                    logger.exception("a task of the app tried to end the process; the loop goes on")

    def _run_trio(self) -> None:
        _check_cooperates("the loop of trio")
        import trio

        async def main() -> None:
            stop = trio.Event()
            self._stop = stop.set
            self.handle = running_loop_handle()
            self._running.set()
            await stop.wait()

        trio.run(main)


def _check_cooperates(loop: object) -> None:
    """Raise RuntimeError if threads are greenlets and `loop` would block all of them."""
    library = patched_by()
    if library is not None and not isinstance(loop, asyncio.SelectorEventLoop):
        raise RuntimeError(
            f"{loop!r} cannot run where {library} has patched threads: it would stop all greenlets "
            "while it waits; use backend='asyncio' without a loop_factory"
        )

"""What other threads do for a thread that waits for an exchange, after they have its end."""

from collections.abc import Callable
from threading import Lock

from .contexts import Changes
from .thread_event import ThreadEvent

__all__ = ["DelegatedWork"]


class DelegatedWork:
    """What another thread does and reports for a calling thread.

    The loop may pass an exchange on to a worker of a bridge behind this one. That worker reports
    here that it has begun, that it is done, and what it has set in its context.
    """

    __slots__ = ("_lock", "_unfinished", "changes", "last_changes", "reply_line")

    # Set by CallingThread, without one more call for each request.
    _lock: Lock
    _unfinished: list[tuple[ThreadEvent, Callable[[], bool]]] | None
    changes: Changes | None
    """Context changes for the calling thread to apply; written before the chunk that they belong to
    is put, and never changed in place.
    """
    last_changes: Changes | None
    """The same at the end of the work, which `wait_for_work_from_thread` waits for."""
    reply_line: str | None
    """How the work words the first line of its reply; written before the reply is put into the
    worker's channel, from which the loop takes it.
    """

    def begin_work(self, matters: Callable[[], bool]) -> ThreadEvent:
        """Make the calling thread wait, after the end, until the returned event is set.

        It stops waiting when `matters()`, called in the calling thread, is false: the exchange has
        ended without this work. Any thread.
        """
        event = ThreadEvent()
        with self._lock:
            if self._unfinished is None:
                self._unfinished = []
            self._unfinished.append((event, matters))
        return event

    def has_unfinished_work(self) -> bool:
        return bool(self._unfinished)

    def wait_for_work_from_thread(
        self, poll_interval: float, check_alive: Callable[[], None]
    ) -> None:
        """After the end: wait until all work that was begun and still matters is done.

        `check_alive` is called each `poll_interval` seconds and may raise to stop waiting.
        """
        while True:
            with self._lock:
                if not self._unfinished:
                    return
                event, matters = self._unfinished.pop()
            while matters() and not event.wait(poll_interval):
                check_alive()

"""An event for which one thread waits until another sets it.

The owner's lock guards which event is waited for; the event only carries the wake-up. The law:
whoever wakes takes the event out of the shared state under the owner's lock, then sets it, once. A
thread whose wait timed out takes its event out under that lock; if it is gone, it is set in a
moment, and the thread waits for that. So every `set` meets one `wait`, and the event can be used
again.
"""

import threading
from collections.abc import Callable

__all__ = ["ThreadEvent"]


class ThreadEvent:
    """A raw lock that is made locked: a tenth of threading.Event's price.

    `set` may come before `wait`.
    """

    __slots__ = ("_lock", "set")

    def __init__(self) -> None:
        # Looked up each time: gevent may patch threads after this module was imported, and a wait
        # for an unpatched lock blocks all greenlets. Other locks are never waited for.
        self._lock = threading.Lock()
        self._lock.acquire()
        self.set: Callable[[], None] = self._lock.release

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until set. False after `timeout` seconds."""
        # By position: a keyword costs a dict each time.
        return self._lock.acquire(True, -1 if timeout is None else timeout)

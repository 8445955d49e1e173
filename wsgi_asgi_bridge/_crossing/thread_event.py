"""Where one thread sleeps until another wakes it.

The owner's lock guards who sleeps; the event only carries the wake-up. Law: the waker takes the
sleeper's name out of the shared state under the owner's lock and then opens the event, once. A
sleeper whose time ran out takes its own name out under that lock; finding it gone, it knows that a
wake-up is on its way and waits for it. So every `open` meets one `wait`, and the event may be used
again.
"""

import threading

__all__ = ["ThreadEvent"]


class ThreadEvent:
    """A raw lock that is born taken: a tenth of threading.Event's price, and `open` before `wait`
    works as well.
    """

    __slots__ = ("_lock", "set")

    def __init__(self) -> None:
        # Looked up each time: gevent may patch threads after this module was imported, and a lock
        # from before blocks all greenlets. Nobody sleeps at the other locks, so those may stay.
        self._lock = threading.Lock()
        self._lock.acquire()
        self.set = self._lock.release

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until opened. False after `timeout` seconds."""
        # By position: a keyword costs a dict each time.
        return self._lock.acquire(True, -1 if timeout is None else timeout)

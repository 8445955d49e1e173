"""Callbacks from any thread into one event loop; posts that wait together share one wake-up.

The race. A poster appends, then asks whether a wake-up is on its way. The drain first says that
none is, then empties the deque. `deque.append` and `deque.popleft` are documented as thread-safe,
so one of the two touches the deque first:

- the poster's append comes before the drain's end mark: the drain sees the post;
- the end mark comes first: then the drain's "no wake-up is on its way" came earlier still, the
  poster sees that, since it touched the deque after the drain did, and wakes the loop itself.

So no post is ever left without a wake-up behind it. Two posters may both wake the loop; the second
drain finds nothing. The end mark also bounds a drain; the length of the deque would do that too,
but reading it orders nothing without a GIL. "On its way" is a lock that is only ever tried, never
waited for, so that between two drains one poster wins and wakes.

A wake-up that nobody here asked for, after a signal or by a forked child that shares what this
loop wakes up by, is one drain too many and otherwise nothing.
"""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Lock

__all__ = ["CallbackQueue"]


class CallbackQueue:
    """One loop's inbox.

    `wake` schedules a callable in the loop from any thread, and raises RuntimeError once the loop
    is closed. `is_closed`, where the loop can tell, tells it also to those who find a wake-up on
    its way that will never arrive. `wake_without_lock` does what `wake` does, for a signal's
    handler that may have interrupted that one.
    """

    __slots__ = ("_is_closed", "_on_its_way", "_posts", "_wake", "_wake_without_lock")

    def __init__(
        self,
        wake: Callable[[Callable[[], None]], object],
        *,
        is_closed: Callable[[], bool] | None = None,
        wake_without_lock: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        self._wake = wake
        self._wake_without_lock = wake_without_lock or wake
        self._is_closed = is_closed
        self._posts: deque[Callable[[], None]] = deque()
        self._on_its_way = Lock()

    def post(self, callback: Callable[[], None]) -> bool:
        """Run `callback` in the loop soon.

        Any thread. False when the loop is closed: it will never run.

        `callback` must not raise: what it has to report, it must carry itself.
        """
        self._posts.append(callback)
        try:
            if self._on_its_way.acquire(False):
                self._wake(self._drain)
                return True
        except RuntimeError:
            # asyncio says "Event loop is closed"; trio's RunFinishedError is one too.
            self._posts.clear()
            with suppress(RuntimeError):  # a signal's handler has come between and ended the loop
                self._on_its_way.release()
            return False
        except BaseException:
            # Out of a signal's handler: nobody can tell any more whether a wake-up is on its way,
            # and all posts would wait for it. One too many does no harm.
            self._wake(self._drain)
            raise
        if self._is_closed is not None and self._is_closed():
            self._posts.clear()
            return False
        return True

    def post_at_any_moment(self, callback: Callable[[], None]) -> bool:
        """As `post`, for whoever then waits for the callback.

        A signal's handler does so in the middle of a `post` that it has interrupted, whose wake-up
        is not on its way yet. So this one always wakes the loop.
        """
        self._posts.append(callback)
        try:
            self._wake_without_lock(self._drain)
        except RuntimeError:
            self._posts.clear()
            return False
        return True

    def _drain(self) -> None:
        try:  # noqa: SIM105  # suppress() costs more than the rest of this
            self._on_its_way.release()
        except RuntimeError:  # none was
            pass
        posts = self._posts
        # Up to the mark: what these post in turn has its own wake-up, so the loop gets to its
        # sockets in between.
        end = _End()
        posts.append(end)
        try:
            while (post := posts.popleft()) is not end:
                post()
        except BaseException:  # Ctrl-C in the loop's thread
            self.post(end)  # so that what is left has a wake-up behind it
            raise


class _End:
    """Marks where one drain ends; to any other it is a callback that does nothing."""

    def __call__(self) -> None: ...

"""Callbacks from any thread into one event loop; posts that wait together share one wake-up.

The race. A poster appends, then checks whether a wake-up is pending. The drain first clears
"pending", then empties the deque. `deque.append` and `deque.popleft` are documented as thread-safe,
so one of the two touches the deque first:

- the poster's append comes before the drain's end mark: the drain runs the post;
- the end mark comes first: then "pending" was cleared earlier still. The poster, which touches the
  deque after the drain, sees that and wakes the loop itself.

So each post has a wake-up after it. Two posters may both wake the loop; the second drain finds
nothing. The end mark also bounds a drain: the length of the deque would, too, but reading it orders
nothing without a GIL. "Pending" is a lock that is tried and never waited for, so that between two
drains one poster wins and wakes.

A spurious wake-up, after a signal or from a forked child that shares the wakeup's file descriptor,
is one drain of nothing.
"""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Lock

__all__ = ["CallbackQueue"]


class CallbackQueue:
    """The callbacks that wait for one loop.

    `wake` schedules a callable in the loop from any thread, and raises RuntimeError once the loop
    is closed. `is_closed`, if the loop can be closed with tasks in it, lets a poster see that a
    pending wake-up will never arrive.
    """

    __slots__ = ("_is_closed", "_pending", "_posts", "_wake")

    def __init__(
        self,
        wake: Callable[[Callable[[], None]], object],
        *,
        is_closed: Callable[[], bool] | None = None,
    ) -> None:
        self._wake = wake
        self._is_closed = is_closed
        self._posts: deque[Callable[[], None]] = deque()
        self._pending = Lock()

    def post(self, callback: Callable[[], None]) -> bool:
        """Run `callback` in the loop soon.

        Any thread. False if the loop is closed: it will never run. `callback` must not raise.
        """
        self._posts.append(callback)
        try:
            if self._pending.acquire(False):
                self._wake(self._drain)
                return True
        except RuntimeError:
            # asyncio says "Event loop is closed"; trio's RunFinishedError is one too.
            self._posts.clear()
            with suppress(RuntimeError):  # a signal's handler has come between and ended the loop
                self._pending.release()
            return False
        except BaseException:
            # Out of a signal's handler, which may have come before the wake-up: without one, all
            # posts would wait. One too many does no harm.
            self._wake(self._drain)
            raise
        if self._is_closed is not None and self._is_closed():
            self._posts.clear()
            return False
        return True

    def post_at_any_moment(self, callback: Callable[[], None]) -> bool:
        """As `post`, for a signal's handler that then waits for the callback.

        It may have interrupted a `post` before its wake-up, so this one always wakes the loop.
        """
        self._posts.append(callback)
        try:
            self._wake(self._drain)
        except RuntimeError:
            self._posts.clear()
            return False
        return True

    def _drain(self) -> None:
        try:  # noqa: SIM105  # suppress() costs more than the rest of this
            self._pending.release()
        except RuntimeError:  # none was pending
            pass
        posts = self._posts
        # Up to the mark: what these post in turn has a wake-up of its own, so that the loop serves
        # its sockets in between.
        end = _End()
        posts.append(end)
        try:
            while (post := posts.popleft()) is not end:
                post()
        except BaseException:  # Ctrl-C in the loop's thread
            self.post(end)  # so that what is left has a wake-up behind it
            raise


class _End:
    """Marks where one drain ends; in another drain, a callback that does nothing."""

    def __call__(self) -> None: ...

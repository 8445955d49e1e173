"""A body from one task of a loop to one thread; see channel.py for the law of its lock."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from threading import Lock

from ..errors import loop_closed
from .loops import Broken, LoopEvent, LoopHandle
from .thread_event import ThreadEvent

__all__ = ["LoopToThread", "Piece", "Waiting"]

Waiting = Callable[[], AbstractContextManager[object]]
"""What a thread enters while it waits for its client."""

BRIEF_SECONDS = 0.001
"""A thread is not detached for a shorter wait: to detach and to come back costs more than that."""

CLOSED_LOOP_SECONDS = 1.0
"""How often a thread that waits for bytes checks whether its loop is closed."""

Piece = bytes | bytearray
"""Bytes that a task has put; they do not change once a thread has taken them."""

JOIN_BELOW_BYTES = 4096
"""Smaller pieces are joined while they wait: each by itself costs up to 300 bytes more."""

JOINED_BYTES = 65536
"""Joining stops at this size, since all joined bytes stay in memory until the last is read."""


class LoopToThread:
    """Chunks put by one task, taken by one thread.

    At most `budget` bytes wait, beside the one chunk that spent it; until the thread first takes,
    `unread_budget` if that is smaller. Small chunks are joined.

    The task: `wait_for_room_in_loop` and `put_in_loop` in turn, then `end_in_loop` or
    `break_in_loop`. The thread: `take_from_thread` until it gives `[]`, `release_from_thread` as it
    uses the bytes up.
    """

    __slots__ = (
        "_begun",
        "_broken",
        "_budget",
        "_chunks",
        "_ended",
        "_full_budget",
        "_held",
        "_joined",
        "_lock",
        "_loop",
        "_putter",
        "_taker",
    )

    def __init__(self, loop: LoopHandle, budget: int, *, unread_budget: int | None = None) -> None:
        self._loop = loop
        self._full_budget = budget
        self._budget = budget if unread_budget is None else min(unread_budget, budget)
        self._lock = Lock()
        self._chunks: list[Piece] = []
        self._joined: bytearray | None = None
        """The last of `_chunks`, if small pieces may be joined to it."""
        self._held = 0  # bytes put and not yet used up
        self._begun = False
        self._ended = False
        self._broken: Broken | None = None
        self._taker: ThreadEvent | None = None
        self._putter: LoopEvent | None = None

    # ------------------------------------------------------------ the task

    def held_in_loop(self) -> tuple[int, bool]:
        """The bytes put and not yet used up, and whether the thread has ever taken any."""
        with self._lock:
            return self._held, self._begun

    def whole_in_loop(self) -> list[Piece] | None:
        """The whole body, if it has ended and the thread has taken nothing of it."""
        with self._lock:
            if not self._ended or self._begun or self._broken is not None:
                return None
            return self._chunks

    async def wait_for_room_in_loop(self) -> bool:
        """Wait while the budget is spent; bytes taken and not used up count. Whether it waited."""
        waited = False
        while True:
            with self._lock:
                if self._has_room():
                    return waited
                event = self._putter = self._loop.create_event()
            await event
            waited = True

    def put_in_loop(self, chunk: Piece) -> bool:
        """Put one chunk, whatever the budget. Whether there is room for more.

        An empty chunk is dropped, since it would read as the end, and so is one after a break.
        """
        size = len(chunk)
        with self._lock:
            if not size or self._broken is not None:
                return self._has_room()
            joined = self._joined
            if size >= JOIN_BELOW_BYTES:
                self._chunks.append(chunk)
                self._joined = None
            elif joined is not None and len(joined) < JOINED_BYTES:
                joined += chunk  # linear in all: a bytearray grows by a share of its size
            else:
                self._joined = bytearray(chunk)
                self._chunks.append(self._joined)
            self._held += size
            taker, self._taker = self._taker, None
            room = self._held < self._budget
        if taker is not None:
            taker.set()
        return room

    def end_in_loop(self) -> None:
        """The body is whole."""
        with self._lock:
            self._ended = True
            taker, self._taker = self._taker, None
        if taker is not None:
            taker.set()

    def break_in_loop(self, broken: Broken) -> None:
        """Put no more though the body is not whole. Does nothing after `end_in_loop`."""
        with self._lock:
            if self._ended or self._broken is not None:
                return
            self._broken = broken
            taker, self._taker = self._taker, None
            putter, self._putter = self._putter, None
        if taker is not None:
            taker.set()
        if putter is not None:
            self._loop.set_event(putter)

    # ------------------------------------------------------------ the thread

    def take_from_thread(
        self, timeout: float, waiting: Waiting = nullcontext
    ) -> list[Piece] | None:
        """All chunks put so far; waits for the first. `[]`, for ever, at the end of the body.

        None after `timeout` seconds without a byte. `waiting()` is entered around a wait that is
        not brief. After a break, gives what was put before it, then raises the reason for ever.
        Raises WaitInLoop if it would wait in the loop's own thread.
        """
        with self._lock:
            self._begun = True
            # A task that waits for room is woken by the next release, as always.
            self._budget = self._full_budget
            if self._chunks or self._ended or self._broken is not None:
                return self._taken()
            self.refuse_wait_in_loop()
            event = self._taker = ThreadEvent()
        was_set = event.wait(min(timeout, BRIEF_SECONDS))
        if not was_set:
            with waiting():
                was_set = self._wait_for_loop(event, timeout)
        if not was_set:
            with self._lock:
                if self._taker is event:
                    self._taker = None
                    return None
            event.wait()  # taken out just now, so it is set in a moment
        with self._lock:
            return self._taken()

    def _wait_for_loop(self, event: ThreadEvent, timeout: float) -> bool:
        """`event.wait(timeout)`, which also ends soon after the loop was closed."""
        while timeout > CLOSED_LOOP_SECONDS:
            if event.wait(CLOSED_LOOP_SECONDS):
                return True
            if self._loop.is_closed():
                self._break_for_closed_loop()
            timeout -= CLOSED_LOOP_SECONDS
        return event.wait(timeout)

    def _break_for_closed_loop(self) -> None:
        """Nothing comes any more, and no task waits: a read of the thread raises."""
        with self._lock:
            taker, self._taker = self._taker, None
            if not self._ended and self._broken is None:
                self._broken = loop_closed
        if taker is not None:
            taker.set()

    def refuse_wait_in_loop(self) -> None:
        """Raise WaitInLoop in the loop's own thread. Any thread, before it waits for the body."""
        self._loop.refuse_wait_in_loop("read()")

    def release_from_thread(self, size: int) -> None:
        """`size` of the bytes taken are used up: the task may put as many more."""
        with self._lock:
            self._held -= size
            putter = None
            # At half of the budget, so that the two meet once in half a budget, not at each read.
            if self._putter is not None and self._held <= self._budget // 2:
                putter, self._putter = self._putter, None
        if putter is not None:
            self._loop.post(lambda: self._loop.set_event(putter))

    # ------------------------------------------------------------ holding the lock

    def _has_room(self) -> bool:
        return self._held < self._budget or self._ended or self._broken is not None

    def _taken(self) -> list[Piece]:
        if not self._chunks and self._broken is not None:
            raise self._broken()
        chunks, self._chunks = self._chunks, []
        self._joined = None  # the thread's now
        return chunks

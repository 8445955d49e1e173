"""A body from one thread to one task of a loop; see channel.py for the law of its lock."""

from collections.abc import Sequence
from functools import partial
from threading import Lock

from ..errors import loop_closed
from .loops import Broken, LoopEvent, LoopHandle
from .thread_event import ThreadEvent

__all__ = ["ThreadToLoop"]

CLOSED_LOOP_SECONDS = 1.0
"""How often a thread that waits for room checks whether its loop is closed."""

UNCHECKED_CHUNKS = 16
UNCHECKED_BYTES = 4096
"""So many chunks of one size, or so many bytes, are put before the next look at the budget and at
the loop, which may be closed. A look by each put would make it an eighth slower.
"""


class ThreadToLoop:
    """Chunks put by one thread, taken by one task.

    The thread: `put_from_thread`*, `end_from_thread`, `finish_from_thread`, the last two perhaps in
    one call. The task: `take_in_loop` until the body has ended, `release_in_loop` as chunks are
    sent, `wait_finished_in_loop`. `expect_in_loop` and `taken_in_loop` are the cheaper steps of
    `take_in_loop`.
    """

    __slots__ = (
        "_broken",
        "_budget",
        "_chunks",
        "_ended",
        "_finished",
        "_held",
        "_lock",
        "_loop",
        "_putter",
        "_taker",
        "_unchecked_up_to",
        "_wanted",
        "finished_at_take",
    )

    def __init__(self, loop: LoopHandle, budget: int) -> None:
        self._loop = loop
        self._budget = budget
        self._lock = Lock()
        self._chunks: list[bytes] = []
        self._held = 0  # bytes put and not yet released
        self._unchecked_up_to = 0
        """While no more bytes than these are held, a put looks neither at the budget, which is
        never less, nor at the loop. A take sets it to 0: it begins a new count.
        """
        self._wanted = 0  # bytes that the waiting thread wants to put
        self._ended = False
        """The body has all of its chunks."""
        self._finished = False
        """The thread's work is over, and was before any break."""
        self._broken: Broken | None = None
        self._putter: ThreadEvent | None = None
        self._taker: LoopEvent | None = None
        self.finished_at_take: bool = False
        """For the task: whether the thread had finished by the last take."""

    # ------------------------------------------------------------ the thread

    def put_from_thread(self, chunk: bytes, *, last: bool = False) -> bool:
        """Put one chunk if the budget allows it; `last` ends the body with it.

        False: nothing was put, and `wait_for_room_from_thread` has to follow. A chunk larger than
        the whole budget is put when no other is held. Raises the reason if the loop has broken off.
        """
        size = len(chunk)
        # acquire() and release(), in pool threads only: `with` costs twice as much for each chunk.
        self._lock.acquire()
        try:
            if self._broken is not None:
                raise self._broken()
            if self._ended:
                return True  # from a thread of the app's own, after the end: dropped
            held = self._held + size
            if held > self._unchecked_up_to and not self._checked_fits(size):
                return False
            self._held = held
            self._chunks.append(chunk)
            self._ended = last
            taker = self._taker
            if taker is not None:
                self._taker = None
        finally:
            self._lock.release()
        if taker is not None:
            self._wake_taker(taker)
        return True

    def check_from_thread(self) -> None:
        """Raise the reason if the loop has broken off or is closed."""
        if self._loop.is_closed():
            self._break_from_thread()
        with self._lock:
            if self._broken is not None:
                raise self._broken()

    def wait_for_room_from_thread(self, size: int, timeout: float) -> bool:
        """Wait until there is room for `size` bytes or the loop has broken off.

        False after `timeout` seconds in which no byte was released. Raises WaitInLoop if it would
        wait in the loop's own thread.
        """
        while True:
            with self._lock:
                if self._broken is not None or self._fits(size):
                    return True
                self._loop.refuse_wait_in_loop("write()")
                self._wanted = size
                event = self._putter = ThreadEvent()
                # Only this thread adds to it, and it waits: any change is progress.
                held = self._held
            if self._wait_for_loop(event, timeout):
                return True
            with self._lock:
                if self._putter is event:
                    self._putter = None
                    if self._held == held:
                        return False
                    continue
            return event.wait()  # taken out just now, so it is set in a moment

    def end_from_thread(self, chunks: Sequence[bytes], *, finished: bool) -> None:
        """End the body with `chunks`, which are put whatever the budget (W-FLOW-1).

        `finished`: the thread's work is over too.
        """
        # acquire() and release(), in pool threads only: `with` costs twice as much. In the main
        # thread, Ctrl-C between acquire() and `try` would leave the lock held.
        self._lock.acquire()
        try:
            # Not added to `_held`: no later put has to wait for them.
            self._chunks += chunks
            self._ended = True
            self._finished = finished and self._broken is None
            taker, self._taker = self._taker, None
        finally:  # there may be no memory for so many chunks
            self._lock.release()
        if taker is not None:
            self._wake_taker(taker)

    def finish_from_thread(self) -> bool:
        """End the thread's work, and the body if it has not ended.

        False if the loop had broken off before.
        """
        with self._lock:
            self._ended = True
            finished = self._finished = self._broken is None
            taker, self._taker = self._taker, None
        if taker is not None:
            self._wake_taker(taker)
        return finished

    def broken(self) -> bool:
        """Whether the loop has broken off. Any thread."""
        with self._lock:
            return self._broken is not None

    def is_whole(self) -> bool:
        """Whether the body has ended and the loop has not broken off. Any thread."""
        with self._lock:
            return self._ended and self._broken is None

    def finished(self) -> bool:
        """Whether the thread finished before the loop broke off. Any thread.

        If so, what it wrote may be read, and the loop reports its error; else the thread does.
        """
        with self._lock:
            return self._finished

    # ------------------------------------------------------------ the task

    def expect_in_loop(self) -> LoopEvent:
        """The event that the thread's first step sets; called before the thread has the channel."""
        event = self._taker = self._loop.create_event()
        return event

    def taken_in_loop(self) -> tuple[list[bytes], bool] | None:
        """What `take_in_loop` gives; None if that would wait."""
        with self._lock:
            if self._broken is not None:
                raise self._broken()
            if not (self._chunks or self._ended):
                return None
            chunks, self._chunks = self._chunks, []
            self._unchecked_up_to = 0
            self.finished_at_take = self._finished
            return chunks, self._ended

    async def take_in_loop(self) -> tuple[list[bytes], bool]:
        """Wait for chunks or the end; give all chunks, and whether the body has ended.

        Raises the reason once broken.
        """
        while True:
            with self._lock:
                if self._broken is not None:
                    raise self._broken()
                if self._chunks or self._ended:
                    chunks, self._chunks = self._chunks, []
                    self._unchecked_up_to = 0
                    self.finished_at_take = self._finished
                    return chunks, self._ended
                event = self._taker = self._loop.create_event()
            await event

    async def wait_finished_in_loop(self) -> None:
        """Wait until the thread has finished. Raises the reason once broken."""
        while True:
            with self._lock:
                if self._broken is not None:
                    raise self._broken()
                if self._finished:
                    return
                event = self._taker = self._loop.create_event()
            await event

    def is_full(self) -> bool:
        """Whether the thread waits for room. Any thread."""
        with self._lock:
            return self._putter is not None

    def release_in_loop(self, size: int) -> None:
        """`size` bytes were sent: the thread may put as many more."""
        with self._lock:
            self._held -= size
            putter = None
            # At half of the budget, so that the two meet once in half a budget, not at each chunk.
            if (
                self._putter is not None
                and self._held <= self._budget // 2
                and self._fits(self._wanted)
            ):
                putter, self._putter = self._putter, None
        if putter is not None:
            putter.set()

    def break_in_loop(self, broken: Broken) -> None:
        """Take no more: the next step of either side raises the reason, the first one given."""
        with self._lock:
            if self._broken is not None:
                return
            self._broken = broken
            self._chunks = []
            putter, self._putter = self._putter, None
            taker, self._taker = self._taker, None
        if putter is not None:
            putter.set()
        if taker is not None:
            self._loop.set_event(taker)

    # ------------------------------------------------------------

    def _fits(self, size: int) -> bool:
        """Holding the lock. A chunk larger than the whole budget fits if no other is held."""
        return self._held <= 0 or self._held + size <= self._budget

    def _checked_fits(self, size: int) -> bool:
        """`_fits`, repeated here without its call; breaks off if the loop is closed, and says up to
        where the next puts need no such check. Holding the lock.
        """
        held, budget = self._held + size, self._budget
        if held > budget and self._held > 0:
            return False
        # Without min(), which costs a call each.
        unchecked = UNCHECKED_CHUNKS * size
        up_to = held + (unchecked if unchecked < UNCHECKED_BYTES else UNCHECKED_BYTES)
        self._unchecked_up_to = up_to if up_to < budget else budget
        if self._taker is None and self._loop.is_closed():
            self._break_for_closed_loop()
        return True

    def _wake_taker(self, event: LoopEvent) -> None:
        if not self._loop.post(partial(self._loop.set_event, event)):
            self._break_from_thread()

    def _wait_for_loop(self, event: ThreadEvent, timeout: float) -> bool:
        """`event.wait(timeout)`, which also ends soon after the loop was closed."""
        while timeout > CLOSED_LOOP_SECONDS:
            if event.wait(CLOSED_LOOP_SECONDS):
                return True
            if self._loop.is_closed():
                self._break_from_thread()
            timeout -= CLOSED_LOOP_SECONDS
        return event.wait(timeout)

    def _break_from_thread(self) -> None:
        with self._lock:
            self._break_for_closed_loop()

    def _break_for_closed_loop(self) -> None:
        """After the loop was closed: each thread's next step raises. Holding the lock."""
        if self._broken is not None:
            return
        self._broken = loop_closed
        self._chunks = []
        self._taker = None  # it waits for ever
        putter, self._putter = self._putter, None
        if putter is not None:
            putter.set()

"""Bytes between one thread and one task of a loop, within a byte budget, and how they end.

`ThreadToLoop` carries a body out of a thread, `LoopToThread` one into a thread. Both keep one lock
for a few statements at a time and never while anybody waits, so the loop may take it (W-FLOW-7).
Whoever waits has put an event into the shared state under that lock. Whoever changes the state
takes the event out under the same lock and sets it after. A change is therefore either seen before
the wait begins, or it finds the event.

Both ends may be broken by the other side with a reason, an exception that later calls raise anew.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from threading import Lock
from typing import Any

from ..errors import BridgeClosed
from .loops import LoopEvent, LoopHandle
from .thread_event import ThreadEvent

__all__ = ["Broken", "LoopToThread", "Piece", "ThreadToLoop", "Waiting"]

Broken = Callable[[], Exception]
"""Makes the exception that tells why the other side is gone; a new one each time it is raised."""

Waiting = Callable[[], AbstractContextManager[object]]
"""What a thread enters while it sleeps for its client."""

CLOSED_LOOP_SECONDS = 1.0
"""How often a thread that sleeps until there is room looks whether its loop is still there."""


CHECK_CHUNKS = 16
CHECK_BYTES = 4096
"""After so many chunks of one size, or so many bytes, a put checks whether its loop is closed; a
check at each put would make it an eighth slower.
"""

BRIEF_SECONDS = 0.001
"""A thread that sleeps no longer for its client goes on counting: leaving the count and coming back
to it costs more than such a sleep saves.
"""

Piece = bytes | bytearray
"""Bytes that a task has put; nobody changes them once a thread has taken them."""

JOIN_BELOW_BYTES = 4096
"""Smaller pieces are joined where they wait: each by itself costs up to 300 bytes more."""

JOINED_BYTES = 65536
"""No piece is joined to so many bytes; they stay in memory until the last of them is used up."""


class ThreadToLoop:
    """Chunks put by one thread, taken by one task.

    The thread: `put_from_thread`*, `end_from_thread`, `finish_from_thread`, the last two perhaps in
    one call.
    The task: `take_in_loop` until it says ended, `release_in_loop` as chunks go on,
    `wait_finished_in_loop` to wait for the thread; `expect_in_loop` and `taken_in_loop` are the
    same in steps that cost less.
    """

    __slots__ = (
        "_broken",
        "_budget",
        "_check_above",
        "_chunks",
        "_ended",
        "_finished",
        "_finished_before_break",
        "_held",
        "_lock",
        "_loop",
        "_putter",
        "_taker",
        "_wanted",
        "finished_at_take",
    )

    def __init__(self, loop: LoopHandle, budget: int) -> None:
        self._loop = loop
        self._budget = budget
        self._lock = Lock()
        self._chunks: list[bytes] = []
        self._held = 0  # bytes put and not yet released
        self._check_above = 0
        """While no more bytes are held, a put checks neither the budget nor the loop: never above
        the budget, and 0 after each take.
        """
        self._wanted = 0  # bytes that the sleeping thread wants to put
        self._ended = False
        self._finished = False
        self._finished_before_break = False
        self._broken: Broken | None = None
        self._putter: ThreadEvent | None = None
        self._taker: LoopEvent | None = None
        self.finished_at_take = False
        """For the task: whether the thread had left by the last `taken_in_loop`."""

    # ------------------------------------------------------------ the thread

    def put_from_thread(self, chunk: bytes, *, last: bool = False) -> bool:
        """Hand one chunk over if the budget allows it.

        False: nothing was done, `wait_for_room_from_thread` first.

        A chunk larger than the whole budget goes when nothing else is held. `last`: the body is
        over with it. Raises the reason if the loop has broken off.
        """
        size = len(chunk)
        # By hand where every chunk passes, in pool threads only: `with` costs twice as much.
        self._lock.acquire()
        try:
            if self._broken is not None:
                raise self._broken()
            if self._ended:
                return True  # a thread of the app's own, after the end: nothing follows it
            held = self._held + size
            if held > self._check_above and not self._checked_fits(size):
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
        """A step without a chunk. Raises the reason if the loop has broken off."""
        if self._loop.is_closed():
            self._break_from_thread()
        with self._lock:
            if self._broken is not None:
                raise self._broken()

    def wait_for_room_from_thread(self, size: int, timeout: float) -> bool:
        """Sleep until there is room for a chunk of `size` bytes or the loop has broken off.

        False when for `timeout` seconds not a byte has gone on. Raises WaitInLoop where it would
        sleep in the loop's own thread.
        """
        while True:
            with self._lock:
                if self._broken is not None or self._fits(size):
                    return True
                self._loop.refuse_wait_in_loop("write()")
                self._wanted = size
                event = self._putter = ThreadEvent()
                # Only this thread adds to it, and it sleeps: any change is progress.
                held = self._held
            if self._wait_for_loop(event, timeout):
                return True
            with self._lock:
                if self._putter is event:
                    self._putter = None
                    if self._held == held:
                        return False
                    continue
            return event.wait()  # taken out just now: its opening is on its way

    def end_from_thread(self, chunks: Sequence[bytes], *, finished: bool) -> None:
        """The body is over, `chunks` are its rest, given whole whatever the budget (W-FLOW-1).

        `finished`: so is the thread's work.
        """
        # By hand where every request passes: `with` costs twice as much. Not where a loop may run
        # in the main thread: Ctrl-C between acquire() and `try` would leave the lock held.
        self._lock.acquire()
        try:
            # Not added to what is held: nothing is put after it that would have to wait.
            self._chunks += chunks
            self._ended = True
            self._finished = finished
            taker, self._taker = self._taker, None
        finally:  # there may be no memory for so many chunks
            self._lock.release()
        if taker is not None:
            self._wake_taker(taker)

    def finish_from_thread(self) -> bool:
        """The thread's work is over; the body too, if nobody ended it before.

        False when the loop had broken off before.
        """
        with self._lock:
            self._ended = self._finished = True
            finished = self._finished_before_break = self._broken is None
            taker, self._taker = self._taker, None
        if taker is not None:
            self._wake_taker(taker)
        return finished

    def broken(self) -> bool:
        """Whether the loop has broken off. Any thread."""
        with self._lock:
            return self._broken is not None

    def ended(self) -> bool:
        """Whether the body is over, and the loop has not broken off. Any thread."""
        with self._lock:
            return self._ended and self._broken is None

    def finished(self) -> bool:
        """Whether the thread has left. Any thread; what it wrote before may be read then."""
        with self._lock:
            return self._finished

    def finished_before_break(self) -> bool:
        """Whether the thread left before the loop broke off: then its last words are the loop's to
        pass on, else they are the thread's own.
        """
        with self._lock:
            return self._finished_before_break

    # ------------------------------------------------------------ the task

    def expect_in_loop(self) -> LoopEvent:
        """Before the thread knows this channel: what opens with the first that it has to tell."""
        event = self._taker = self._loop.create_event()
        return event

    def taken_in_loop(self) -> tuple[list[bytes], bool] | None:
        """What `take_in_loop` gives, None where it would sleep."""
        with self._lock:
            if self._broken is not None:
                raise self._broken()
            if not (self._chunks or self._ended):
                return None
            chunks, self._chunks = self._chunks, []
            self._check_above = 0
            self.finished_at_take = self._finished
            return chunks, self._ended

    async def take_in_loop(self) -> tuple[list[bytes], bool]:
        """All chunks that wait, and whether the body is over; sleeps until there is something to
        tell.

        Raises the reason once broken.
        """
        while True:
            with self._lock:
                if self._broken is not None:
                    raise self._broken()
                if self._chunks or self._ended:
                    chunks, self._chunks = self._chunks, []
                    self._check_above = 0
                    return chunks, self._ended
                event = self._taker = self._loop.create_event()
            await event

    async def wait_finished_in_loop(self) -> None:
        """Sleep until the thread has left. Raises the reason once broken."""
        while True:
            with self._lock:
                if self._broken is not None:
                    raise self._broken()
                if self._finished:
                    return
                event = self._taker = self._loop.create_event()
            await event

    def is_full(self) -> bool:
        """Whether the thread sleeps until there is room. Any thread."""
        with self._lock:
            return self._putter is not None

    def release_in_loop(self, size: int) -> None:
        """`size` bytes have gone on: the thread may put as many more."""
        with self._lock:
            self._held -= size
            putter = None
            # Half of the budget, not a byte: the two meet twice a budget instead of once a chunk.
            if (
                self._putter is not None
                and self._held <= self._budget // 2
                and self._fits(self._wanted)
            ):
                putter, self._putter = self._putter, None
        if putter is not None:
            putter.set()

    def break_in_loop(self, broken: Broken) -> None:
        """The loop takes no more: the thread's next step raises, and so does whoever waits.

        The first reason stays.
        """
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
        """Holding the lock. A chunk larger than the whole budget goes when nothing else is held."""
        return self._held <= 0 or self._held + size <= self._budget

    def _checked_fits(self, size: int) -> bool:
        """Holding the lock: `_fits`, and break off if the loop was closed.

        Sets how many bytes may be held before the next check.
        """
        held, budget = self._held + size, self._budget
        if held > budget and self._held > 0:
            return False
        step = CHECK_CHUNKS * size
        above = held + (step if step < CHECK_BYTES else CHECK_BYTES)
        self._check_above = above if above < budget else budget
        if self._taker is None and self._loop.is_closed():
            self._break_for_closed_loop()
        return True

    def _wake_taker(self, event: Any) -> None:
        if not self._loop.post(partial(self._loop.set_event, event)):
            self._break_from_thread()

    def _wait_for_loop(self, event: ThreadEvent, timeout: float) -> bool:
        """`event.wait(timeout)`, but not for a loop that was closed meanwhile: that opens none."""
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
        """Holding the lock: the loop was closed with its task in mid-flight, so the next step of
        each thread raises.
        """
        if self._broken is not None:
            return
        self._broken = _loop_closed
        self._chunks = []
        self._taker = None  # it sleeps for ever
        putter, self._putter = self._putter, None
        if putter is not None:
            putter.set()


def _loop_closed() -> BridgeClosed:
    return BridgeClosed("the event loop was closed while it ran this request")


class LoopToThread:
    """Chunks put by one task, taken by one thread; `budget` bytes at most wait, beside the one
    chunk that spent it. Until the thread first takes, `unread_budget` replaces a larger budget.
    Small ones are joined, so that what waits costs little more than its bytes.

    The task: `wait_for_room_in_loop`, `put_in_loop`, again, then `end_in_loop` or `break_in_loop`.
    The thread: `take_from_thread` until it gives nothing, `release_from_thread` as it uses the
    bytes up.
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
        self._held = 0
        self._begun = False
        self._ended = False
        self._broken: Broken | None = None
        self._taker: ThreadEvent | None = None
        self._putter: LoopEvent | None = None

    # ------------------------------------------------------------ the task

    def held_in_loop(self) -> tuple[int, bool]:
        """Bytes that wait for the thread or are not used up yet, and whether it ever took any."""
        with self._lock:
            return self._held, self._begun

    def whole_in_loop(self) -> list[Piece] | None:
        """The whole body, if it has ended and the thread has taken nothing of it."""
        with self._lock:
            if not self._ended or self._begun or self._broken is not None:
                return None
            return self._chunks

    async def wait_for_room_in_loop(self) -> bool:
        """Sleep while the budget is spent; bytes taken and not yet used up count. Whether it
        slept.
        """
        slept = False
        while True:
            with self._lock:
                if self._has_room():
                    return slept
                event = self._putter = self._loop.create_event()
            await event
            slept = True

    def put_in_loop(self, chunk: Piece) -> bool:
        """Hand one chunk over, whatever the budget; an empty one would read as the end and is
        dropped, and so is all that comes after a break. Whether there is room for more.
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
                joined += chunk  # in linear time: a bytearray grows by a share of its size
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
        """No more will come though the body is not whole.

        After `end_in_loop` it is, and this does nothing.
        """
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
        """All chunks that wait, `[]` at the end of the body for ever, None after `timeout` seconds
        without a byte.

        What arrived before a break is still given; then the reason is raised, for ever. `waiting()`
        is entered around the sleep, if it is not brief. Raises WaitInLoop where it would sleep in
        the loop's own thread.
        """
        with self._lock:
            self._begun = True
            # A task that waits for room is woken by the next release, as always.
            self._budget = self._full_budget
            if self._chunks or self._ended or self._broken is not None:
                return self._taken()
            self.refuse_wait_in_loop()
            event = self._taker = ThreadEvent()
        opened = event.wait(min(timeout, BRIEF_SECONDS))
        if not opened:
            with waiting():
                opened = event.wait(timeout)
        if not opened:
            with self._lock:
                if self._taker is event:
                    self._taker = None
                    return None
            event.wait()  # taken out just now: its opening is on its way
        with self._lock:
            return self._taken()

    def refuse_wait_in_loop(self) -> None:
        """Raise WaitInLoop in the loop's own thread; before a wait for the body, in any thread."""
        self._loop.refuse_wait_in_loop("read()")

    def release_from_thread(self, size: int) -> None:
        """`size` of the bytes taken are used up: the task may put as many more."""
        with self._lock:
            self._held -= size
            putter = None
            # Half, not a byte: the two meet twice a budget instead of once a read.
            if self._putter is not None and self._held <= self._budget // 2:
                putter, self._putter = self._putter, None
        if putter is not None:
            self._loop.post(lambda: self._loop.set_event(putter))

    def _has_room(self) -> bool:
        """Holding the lock."""
        return self._held < self._budget or self._ended or self._broken is not None

    def _taken(self) -> list[Piece]:
        """Holding the lock."""
        if not self._chunks and self._broken is not None:
            raise self._broken()
        chunks, self._chunks = self._chunks, []
        self._joined = None  # the thread's now
        return chunks

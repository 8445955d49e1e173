"""Messages between one task of a loop and any threads, within byte budgets both ways.

One lock, held for a few statements and never while anybody waits, so the loop may take it
(W-FLOW-7). The law is that of channel.py: whoever waits puts an event into the shared state under
the lock; whoever changes the state takes the event out under it, and sets it after.

    opened   a thread has put the first message
    ended    no thread may put any more: one has closed the port, or the app or the other side is
             gone. Receivers get what waits in the inbox, then the end

The races, each decided by who takes the lock first:

- open and end: the thread has opened, and its message goes before the end; or it is refused.
- send and close: the message stands before the last one, or it is refused. A thread that waits for
  room is refused too: its event is taken out and set.
- room and time-out: a sender that waits carries its message, and whoever makes room puts it, in the
  order of the calls. So a message is put once: by then its sender is off the list, and a sender
  whose time is up and who is off the list waits for its event, which is set in a moment.
- receive and put: the receiver sees the message, or the put finds the receiver and hands it the
  message. So a message is received once: a receiver whose time is up and who is off the list waits
  for its event, as a sender does. One that is interrupted passes its message on. While receivers
  wait, no message does.
- the loop is closed: a post fails, or a waiting thread sees it within CLOSED_LOOP_SECONDS.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from threading import Lock
from time import monotonic
from typing import Any

from .loops import Broken, LoopEvent, LoopHandle
from .thread_event import ThreadEvent

__all__ = ["MessagePort"]

CLOSED_LOOP_SECONDS = 2.0
"""How often a thread that waits checks whether its loop is closed."""


class _Sender(ThreadEvent):
    """A thread that waits for room, with its message."""

    __slots__ = ("is_put", "message", "size")

    def __init__(self, message: Any, size: int) -> None:
        super().__init__()
        self.message = message
        self.size = size
        self.is_put = False


class _Receiver(ThreadEvent):
    """A thread that waits for a message; it is given None at the end.

    Whoever gives it that has taken it off the list, and touches it no more once it is set. So the
    thread, when it has waited to the end, lays it aside for the next wait of any thread.
    """

    __slots__ = ("message",)

    def __init__(self) -> None:
        super().__init__()
        self.message: Any = None


class MessagePort:
    """One connection. Messages are any objects, with the bytes that each counts for.

    Threads: `open_from_thread`, `send_from_thread` and `receive_from_thread`, then
    `close_from_thread` or `leave_from_thread`. The task: `take_in_loop` until it gives None;
    beside it another one, `put` and `wait_for_room_in_loop`. An end is any object but None.

    `closed` makes what is raised to a thread that would put a message after the end; `lost` is the
    end if the loop was closed.
    """

    def __init__(
        self, loop: LoopHandle, *, in_budget: int, out_budget: int, closed: Broken, lost: Any
    ) -> None:
        self._loop = loop
        self._closed = closed
        self._lost = lost
        self._lock = Lock()
        self._opened = False
        self._end: Any = None
        """What receivers get last: it says why nothing follows. None before the end."""
        self._observer: Callable[[], None] | None = None
        # Towards the threads. `held` are the bytes put and not yet taken.
        self._inbox: deque[tuple[Any, int]] = deque()
        self._in_budget = in_budget
        self._in_held = 0
        self._receivers: list[_Receiver] = []  # short, and a deque takes ten times the memory
        self._idle_receivers: list[_Receiver] = []
        self._putter: LoopEvent | None = None
        # Towards the loop. `held` are the bytes put and not yet sent.
        self._outbox: deque[tuple[Any, int]] = deque()
        self._out_budget = out_budget
        self._out_held = 0
        self.taken_size: int = 0
        """For the task: what the message that it took last counts for."""
        self._sent = 0  # messages
        self._senders: list[_Sender] = []
        self._taker: LoopEvent | None = None

    # ------------------------------------------------------------ threads: out

    def open_from_thread(self, message: Any) -> bool:
        """Put the first message, whatever the budget. False if the port is open already.

        Raises `closed` after the end.
        """
        with self._lock:
            if self._end is not None:
                raise self._closed()
            if self._opened:
                return False
            self._opened = True
            self._outbox.append((message, 0))
            taker, self._taker = self._taker, None
        self._wake_from_thread(taker)
        return True

    def send_from_thread(self, message: Any, size: int, timeout: float | None) -> bool:
        """Put one message; wait for room, behind those who wait already.

        False after `timeout` seconds in which nothing was sent. One larger than the whole budget is
        put when no other is held. Raises `closed` after the end, WaitInLoop in the loop's thread.
        """
        sender, taker, sent = None, None, 0
        with self._lock:
            if self._end is not None or not self._opened:
                raise self._closed()
            if not self._senders and (self._out_held <= 0 or self._fits(size)):
                self._outbox.append((message, size))
                self._out_held += size
                taker, self._taker = self._taker, None
            elif timeout == 0:
                return False
            else:
                self._loop.refuse_wait_in_loop("send()")
                sender, sent = _Sender(message, size), self._sent
                self._senders.append(sender)
        if sender is not None:
            return self._wait_for_room(sender, timeout, sent)
        self._wake_from_thread(taker)
        return True

    def close_from_thread(self, message: Any, end: Any) -> bool:
        """Put the last message, whatever the budget; receivers get `end` after what has come. False
        after the end, and if the port was never opened.
        """
        with self._lock:
            if self._end is not None or not self._opened:
                return False
            self._outbox.append((message, 0))
            wake = self._end_all(end)
        wake(self._wake_from_thread)
        return True

    def leave_from_thread(self, end: Any, *, unless_open: bool = False) -> bool:
        """Put no message any more; what was put goes out. Whether the port has been opened."""
        with self._lock:
            opened = self._opened
            if opened and unless_open:
                return True
            wake = self._end_all(end)
        wake(self._wake_from_thread)
        return opened

    # ------------------------------------------------------------ threads: in

    def receive_from_thread(self, timeout: float | None = None) -> Any:
        """The next message; None, for ever, at the end. Raises TimeoutError, and WaitInLoop if it
        would wait in the loop's own thread.
        """
        message = receiver = putter = None
        with self._lock:
            if self._inbox:
                message, size = self._inbox.popleft()
                self._in_held -= size
                if self._putter is not None and self._in_held <= self._in_budget // 2:
                    putter, self._putter = self._putter, None
            elif self._end is not None:
                return None
            elif timeout is not None and timeout <= 0:
                raise TimeoutError("timed out")
            else:
                self._loop.refuse_wait_in_loop("receive()")
                receiver = self._idle_receivers.pop() if self._idle_receivers else _Receiver()
                self._receivers.append(receiver)
        if receiver is not None:
            return self._wait_to_receive(receiver, timeout)
        self._wake_from_thread(putter)
        return message

    # ------------------------------------------------------------ any thread

    def was_opened(self) -> bool:
        """Whether a thread has put the first message."""
        with self._lock:
            return self._opened

    def is_readable(self) -> bool:
        """Whether `receive_from_thread` would not wait."""
        with self._lock:
            return bool(self._inbox) or self._end is not None

    def has_ended(self) -> bool:
        """Whether no thread may put a message any more."""
        with self._lock:
            return self._end is not None

    def end(self) -> Any:
        """What was given as the end; None before it."""
        with self._lock:
            return self._end

    def observe(self, observer: Callable[[], None] | None) -> None:
        """Call `observer`, in any thread, after each message that came and after the end."""
        with self._lock:
            self._observer = observer

    def put(self, message: Any, size: int) -> bool:
        """Put one message, or drop it after the end. Whether there is room for more."""
        receiver = None
        with self._lock:
            if self._end is not None:
                return True
            if self._receivers:
                receiver = self._receivers.pop(0)
                receiver.message = message
            else:
                self._inbox.append((message, size))
                self._in_held += size
            room = self._in_held < self._in_budget
            observer = self._observer
        if receiver is not None:
            receiver.set()
        if observer is not None:
            observer()
        return room

    # ------------------------------------------------------------ the loop

    async def wait_for_room_in_loop(self) -> None:
        """Wait while the budget is spent."""
        while True:
            with self._lock:
                if self._in_held < self._in_budget or self._end is not None:
                    return
                event = self._putter = self._loop.create_event()
            await event

    async def take_in_loop(self) -> Any:
        """Wait for the next message to send; the one taken before counts as sent. None when nothing
        can follow.
        """
        message = event = admitted = None
        with self._lock:
            if self.taken_size:
                self._out_held -= self.taken_size
                self.taken_size = 0
                self._sent += 1
                admitted = self._admitted() if self._senders else None
            if self._outbox:
                message, self.taken_size = self._outbox.popleft()
            elif self._end is None:
                event = self._taker = self._loop.create_event()
        for sender in admitted or ():
            sender.set()
        if event is not None:
            await event
            with self._lock:
                if self._outbox:
                    message, self.taken_size = self._outbox.popleft()
        return message

    def end_in_loop(self, end: Any, *, drop: bool = False) -> None:
        """Receivers get what has come and then `end`; senders are refused. `drop`: what was put to
        be sent is dropped.

        Only the first end, of whichever side, is given to receivers.
        """
        with self._lock:
            if drop:
                self._outbox.clear()
            wake = self._end_all(end)
        wake(self._loop.set_event)

    # ------------------------------------------------------------ holding the lock

    def _fits(self, size: int) -> bool:
        return self._out_held <= 0 or self._out_held + size <= self._out_budget

    def _admitted(self) -> list[_Sender]:
        """Put what has room now; give the senders whose event is due."""
        admitted: list[_Sender] = []
        # At half of the budget, so that the two meet once in half a budget.
        if self._out_held <= self._out_budget // 2:
            while self._senders and self._fits(self._senders[0].size):
                sender = self._senders.pop(0)
                sender.is_put = True
                self._outbox.append((sender.message, sender.size))
                self._out_held += sender.size
                admitted.append(sender)
        return admitted

    def _end_all(self, end: Any) -> Callable[[Callable[[Any], object]], None]:
        """Set the end, if none is. Returns a call that wakes all who wait, to make without the
        lock; it is given how to wake the loop.
        """
        if self._end is None:
            self._end = end
        threads: list[ThreadEvent] = [*self._receivers, *self._senders]
        self._receivers, self._senders = [], []
        events = [event for event in (self._taker, self._putter) if event is not None]
        self._taker = self._putter = None
        return partial(_wake_all, threads, events, self._observer)

    # ------------------------------------------------------------ without the lock

    def _wake_from_thread(self, event: LoopEvent | None) -> None:
        if event is not None and not self._loop.post(partial(self._loop.set_event, event)):
            self._end_for_closed_loop()

    def _check_loop(self) -> None:
        if self._loop.is_closed():
            self._end_for_closed_loop()

    def _end_for_closed_loop(self) -> None:
        with self._lock:
            self._outbox.clear()
            wake = self._end_all(self._lost)
        wake(_nothing)

    def _wait_for_room(self, sender: _Sender, timeout: float | None, sent: int) -> bool:
        deadline = None if timeout is None else monotonic() + timeout
        while not _wait(sender, deadline, self._check_loop):
            with self._lock:
                waits = sender in self._senders
                if waits and self._sent == sent:
                    self._senders.remove(sender)
                    return False
                sent = self._sent
            deadline = monotonic() + (timeout or 0.0) if waits else None  # it is set in a moment
        if not sender.is_put:
            raise self._closed()
        return True

    def _wait_to_receive(self, receiver: _Receiver, timeout: float | None) -> Any:
        deadline = None if timeout is None else monotonic() + timeout
        try:
            is_set = _wait(receiver, deadline, self._check_loop)
        except BaseException:
            _give_back(self, receiver)
            raise
        if not is_set:
            with self._lock:
                if receiver in self._receivers:
                    self._receivers.remove(receiver)
                    raise TimeoutError("timed out")
            receiver.wait()  # taken out just now, so it is set in a moment
        message, receiver.message = receiver.message, None
        self._idle_receivers.append(receiver)  # one step by Python's documentation, so is pop()
        return message


def _give_back(port: MessagePort, receiver: _Receiver) -> None:
    """The wait was interrupted, by Ctrl-C or gevent.Timeout: what has come is for the next one."""
    other = None
    with port._lock:
        if receiver in port._receivers:
            port._receivers.remove(receiver)
        if receiver.message is None:
            return
        if port._receivers:
            other = port._receivers.pop(0)
            other.message = receiver.message
        else:
            port._inbox.appendleft((receiver.message, 0))
        observer = port._observer
    if other is not None:
        other.set()
    if observer is not None:
        observer()


def _wait(event: ThreadEvent, deadline: float | None, check: Callable[[], None]) -> bool:
    """Wait until set; False at the deadline. Calls `check` every CLOSED_LOOP_SECONDS."""
    while True:
        if deadline is not None and (left := deadline - monotonic()) <= CLOSED_LOOP_SECONDS:
            return event.wait(max(0.0, left))
        if event.wait(CLOSED_LOOP_SECONDS):
            return True
        check()


def _wake_all(
    threads: list[ThreadEvent],
    events: list[LoopEvent],
    observer: Callable[[], None] | None,
    wake_loop: Callable[[LoopEvent], object],
) -> None:
    for thread in threads:
        thread.set()
    for event in events:
        wake_loop(event)
    if observer is not None:
        observer()


def _nothing(_: object) -> None: ...

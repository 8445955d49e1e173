"""callback_queue.py: callbacks from any thread into one loop, with few wake-ups."""

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Callable

import anyio
import pytest
import trio
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.interleaving import WAIT_SECONDS, LyingLock, must_happen
from wsgi_asgi_bridge._crossing.callback_queue import CallbackQueue
from wsgi_asgi_bridge._crossing.loops import LoopHandle, running_loop_handle


class ScheduledWakes:
    """A loop's queue of callbacks, run when the test says so."""

    def __init__(self) -> None:
        self.waiting: deque[Callable[[], None]] = deque()
        self.count = 0
        self.closed = False

    def schedule(self, drain: Callable[[], None]) -> None:
        if self.closed:
            raise RuntimeError("Event loop is closed")
        self.count += 1
        self.waiting.append(drain)

    def run_one(self) -> None:
        if self.waiting:
            self.waiting.popleft()()

    def run_all(self) -> None:
        while self.waiting:
            self.run_one()


@pytest.fixture
def wakes() -> ScheduledWakes:
    return ScheduledWakes()


@pytest.fixture
def mailbox(wakes: ScheduledWakes) -> CallbackQueue:
    return CallbackQueue(wakes.schedule)


def lying(mailbox: CallbackQueue) -> LyingLock:
    """The lock that means "a wake-up is on its way", replaced by one that can be scripted."""
    mailbox._pending = lock = LyingLock()  # type: ignore[assignment]
    return lock


# --- one side after the other


def test_posts_that_wait_together_share_one_wake_up(
    mailbox: CallbackQueue, wakes: ScheduledWakes
) -> None:
    ran: list[int] = []
    for number in range(5):
        assert mailbox.post(lambda number=number: ran.append(number))
    assert wakes.count == 1
    assert ran == []
    wakes.run_all()
    assert ran == [0, 1, 2, 3, 4]


def test_a_post_after_the_drain_wakes_the_loop_again(
    mailbox: CallbackQueue, wakes: ScheduledWakes
) -> None:
    ran: list[str] = []
    mailbox.post(lambda: ran.append("first"))
    wakes.run_all()
    mailbox.post(lambda: ran.append("second"))
    assert wakes.count == 2
    wakes.run_all()
    assert ran == ["first", "second"]


def test_what_a_callback_posts_waits_for_a_wake_up_of_its_own(
    mailbox: CallbackQueue, wakes: ScheduledWakes
) -> None:
    """So the loop gets to its sockets between two rounds of callbacks that post each other."""
    ran: list[str] = []

    def repost() -> None:
        ran.append("repost")
        mailbox.post(repost)

    mailbox.post(repost)
    mailbox.post(lambda: ran.append("other"))
    wakes.run_one()
    assert ran == ["repost", "other"]
    wakes.run_one()
    assert ran == ["repost", "other", "repost"]


def test_a_closed_loop_is_told_and_keeps_nothing(
    mailbox: CallbackQueue, wakes: ScheduledWakes
) -> None:
    class Callback:
        def __call__(self) -> None:
            raise AssertionError("the loop is closed")

    wakes.closed = True
    for _ in range(2):
        callback = Callback()
        kept = weakref.ref(callback)
        assert mailbox.post(callback) is False
        del callback
        assert kept() is None


def test_a_failure_that_is_not_a_closed_loop_is_not_hidden() -> None:
    def broken(drain: Callable[[], None]) -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        CallbackQueue(broken).post(lambda: None)


def test_an_interrupt_in_a_drain_leaves_no_later_post_behind(
    mailbox: CallbackQueue, wakes: ScheduledWakes
) -> None:
    """A callback raises nothing, but a signal may; no later post is one wake-up late for it."""
    ran: list[str] = []

    def interrupted() -> None:
        raise KeyboardInterrupt

    mailbox.post(interrupted)
    mailbox.post(lambda: ran.append("behind it"))
    with pytest.raises(KeyboardInterrupt):
        wakes.run_all()
    wakes.run_all()
    assert ran == ["behind it"], "what was left has a wake-up behind it"
    for name in ("first", "second"):
        mailbox.post(lambda name=name: ran.append(name))
        wakes.run_all()
        assert ran[-1] == name
    assert ran == ["behind it", "first", "second"]


# --- the two sides at once, by force


def test_a_post_right_after_the_drain_said_no_wake_up_is_pending(
    mailbox: CallbackQueue, wakes: ScheduledWakes
) -> None:
    """Both the running drain and the new wake-up find the post; one of them runs it."""
    lock = lying(mailbox)
    ran: list[str] = []
    mailbox.post(lambda: ran.append("first"))
    lock.after("_drain", lambda: mailbox.post(lambda: ran.append("second")))
    wakes.run_all()
    assert lock.told
    assert ran == ["first", "second"]
    assert wakes.count == 2


def test_a_drain_between_the_append_and_the_question(
    mailbox: CallbackQueue, wakes: ScheduledWakes
) -> None:
    """It runs the post before its poster asks for a wake-up, which then finds nothing."""
    lock = lying(mailbox)
    ran: list[str] = []
    mailbox.post(lambda: ran.append("first"))
    lock.before("post", wakes.run_all)
    mailbox.post(lambda: ran.append("second"))
    assert lock.told
    assert ran == ["first", "second"]
    wakes.run_all()
    assert ran == ["first", "second"]


def test_a_post_just_before_the_drain_says_so_is_drained(
    mailbox: CallbackQueue, wakes: ScheduledWakes
) -> None:
    lock = lying(mailbox)
    ran: list[str] = []
    mailbox.post(lambda: ran.append("first"))
    lock.holding("_drain", lambda: mailbox.post(lambda: ran.append("second")))
    wakes.run_one()
    assert lock.told
    assert ran == ["first", "second"]
    assert wakes.count == 1


# Each operation, and the one that the other side does in the middle of it.
OPERATIONS = st.sampled_from(["post", "drain"])
SCHEDULES = st.lists(
    st.tuples(
        OPERATIONS,
        st.sampled_from(["before", "holding", "after"]),
        st.lists(OPERATIONS, max_size=2),
    ),
    max_size=20,
)


@settings(deadline=None)
@given(SCHEDULES)
def test_every_post_runs_once_and_in_order_whatever_the_schedule(
    schedule: list[tuple[str, str, list[str]]],
) -> None:
    wakes = ScheduledWakes()
    mailbox = CallbackQueue(wakes.schedule)
    lock = lying(mailbox)
    posted: list[int] = []
    ran: list[int] = []

    def do(operation: str) -> None:
        if operation == "drain":
            wakes.run_one()
            return
        posted.append(number := len(posted))
        assert mailbox.post(lambda: ran.append(number))

    for operation, moment, meanwhile in schedule:
        script = {"before": lock.before, "holding": lock.holding, "after": lock.after}[moment]
        script(None, lambda meanwhile=meanwhile: [do(other) for other in meanwhile])
        do(operation)
    wakes.run_all()
    assert ran == posted


# --- real loops


async def test_threads_post_into_a_real_loop_and_nothing_is_lost() -> None:
    handle = running_loop_handle()
    ran: list[tuple[int, int]] = []
    over = anyio.Event()
    posters, posts = 4, 250

    def receive(poster: int, number: int) -> None:
        ran.append((poster, number))
        if len(ran) == posters * posts:
            over.set()

    def post_all(poster: int) -> None:
        for number in range(posts):
            handle.post(lambda number=number: receive(poster, number))

    threads = [threading.Thread(target=post_all, args=(poster,)) for poster in range(posters)]
    for thread in threads:
        thread.start()
    with anyio.fail_after(WAIT_SECONDS):
        await over.wait()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    for poster in range(posters):
        assert [n for p, n in ran if p == poster] == list(range(posts))


async def _handle() -> LoopHandle:
    return running_loop_handle()


on_asyncio_loops = pytest.mark.parametrize(
    "new_event_loop",
    [asyncio.SelectorEventLoop, uvloop.new_event_loop],
    ids=["asyncio", "uvloop"],
)


@on_asyncio_loops
def test_a_post_to_a_closed_asyncio_loop_says_so(
    new_event_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    loop = new_event_loop()
    handle = loop.run_until_complete(_handle())
    loop.close()
    assert handle.post(lambda: None) is False


def test_a_post_to_a_trio_loop_that_is_over_says_so() -> None:
    handle = trio.run(_handle)
    assert handle.post(lambda: None) is False


@on_asyncio_loops
def test_post_to_loop_that_closed_with_a_wake_up_pending_says_so(
    new_event_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """The wake-up before it was taken by the loop and never run: no later post may trust in it."""
    loop = new_event_loop()
    handle = loop.run_until_complete(_handle())
    handle.post(lambda: None)  # the loop stands still: a wake-up is on its way, for ever
    loop.close()
    assert handle.post(lambda: None) is False


async def test_callbacks_run_in_the_loops_own_thread() -> None:
    handle = running_loop_handle()
    where: list[threading.Thread] = []
    over = anyio.Event()
    posted = threading.Event()

    def note() -> None:
        where.append(threading.current_thread())
        over.set()

    def post() -> None:
        handle.post(note)
        posted.set()

    threading.Thread(target=post).start()
    with anyio.fail_after(WAIT_SECONDS):
        await over.wait()
    must_happen(posted)
    assert where == [threading.current_thread()]


def test_a_signal_amid_a_wake_up_leaves_no_post_without_one(wakes: ScheduledWakes) -> None:
    """A-LOOP-5: the poster may be the main thread, whose signal handlers raise. All later posts
    would find a wake-up on its way that never comes.
    """
    ran: list[str] = []

    def interrupted_once(drain: Callable[[], None]) -> None:
        if not wakes.count:
            wakes.count = 1
            raise KeyboardInterrupt
        wakes.schedule(drain)

    mailbox = CallbackQueue(interrupted_once)
    with pytest.raises(KeyboardInterrupt):
        mailbox.post(lambda: ran.append("interrupted"))
    wakes.run_all()
    assert ran == ["interrupted"]
    mailbox.post(lambda: ran.append("later"))
    wakes.run_all()
    assert ran == ["interrupted", "later"]


def test_a_wake_up_that_nobody_asked_for_is_nothing(wakes: ScheduledWakes) -> None:
    """A-CALL-2: a forked child may have rung."""
    ran: list[str] = []
    mailbox = CallbackQueue(wakes.schedule)
    mailbox._drain()
    mailbox.post(lambda: ran.append("post"))
    mailbox._drain()
    assert ran == ["post"]
    wakes.run_all()
    mailbox.post(lambda: ran.append("later"))
    wakes.run_all()
    assert ran == ["post", "later"]

"""loop_to_thread.py: bytes out of one task into one thread within a byte budget, and their end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.channels import gates_made
from tests.support.interleaving import (
    TINY_SECONDS,
    WAIT_SECONDS,
    HandTask,
    HandTurnedLoop,
    ended,
    lying,
    stepped,
)
from wsgi_asgi_bridge._crossing.channel import LoopToThread, Piece

BUDGET = 10


class GoneError(Exception):
    """Why the other side broke off."""


class GoneLaterError(Exception):
    """A second reason, which comes too late."""


@pytest.fixture
def body(loop: HandTurnedLoop) -> LoopToThread:
    return LoopToThread(loop, BUDGET)  # type: ignore[arg-type]


MOMENTS_OF_A_WAIT = [
    pytest.param("before", 1, id="before it looks"),
    pytest.param("after", 1, id="as it goes to sleep"),
    pytest.param("before", 2, id="as its time runs out"),
]


def joined(taken: list[Piece] | None) -> bytes:
    assert taken is not None
    return b"".join(taken)


def test_the_thread_takes_all_that_waits(body: LoopToThread) -> None:
    body.put_in_loop(b"one")
    body.put_in_loop(b"two")
    assert ended(lambda: joined(body.take_from_thread(WAIT_SECONDS))) == b"onetwo"


def test_an_empty_part_is_not_taken_for_the_end(body: LoopToThread) -> None:
    """W-IN-3: servers send empty parts in the middle of a body."""
    body.put_in_loop(b"")
    assert body.take_from_thread(TINY_SECONDS) is None
    body.put_in_loop(b"x")
    assert body.take_from_thread(TINY_SECONDS) == [b"x"]


def test_the_end_is_empty_for_ever(body: LoopToThread) -> None:
    """W-IN-1."""
    body.put_in_loop(b"x")
    body.end_in_loop()
    assert body.take_from_thread(TINY_SECONDS) == [b"x"]
    assert [body.take_from_thread(TINY_SECONDS) for _ in range(3)] == [[], [], []]


def test_a_thread_that_gets_nothing_in_time_is_told_so(body: LoopToThread) -> None:
    """W-IN-7."""
    assert body.take_from_thread(TINY_SECONDS) is None
    assert body.take_from_thread(TINY_SECONDS) is None


def test_the_task_waits_until_half_the_budget_is_used_up(
    body: LoopToThread, loop: HandTurnedLoop
) -> None:
    """W-IN-4: what the thread has taken and not yet read is still in memory."""
    stepped(body.wait_for_room_in_loop())
    body.put_in_loop(b"x" * BUDGET)
    with HandTask(body.wait_for_room_in_loop()) as waiting:
        assert not waiting.step()
        assert body.take_from_thread(TINY_SECONDS) == [b"x" * BUDGET]
        body.release_from_thread(BUDGET // 2 - 1)
        loop.turn()
        assert not waiting.step()
        body.release_from_thread(1)
        assert loop.post_count == 1
        loop.turn()
        assert waiting.step()


def test_there_is_room_while_the_budget_is_not_spent(body: LoopToThread) -> None:
    """W-IN-4: one part may go beyond it, for its size is known only when it is there."""
    body.put_in_loop(b"x" * (BUDGET - 1))
    stepped(body.wait_for_room_in_loop())
    body.put_in_loop(b"x" * BUDGET)
    with HandTask(body.wait_for_room_in_loop()) as waiting:
        assert not waiting.step()


def test_what_arrived_before_break_is_given_then_reason_for_ever(body: LoopToThread) -> None:
    """W-IN-3: never a short read that looks like the end."""
    body.put_in_loop(b"x")
    body.break_in_loop(GoneError)
    assert body.take_from_thread(TINY_SECONDS) == [b"x"]
    for _ in range(2):
        with pytest.raises(GoneError):
            body.take_from_thread(TINY_SECONDS)


def test_a_break_after_the_end_is_nothing(body: LoopToThread) -> None:
    """W-IN-3: the client may leave as soon as its body is whole."""
    body.put_in_loop(b"x")
    body.end_in_loop()
    body.break_in_loop(GoneError)
    assert body.take_from_thread(TINY_SECONDS) == [b"x"]
    assert body.take_from_thread(TINY_SECONDS) == []


def test_the_first_of_two_breaks_stays(body: LoopToThread) -> None:
    body.break_in_loop(GoneError)
    body.break_in_loop(GoneLaterError)
    with pytest.raises(GoneError):
        body.take_from_thread(TINY_SECONDS)


def test_a_break_wakes_the_task_that_waits_for_room(body: LoopToThread) -> None:
    body.put_in_loop(b"x" * BUDGET)
    with HandTask(body.wait_for_room_in_loop()) as waiting:
        waiting.step()
        body.break_in_loop(GoneError)
        assert waiting.step()


BODY_NEWS: dict[str, Callable[[LoopToThread], None]] = {
    "put": lambda body: body.put_in_loop(b"x"),
    "end": lambda body: body.end_in_loop(),
    "break": lambda body: body.break_in_loop(GoneError),
}


@pytest.mark.parametrize(("place", "nth"), MOMENTS_OF_A_WAIT)
@pytest.mark.parametrize("news", BODY_NEWS)
def test_news_at_any_moment_of_the_read_is_noticed(
    body: LoopToThread, news: str, place: str, nth: int
) -> None:
    """W-IN-3, W-IN-7: a part, the end or a break that meets the time-out is not lost."""
    lock = lying(body)
    getattr(lock, place)("take_from_thread", lambda: BODY_NEWS[news](body), nth=nth)
    timeout = TINY_SECONDS if nth == 2 else WAIT_SECONDS
    if news == "break":
        with pytest.raises(GoneError):
            ended(lambda: body.take_from_thread(timeout))
    else:
        assert ended(lambda: body.take_from_thread(timeout)) == ([b"x"] if news == "put" else [])
    assert lock.told


def test_thread_is_elsewhere_for_sleep_and_back_before_it_looks(
    body: LoopToThread,
) -> None:
    """W-FLOW-8: the lock is not held while `waiting` is entered and left, since that takes the
    pool's.
    """
    lock = lying(body)
    steps: list[tuple[str, bool]] = []

    def note(step: str) -> None:
        free = lock.acquire(blocking=False)
        steps.append((step, free))
        if free:
            lock.release()

    @contextmanager
    def waiting() -> Iterator[None]:
        note("away")
        body.put_in_loop(b"x")
        yield
        note("back")

    assert ended(lambda: body.take_from_thread(WAIT_SECONDS, waiting)) == [b"x"]
    assert steps == [("away", True), ("back", True)]


def test_more_may_come_between_the_wake_up_and_the_taking(body: LoopToThread) -> None:
    lock = lying(body)
    lock.after("take_from_thread", lambda: body.put_in_loop(b"one"))
    lock.before("take_from_thread", lambda: body.put_in_loop(b"two"), nth=2)
    assert ended(lambda: joined(body.take_from_thread(WAIT_SECONDS))) == b"onetwo"
    assert lock.told


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_read_as_the_task_goes_to_sleep_wakes_it(
    body: LoopToThread, loop: HandTurnedLoop, place: str
) -> None:
    """W-IN-4."""
    body.put_in_loop(b"x" * BUDGET)
    body.take_from_thread(TINY_SECONDS)
    lock = lying(body)
    getattr(lock, place)("wait_for_room_in_loop", lambda: body.release_from_thread(BUDGET))
    with HandTask(body.wait_for_room_in_loop()) as waiting:
        waiting.step()
        assert lock.told
        loop.turn()
        assert waiting.step()


def test_a_part_after_a_time_out_opens_no_gate(
    body: LoopToThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates = gates_made(monkeypatch)
    assert body.take_from_thread(TINY_SECONDS) is None
    body.put_in_loop(b"x")
    assert [gate.wait(TINY_SECONDS) for gate in gates] == [False]
    assert body.take_from_thread(TINY_SECONDS) == [b"x"]


LOOP_STEPS = st.one_of(
    st.binary(max_size=BUDGET + 3).map(lambda chunk: ("put", chunk)),
    st.sampled_from([("take", b""), ("release", b"")]),
)


@settings(deadline=None)
@given(steps=st.lists(LOOP_STEPS, max_size=40), whole=st.booleans())
def test_any_sequence_of_parts_and_reads_equals_a_list(
    steps: list[tuple[str, bytes]], whole: bool
) -> None:
    """W-IN-3, W-IN-4: a task that asks for room first never has more than the budget and one part
    in memory.
    """
    body = LoopToThread(HandTurnedLoop(), BUDGET)  # type: ignore[arg-type]
    waiting: list[bytes] = []  # the model: put and not taken
    taken: list[bytes] = []  # taken and not released
    for step, chunk in steps:
        if step == "put":
            held = sum(map(len, waiting + taken))
            with HandTask(body.wait_for_room_in_loop()) as asking:
                assert asking.step() == (held < BUDGET)
            if held < BUDGET:
                body.put_in_loop(chunk)
                waiting += [chunk] if chunk else []
        elif step == "take" and waiting:
            assert joined(body.take_from_thread(TINY_SECONDS)) == b"".join(waiting)
            taken += waiting
            waiting = []
        elif step == "release" and taken:
            body.release_from_thread(len(taken.pop(0)))
    if whole:
        body.end_in_loop()
    else:
        body.break_in_loop(GoneError)
    if waiting:
        assert joined(body.take_from_thread(TINY_SECONDS)) == b"".join(waiting)
    if whole:
        assert body.take_from_thread(TINY_SECONDS) == []
    else:
        with pytest.raises(GoneError):
            body.take_from_thread(TINY_SECONDS)

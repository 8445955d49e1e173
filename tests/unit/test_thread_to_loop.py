"""thread_to_loop.py: bytes out of one thread into one task within a byte budget, and how they end.

Most tests play both sides in one thread: the loop is turned by hand, and the other side acts when
the channel's lock is taken or given back, which are the only moments when it can.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.channels import gates_made
from tests.support.interleaving import (
    TINY_SECONDS,
    WAIT_SECONDS,
    Blocking,
    HandTask,
    HandTurnedLoop,
    ended,
    interrupted_lock,
    lying,
    signals_spare_locks,
    stepped,
)
from wsgi_asgi_bridge._crossing.channel import ThreadToLoop

BUDGET = 10


class GoneError(Exception):
    """Why the other side broke off."""


class GoneLaterError(Exception):
    """A second reason, which comes too late."""


@pytest.fixture
def out(loop: HandTurnedLoop) -> ThreadToLoop:
    return ThreadToLoop(loop, BUDGET)  # type: ignore[arg-type]


# --- chunks


def test_chunks_arrive_in_order_and_together(out: ThreadToLoop) -> None:
    assert out.put_from_thread(b"one")
    assert out.put_from_thread(b"two")
    assert stepped(out.take_in_loop()) == ([b"one", b"two"], False)


def test_a_chunk_is_handed_over_as_the_same_object(out: ThreadToLoop) -> None:
    chunk = b"not copied"
    out.put_from_thread(chunk)
    chunks, _ = stepped(out.take_in_loop())
    assert chunks[0] is chunk


def test_a_chunk_behind_the_last_is_dropped(out: ThreadToLoop) -> None:
    """W-OUT-6: a thread of the app's own may write while another one puts the last chunk."""
    assert out.put_from_thread(b"last", last=True)
    assert out.put_from_thread(b"late")
    assert stepped(out.take_in_loop()) == ([b"last"], True)


def test_task_sleeps_until_there_is_chunk_and_one_post_wakes_it(
    out: ThreadToLoop, loop: HandTurnedLoop
) -> None:
    with HandTask(out.take_in_loop()) as taking:
        assert not taking.step()
        out.put_from_thread(b"one")
        out.put_from_thread(b"two")
        assert loop.post_count == 1
        assert not taking.step()
        loop.turn()
        assert taking.step()
        assert taking.result() == ([b"one", b"two"], False)


def test_the_last_chunk_brings_the_end_with_it(out: ThreadToLoop, loop: HandTurnedLoop) -> None:
    with HandTask(out.take_in_loop()) as taking:
        taking.step()
        out.put_from_thread(b"all", last=True)
        assert loop.post_count == 1
        loop.turn()
        taking.step()
        assert taking.result() == ([b"all"], True)


def test_a_whole_body_and_the_threads_end_are_one_hand_over(
    out: ThreadToLoop, loop: HandTurnedLoop
) -> None:
    """W-FLOW-1: a list goes over at once whatever its size; nothing more is posted for the end of
    the thread's work.
    """
    with HandTask(out.take_in_loop()) as taking:
        taking.step()
        out.end_from_thread([b"x" * BUDGET, b"y" * BUDGET], finished=True)
        assert out.finish_from_thread()
        loop.turn()
        taking.step()
        assert taking.result() == ([b"x" * BUDGET, b"y" * BUDGET], True)
    stepped(out.wait_finished_in_loop())
    assert loop.post_count == 1


def test_a_whole_body_that_cannot_be_taken_leaves_the_lock_free(out: ThreadToLoop) -> None:
    """W-FLOW-7: no memory for it, say. The thread still leaves and the task still hears of it."""

    def no_body() -> Iterator[bytes]:
        raise MemoryError
        yield b""

    with pytest.raises(MemoryError):
        out.end_from_thread(no_body(), finished=True)  # type: ignore[arg-type]
    assert ended(out.finish_from_thread)
    assert stepped(out.take_in_loop()) == ([], True)


@signals_spare_locks
def test_ctrl_c_as_the_loop_takes_leaves_the_lock_free(out: ThreadToLoop) -> None:
    """W-CALL-3: a loop may run in the main thread."""
    out._lock = lock = interrupted_lock()
    with pytest.raises(KeyboardInterrupt):
        out.taken_in_loop()
    assert not lock.locked()


def test_what_was_expected_and_comes_opens_the_gate_once(
    out: ThreadToLoop, loop: HandTurnedLoop
) -> None:
    """The steps that cost less: a gate made before the thread knows the channel, and a taking that
    does not sleep.
    """
    gate: Any = out.expect_in_loop()
    assert out.taken_in_loop() is None
    out.end_from_thread([b"all"], finished=True)
    assert loop.post_count == 1
    loop.turn()
    assert gate.opened
    assert out.taken_in_loop() == ([b"all"], True)
    assert out.finished_at_take


def test_a_thread_that_has_yet_to_leave_has_not_left_in_time(
    out: ThreadToLoop, loop: HandTurnedLoop
) -> None:
    out.expect_in_loop()
    out.end_from_thread([b"all"], finished=False)
    assert out.taken_in_loop() == ([b"all"], True)
    assert not out.finished_at_take
    with HandTask(out.wait_finished_in_loop()) as leaving:
        assert not leaving.step()
        out.finish_from_thread()
        loop.turn()
        assert leaving.step()


def test_whether_the_body_is_over(out: ThreadToLoop) -> None:
    assert not out.is_whole()
    out.put_from_thread(b"one", last=True)
    assert out.is_whole()
    out.break_in_loop(GoneError)
    assert not out.is_whole()


@pytest.mark.parametrize("finish", ["finish_from_thread", "end_from_thread"])
def test_a_thread_that_finishes_after_the_break_has_not_finished(
    out: ThreadToLoop, finish: str
) -> None:
    """W-CALL-3: its error is the thread's own to report, and else the loop's: one of the two."""
    arguments = {"finish_from_thread": ((), {}), "end_from_thread": (([],), {"finished": True})}
    args, kwargs = arguments[finish]
    other = ThreadToLoop(out._loop, BUDGET)
    getattr(out, finish)(*args, **kwargs)
    out.break_in_loop(GoneError)
    assert out.finished()
    other.break_in_loop(GoneError)
    getattr(other, finish)(*args, **kwargs)
    assert not other.finished()


def test_a_break_opens_what_was_expected(out: ThreadToLoop) -> None:
    gate: Any = out.expect_in_loop()
    out.break_in_loop(GoneError)
    assert gate.opened
    with pytest.raises(GoneError):
        out.taken_in_loop()


def test_the_end_may_come_long_after_the_last_chunk(out: ThreadToLoop) -> None:
    out.put_from_thread(b"one")
    assert stepped(out.take_in_loop()) == ([b"one"], False)
    out.end_from_thread([], finished=False)
    assert stepped(out.take_in_loop()) == ([], True)
    with HandTask(out.wait_finished_in_loop()) as leaving:
        assert not leaving.step()


def test_a_thread_that_leaves_ends_a_body_that_it_did_not_end(
    out: ThreadToLoop, loop: HandTurnedLoop
) -> None:
    with HandTask(out.take_in_loop()) as taking:
        taking.step()
        assert out.finish_from_thread() is True
        loop.turn()
        taking.step()
        assert taking.result() == ([], True)
    stepped(out.wait_finished_in_loop())


def test_the_task_waits_for_the_thread_to_leave(out: ThreadToLoop, loop: HandTurnedLoop) -> None:
    out.end_from_thread([b"body"], finished=False)
    stepped(out.take_in_loop())
    with HandTask(out.wait_finished_in_loop()) as leaving:
        assert not leaving.step()
        assert not out.finished()
        out.finish_from_thread()
        assert out.finished()
        loop.turn()
        assert leaving.step()


# --- the budget


def test_chunk_beyond_the_budget_is_refused_and_nothing_is_done(out: ThreadToLoop) -> None:
    """W-FLOW-1."""
    assert out.put_from_thread(b"x" * BUDGET)
    assert not out.put_from_thread(b"y")
    assert stepped(out.take_in_loop()) == ([b"x" * BUDGET], False)


def test_taken_bytes_are_held_until_they_have_gone_on(out: ThreadToLoop) -> None:
    """W-FLOW-1: what the loop has taken and the client has not is still in memory."""
    out.put_from_thread(b"x" * BUDGET)
    stepped(out.take_in_loop())
    assert not out.put_from_thread(b"y")
    out.release_in_loop(BUDGET)
    assert out.put_from_thread(b"y")


def test_a_chunk_larger_than_the_budget_goes_alone(out: ThreadToLoop) -> None:
    huge = b"x" * (3 * BUDGET)
    out.put_from_thread(b"small")
    assert not out.put_from_thread(huge)
    stepped(out.take_in_loop())
    out.release_in_loop(5)
    assert out.put_from_thread(huge)
    assert not out.put_from_thread(b"y")


def test_a_thread_that_sleeps_is_woken_at_half_the_budget(
    out: ThreadToLoop,
) -> None:
    lock = lying(out)
    for released, woken in ((BUDGET // 2 - 1, False), (BUDGET // 2, True)):
        out.put_from_thread(b"x" * BUDGET)
        timed_out: list[bool] = []
        lock.after("wait_for_room_from_thread", lambda size=released: out.release_in_loop(size))
        lock.before("wait_for_room_from_thread", lambda seen=timed_out: seen.append(True), nth=2)
        assert ended(lambda: out.wait_for_room_from_thread(1, TINY_SECONDS)) is True
        assert timed_out == ([] if woken else [True])
        out.release_in_loop(BUDGET - released)


def test_there_may_be_room_at_once(out: ThreadToLoop) -> None:
    out.put_from_thread(b"x" * (BUDGET - 1))
    assert ended(lambda: out.wait_for_room_from_thread(1, WAIT_SECONDS)) is True


def test_a_client_that_takes_nothing_is_told_from_a_slow_one(out: ThreadToLoop) -> None:
    """W-FLOW-5: False only when for a whole time-out not a byte has gone on."""
    out.put_from_thread(b"x" * BUDGET)
    wanted = BUDGET // 2
    assert out.wait_for_room_from_thread(wanted, TINY_SECONDS) is False
    lock = lying(out)
    # While the first time-out is counted one byte goes on: too little for room, enough to wait on.
    lock.before("wait_for_room_from_thread", lambda: out.release_in_loop(1), nth=2)
    lock.before("wait_for_room_from_thread", lambda: out.release_in_loop(wanted - 1), nth=4)
    assert ended(lambda: out.wait_for_room_from_thread(wanted, TINY_SECONDS)) is True
    assert lock.told


@pytest.mark.parametrize(
    ("held", "size"),
    [
        pytest.param(3, 8, id="the two are more than the budget"),
        pytest.param(BUDGET // 2, BUDGET, id="a chunk as large as the budget"),
        pytest.param(1, 3 * BUDGET, id="a chunk larger than the budget"),
    ],
)
def test_a_thread_with_a_large_chunk_sleeps_until_there_is_room(
    out: ThreadToLoop, held: int, size: int
) -> None:
    """W-FLOW-1, W-FLOW-5: told of room for a chunk that is then refused, it would never sleep."""
    out.put_from_thread(b"x" * held)
    assert not out.put_from_thread(b"y" * size)
    assert out.wait_for_room_from_thread(size, TINY_SECONDS) is False
    lock = lying(out)
    lock.after("wait_for_room_from_thread", lambda: out.release_in_loop(held))
    assert ended(lambda: out.wait_for_room_from_thread(size, WAIT_SECONDS)) is True
    assert lock.told
    assert out.put_from_thread(b"y" * size)


@settings(deadline=None)
@given(
    held=st.lists(st.integers(1, BUDGET), max_size=6),
    releases=st.lists(st.integers(1, BUDGET), max_size=6),
    size=st.integers(0, 2 * BUDGET),
)
def test_a_thread_that_was_told_of_room_has_room(
    held: list[int], releases: list[int], size: int
) -> None:
    """W-FLOW-1: after True a put succeeds, whatever went before."""
    out = ThreadToLoop(HandTurnedLoop(), BUDGET)  # type: ignore[arg-type]
    left = sum(amount for amount in held if out.put_from_thread(b"x" * amount))
    lock = lying(out)
    for amount in releases:
        amount = min(amount, left)
        left -= amount
        lock.after("wait_for_room_from_thread", lambda amount=amount: out.release_in_loop(amount))
    if out.wait_for_room_from_thread(size, TINY_SECONDS):
        assert out.put_from_thread(b"y" * size)
    else:
        assert left
        assert left + size > BUDGET or left > BUDGET // 2


# --- breaking off


def test_after_break_threads_next_step_raises_the_reason_anew(out: ThreadToLoop) -> None:
    """W-FLOW-3."""
    assert not out.broken()
    out.break_in_loop(GoneError)
    assert out.broken()
    with pytest.raises(GoneError) as first:
        out.put_from_thread(b"x")
    with pytest.raises(GoneError) as second:
        out.put_from_thread(b"x")
    assert first.value is not second.value


def test_the_first_reason_stays(out: ThreadToLoop) -> None:
    out.break_in_loop(GoneError)
    out.break_in_loop(GoneLaterError)
    with pytest.raises(GoneError):
        out.put_from_thread(b"x")


def test_a_break_wakes_the_thread_that_waits_for_room(out: ThreadToLoop) -> None:
    """W-FLOW-3."""
    out.put_from_thread(b"x" * BUDGET)
    waiting = Blocking(lambda: out.wait_for_room_from_thread(1, WAIT_SECONDS))
    out.break_in_loop(GoneError)
    assert waiting.result() is True
    with pytest.raises(GoneError):
        out.put_from_thread(b"x")


@pytest.mark.parametrize("step", ["take_in_loop", "wait_finished_in_loop"])
def test_a_break_wakes_the_task_with_the_reason(out: ThreadToLoop, step: str) -> None:
    with HandTask[object](getattr(out, step)()) as waiting:
        assert not waiting.step()
        out.break_in_loop(GoneError)
        assert waiting.step()
        with pytest.raises(GoneError):
            waiting.result()


def test_a_break_drops_what_waits(out: ThreadToLoop) -> None:
    """W-FLOW-6: also from the memory, however long the worker goes on."""
    chunk = bytes(1000)
    references = sys.getrefcount(chunk)
    out.put_from_thread(chunk)
    out.break_in_loop(GoneError)
    assert sys.getrefcount(chunk) == references
    with pytest.raises(GoneError):
        stepped(out.take_in_loop())


def test_thread_that_leaves_after_break_learns_that_nobody_heard(out: ThreadToLoop) -> None:
    out.break_in_loop(GoneError)
    out.end_from_thread([b"rest"], finished=False)
    assert out.finish_from_thread() is False


def test_cancelled_taker_is_forgotten_and_next_one_gets_chunks(
    out: ThreadToLoop, loop: HandTurnedLoop
) -> None:
    with HandTask(out.take_in_loop()) as cancelled:
        cancelled.step()
    out.put_from_thread(b"x")
    loop.turn()
    assert stepped(out.take_in_loop()) == ([b"x"], False)


# --- the other side acts at that very moment


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_put_as_the_task_goes_to_sleep_wakes_it(
    out: ThreadToLoop, loop: HandTurnedLoop, place: str
) -> None:
    lock = lying(out)
    getattr(lock, place)("take_in_loop", lambda: out.put_from_thread(b"x"))
    with HandTask(out.take_in_loop()) as taking:
        over = taking.step()
        assert lock.told
        assert over == (place == "before")
        loop.turn()
        taking.step()
        assert taking.result() == ([b"x"], False)


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("ending", ["end", "leave", "break"])
@pytest.mark.parametrize("step", ["take_in_loop", "wait_finished_in_loop"])
def test_an_ending_as_the_task_goes_to_sleep_wakes_it(
    out: ThreadToLoop, loop: HandTurnedLoop, step: str, ending: str, place: str
) -> None:
    endings: dict[str, Callable[[], object]] = {
        "end": lambda: out.end_from_thread([], finished=True),
        "leave": out.finish_from_thread,
        "break": lambda: out.break_in_loop(GoneError),
    }
    lock = lying(out)
    getattr(lock, place)(step, endings[ending])
    with HandTask[object](getattr(out, step)()) as waiting:
        waiting.step()
        assert lock.told
        loop.turn()
        assert waiting.step()
        if ending == "break":
            with pytest.raises(GoneError):
                waiting.result()
        else:
            waiting.result()


MOMENTS_OF_A_WAIT = [
    pytest.param("before", 1, id="before it looks"),
    pytest.param("after", 1, id="as it goes to sleep"),
    pytest.param("before", 2, id="as its time runs out"),
]


@pytest.mark.parametrize(("place", "nth"), MOMENTS_OF_A_WAIT)
@pytest.mark.parametrize("what", ["release", "break"])
def test_room_or_a_break_at_any_moment_of_the_wait_is_noticed(
    out: ThreadToLoop, what: str, place: str, nth: int
) -> None:
    """W-FLOW-3, W-FLOW-5: a wake-up that meets the time-out is neither lost nor left over."""
    actions: dict[str, Callable[[], None]] = {
        "release": lambda: out.release_in_loop(BUDGET),
        "break": lambda: out.break_in_loop(GoneError),
    }
    out.put_from_thread(b"x" * BUDGET)
    lock = lying(out)
    getattr(lock, place)("wait_for_room_from_thread", actions[what], nth=nth)
    timeout = TINY_SECONDS if nth == 2 else WAIT_SECONDS
    assert ended(lambda: out.wait_for_room_from_thread(1, timeout)) is True
    assert lock.told


def test_a_release_after_the_wait_was_given_up_opens_no_gate(
    out: ThreadToLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate that timed out is out of the shared state: a later release finds nobody."""
    gates = gates_made(monkeypatch)
    out.put_from_thread(b"x" * BUDGET)
    assert not out.wait_for_room_from_thread(1, TINY_SECONDS)
    out.release_in_loop(BUDGET)
    assert [gate.wait(TINY_SECONDS) for gate in gates] == [False]


# --- any sequence against a list

CHUNKS = st.binary(min_size=1, max_size=BUDGET + 3)
THREAD_STEPS = st.one_of(
    CHUNKS.map(lambda chunk: ("put", chunk)),
    st.just(("take", b"")),
    st.just(("release", b"")),
)


@settings(deadline=None)
@given(steps=st.lists(THREAD_STEPS, max_size=40), rest=st.lists(CHUNKS, max_size=3))
def test_any_sequence_of_puts_takes_and_releases_equals_a_list(
    steps: list[tuple[str, bytes]], rest: list[bytes]
) -> None:
    """W-FLOW-1: the same chunks in the same order, and never more held than the budget or one
    chunk.
    """
    out = ThreadToLoop(HandTurnedLoop(), BUDGET)  # type: ignore[arg-type]
    waiting: list[bytes] = []  # the model: put and not taken
    taken: list[bytes] = []  # taken and not released
    for step, chunk in steps:
        held = sum(map(len, waiting + taken))
        if step == "put":
            accepted = out.put_from_thread(chunk)
            assert accepted == (not held or held + len(chunk) <= BUDGET)
            if accepted:
                waiting.append(chunk)
        elif step == "take" and waiting:
            assert stepped(out.take_in_loop()) == (waiting, False)
            taken += waiting
            waiting = []
        elif step == "release" and taken:
            out.release_in_loop(len(taken.pop(0)))
    out.end_from_thread(rest, finished=True)
    assert stepped(out.take_in_loop()) == (waiting + rest, True)
    stepped(out.wait_finished_in_loop())

"""calling_thread.py: the thread that waits for an exchange, and what it takes from it."""

import threading
import weakref
from collections.abc import Callable

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.interleaving import (
    TINY_SECONDS,
    WAIT_SECONDS,
    Blocking,
    HandTask,
    HandTurnedLoop,
    ended,
    interrupted_lock,
    lying,
    must_happen,
    signals_spare_locks,
    stepped,
)
from wsgi_asgi_bridge._crossing.calling_thread import LEAST_CHUNK_BYTES, CallingThread
from wsgi_asgi_bridge._crossing.loops import running_loop_handle
from wsgi_asgi_bridge._crossing.thread_event import ThreadEvent

BUDGET = 10


class FailedError(Exception):
    """Why the exchange ended without its end."""


class BoredError(Exception):
    """What a check_alive raises to stop waiting."""


@pytest.fixture
def caller(loop: HandTurnedLoop) -> CallingThread:
    return CallingThread(loop, BUDGET)  # type: ignore[arg-type]


def take(caller: CallingThread) -> tuple[list[bytes], bool]:
    """What the thread takes; a thread that sleeps for ever is a failure."""
    return ended(lambda: caller.take_from_thread(None, None))


def stepped_with_a_rest(caller: CallingThread) -> None:
    """Ask for room that is there; with so small a budget the app rests after each chunk."""
    with HandTask(caller.wait_for_room_in_loop()) as asking:
        asking.step()
        assert asking.step()


# --- chunks and the end


def test_all_chunks_that_wait_are_taken_together(caller: CallingThread) -> None:
    caller.put_in_loop(b"one", last=False)
    caller.put_in_loop(b"two", last=False)
    assert take(caller) == ([b"one", b"two"], False)


def test_the_last_chunk_brings_the_end_with_it(caller: CallingThread) -> None:
    caller.put_in_loop(b"all", last=True)
    assert take(caller) == ([b"all"], True)


def test_an_end_without_bytes_is_an_end(caller: CallingThread) -> None:
    caller.put_in_loop(b"", last=True)
    assert take(caller) == ([], True)


def test_a_put_wakes_the_thread(caller: CallingThread) -> None:
    lock = lying(caller)
    lock.after("take_from_thread", lambda: caller.put_in_loop(b"x", last=False))
    assert take(caller) == ([b"x"], False)
    assert lock.told


def test_an_empty_chunk_wakes_nobody(caller: CallingThread) -> None:
    """A-OUT-2: there is nothing to take."""
    lock = lying(caller)
    taking = Blocking(lambda: caller.take_from_thread(None, None))
    lock.wait_until(lambda: caller._parked is not None)
    parked = caller._parked
    caller.put_in_loop(b"", last=False)
    assert caller._parked is parked
    caller.put_in_loop(b"", last=True)
    assert taking.result() == ([], True)


def test_the_error_comes_after_what_was_sent_before_it(caller: CallingThread) -> None:
    """A-OUT-4: a block that the app sent reaches the client; then the connection is broken."""
    caller.put_in_loop(b"x", last=False)
    caller.fail_in_loop(FailedError())
    assert take(caller) == ([b"x"], False)
    with pytest.raises(FailedError):
        take(caller)


def test_an_error_after_the_end_changes_nothing(caller: CallingThread) -> None:
    """A-OUT-5: the response was whole."""
    caller.put_in_loop(b"x", last=True)
    caller.fail_in_loop(FailedError())
    assert take(caller) == ([b"x"], True)


def test_after_the_end_nothing_is_taken_any_more(caller: CallingThread) -> None:
    """A-OUT-3: the app is told as of a client that left."""
    caller.put_in_loop(b"x", last=True)
    assert caller.put_in_loop(b"y", last=False) is None
    assert take(caller) == ([b"x"], True)


def test_all_senders_of_an_app_are_woken(caller: CallingThread, loop: HandTurnedLoop) -> None:
    """A-OUT-2: an app may send from several tasks."""
    caller.put_in_loop(b"x" * (BUDGET + 1), last=False)
    with (
        HandTask(caller.wait_for_room_in_loop()) as first,
        HandTask(caller.wait_for_room_in_loop()) as second,
    ):
        assert not first.step()
        assert not second.step()
        take(caller)
        loop.turn()
        assert first.step()
        assert second.step()


def test_the_error_that_was_raised_is_not_kept(caller: CallingThread) -> None:
    """Its traceback leads to the app's frames: once raised it belongs to who caught it."""
    error = FailedError()
    kept = weakref.ref(error)
    caller.fail_in_loop(error)
    del error
    with pytest.raises(FailedError):
        caller.take_from_thread(None, None)
    assert kept() is None


def test_the_first_error_stays(caller: CallingThread) -> None:
    first = FailedError()
    caller.fail_in_loop(first)
    caller.fail_in_loop(FailedError())
    with pytest.raises(FailedError) as raised:
        take(caller)
    assert raised.value is first


def test_a_chunk_after_the_failure_does_not_undo_it(caller: CallingThread) -> None:
    """A-OUT-4: the loop is shut down and the app sends on until it is cancelled; the thread must
    not wait for more.
    """
    caller.fail_in_loop(FailedError())
    caller.put_in_loop(b"too late", last=False)

    def take_to_the_end() -> None:
        while True:
            _, last = caller.take_from_thread(TINY_SECONDS, bored)
            assert not last

    with pytest.raises(FailedError):
        ended(take_to_the_end)


def bored() -> None:
    raise BoredError


# --- the budget


def test_put_says_when_the_app_has_to_wait(loop: HandTurnedLoop) -> None:
    """A-OUT-2: once the budget is spent, and not before: to ask for room costs a call."""
    caller = CallingThread(loop, 10 * LEAST_CHUNK_BYTES)  # type: ignore[arg-type]
    assert caller.put_in_loop(bytes(9 * LEAST_CHUNK_BYTES), last=False) is False
    assert caller.put_in_loop(bytes(LEAST_CHUNK_BYTES + 1), last=False) is True
    assert caller.put_in_loop(b"x", last=False) is True


def test_the_app_waits_until_the_thread_has_taken(
    caller: CallingThread, loop: HandTurnedLoop
) -> None:
    """A-OUT-2."""
    caller.put_in_loop(b"x" * (BUDGET + 1), last=False)
    with HandTask(caller.wait_for_room_in_loop()) as waiting:
        assert not waiting.step()
        take(caller)
        assert not waiting.step()
        loop.turn()
        assert waiting.step()


def test_there_may_be_room_at_once(caller: CallingThread) -> None:
    """A-OUT-2."""
    stepped(caller.wait_for_room_in_loop())
    caller.put_in_loop(b"x" * BUDGET, last=False)
    stepped_with_a_rest(caller)


@pytest.mark.parametrize("size", [0, 1, LEAST_CHUNK_BYTES, 3 * LEAST_CHUNK_BYTES])
def test_thread_that_takes_at_once_does_not_let_app_keep_loop(
    loop: HandTurnedLoop, size: int
) -> None:
    """A-LOOP-1: once a budget of bytes the others have a turn; an empty message costs as well."""
    budget = 8 * LEAST_CHUNK_BYTES
    caller = CallingThread(loop, budget)  # type: ignore[arg-type]
    since_the_last_turn = 0
    for _ in range(30):
        wait = caller.put_in_loop(bytes(size), last=False)
        since_the_last_turn += size + LEAST_CHUNK_BYTES
        assert wait == (since_the_last_turn > budget)
        if size:
            caller.take_from_thread(TINY_SECONDS, None)
        with HandTask(caller.wait_for_room_in_loop()) as waiting:
            rests = not waiting.step()
            assert waiting.step()
        assert rests == (since_the_last_turn > budget)
        since_the_last_turn = 0 if rests else since_the_last_turn
    assert loop.checkpoint_count > 0


def test_a_thread_that_leaves_frees_the_app_that_waits(
    caller: CallingThread, loop: HandTurnedLoop
) -> None:
    """A-OUT-3: the app's next step then finds the client gone."""
    caller.put_in_loop(b"x" * (BUDGET + 1), last=False)
    with HandTask(caller.wait_for_room_in_loop()) as waiting:
        waiting.step()
        caller.finish_from_thread()
        loop.turn()
        assert waiting.step()


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("step", ["take", "leave"])
def test_room_as_the_app_goes_to_sleep_is_noticed(
    caller: CallingThread, loop: HandTurnedLoop, step: str, place: str
) -> None:
    caller.put_in_loop(b"x" * (BUDGET + 1), last=False)
    lock = lying(caller)
    actions: dict[str, Callable[[], object]] = {
        "take": lambda: caller.take_from_thread(None, None),
        "leave": caller.finish_from_thread,
    }
    getattr(lock, place)("wait_for_room_in_loop", actions[step])
    with HandTask(caller.wait_for_room_in_loop()) as waiting:
        waiting.step()
        assert lock.told
        loop.turn()
        assert waiting.step()


# --- leaving


def test_with_the_end_in_its_hands_the_thread_has_left(caller: CallingThread) -> None:
    """A-LOOP-4: what it was given before is still given back, and nothing is added to it."""

    def job() -> None:
        """Somebody else's to run."""

    assert caller.call_in_thread(job) is True
    caller.put_in_loop(b"x", last=True)
    assert take(caller) == ([b"x"], True)
    assert caller.finished()
    assert caller.call_in_thread(job) is False
    assert caller.finish_from_thread() == [job]


def test_after_the_thread_has_left_chunks_are_dropped(caller: CallingThread) -> None:
    caller.put_in_loop(b"x", last=False)
    caller.finish_from_thread()
    assert caller.put_in_loop(b"x" * (BUDGET + 1), last=False) is None
    stepped_with_a_rest(caller)
    caller.fail_in_loop(FailedError())


def test_put_says_that_the_thread_has_left(caller: CallingThread) -> None:
    """A-OUT-3: the app's `send()` raises, and not only the one after."""
    assert caller.put_in_loop(b"x", last=False) is not None
    caller.finish_from_thread()
    assert caller.put_in_loop(b"x", last=False) is None
    assert caller.put_in_loop(b"", last=True) is None


def test_thread_that_another_one_left_for_is_woken_with_nothing(caller: CallingThread) -> None:
    """A-CALL-3: a server may close in one thread what it iterates in another. That is not the end:
    whoever took it for one would not tell the loop that the client has left.
    """
    lock = lying(caller)
    lock.after("take_from_thread", caller.finish_from_thread)
    assert take(caller) == ([], False)
    assert lock.told
    assert caller.finished()
    assert take(caller) == ([], False)


def test_an_end_before_the_leaving_stays_the_end(caller: CallingThread) -> None:
    """A-CALL-3: the loop has put it, so it need not be told that the thread has left."""
    caller.put_in_loop(b"x", last=True)
    caller.finish_from_thread()
    assert take(caller) == ([], True)


def test_leaving_tells_the_loop_once(caller: CallingThread, loop: HandTurnedLoop) -> None:
    caller.put_in_loop(b"x" * (BUDGET + 1), last=False)
    with HandTask(caller.wait_for_room_in_loop()) as waiting:
        waiting.step()
        caller.finish_from_thread()
        caller.finish_from_thread()
        assert loop.post_count == 1


# --- glances


def test_a_glance_is_taken_again_and_again_while_nothing_happens(caller: CallingThread) -> None:
    """A-IN-3."""
    glances: list[int] = []

    def check_alive() -> None:
        glances.append(len(glances))
        if len(glances) == 3:
            caller.put_in_loop(b"x", last=True)

    assert ended(lambda: caller.take_from_thread(TINY_SECONDS, check_alive)) == ([b"x"], True)
    assert glances == [0, 1, 2]


def test_a_glance_may_stop_the_wait(caller: CallingThread) -> None:
    """A-IN-3."""
    with pytest.raises(BoredError):
        ended(lambda: caller.take_from_thread(TINY_SECONDS, bored))


def test_no_glance_while_there_is_something_to_do(caller: CallingThread) -> None:
    for _ in range(3):
        caller.call_in_thread(lambda: None)
    caller.call_in_thread(lambda: caller.put_in_loop(b"x", last=True) and None)
    assert ended(lambda: caller.take_from_thread(WAIT_SECONDS, bored)) == ([b"x"], True)


NEWS: dict[str, Callable[[CallingThread], object]] = {
    "chunk": lambda caller: caller.put_in_loop(b"x", last=True),
    "failure": lambda caller: caller.fail_in_loop(FailedError()),
    "job": lambda caller: caller.call_in_thread(
        lambda: caller.put_in_loop(b"x", last=True) and None
    ),
}
MOMENTS = [
    pytest.param("before", "take_from_thread", id="before it looks"),
    pytest.param("after", "take_from_thread", id="as it goes to sleep"),
    pytest.param("before", "_retract", id="as its time runs out"),
    pytest.param("after", "_retract", id="after its time ran out"),
]


@pytest.mark.parametrize(("place", "step"), MOMENTS)
@pytest.mark.parametrize("news", NEWS)
def test_news_at_any_moment_of_the_wait_are_noticed(
    caller: CallingThread, news: str, place: str, step: str
) -> None:
    """A wake-up that meets the time-out is neither lost nor left over."""
    lock = lying(caller)
    getattr(lock, place)(step, lambda: NEWS[news](caller))
    every = TINY_SECONDS if step == "_retract" else WAIT_SECONDS
    if news == "failure":
        with pytest.raises(FailedError):
            ended(lambda: caller.take_from_thread(every, None))
    else:
        assert ended(lambda: caller.take_from_thread(every, None)) == ([b"x"], True)
    assert lock.told


def test_the_end_that_meets_the_time_out_wins_over_the_glance(caller: CallingThread) -> None:
    """A-OUT-5: the response is whole and here; that the loop or the client has gone since does not
    take it back.
    """
    lock = lying(caller)
    lock.before("_retract", lambda: caller.put_in_loop(b"whole", last=True))
    assert ended(lambda: caller.take_from_thread(TINY_SECONDS, bored)) == ([b"whole"], True)
    assert lock.told


def test_a_put_after_a_glance_opens_no_gate_that_timed_out(
    caller: CallingThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates: list[ThreadEvent] = []

    def make_gate() -> ThreadEvent:
        gates.append(ThreadEvent())
        return gates[-1]

    monkeypatch.setattr("wsgi_asgi_bridge._crossing.calling_thread.ThreadEvent", make_gate)
    with pytest.raises(BoredError):
        caller.take_from_thread(TINY_SECONDS, bored)
    caller.put_in_loop(b"x", last=False)
    assert [gate.wait(TINY_SECONDS) for gate in gates] == [False]


# --- any sequence against a list

STEPS = st.one_of(
    st.binary(max_size=BUDGET + 3).map(lambda chunk: ("put", chunk)),
    st.sampled_from([("take", b""), ("job", b"")]),
)


@settings(deadline=None)
@given(
    steps=st.lists(STEPS, max_size=30),
    ending=st.sampled_from(["last", "failed", "left"]),
)
def test_any_sequence_equals_a_list(steps: list[tuple[str, bytes]], ending: str) -> None:
    caller = CallingThread(HandTurnedLoop(), BUDGET)  # type: ignore[arg-type]
    waiting: list[bytes] = []
    accepted = 0
    ran: list[int] = []
    for step, chunk in steps:
        if step == "put":
            waiting += [chunk] if chunk else []
            assert caller.put_in_loop(chunk, last=False) is not None
            if sum(map(len, waiting)) <= BUDGET:
                stepped_with_a_rest(caller)
        elif step == "job":
            accepted += caller.call_in_thread(lambda number=accepted: ran.append(number))
        elif waiting:
            assert caller.take_from_thread(TINY_SECONDS, bored) == (waiting, False)
            waiting = []
    if ending == "last":
        caller.put_in_loop(b"end", last=True)
        assert caller.take_from_thread(TINY_SECONDS, bored) == ([*waiting, b"end"], True)
    elif ending == "failed":
        caller.fail_in_loop(FailedError())
        if waiting:
            assert caller.take_from_thread(TINY_SECONDS, bored) == (waiting, False)
        with pytest.raises(FailedError):
            caller.take_from_thread(TINY_SECONDS, bored)
    for job in caller.finish_from_thread():
        job()
    assert sorted(ran) == list(range(accepted))


# --- a real thread and a real loop


async def test_a_loop_streams_to_a_thread_and_has_it_run_jobs() -> None:
    """A-OUT-2, A-LOOP-4."""
    caller = CallingThread(running_loop_handle(), 30)
    ran_in: set[threading.Thread] = set()

    def serve() -> list[bytes]:
        taken: list[bytes] = []
        last = False
        while not last:
            chunks, last = caller.take_from_thread(None, None)
            taken += chunks
        return taken

    thread = Blocking(serve)
    sent = [bytes([number % 251]) * (number % 23 + 1) for number in range(200)]
    with anyio.fail_after(WAIT_SECONDS):
        for number, chunk in enumerate(sent):
            if number % 7 == 0:
                assert caller.call_in_thread(lambda: ran_in.add(threading.current_thread()))
            if caller.put_in_loop(chunk, last=False):
                await caller.wait_for_room_in_loop()
        ran = threading.Event()
        assert caller.call_in_thread(ran.set)
        await Blocking(lambda: must_happen(ran)).result_in_loop()
        caller.put_in_loop(b"", last=True)
    assert await thread.result_in_loop() == sent
    assert ran_in == {thread.thread}
    assert caller.finish_from_thread() == []


# --- signals


@signals_spare_locks
def test_ctrl_c_as_the_thread_takes_leaves_the_lock_free(caller: CallingThread) -> None:
    """A-OUT-4: the calling thread may be the main one; a server's signal handlers raise there."""
    caller.put_in_loop(b"one", last=False)
    caller._lock = lock = interrupted_lock()
    with pytest.raises(KeyboardInterrupt):
        caller.take_from_thread(None, None)
    assert not lock.locked()


# --- handing over


def test_a_hand_over_ends_the_exchange(caller: CallingThread) -> None:
    waiting = Blocking(lambda: caller.take_from_thread(None, None))
    assert caller.hand_over_in_loop(lambda: "taken") == "taken"
    assert waiting.result() == ([], True)
    assert caller.finished()
    assert caller.put_in_loop(b"late", last=False) is None


@pytest.mark.parametrize("how", ["the thread has left", "the exchange has ended"])
def test_nothing_is_handed_over_after_the_end(caller: CallingThread, how: str) -> None:
    if how == "the thread has left":
        caller.finish_from_thread()
    else:
        caller.fail_in_loop(FailedError())
    calls: list[str] = []
    assert caller.hand_over_in_loop(lambda: calls.append("taken")) is None
    assert calls == []


def test_the_thread_leaves_as_it_hands_over(caller: CallingThread) -> None:
    """Whichever is first has the lock: nothing is taken from a thread that has left."""
    calls: list[str] = []
    lock = lying(caller)
    lock.before("hand_over_in_loop", caller.finish_from_thread)
    assert caller.hand_over_in_loop(lambda: calls.append("taken")) is None
    assert lock.told
    assert calls == []


def test_the_thread_cannot_leave_while_something_is_taken(caller: CallingThread) -> None:
    leaving: list[Blocking[object]] = []

    def take() -> str:
        leaving.append(Blocking(caller.finish_from_thread))
        assert caller._lock.locked()
        assert not caller._finished
        return "taken"

    assert caller.hand_over_in_loop(take) == "taken"
    assert leaving[0].result() == []


def test_who_sees_what_was_taken_sees_the_end(caller: CallingThread) -> None:
    """A check of the thread that finds the connection replaced finds the exchange over."""
    seen: list[Blocking[bool]] = []

    def take() -> str:
        seen.append(Blocking(caller.is_over))
        return "taken"

    assert caller.hand_over_in_loop(take) == "taken"
    assert seen[0].result() is True


def test_what_cannot_be_taken_ends_nothing(caller: CallingThread) -> None:
    def take() -> None:
        raise FailedError

    with pytest.raises(FailedError):
        caller.hand_over_in_loop(take)
    assert not caller.is_over()
    caller.put_in_loop(b"refused", last=True)
    assert ended(lambda: caller.take_from_thread(None, None)) == ([b"refused"], True)

"""The two channels: the loop is closed while the thread still puts, or waits for bytes."""

import pytest

from tests.support.interleaving import WAIT_SECONDS, HandTask, HandTurnedLoop, LyingLock, ended
from wsgi_asgi_bridge._crossing import loop_to_thread, thread_to_loop
from wsgi_asgi_bridge._crossing.loop_to_thread import LoopToThread
from wsgi_asgi_bridge._crossing.thread_to_loop import ThreadToLoop
from wsgi_asgi_bridge.errors import BridgeClosed

BUDGET = 10


@pytest.fixture
def out(loop: HandTurnedLoop) -> ThreadToLoop:
    return ThreadToLoop(loop, BUDGET)  # type: ignore[arg-type]


@pytest.mark.parametrize("asleep", [True, False], ids=["the task sleeps", "the task is busy"])
def test_the_put_after_the_one_that_found_the_loop_closed_raises(
    out: ThreadToLoop, loop: HandTurnedLoop, asleep: bool
) -> None:
    """W-FLOW-6."""
    with HandTask(out.take_in_loop()) as taking:
        if asleep:
            taking.step()
        loop.closed = True
        assert out.put_from_thread(b"one")
        with pytest.raises(BridgeClosed, match="loop was closed"):
            out.put_from_thread(b"two")
        assert out.broken()
        assert not out.finish_from_thread()


def test_a_step_without_a_chunk_raises_the_reason(out: ThreadToLoop, loop: HandTurnedLoop) -> None:
    """W-OUT-11."""
    out.check_from_thread()
    loop.closed = True
    for _ in range(2):
        with pytest.raises(BridgeClosed, match="loop was closed"):
            out.check_from_thread()
    assert loop.post_count == 0


def test_a_step_without_a_chunk_wakes_nobody(out: ThreadToLoop, loop: HandTurnedLoop) -> None:
    """W-OUT-11."""
    with HandTask(out.take_in_loop()) as taking:
        taking.step()
        out.check_from_thread()
        assert loop.post_count == 0
        assert not taking.step()


def test_the_first_reason_stays(out: ThreadToLoop, loop: HandTurnedLoop) -> None:
    out.break_in_loop(ConnectionError)
    loop.closed = True
    with pytest.raises(ConnectionError):
        out.check_from_thread()


def test_a_thread_that_waits_for_room_finds_its_loop_closed(
    out: ThreadToLoop, loop: HandTurnedLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W-FLOW-6: long before its time-out, which is another's fault."""
    monkeypatch.setattr(thread_to_loop, "CLOSED_LOOP_SECONDS", 0.01)
    out.put_from_thread(b"x" * BUDGET)
    out._lock = lock = LyingLock()  # type: ignore[assignment]
    lock.after("wait_for_room_from_thread", lambda: setattr(loop, "closed", True))
    assert ended(lambda: out.wait_for_room_from_thread(1, 1000 * WAIT_SECONDS)) is True
    with pytest.raises(BridgeClosed):
        out.put_from_thread(b"y")


@pytest.mark.parametrize("first", [1, thread_to_loop.UNCHECKED_BYTES // 8], ids=["small", "large"])
def test_chunks_beside_a_closed_loop_end_soon(loop: HandTurnedLoop, first: int) -> None:
    """W-FLOW-6: though none of them is taken, and the budget is never spent."""
    out = ThreadToLoop(loop, 1 << 30)  # type: ignore[arg-type]
    out.put_from_thread(b"x" * first)
    loop.closed = True
    unchecked = min(thread_to_loop.UNCHECKED_CHUNKS * first, thread_to_loop.UNCHECKED_BYTES)
    at_most = range(unchecked + 1)
    assert next(place for place in at_most if out.put_from_thread(b"y") and out.broken())
    with pytest.raises(BridgeClosed):
        out.put_from_thread(b"y")


def test_the_first_put_after_a_take_finds_the_loop_closed(
    out: ThreadToLoop, loop: HandTurnedLoop
) -> None:
    """W-FLOW-6: the usual case of a slow stream, whose task is busy with the chunk before."""
    out.put_from_thread(b"one")
    assert out.taken_in_loop() == ([b"one"], False)
    loop.closed = True
    out.put_from_thread(b"2")
    with pytest.raises(BridgeClosed):
        out.put_from_thread(b"3")


def test_most_chunks_do_not_ask_whether_the_loop_is_closed(loop: HandTurnedLoop) -> None:
    """The hot path: one chunk in sixteen asks."""
    asked = 0

    def is_closed() -> bool:
        nonlocal asked
        asked += 1
        return False

    loop.is_closed = is_closed  # type: ignore[method-assign]
    out = ThreadToLoop(loop, 1 << 30)  # type: ignore[arg-type]
    for _ in range(thread_to_loop.UNCHECKED_CHUNKS * 10):
        out.put_from_thread(b"x" * 100)
    assert asked <= 10


# --- into the thread


def test_a_thread_that_waits_for_bytes_finds_its_loop_closed(
    loop: HandTurnedLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W-FLOW-6: long before its time-out, and for ever."""
    monkeypatch.setattr(loop_to_thread, "CLOSED_LOOP_SECONDS", 0.01)
    body = LoopToThread(loop, BUDGET)  # type: ignore[arg-type]
    body._lock = lock = LyingLock()  # type: ignore[assignment]
    lock.after("take_from_thread", lambda: setattr(loop, "closed", True))
    for _ in range(2):
        with pytest.raises(BridgeClosed, match="loop was closed"):
            ended(lambda: body.take_from_thread(1000 * WAIT_SECONDS))


def test_what_came_before_the_loop_was_closed_is_read(loop: HandTurnedLoop) -> None:
    """W-IN-3: a body that has ended is whole."""
    body = LoopToThread(loop, BUDGET)  # type: ignore[arg-type]
    body.put_in_loop(b"all")
    body.end_in_loop()
    loop.closed = True
    assert ended(lambda: body.take_from_thread(WAIT_SECONDS)) == [b"all"]
    assert ended(lambda: body.take_from_thread(WAIT_SECONDS)) == []


def test_an_end_as_the_closed_loop_is_found_stays_the_end(
    loop: HandTurnedLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W-IN-3: the loop's last step before it was closed."""
    monkeypatch.setattr(loop_to_thread, "CLOSED_LOOP_SECONDS", 0.01)
    body = LoopToThread(loop, BUDGET)  # type: ignore[arg-type]
    body._lock = lock = LyingLock()  # type: ignore[assignment]
    lock.after("take_from_thread", lambda: setattr(loop, "closed", True))
    lock.before("_break_for_closed_loop", body.end_in_loop)
    assert ended(lambda: body.take_from_thread(1000 * WAIT_SECONDS)) == []
    assert lock.told

"""channel.py: a real thread and a real loop exchange bodies in both directions."""

import threading

import anyio
import pytest

from tests.support.interleaving import (
    WAIT_SECONDS,
    Blocking,
    HandTurnedLoop,
    lying,
    must_happen,
)
from wsgi_asgi_bridge._crossing.channel import LoopToThread, ThreadToLoop
from wsgi_asgi_bridge._crossing.loops import running_loop_handle

BUDGET = 10


class GoneError(Exception):
    """Why the other side broke off."""


@pytest.fixture
def out(loop: HandTurnedLoop) -> ThreadToLoop:
    return ThreadToLoop(loop, BUDGET)  # type: ignore[arg-type]


@pytest.fixture
def body(loop: HandTurnedLoop) -> LoopToThread:
    return LoopToThread(loop, BUDGET)  # type: ignore[arg-type]


BODY = [bytes([number % 251]) * (number % 23 + 1) for number in range(400)]


async def test_thread_and_loop_exchange_a_body_through_a_small_budget() -> None:
    """W-FLOW-1: chunks larger than half the budget among them."""
    handle = running_loop_handle()
    out = ThreadToLoop(handle, 30)

    def put_all() -> None:
        for chunk in BODY:
            while not out.put_from_thread(chunk):
                assert out.wait_for_room_from_thread(len(chunk), WAIT_SECONDS)
        out.end_from_thread([], finished=False)
        out.finish_from_thread()

    thread = Blocking(put_all)
    taken: list[bytes] = []
    over = False
    with anyio.fail_after(WAIT_SECONDS):
        while not over:
            chunks, over = await out.take_in_loop()
            taken += chunks
            out.release_in_loop(sum(map(len, chunks)))
        await out.wait_finished_in_loop()
    await thread.result_in_loop()
    assert taken == BODY


async def test_loop_and_thread_exchange_a_body_through_a_small_budget() -> None:
    """W-IN-4."""
    body = LoopToThread(running_loop_handle(), 30)

    def take_all() -> bytes:
        taken = b""
        while chunks := body.take_from_thread(WAIT_SECONDS):
            taken += b"".join(chunks)
            for chunk in chunks:
                body.release_from_thread(len(chunk))
        return taken

    thread = Blocking(take_all)
    with anyio.fail_after(WAIT_SECONDS):
        for chunk in BODY:
            await body.wait_for_room_in_loop()
            body.put_in_loop(chunk)
        body.end_in_loop()
    assert await thread.result_in_loop() == b"".join(BODY)


async def test_loop_never_waits_for_thread_that_sleeps_in_the_channel() -> None:
    """W-FLOW-7: the lock is free while the other side waits."""
    out = ThreadToLoop(running_loop_handle(), BUDGET)
    out.put_from_thread(b"x" * BUDGET)
    lock = lying(out)
    asleep = threading.Event()
    lock.after("wait_for_room_from_thread", asleep.set)
    waiting = Blocking(lambda: out.wait_for_room_from_thread(1, WAIT_SECONDS))
    must_happen(asleep)
    assert out._lock.acquire(blocking=False)
    out._lock.release()
    out.break_in_loop(GoneError)
    assert await waiting.result_in_loop() is True

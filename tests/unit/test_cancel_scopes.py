"""loops.py: CancelScope, alone and beside a cancellation by somebody else."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest
import uvloop
from anyio.lowlevel import checkpoint

from tests.support.interleaving import WAIT_SECONDS, next_turn
from wsgi_asgi_bridge._crossing.loops import (
    CancelScope,
    running_loop_handle,
)


class CutError(Exception):
    """Why a block is cut short."""


async def never() -> None:
    with anyio.fail_after(WAIT_SECONDS):
        await anyio.sleep_forever()


# --- interrupts, one thing at a time


def cancellations_of_this_task() -> int:
    """How many cancellations asyncio thinks are pending; trio keeps no such count."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return 0
    return task.cancelling() if task is not None else 0


async def test_an_interrupt_ends_its_block_and_not_its_task() -> None:
    handle = running_loop_handle()
    reason = CutError()
    cut = handle.cancel_scope()
    handle.post(lambda: cut.cancel(reason))
    beyond = False
    with anyio.fail_after(WAIT_SECONDS):
        with cut:
            await handle.create_event()
            beyond = True
        assert cut.reason is reason
        await checkpoint()  # a cancellation that leaked would come out here
    assert not beyond
    assert cancellations_of_this_task() == 0


async def test_a_block_that_nobody_cuts_is_a_plain_block() -> None:
    cut = running_loop_handle().cancel_scope()
    with cut:
        await checkpoint()
    assert cut.reason is None
    with pytest.raises(KeyError), running_loop_handle().cancel_scope():
        raise KeyError


async def test_the_first_of_two_reasons_stays() -> None:
    """Fired twice, in one step of the loop and in two."""
    handle = running_loop_handle()
    first, second, third = CutError(), CutError(), CutError()
    cut = handle.cancel_scope()

    def fire_twice() -> None:
        cut.cancel(first)
        cut.cancel(second)

    handle.post(fire_twice)
    with anyio.fail_after(WAIT_SECONDS):
        with cut:
            try:
                await handle.create_event()
            finally:
                cut.cancel(third)
        await checkpoint()
    assert cut.reason is first
    assert cancellations_of_this_task() == 0


async def test_firing_after_the_block_does_not_touch_the_task() -> None:
    cut = running_loop_handle().cancel_scope()
    with cut:
        await checkpoint()
    cut.cancel(CutError())
    await checkpoint()
    assert cancellations_of_this_task() == 0


async def test_firing_after_the_block_does_nothing() -> None:
    cut = running_loop_handle().cancel_scope()
    with cut:
        await checkpoint()
    cut.cancel(CutError())
    assert cut.reason is None


async def test_firing_as_the_block_is_about_to_go_on_leaks_nothing() -> None:
    """The block's wait is over and its interrupt fires, in the same step of the loop: either may
    win, the task goes on.
    """
    handle = running_loop_handle()
    gate = handle.create_event()
    reason = CutError()
    cut = handle.cancel_scope()

    def open_and_fire() -> None:
        handle.set_event(gate)
        cut.cancel(reason)

    handle.post(open_and_fire)
    with anyio.fail_after(WAIT_SECONDS):
        with cut:
            await gate
        assert cut.reason is reason
        await checkpoint()
        await next_turn()
    assert cancellations_of_this_task() == 0


async def test_the_blocks_own_error_is_not_swallowed_by_its_interrupt() -> None:
    handle = running_loop_handle()
    cut = handle.cancel_scope()
    handle.post(lambda: cut.cancel(CutError()))

    async def block() -> None:
        with cut:
            try:
                await handle.create_event()
            except handle.cancelled:
                raise KeyError("while cleaning up") from None

    with anyio.fail_after(WAIT_SECONDS):
        with pytest.raises(KeyError):
            await block()
        await checkpoint()
    assert cancellations_of_this_task() == 0


async def test_a_block_that_outlives_its_interrupt_ends_as_it_likes() -> None:
    """Shielded work of the app goes on; afterwards the task is as it was."""
    handle = running_loop_handle()
    cut = handle.cancel_scope()
    gate = handle.create_event()
    handle.post(lambda: cut.cancel(CutError()))
    with anyio.fail_after(WAIT_SECONDS):
        with cut:
            try:
                await handle.create_event()
            except handle.cancelled:
                if handle.backend == "trio":
                    raise
        handle.post(lambda: handle.set_event(gate))
        await gate
    assert cancellations_of_this_task() == 0


# --- interrupts, beside a cancellation by somebody else


async def test_a_servers_cancellation_passes_through_untouched() -> None:
    """W-FLOW-6: the block is cancelled by the server, not by its interrupt."""
    handle = running_loop_handle()
    cut = handle.cancel_scope()
    passed = False
    with anyio.fail_after(WAIT_SECONDS), anyio.CancelScope() as server:
        handle.post(server.cancel)
        try:
            with cut:
                await handle.create_event()
        except handle.cancelled:
            passed = True
            raise
        await never()
    assert passed
    assert server.cancelled_caught
    assert cut.reason is None


@pytest.mark.parametrize("order", ["interrupt-first", "server-first"])
async def test_both_at_once_and_the_servers_cancellation_is_not_lost(order: str) -> None:
    """W-FLOW-6: interrupted and cancelled in one step of the loop, the task is cancelled in the
    end.
    """
    handle = running_loop_handle()
    reason = CutError()
    cut = handle.cancel_scope()
    gone_past = False
    with anyio.fail_after(WAIT_SECONDS), anyio.CancelScope() as server:

        def both() -> None:
            steps: list[Callable[[], object]] = [lambda: cut.cancel(reason), server.cancel]
            for step in steps if order == "interrupt-first" else reversed(steps):
                step()

        handle.post(both)
        with cut:
            await handle.create_event()
        await checkpoint()
        gone_past = True
    assert not gone_past
    assert server.cancelled_caught
    assert cut.reason is reason
    await checkpoint()
    assert cancellations_of_this_task() == 0


async def test_a_cut_inside_a_task_that_is_being_cancelled_already() -> None:
    """A shielded clean-up may use one: the cancellation that is older than the block is not taken
    for it.
    """
    handle = running_loop_handle()
    reason = CutError()
    with anyio.CancelScope() as server:
        server.cancel()
        try:
            await checkpoint()
        finally:
            with anyio.fail_after(WAIT_SECONDS, shield=True):
                cut = handle.cancel_scope()
                handle.post(lambda: cut.cancel(reason))
                with cut:
                    await handle.create_event()
                after = cut.reason
    assert after is reason
    assert server.cancelled_caught


on_asyncio_loops = pytest.mark.parametrize(
    "new_event_loop",
    [asyncio.SelectorEventLoop, uvloop.new_event_loop],
    ids=["asyncio", "uvloop"],
)
NewEventLoop = Callable[[], asyncio.AbstractEventLoop]


def run_bounded(new_event_loop: NewEventLoop, work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(work, WAIT_SECONDS)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(bounded())


@on_asyncio_loops
@pytest.mark.parametrize("order", ["server-only", "interrupt-first", "server-first"])
def test_task_cancel_of_asyncio_passes_through(new_event_loop: NewEventLoop, order: str) -> None:
    """W-FLOW-6: uvicorn and hypercorn cancel by `Task.cancel`, which is not told apart from an
    interrupt by itself.
    """

    async def work() -> None:
        handle = running_loop_handle()
        started = asyncio.Event()
        cuts: list[CancelScope] = []
        passed = False

        async def request() -> None:
            nonlocal passed
            cut = handle.cancel_scope()
            cuts.append(cut)
            started.set()
            try:
                with cut:
                    await handle.create_event()
            except asyncio.CancelledError:
                passed = True
                raise

        task = asyncio.create_task(request())
        await started.wait()
        if order == "interrupt-first":
            cuts[0].cancel(CutError())
        task.cancel()
        if order == "server-first":
            cuts[0].cancel(CutError())
        with pytest.raises(asyncio.CancelledError):
            await task
        assert passed
        assert (cuts[0].reason is None) == (order == "server-only")

    run_bounded(new_event_loop, work())


@on_asyncio_loops
@pytest.mark.parametrize("order", ["interrupt-first", "timeout-first"])
def test_asyncio_timeout_around_a_block_still_times_out(
    new_event_loop: NewEventLoop, order: str
) -> None:
    """It counts cancellations the way an interrupt does: neither takes the other's."""

    async def work() -> None:
        cut = running_loop_handle().cancel_scope()
        loop = asyncio.get_running_loop()
        if order == "interrupt-first":
            loop.call_soon(cut.cancel, CutError())

        async def time_out() -> None:
            async with asyncio.timeout(0):
                if order == "timeout-first":
                    loop.call_soon(cut.cancel, CutError())
                with cut:
                    await running_loop_handle().create_event()

        with pytest.raises(TimeoutError):
            await time_out()
        assert cut.reason is not None
        assert cancellations_of_this_task() == 0

    run_bounded(new_event_loop, work())


@on_asyncio_loops
def test_interrupts_inside_each_other_end_their_own_blocks(new_event_loop: NewEventLoop) -> None:
    async def work() -> None:
        handle = running_loop_handle()
        inner, outer = handle.cancel_scope(), handle.cancel_scope()
        handle.post(lambda: inner.cancel(CutError()))
        between = False
        with outer:
            with inner:
                await handle.create_event()
            between = True
            handle.post(lambda: outer.cancel(CutError()))
            await handle.create_event()
        assert between
        assert cancellations_of_this_task() == 0

    run_bounded(new_event_loop, work())

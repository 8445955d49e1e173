"""loops.py: what the crossing needs of asyncio, uvloop and trio, held to one promise."""

import asyncio
import contextvars
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest
import trio
import uvloop
from anyio.lowlevel import checkpoint

from tests.support.interleaving import WAIT_SECONDS, Blocking, soon_in_this_loop
from wsgi_asgi_bridge._crossing.loops import (
    CancelScope,
    WaitInLoop,
    running_loop,
    running_loop_handle,
)

setting: contextvars.ContextVar[str] = contextvars.ContextVar("setting", default="untouched")


class CutError(Exception):
    """Why a block is cut short."""


async def next_turn() -> None:
    """Until everything that was scheduled before has run."""
    turned = anyio.Event()
    soon_in_this_loop()(turned.set)
    with anyio.fail_after(WAIT_SECONDS):
        await turned.wait()


async def never() -> None:
    with anyio.fail_after(WAIT_SECONDS):
        await anyio.sleep_forever()


# --- handles


async def test_a_handle_names_the_running_loop() -> None:
    handle = running_loop_handle()
    assert handle.loop is running_loop()
    assert handle.backend == (
        "trio" if isinstance(handle.loop, trio.lowlevel.TrioToken) else "asyncio"
    )
    assert running_loop_handle() is not handle
    assert running_loop_handle().loop is handle.loop


async def test_the_handles_cancelled_is_what_a_cancelled_task_sees() -> None:
    handle = running_loop_handle()
    seen: list[BaseException] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await checkpoint()
        except handle.cancelled as exc:
            seen.append(exc)
            raise
    assert len(seen) == 1


def test_no_loop_is_an_error() -> None:
    with pytest.raises(RuntimeError):
        running_loop()
    with pytest.raises(RuntimeError):
        running_loop_handle()


async def test_a_thread_posts_into_the_loop() -> None:
    handle = running_loop_handle()
    gate = handle.create_event()
    here = threading.current_thread()
    ran_in: list[threading.Thread] = []

    def set_event() -> None:
        ran_in.append(threading.current_thread())
        handle.set_event(gate)

    posted = Blocking(lambda: handle.post(set_event))
    with anyio.fail_after(WAIT_SECONDS):
        await gate
    assert await posted.result_in_loop() is True
    assert ran_in == [here]


async def test_nothing_of_the_posters_context_leaks_into_the_loop() -> None:
    handle = running_loop_handle()
    seen: list[str] = []
    setting.set("the poster's")
    handle.post(lambda: seen.append(setting.get()))
    await next_turn()
    assert seen == ["untouched"]


async def test_call_later_calls_once_in_the_loop_and_in_no_ones_context() -> None:
    handle = running_loop_handle()
    gate = handle.create_event()
    calls: list[tuple[threading.Thread, str]] = []

    def call() -> None:
        calls.append((threading.current_thread(), setting.get()))
        handle.set_event(gate)

    setting.set("the caller's")
    handle.call_later(0.001, call)
    assert calls == []
    with anyio.fail_after(WAIT_SECONDS):
        await gate
    await next_turn()
    assert calls == [(threading.current_thread(), "untouched")]


async def test_a_checkpoint_lets_the_other_tasks_run() -> None:
    """A-LOOP-1, W-FLOW-7."""
    handle = running_loop_handle()
    ran: list[str] = []

    async def other() -> None:
        ran.append("other")

    with anyio.fail_after(WAIT_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            for _ in range(3):
                await handle.checkpoint()
            assert ran == ["other"]


# --- gates


async def test_a_gate_opened_before_it_is_awaited_lets_through() -> None:
    handle = running_loop_handle()
    gate = handle.create_event()
    handle.set_event(gate)
    with anyio.fail_after(WAIT_SECONDS):
        await gate


async def test_opening_a_gate_twice_is_harmless() -> None:
    handle = running_loop_handle()
    gate = handle.create_event()
    handle.set_event(gate)
    handle.set_event(gate)
    with anyio.fail_after(WAIT_SECONDS):
        await gate


async def test_opening_a_gate_whose_waiter_was_cancelled_is_harmless() -> None:
    handle = running_loop_handle()
    gate = handle.create_event()
    with anyio.CancelScope() as scope:
        handle.post(scope.cancel)
        await gate
    assert scope.cancelled_caught
    handle.set_event(gate)


# --- companions


async def test_a_companion_runs_beside_its_owner_in_a_copy_of_its_context() -> None:
    handle = running_loop_handle()
    gate = handle.create_event()
    seen: list[str] = []

    async def work() -> None:
        seen.append(setting.get())
        setting.set("the companion's")
        handle.set_event(gate)

    setting.set("the owner's")
    handle.spawn(work)
    assert seen == []
    with anyio.fail_after(WAIT_SECONDS):
        await gate
    assert seen == ["the owner's"]
    assert setting.get() == "the owner's"


@pytest.mark.parametrize("given", ["empty", "filled"])
async def test_a_companion_runs_in_the_context_that_it_is_given(given: str) -> None:
    """A-LOOP-3: that context itself, also one that holds nothing yet."""
    handle = running_loop_handle()
    over = handle.create_event()
    context = contextvars.Context()
    if given == "filled":
        context.run(setting.set, "the request's")
    seen: list[str] = []

    async def work() -> None:
        seen.append(setting.get())
        setting.set("the companion's")
        handle.set_event(over)

    setting.set("the owner's")
    companion = handle.spawn(work, context)
    with anyio.fail_after(WAIT_SECONDS):
        await over
        await next_turn()
    assert seen == ["the request's" if given == "filled" else "untouched"]
    assert context[setting] == "the companion's"
    companion.cancel()


async def test_cancelling_a_companion_ends_it_and_nobody_else() -> None:
    handle = running_loop_handle()
    started, over = handle.create_event(), handle.create_event()
    endings: list[str] = []

    async def work() -> None:
        handle.set_event(started)
        try:
            await never()
        except handle.cancelled:
            endings.append("cancelled")
            raise
        finally:
            handle.set_event(over)

    companion = handle.spawn(work)
    with anyio.fail_after(WAIT_SECONDS):
        await started
        companion.cancel()
        companion.cancel()
        await over
        await next_turn()
    assert endings == ["cancelled"]


async def test_a_companion_cancelled_before_its_first_step_gets_nowhere() -> None:
    handle = running_loop_handle()
    got: list[str] = []

    async def work() -> None:
        await checkpoint()
        got.append("past its first wait")

    handle.spawn(work).cancel()
    for _ in range(3):
        await next_turn()
    assert got == []


async def test_cancelling_a_companion_that_has_ended_is_harmless() -> None:
    handle = running_loop_handle()
    over = handle.create_event()

    async def work() -> None:
        handle.set_event(over)

    companion = handle.spawn(work)
    with anyio.fail_after(WAIT_SECONDS):
        await over
        await next_turn()
        companion.cancel()
        await next_turn()


async def test_cancelling_the_owner_leaves_the_companion_alone() -> None:
    handle = running_loop_handle()
    may_go_on, over = handle.create_event(), handle.create_event()

    async def work() -> None:
        await may_go_on
        handle.set_event(over)

    with anyio.CancelScope() as owner:
        handle.spawn(work)
        owner.cancel()
        await checkpoint()
    handle.set_event(may_go_on)
    with anyio.fail_after(WAIT_SECONDS):
        await over


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


async def test_an_interrupt_inside_a_task_that_is_being_cancelled_already() -> None:
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


# --- waits in the loop's own thread


async def test_a_wait_is_refused_in_the_loops_thread_and_in_no_other() -> None:
    """W-CALL-4."""
    handle = running_loop_handle()
    with pytest.raises(WaitInLoop, match=r"read\(\) would wait"):
        handle.refuse_wait_in_loop("read()")
    await Blocking(lambda: handle.refuse_wait_in_loop("read()")).result_in_loop()


async def test_a_thread_that_got_the_number_of_the_loops_former_one_may_wait() -> None:
    """W-CALL-4: a loop that goes on in another thread; systems give the numbers out again."""
    handle = running_loop_handle()

    def wait() -> None:
        handle.thread_id = threading.get_ident()
        handle.refuse_wait_in_loop("read()")

    await Blocking(wait).result_in_loop()


async def test_that_thread_may_wait_without_trio_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """W-CALL-4: trio is an extra."""
    handle = running_loop_handle()
    monkeypatch.setitem(sys.modules, "trio", None)  # importing it raises ImportError

    def wait() -> None:
        handle.thread_id = threading.get_ident()
        handle.refuse_wait_in_loop("read()")

    await Blocking(wait).result_in_loop()


async def test_a_greenlet_beside_the_loop_may_wait() -> None:
    """W-CALL-4: under gevent all of them see the loop run, and have numbers of their own."""
    handle = running_loop_handle()
    handle.thread_id += 1
    handle.refuse_wait_in_loop("read()")

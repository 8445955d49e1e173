"""loops.py: what the crossing needs of asyncio, uvloop and trio, held to one promise."""

import contextvars
import sys
import threading
import weakref

import anyio
import pytest
import trio
from anyio.lowlevel import checkpoint

from tests.support.interleaving import WAIT_SECONDS, Blocking, next_turn
from wsgi_asgi_bridge._crossing.loops import (
    WaitInLoop,
    running_loop,
    running_loop_handle,
)

setting: contextvars.ContextVar[str] = contextvars.ContextVar("setting", default="untouched")


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


async def test_call_later_calls_once_in_loop_and_in_no_ones_context() -> None:
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


async def test_a_cancelled_timer_calls_nothing_and_keeps_nothing() -> None:
    class Callback:
        def __call__(self) -> None:
            calls.append("called")

    handle = running_loop_handle()
    calls: list[str] = []
    callback = Callback()
    kept = weakref.ref(callback)
    before = len(anyio.get_running_tasks())
    timer = handle.call_later(0.001, callback)
    del callback
    timer.cancel()
    with anyio.fail_after(WAIT_SECONDS):
        while kept() is not None or len(anyio.get_running_tasks()) > before:
            await anyio.lowlevel.checkpoint()
    await anyio.sleep(0.002)
    assert calls == []


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


async def test_a_background_task_runs_in_a_copy_of_its_owners_context() -> None:
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


async def test_a_background_task_cancelled_before_its_start_is_nothing() -> None:
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


# --- waits in the loop's own thread


async def test_a_wait_is_refused_in_the_loops_thread_and_in_no_other() -> None:
    """W-CALL-4."""
    handle = running_loop_handle()
    with pytest.raises(WaitInLoop, match=r"read\(\) would wait"):
        handle.refuse_wait_in_loop("read()")
    await Blocking(lambda: handle.refuse_wait_in_loop("read()")).result_in_loop()


async def test_thread_that_got_number_of_the_loops_former_one_may_wait() -> None:
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

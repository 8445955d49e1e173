"""loop_binding.py: that asgiref and anyio still look where it puts things."""

import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from anyio import from_thread
from asgiref.sync import SyncToAsync, async_to_sync, sync_to_async

from tests.support.interleaving import Blocking, ended
from wsgi_asgi_bridge._crossing.loop_binding import LoopBinding
from wsgi_asgi_bridge._crossing.loops import running_loop, running_loop_handle

T = TypeVar("T")


async def where() -> tuple[object, threading.Thread]:
    """The loop and the thread that this runs in."""
    return running_loop(), threading.current_thread()


def where_sync() -> tuple[object, threading.Thread]:
    return running_loop(), threading.current_thread()


async def in_bound_thread(call: Callable[[], T]) -> T:
    """`call` in a thread that works for this loop."""
    ambient = LoopBinding(running_loop_handle())

    def bound() -> T:
        ambient.bind_thread()
        return call()

    return await Blocking(bound).result_in_loop()


async def test_anyio_from_thread_runs_in_loop_that_thread_works_for() -> None:
    """W-CALL-2: `anyio.from_thread.run` of a WSGI app, as in a thread of anyio's own."""
    here = running_loop(), threading.current_thread()
    assert await in_bound_thread(lambda: from_thread.run(where)) == here
    assert await in_bound_thread(lambda: from_thread.run_sync(where_sync)) == here


async def test_anyio_brings_errors_and_contexts_across() -> None:
    async def broken() -> None:
        raise LookupError("in the loop")

    def call() -> None:
        with pytest.raises(LookupError, match="in the loop"):
            from_thread.run(broken)

    await in_bound_thread(call)


async def test_anyio_check_cancelled_says_that_it_cannot_tell() -> None:
    """The thread works for the loop and for no task in it: RuntimeError, as in a foreign thread."""

    def call() -> None:
        with pytest.raises(RuntimeError):
            from_thread.check_cancelled()

    await in_bound_thread(call)


async def test_async_to_sync_runs_in_the_loop_of_the_thread() -> None:
    """W-CALL-2: Django's `async_to_sync` finds the server's loop; under trio it makes one of its
    own.
    """
    handle = running_loop_handle()
    loop, thread = await in_bound_thread(lambda: async_to_sync(where)())
    if handle.backend == "asyncio":
        assert (loop, thread) == (handle.loop, threading.current_thread())
    else:
        assert thread is not threading.current_thread()


async def test_asgiref_finds_its_way_back_to_the_thread() -> None:
    """Thread-sensitive code below `async_to_sync` runs in the app's own thread."""

    async def back() -> threading.Thread:
        find: Any = sync_to_async(threading.current_thread, thread_sensitive=True)
        found: threading.Thread = await find()
        return found

    def call() -> tuple[threading.Thread, threading.Thread]:
        return async_to_sync(back)(), threading.current_thread()

    found, bound = await in_bound_thread(call)
    assert found is bound


async def test_a_thread_is_bound_to_one_loop_after_the_other() -> None:
    """A pool thread serves several loops in turn: the last binding is the one that counts."""
    first = LoopBinding(running_loop_handle())
    second = LoopBinding(running_loop_handle())
    here = running_loop(), threading.current_thread()

    def call() -> list[tuple[object, threading.Thread]]:
        found = []
        for ambient in (first, second, first):
            ambient.bind_thread()
            found.append(from_thread.run(where))
        return found

    assert await Blocking(call).result_in_loop() == [here] * 3


async def test_an_unbound_thread_belongs_to_no_loop() -> None:
    """What the two packages say without `bind_thread`, so that the tests above prove something."""

    def call() -> None:
        with pytest.raises(RuntimeError):
            from_thread.run(where)
        assert not hasattr(SyncToAsync.threadlocal, "main_event_loop")

    await Blocking(call).result_in_loop()


async def test_asgiref_takes_a_loop_of_this_process_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A-CALL-2: a forked child that inherited the thread-local must not wait for that loop."""
    handle = running_loop_handle()
    ambient = LoopBinding(handle)
    pid = os.getpid()

    def call() -> object:
        ambient.bind_thread()
        return SyncToAsync.threadlocal.main_event_loop_pid

    assert await Blocking(call).result_in_loop() == (pid if handle.backend == "asyncio" else None)


def test_anyio_without_a_binding_names_no_loop() -> None:
    def call() -> bool:
        return hasattr(from_thread.threadlocals, "current_token")

    assert ended(call) is False

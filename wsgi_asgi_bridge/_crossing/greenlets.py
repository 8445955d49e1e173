"""gevent and eventlet: where one of them has patched Python, threads are greenlets of one thread.

A loop that sleeps in the kernel by itself, as uvloop's and trio's do, stops that thread and so
every greenlet. The private loop is a greenlet like the others then: asyncio's own loop, whose
`select()` is the library's and lets the others run. A loop in a real thread would be no way out:
its executors, and the workers of a bridge behind it, would be greenlets that nobody runs.

asyncio notes in the thread which loop runs there, and Python which loop ends its generators. The
notes of the loop's greenlet are put away whenever another greenlet runs. Else that one could start
no loop of its own, and would take ours for its own.
"""

import asyncio
import select
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

__all__ = ["cooperative_loop", "noted_in_this_greenlet_only", "patched_by", "unpatched_poll"]


def patched_by() -> str | None:
    """The library that has made greenlets of `threading`'s threads, if one has."""
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_object_patched("_thread", "start_new_thread"):
        return "gevent"
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return "eventlet"
    return None


def cooperative_loop() -> asyncio.AbstractEventLoop:
    """A loop of asyncio for a greenlet. Only where `patched_by()` names a library."""
    # By name. selectors.DefaultSelector is another where the library has patched threads only.
    if patched_by() == "gevent":
        selector = import_module("gevent.selectors").GeventSelector()
    else:
        selector = import_module("eventlet.green.selectors").SelectSelector()
    return asyncio.SelectorEventLoop(selector)


def noted_in_this_greenlet_only() -> Callable[[], None]:
    """From now on no other greenlet sees what asyncio notes about the running loop of this one.

    Returns what ends that.
    """
    greenlet = import_module("greenlet")
    own: object = greenlet.getcurrent()
    away: Any = None  # this greenlet's notes while another runs, the others' while this one does

    def swap() -> None:
        nonlocal away
        there = asyncio._get_running_loop(), sys.get_asyncgen_hooks()
        loop, hooks = away or (None, (None, None))
        asyncio._set_running_loop(loop)
        sys.set_asyncgen_hooks(*hooks)
        away = there

    def on_switch(event: str, args: Any) -> None:
        if event in ("switch", "throw") and (args[0] is own) is not (args[1] is own):
            swap()
        if before is not None:
            before(event, args)

    def end() -> None:
        nonlocal own
        swap()
        own = None  # whoever traces since then may go on calling on_switch
        if greenlet.gettrace() is on_switch:
            greenlet.settrace(before)

    swap()
    before = greenlet.settrace(on_switch)
    return end


def unpatched_poll() -> Any:
    """`select.poll` as Python has it: the libraries' own does not know POLLRDHUP, or is missing."""
    if (gevent := sys.modules.get("gevent.monkey")) is not None:
        return gevent.get_original("select", "poll")
    if (eventlet := sys.modules.get("eventlet.patcher")) is not None:
        return eventlet.original("select").poll
    return select.poll

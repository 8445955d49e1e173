"""gevent and eventlet: if one of them has patched Python, threads are greenlets of one thread.

A loop that waits in the kernel by itself, as uvloop's and trio's do, blocks that thread and so
every greenlet. The private loop is then a greenlet too: asyncio's own loop, whose `select()` is the
library's and lets the others run. A loop in a real thread would not do, since its executors, and
the workers of a bridge behind it, would be greenlets that never run.

asyncio records per thread which loop runs there, and Python which loop ends its generators. These
records of the loop's greenlet are swapped out while another greenlet runs. Otherwise that one could
start no loop, and would take the private loop for its own.
"""

import asyncio
import select
import socket
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

__all__ = [
    "cooperative_loop",
    "noted_in_this_greenlet_only",
    "patched_by",
    "unpatched_poll",
    "unpatched_socket_type",
]


def patched_by() -> str | None:
    """The library by which `threading`'s threads are greenlets; None if they are threads."""
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_object_patched("_thread", "start_new_thread"):
        return "gevent"
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return "eventlet"
    return None


def cooperative_loop() -> asyncio.AbstractEventLoop:
    """A loop of asyncio for a greenlet. Only if `patched_by()` names a library."""
    # By name: selectors.DefaultSelector is not patched if the library has patched threads only.
    if patched_by() == "gevent":
        selector = import_module("gevent.selectors").GeventSelector()
    else:
        selector = import_module("eventlet.green.selectors").SelectSelector()
    return asyncio.SelectorEventLoop(selector)


def noted_in_this_greenlet_only() -> Callable[[], None]:
    """Hide from other greenlets which loop asyncio runs in this one.

    Returns a callable that ends that.
    """
    greenlet = import_module("greenlet")
    own: object = greenlet.getcurrent()
    # The records of this greenlet while another runs, of the others while this one does.
    swapped_out: Any = None

    def swap() -> None:
        nonlocal swapped_out
        current = asyncio._get_running_loop(), sys.get_asyncgen_hooks()
        loop, hooks = swapped_out or (None, (None, None))
        asyncio._set_running_loop(loop)
        sys.set_asyncgen_hooks(*hooks)
        swapped_out = current

    def on_switch(event: str, args: Any) -> None:
        if event in ("switch", "throw") and (args[0] is own) is not (args[1] is own):
            swap()
        if before is not None:
            before(event, args)

    def end() -> None:
        nonlocal own
        swap()
        own = None  # a later trace function may go on calling on_switch
        if greenlet.gettrace() is on_switch:
            greenlet.settrace(before)

    swap()
    before = greenlet.settrace(on_switch)
    return end


def unpatched_poll() -> Any:
    """Python's `select.poll`: the libraries' own lacks POLLRDHUP, or is missing."""
    if (gevent := sys.modules.get("gevent.monkey")) is not None:
        return gevent.get_original("select", "poll")
    if (eventlet := sys.modules.get("eventlet.patcher")) is not None:
        return eventlet.original("select").poll
    return select.poll


def unpatched_socket_type() -> Any:
    """Python's `socket.socket`, also if a library has put its own in its place."""
    if (gevent := sys.modules.get("gevent.monkey")) is not None:
        return gevent.get_original("socket", "socket")
    return socket.socket

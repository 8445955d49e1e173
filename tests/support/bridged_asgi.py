"""What the WSGI servers of the tests import: ASGI apps behind `ASGIToWSGI`."""

import asyncio
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

from tests.support import asgi_apps
from tests.support.witness import became_true, witness_of_this_process
from wsgi_asgi_bridge import ASGIToWSGI

MASTER_SECONDS = 20.0
HELD_IN_MASTER = "held-in-master"

site = ASGIToWSGI(asgi_apps.site)
on_plain_asyncio = ASGIToWSGI(asgi_apps.site, loop_factory=asyncio.new_event_loop)
without_looks = ASGIToWSGI(asgi_apps.site, disconnect_poll=None)
brief = ASGIToWSGI(asgi_apps.site, shutdown_timeout=0.5)
waits_for_background = ASGIToWSGI(asgi_apps.site, background_wait=20.0)
on_trio = ASGIToWSGI(asgi_apps.hello, backend="trio")
site_that_fails_to_start = ASGIToWSGI(asgi_apps.site_that_fails_to_start, lifespan="on")


def idle_at_the_fork() -> ASGIToWSGI:
    """A bridge that has answered in this process, whose every thread has come to rest.

    A server that loads its app before it forks leaves its workers a bridge in this state.
    """
    bridge = ASGIToWSGI(asgi_apps.site)
    assert body_of(bridge, "/hello") == b"Hello, world!"
    assert became_true(lambda: set(_waits_of_other_threads()) == {"epoll"}, MASTER_SECONDS)
    return bridge


def busy_at_the_fork() -> ASGIToWSGI:
    """The same with one more request still in flight."""
    bridge = idle_at_the_fork()
    threading.Thread(target=_hold_a_request, args=[bridge], daemon=True).start()
    witness_of_this_process().wait_for(f"{HELD_IN_MASTER} waits", MASTER_SECONDS)
    return bridge


def body_of(bridge: ASGIToWSGI, path: str, query: str = "") -> bytes:
    """The body that `bridge` answers to a GET, without any server."""
    environ: dict[str, Any] = {"PATH_INFO": path, "QUERY_STRING": query}
    setup_testing_defaults(environ)
    parts: Iterable[bytes] = bridge(
        environ, lambda status, headers, exc_info=None: lambda part: None
    )
    try:
        return b"".join(parts)
    finally:
        if hasattr(parts, "close"):
            parts.close()


def _waits_of_other_threads() -> Iterator[str]:
    """For each other thread "epoll" where it waits in the selector of a loop, else what Linux says.

    A thread that waits there holds no lock of the interpreter, and will not until it is woken.
    """
    for thread in os.listdir("/proc/self/task"):
        if int(thread) != threading.get_native_id():
            where = Path(f"/proc/self/task/{thread}/wchan").read_text()
            yield "epoll" if "ep_poll" in where or "epoll" in where else where


def _hold_a_request(bridge: ASGIToWSGI) -> None:
    answer = body_of(bridge, "/waits_at_gate", f"name={HELD_IN_MASTER}")
    witness_of_this_process().note(f"{HELD_IN_MASTER} {answer.decode()}")

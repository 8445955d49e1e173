"""How a bridge ends where nobody waits for it in peace: in a signal's handler, at Python's exit."""

import asyncio
import threading
from typing import Any

import pytest

from tests.support.fake_wsgi_server import BACKENDS, bridged, respond, run_script, serve

INTERRUPTED = r"""
import asyncio, signal, threading
from tests.support.fake_wsgi_server import BACKENDS, respond
from wsgi_asgi_bridge import ASGIToWSGI, BridgeClosed
from wsgi_asgi_bridge._crossing.at_exit import closed_at_exit

class Interrupted:
    '''A lock whose holder is interrupted by a signal, once, before it goes on.'''

    def __init__(self, lock):
        self._lock, self._armed = lock, True
        self.release = lock.release

    def acquire(self, *how):
        taken = self._lock.acquire(*how)
        if taken and self._armed and threading.current_thread() is threading.main_thread():
            self._armed = False
            signal.raise_signal(signal.SIGTERM)
        return taken

    def __enter__(self):
        self.acquire()

    def __exit__(self, *_):
        self.release()

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        print("startup", end=" ", flush=True)
        if wait_in_startup:
            wait_in_startup.pop()
            threading.Thread(target=interrupt).start()
            await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("shutdown", end=" ", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
    else:
        await respond(send, b"ok")

def interrupt():
    # Python does not see a signal that comes just before the main thread begins to wait.
    handled.clear()
    while not handled.is_set():
        signal.pthread_kill(main, signal.SIGTERM)
        handled.wait(0.1)

def close(*_):
    handled.set()
    bridge.close()
    print("closed", end=" ", flush=True)

main = threading.get_ident()
handled = threading.Event()
wait_in_startup = []
signal.signal(signal.SIGTERM, close)

def in_the_bridges_lock():
    bridge._lock = Interrupted(bridge._lock)
    bridge.startup()

def in_the_loops_start():
    def interrupts():
        signal.pthread_kill(main, signal.SIGTERM)
        return asyncio.new_event_loop()

    object.__setattr__(bridge._settings, "loop_factory", interrupts)
    must_be_closed(bridge.startup)
    object.__setattr__(bridge._settings, "loop_factory", None)
    bridge.startup()

def must_be_closed(start):
    try:
        start()
    except BridgeClosed as exc:
        assert "closed while it was starting" in str(exc), exc
    else:
        raise AssertionError("the start goes on")

def in_a_lifespans_startup():
    wait_in_startup.append(True)
    must_be_closed(bridge.startup)
    bridge.startup()

def in_a_post():
    bridge.startup()
    queue = bridge._runtime.handle.post.__self__
    queue._pending = Interrupted(queue._pending)
    queue.post(lambda: print("posted", end=" ", flush=True))

def in_close():
    bridge.startup()
    bridge._runtime._closing = Interrupted(bridge._runtime._closing)
    bridge.close()

def in_the_list_of_what_ends_at_exit():
    bridge.startup()
    closed_at_exit._lock = Interrupted(closed_at_exit._lock)
    ASGIToWSGI(app, lifespan="off").startup()

def in_the_spare_thread():
    bridge.startup()
    executor = bridge._runtime.executor
    executor._lock = Interrupted(executor._lock)
    executor.run_in_fallback(lambda: None)

for backend, where in RUNS:
    print(f"\n{backend} {where}:", end=" ", flush=True)
    bridge = ASGIToWSGI(app, shutdown_timeout=60.0, **BACKENDS[backend])
    globals()[where]()
    bridge.close()
"""
ENDED = "startup shutdown closed"
IN_A_POST = "startup posted shutdown closed"
INTERRUPTIONS = {
    ("uvloop", "in_the_bridges_lock"): "closed startup shutdown",
    ("uvloop", "in_the_loops_start"): "closed startup shutdown",
    ("uvloop", "in_a_lifespans_startup"): "startup closed startup shutdown",
    ("uvloop", "in_a_post"): IN_A_POST,
    ("asyncio", "in_a_post"): IN_A_POST,
    ("trio", "in_a_post"): IN_A_POST,
    ("uvloop", "in_close"): ENDED,
    ("uvloop", "in_the_list_of_what_ends_at_exit"): ENDED,
    ("uvloop", "in_the_spare_thread"): ENDED,
}


def test_close_in_a_signals_handler() -> None:
    """A-LOOP-2: wherever it has interrupted this thread, it neither waits for itself nor long."""
    output = run_script(f"RUNS = {list(INTERRUPTIONS)}\n{INTERRUPTED}", timeout=30)
    seen = [line.split(":") for line in output.split("\n") if line]
    expected = [[f"{b} {where}", f" {what}"] for (b, where), what in INTERRUPTIONS.items()]
    assert [[where, what.rstrip()] for where, what in seen] == expected


AT_EXIT = """
import asyncio, logging, sys
from tests.support.fake_wsgi_server import BACKENDS, respond, serve
from wsgi_asgi_bridge import ASGIToWSGI

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("shutdown", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
    else:
        await asyncio.to_thread(print, "in a thread", flush=True)
        await respond(send, b"ok")

logging.basicConfig(stream=sys.stdout, level=logging.INFO)
bridge = ASGIToWSGI(app, **BACKENDS[%r])
assert serve(bridge).body == b"ok"
"""


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "trio"])
def test_exit_of_a_process_whose_app_has_used_threads(backend: str) -> None:
    """A-LOOP-2: nothing is logged, also where Python starts no thread any more (3.12)."""
    assert run_script(AT_EXIT % backend) == "in a thread\nshutdown\n"


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "trio"])
def test_end_of_a_loop_where_no_thread_starts_any_more(
    backend: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A-LOOP-2: as at the exit of Python 3.12, whatever Python this is."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.to_thread(str)
        await respond(send, b"ok")

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with bridged(app, BACKENDS[backend], lifespan="off") as bridge:
        assert serve(bridge).body == b"ok"
        with monkeypatch.context() as at_exit:
            at_exit.setattr(threading.Thread, "start", refuse)
            bridge.close()
    assert [record.message for record in caplog.records if record.levelname == "CRITICAL"] == []

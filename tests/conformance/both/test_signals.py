"""W-STAT-1: `stats()` and `close()` of both bridges in a signal's handler, which may interrupt any
line of the main thread, also one that holds a lock.

A tracing function stands for the handler: it runs between two instructions of the main thread, as
handlers do, but between all of them. Each script is a process of its own, since a deadlock is what
it would end in.
"""

import pytest

from tests.support.fake_wsgi_server import run_script

INTERRUPTED = """
import sys, threading, wsgi_asgi_bridge, pathlib
PACKAGE = str(pathlib.Path(wsgi_asgi_bridge.__file__).parent)

def interrupt_with(handler):
    "Call handler(number) between each two instructions of this thread that are the bridge's own."
    number = 0
    def trace(frame, event, arg):
        nonlocal number
        if not frame.f_code.co_filename.startswith((PACKAGE, threading.__file__)):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            number += 1
            handler(number)
        return trace
    # Python 3.12 reports opcodes only if a frame asked for them before the tracing began.
    sys._getframe().f_trace_opcodes = True
    sys.settrace(trace)

def app(environ, start_response):
    start_response("200 OK", [])
    return [b"hello"]

async def asgi_app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})
"""

W_REQUESTS = """
async def request(bridge):
    sent = []
    async def receive():
        return {"type": "http.request", "body": b"abc", "more_body": False}
    async def send(message):
        sent.append(message)
    headers = [(b"content-length", b"3")]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    await bridge(scope, receive, send)
    assert sent[-1]["body"] == b"hello"
"""

W_STATS = """
import asyncio
bridge = wsgi_asgi_bridge.WSGIToASGI(app, workers=2)
seen = []

def handler(number):
    seen.append(bridge.stats())

async def main():
    for _ in range(2):
        await asyncio.gather(*(request(bridge) for _ in range(4)))
    await bridge.aclose()

interrupt_with(handler)
asyncio.run(main())
bridge.close()
sys.settrace(None)
counts = [stats.completed for stats in seen]
assert counts == sorted(counts), "a counter went back"
assert counts[-1] == 8
print(len(seen) > 2000)
"""

W_CLOSE = """
import asyncio
runs = 0
interrupted = True
while interrupted:
    bridge = wsgi_asgi_bridge.WSGIToASGI(app, shutdown_timeout=20)
    asyncio.run(request(bridge))
    runs += 1
    interrupted = False

    def handler(number):
        global interrupted
        if number == runs:
            interrupted = True
            bridge.close()

    interrupt_with(handler)
    bridge.close()
    sys.settrace(None)
    assert bridge.stats().threads == 0
    asyncio.run(request(bridge))
    bridge.close()
print(runs > 20)
"""

A_STATS = """
bridge = wsgi_asgi_bridge.ASGIToWSGI(asgi_app)
seen = []
interrupt_with(lambda number: seen.append(bridge.stats()))
for _ in range(3):
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "wsgi.url_scheme": "http"}
    assert b"".join(bridge(environ, lambda status, headers: None)) == b"hello"
bridge.close()
sys.settrace(None)
print(len(seen) > 1000)
"""

A_CLOSE = """
runs = 0
interrupted = True
while interrupted:
    bridge = wsgi_asgi_bridge.ASGIToWSGI(asgi_app, shutdown_timeout=20)
    bridge.startup()
    runs += 1
    interrupted = False

    def handler(number):
        global interrupted
        if number == 20 * runs:
            interrupted = True
            bridge.close()

    interrupt_with(handler)
    bridge.close()
    sys.settrace(None)
    assert not bridge.stats().running
print(runs > 10)
"""


@pytest.mark.parametrize(
    "script",
    [W_REQUESTS + W_STATS, W_REQUESTS + W_CLOSE, A_STATS, A_CLOSE],
    ids=["W stats", "W close", "A stats", "A close"],
)
def test_a_handler_may_interrupt_any_line(script: str) -> None:
    assert run_script(INTERRUPTED + script, timeout=40.0).split() == ["True"]

"""What a bridge leaves behind when it is collected, and how it ends at the exit.

W-LIFE-2, WS-W-5.
"""

import pytest

from tests.support.fake_wsgi_server import run_script

REQUESTS = """
import asyncio, atexit, gc, threading, time, weakref
from wsgi_asgi_bridge import WSGIToASGI
from wsgi_asgi_bridge._crossing.at_exit import closed_at_exit

def app(environ, start_response):
    start_response("200 OK", [])
    return [b"hello"]

async def request(bridge):
    sent = []
    async def receive():
        await asyncio.Event().wait()
    async def send(message):
        sent.append(message)
    await bridge({"type": "http", "path": "/", "headers": []}, receive, send)
    return sent[0]["status"]
"""

COLLECTED = """
def one_bridge(closes):
    bridge = WSGIToASGI(app)
    assert asyncio.run(request(bridge)) == 200
    if closes:
        bridge.close()
    return weakref.ref(bridge)

one_bridge(closes=True)
callbacks = atexit._ncallbacks()
bridges = [one_bridge(closes) for closes in (True, False) * 10]
deadline = time.monotonic() + 10
while any(bridge() for bridge in bridges) and time.monotonic() < deadline:
    gc.collect()  # again while the last worker lets go of its request
print(atexit._ncallbacks() - callbacks, len(closed_at_exit._weakly_open), len(closed_at_exit._open))
print({bridge() for bridge in bridges})
print(len({WSGIToASGI(app) for _ in range(10)}), atexit._ncallbacks() - callbacks)
"""

DRAINED = """
begun = threading.Event()

def slow_app(environ, start_response):
    begun.set()
    while not bridge._pool._closing:
        time.sleep(0.001)
    print("in the app at the exit", flush=True)
    return app(environ, start_response)

async def serve():
    print(await request(bridge), flush=True)
    drained.set()

bridge = WSGIToASGI(slow_app)
drained = threading.Event()
atexit.register(drained.wait, 10)  # before the bridge's own, so after it
threading.Thread(target=asyncio.run, args=[serve()], daemon=True).start()
begun.wait()
"""

ABANDONED = """
def reads(environ, start_response):
    print("the app read", environ["wsgi.websocket"].receive(), flush=True)
    return []

async def receive():
    if asyncio.current_task() is task:
        return {"type": "websocket.connect"}
    await asyncio.Event().wait()

async def send(message):
    print(message["type"], flush=True)
    loop.stop()

loop = asyncio.new_event_loop()
bridge = WSGIToASGI(reads, shutdown_timeout=3600)
task = loop.create_task(bridge({"type": "websocket", "path": "/", "headers": []}, receive, send))
loop.run_forever()
"""
"""As Daphne at its end: a loop that is stopped with its tasks in it, and not closed."""

SERVES_ON = """
async def serve():
    print(await request(bridge), flush=True)
    pool = bridge._pool
    first.set()
    threading.main_thread().join()
    print(await request(bridge), bridge._pool is pool, flush=True)

bridge = WSGIToASGI(app)
first = threading.Event()
threading.Thread(target=asyncio.run, args=[serve()]).start()
first.wait()
"""


@pytest.mark.parametrize(
    ("script", "output"),
    [
        pytest.param(COLLECTED, "0 0 0\n{None}\n10 0\n", id="collected bridges"),
        pytest.param(DRAINED, "in the app at the exit\n200\n", id="a request at the exit"),
        pytest.param(
            ABANDONED, "websocket.accept\nthe app read None\n", id="a loop that was stopped"
        ),
        pytest.param(SERVES_ON, "200\n200 True\n", id="a server that outlives the main thread"),
    ],
)
def test_what_is_left_of_a_bridge(script: str, output: str) -> None:
    assert run_script(REQUESTS + script) == output

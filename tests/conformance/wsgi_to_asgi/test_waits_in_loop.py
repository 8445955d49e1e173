"""W-CALL-4: a call that would have to wait in the loop's own thread is refused at once."""

import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest

from tests.support.fake_asgi_server import Client, Gate, calling, http_scope, post_scope, serving

BUFFER = 1000
PIECE = b"x" * 400

READS: dict[str, Callable[[Any], Any]] = {
    "read": lambda body: body.read(),
    "read-n": lambda body: body.read(5000),
    "readline": lambda body: body.readline(),
    "readlines": lambda body: body.readlines(),
    "readinto": lambda body: body.readinto(bytearray(5000)),
    "iteration": list,
}


class Inside:
    """An app whose call the test holds open, to act in the loop meanwhile."""

    def __init__(self) -> None:
        self.called, self.go_on = Gate(), Gate()
        self.body: Any = None
        self.write: Any = None
        self.last: Callable[[], None] = lambda: None

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.body = environ["wsgi.input"]
        self.write = start_response("200 OK", [("Content-Type", "text/plain")])
        self.called.open()
        self.go_on.wait_in_thread()
        self.last()
        return [b"end"]


@pytest.mark.parametrize("read", READS.values(), ids=READS)
async def test_a_read_in_a_task_of_its_own_is_refused(read: Callable[[Any], Any]) -> None:
    """W-CALL-4: and says what to do instead. The server goes on."""
    app = Inside()
    async with serving(app, request_buffer=BUFFER) as bridge:
        client = Client(post_scope(5000), [PIECE], body_ends=False)
        async with calling(bridge, client):
            await app.called.wait()
            with pytest.raises(RuntimeError, match=r"read\(\) would wait .*asyncio\.to_thread"):
                read(app.body)
            app.go_on.open()
            client.leave()


async def test_what_has_arrived_is_read_in_the_loop() -> None:
    """W-CALL-4: nothing is refused that need not wait."""
    app = Inside()
    async with serving(app, request_buffer=BUFFER) as bridge:
        client = Client(post_scope(1200), [PIECE, PIECE], body_ends=False)
        async with calling(bridge, client):
            await app.called.wait()
            await client.until(lambda client: client.fed_bytes_taken == 800)
            assert app.body.read(300) == b"x" * 300
            assert app.body.read(0) == b""
            assert app.body.read1(100) == b"x" * 100
            client.feed(PIECE, last=True)
            await client.until(lambda client: client.fed_bytes_taken == 1200)
            for _ in range(3):  # the part has been received, and is in the channel a step later
                await anyio.lowlevel.checkpoint()
            assert app.body.read() == b"x" * 800
            assert app.body.read() == b""
            app.go_on.open()
    assert client.complete


async def test_after_a_refusal_no_read_follows_a_gap() -> None:
    """W-CALL-4, W-IN-3: what the refused read had of the body is lost with it."""
    app = Inside()
    refused: list[str] = []

    def read_again() -> None:
        with pytest.raises(RuntimeError, match=r"read\(\) would wait"):
            app.body.read(1)
        refused.append("in the thread")

    app.last = read_again
    async with serving(app, request_buffer=BUFFER) as bridge:
        client = Client(post_scope(5000), [PIECE], body_ends=False)
        async with calling(bridge, client):
            await app.called.wait()
            await client.until(lambda client: client.fed_bytes_taken == 400)
            with pytest.raises(RuntimeError):
                app.body.read(1000)
            client.feed(b"y" * 4600, last=True)
            app.go_on.open()
    assert refused == ["in the thread"]


async def test_a_read_is_refused_while_the_body_is_brought_in() -> None:
    """W-CALL-4: by the app's thread, which holds the reader meanwhile."""
    app = Inside()
    found: list[bytes] = []
    app.last = lambda: found.append(anyio.from_thread.run_sync(app.body.read))
    async with serving(app, request_buffer=BUFFER) as bridge:
        client = Client(post_scope(1200), body_ends=False)
        async with calling(bridge, client):
            await app.called.wait()
            app.go_on.open()
            with anyio.fail_after(5):
                # A thread that sleeps for its client does not count.
                while bridge.stats().streaming < 1:  # noqa: ASYNC110
                    await anyio.sleep(0.002)
            with pytest.raises(RuntimeError, match=r"read\(\) would wait"):
                app.body.read(1)
            client.feed(PIECE * 3, last=True)
    assert found == [PIECE * 3]


async def test_a_write_that_would_wait_is_refused() -> None:
    """W-CALL-4, W-FLOW-1: what fits the buffer is taken, in any thread."""
    app = Inside()
    async with serving(app, response_buffer=BUFFER) as bridge:
        client = Client(http_scope(), reads=0)
        async with calling(bridge, client):
            await app.called.wait()
            app.write(PIECE)
            app.write(PIECE)
            with pytest.raises(RuntimeError, match=r"write\(\) would wait .*asyncio\.to_thread"):
                app.write(PIECE)
            written = Gate()

            def write_in_thread() -> None:
                app.write(b"y")
                app.write(PIECE)
                written.open()

            client.read_on()
            await anyio.to_thread.run_sync(write_in_thread)
            assert written
            app.go_on.open()
    assert client.body == PIECE + PIECE + b"y" + PIECE + b"end"


async def test_the_loop_of_another_thread_may_wait() -> None:
    """W-CALL-4: only the loop that serves the request is spared: `async_to_sync` under trio has one
    of its own, and so may a thread of the app's.
    """
    app = Inside()
    reading = Gate()
    found: list[bytes] = []

    async def read() -> None:
        reading.open()
        found.append(app.body.read())

    async with serving(app, request_buffer=BUFFER) as bridge:
        client = Client(post_scope(1200), body_ends=False)
        async with calling(bridge, client):
            await app.called.wait()
            thread = threading.Thread(target=anyio.run, args=(read,))
            thread.start()
            await reading.wait()
            client.feed(PIECE * 3, last=True)
            await anyio.to_thread.run_sync(thread.join, 10)
            app.go_on.open()
    assert found == [PIECE * 3]

"""What makes a request cheap, as counts: our own Python calls, the objects that a waiting request
keeps, and large bodies that are not copied. No seconds.

The bounds stand above what was counted when they were set, by a tenth for calls and by a third for
objects, of which the environment has its share. Whoever has to raise one says in the change what
the request got for it.
"""

import asyncio
import gc
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import pytest

import wsgi_asgi_bridge
from tests.support.fake_asgi_server import (
    Client,
    Gate,
    answered,
    app_returning,
    calling,
    http_scope,
    serving,
    settle,
)
from tests.support.fake_wsgi_server import (
    GeneratedInput,
    InThread,
    bridged,
    environ_for,
    finish,
    hello,
    on_every_backend,
    respond,
    start,
    stream,
    upload_environ,
)
from wsgi_asgi_bridge._crossing.calling_thread import current_calling_thread

Environ = dict[str, Any]
PACKAGE = str(Path(wsgi_asgi_bridge.__file__).parent)
REQUESTS = 50
LARGE = 65_536


class OwnCalls:
    """Counts the Python functions of this package that are entered, in every thread that begins
    meanwhile and in this one.
    """

    def __init__(self) -> None:
        self.names: Counter[str] = Counter()
        self.requests: list[int] = []
        self.on = False

    def __call__(self, frame: Any, event: str, _: Any) -> None:
        if event == "call" and self.on and frame.f_code.co_filename.startswith(PACKAGE):
            self.names[frame.f_code.co_qualname] += 1

    @contextmanager
    def installed(self) -> Iterator["OwnCalls"]:
        threading.setprofile(self)
        sys.setprofile(self)
        try:
            yield self
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    @contextmanager
    def one_request(self) -> Iterator[None]:
        before = self.names.total()
        yield
        self.requests.append(self.names.total() - before)

    def a_request(self) -> float:
        """The median, since what a timer does on a busy machine falls into some of the requests."""
        assert len(self.requests) == REQUESTS
        return median(self.requests)


# --- calls


@pytest.mark.parametrize("body", [[b"hello"], (b"a", b"b")], ids=["list", "tuple"])
async def test_w_small_request_takes_few_calls(body: Any) -> None:
    """Structure: our own Python calls for one small answer, loop and worker together; a coroutine
    that goes on after a wait counts again.
    """
    with OwnCalls().installed() as calls:
        async with serving(app_returning(lambda environ: body)) as bridge:
            await answered(bridge)
            calls.on = True
            for _ in range(REQUESTS):
                with calls.one_request():
                    await answered(bridge, Client(http_scope(headers=[(b"accept", b"*/*")])))
            calls.on = False
    assert calls.a_request() <= 63, calls.names.most_common()


@on_every_backend
def test_a_small_request_takes_few_calls(backend: Any) -> None:
    """Structure: our own Python calls for one small answer, caller and loop together."""
    calls = OwnCalls()

    def request() -> None:
        sys.setprofile(calls)
        with bridged(hello, backend) as bridge:
            b"".join(bridge(environ_for(), lambda *_: lambda data: None))
            calls.on = True
            for _ in range(REQUESTS):
                with calls.one_request():
                    b"".join(bridge(environ_for(), lambda *_: lambda data: None))
            calls.on = False
        sys.setprofile(None)

    with calls.installed():
        InThread(request, "the requests").result()
    assert calls.a_request() <= 50, calls.names.most_common()


@on_every_backend
def test_a_part_of_an_upload_crosses_once_each_way(backend: Any) -> None:
    """Structure: one job for the calling thread and one post to the loop, whatever the loop does
    before it asks for the next part.
    """
    parts, posts = 50, 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal posts
        caller = current_calling_thread.get()
        post = caller.loop.post

        def counting(callback: Any) -> bool:
            nonlocal posts
            posts += 1
            return post(callback)

        if scope["path"] == "/upload":
            caller.loop.post = counting
            while (await receive())["more_body"]:
                pass
            caller.loop.post = post
        await respond(send)

    with bridged(app, backend, request_buffer=LARGE) as bridge:
        body = GeneratedInput(parts * LARGE)
        environ = upload_environ(body, length=body.size) | {"PATH_INFO": "/upload"}
        b"".join(bridge(environ, lambda *_: lambda data: None))
    assert (posts, len(body.reads)) == (parts, parts)


# --- objects


async def test_w_waiting_request_keeps_few_objects(anyio_backend_name: str) -> None:
    """Structure: what the collector has to look at for each request that waits for a thread; the
    test's own client and task are among it.
    """
    gate = Gate()
    if anyio_backend_name == "asyncio":
        asyncio.get_running_loop().set_debug(False)  # it would keep a traceback for each task

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        gate.wait_in_thread()
        start_response("200 OK", [])
        return [b"hello"]

    clients = [Client() for _ in range(REQUESTS)]
    async with serving(app, workers=1) as bridge, calling(bridge, *clients[:1]):
        await settle()
        gc.collect()
        before = len(gc.get_objects())
        async with calling(bridge, *clients[1:]):
            await settle()
            gc.collect()
            kept = len(gc.get_objects()) - before
            gate.open()
    assert kept / (REQUESTS - 1) <= (115 if anyio_backend_name == "trio" else 80)


def test_a_response_in_flight_keeps_no_dict_of_its_own() -> None:
    """Structure: where instances do not share the names of their attributes any more, a dict each
    costs more than the rest of making them.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"hello")
        await receive()  # until the client is gone

    with bridged(app) as bridge:
        blocks: Any = bridge(environ_for(), lambda *_: lambda data: None)
        assert not hasattr(blocks, "__dict__")
        blocks.close()


# --- copies


async def test_w_large_chunk_reaches_the_server_as_the_very_object() -> None:
    """Structure: a chunk of 64 KiB is not copied on its way out, streamed or given whole."""
    chunks = [bytes([number]) * LARGE for number in range(4)]
    for give in (iter, list, tuple):
        client = await answered_by(app_returning(lambda environ, give=give: give(chunks)))
        bodies = [message["body"] for message in client.messages if message.get("body")]
        assert [id(body) for body in bodies] == [id(chunk) for chunk in chunks]


async def answered_by(app: Any) -> Client:
    async with serving(app) as bridge:
        return await answered(bridge)


def test_a_large_part_reaches_the_server_as_the_very_object() -> None:
    """Structure: a part of 64 KiB is not copied on its way out."""
    parts = [bytes([number]) * LARGE for number in range(4)]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        for part in parts:
            await stream(send, part)
        await finish(send)

    with bridged(app) as bridge:
        blocks = list(bridge(environ_for(), lambda *_: lambda data: None))
    assert [id(block) for block in blocks] == [id(part) for part in parts]


def test_a_large_part_reaches_the_app_as_the_very_object() -> None:
    """Structure: what `wsgi.input` gave is not copied on its way in, read whole or in parts."""
    given: list[bytes] = []
    received: list[bytes] = []

    class Input:
        def read(self, size: int) -> bytes:
            given.append(bytes([len(given)]) * size)
            return given[-1]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            received.append(message["body"])
            more = message["more_body"]
        await respond(send)

    for length in (LARGE, 4 * LARGE):
        with bridged(app, request_buffer=LARGE) as bridge:
            b"".join(bridge(upload_environ(Input(), length=length), lambda *_: lambda data: None))
    assert len(given) == 5
    assert [id(part) for part in received] == [id(part) for part in given]

"""ASGI apps that note how they ended, and the check that nothing of them is left."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

from tests.support.fake_wsgi_server import (
    bridged,
    environ_for,
    must_become,
    open_files,
    respond,
    serve,
)
from wsgi_asgi_bridge import ASGIToWSGI


class Watched:
    """An app that notes how each request ended, and answers "/tasks" with the tasks of its loop."""

    def __init__(self, body: Any) -> None:
        self.body = body
        self.ends: list[BaseException | None] = []
        self.ended = threading.Event()
        self.inside = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/tasks":
            await respond(send, b"%d" % len(anyio.get_running_tasks()))
        elif scope["path"] == "/turn":
            await respond(send, b"turned")
        else:
            await self.run(receive, send)

    async def run(self, receive: Any, send: Any) -> None:
        try:
            await self.body(self, receive, send)
            self.ends.append(None)
        except BaseException as error:
            self.ends.append(error)
            raise
        finally:
            self.ended.set()


def running_tasks(bridge: ASGIToWSGI) -> int:
    return int(serve(bridge, environ_for("/tasks")).body)


@contextmanager
def nothing_left(app: Watched, backend: dict[str, Any], **options: Any) -> Iterator[ASGIToWSGI]:
    """A bridge that leaves no task after the body, and no thread, socket or file after its
    `close()`.
    """
    with bridged(app, backend) as first:  # what a first use of the loop opens for good is open now
        running_tasks(first)
    gc.collect()
    files, threads = open_files(), set(threading.enumerate())
    with bridged(app, backend, **options) as bridge:
        tasks = running_tasks(bridge)
        yield bridge
        if bridge.stats().running:
            must_become(lambda: bridge.stats().in_flight == 0, "the end of every exchange")
            must_become(lambda: running_tasks(bridge) == tasks, "the end of every task")
    must_become(
        lambda: not [t for t in set(threading.enumerate()) - threads if "driver" not in t.name],
        "the end of every thread",
    )
    gc.collect()
    assert open_files() == files

"""A WSGI app's event stream through both bridges, on a WSGI server: no thread of that server waits
for it (R-1), only a worker of the pool.
"""

import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from tests.support.event_apps import EVENT, becomes_released
from tests.support.fake_wsgi_server import (
    BACKENDS,
    close_bridge,
    must_become,
    must_happen,
    on_every_backend,
)
from tests.support.served_connection import SERVERS, served
from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI

user: ContextVar[str] = ContextVar("user", default="nobody")


class Site:
    """A WSGI app whose stream goes on when the test says so."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.closed = threading.Event()

    def __call__(self, environ: Any, start_response: Any) -> "Site":
        user.set("the app's")
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return self

    def __iter__(self) -> Iterator[bytes]:
        yield EVENT
        must_happen(self.goes_on, "the test's word")
        yield EVENT

    def close(self) -> None:
        self.closed.set()


@on_every_backend
@pytest.mark.parametrize("server", SERVERS)
def test_a_wsgi_apps_stream(backend: Any, server: str) -> None:
    """R-1, R-4, W-OUT-5: the stream is whole, and its `close()` runs."""
    site = Site()
    bridge = ASGIToWSGI(WSGIToASGI(site), **backend)
    with bridge, served(bridge, server) as connection:
        connection.ask()
        connection.thread_is_free()
        becomes_released(bridge)
        connection.read_head()
        assert connection.read_exactly(len(EVENT)) == EVENT
        site.goes_on.set()
        assert connection.read_rest() == EVENT
        must_happen(site.closed, "close()")
        connection.close()
        must_become(lambda: bridge.stats().in_flight == 0, "the end of the request")
        assert bridge.stats().failed == 0


def test_a_client_that_leaves() -> None:
    """R-4, W-FLOW-3: the worker is free at the app's next step, and `close()` runs."""
    site = Site()
    bridge = ASGIToWSGI(WSGIToASGI(site))
    with bridge, served(bridge) as connection:
        connection.ask()
        connection.read_head()
        connection.close()
        must_become(lambda: bridge.stats().disconnected == 1, "the disconnect")
        site.goes_on.set()
        must_happen(site.closed, "close()")


def test_the_bridge_is_closed() -> None:
    """R-5"""
    site = Site()
    bridge = ASGIToWSGI(WSGIToASGI(site), **BACKENDS["uvloop"])
    bridge.startup()
    with served(bridge) as connection:
        connection.ask()
        connection.read_head()
        site.goes_on.set()
        close_bridge(bridge)
        must_happen(site.closed, "close()")

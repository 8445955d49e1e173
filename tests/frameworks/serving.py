"""Clients of an app in this process, and real servers in a thread of it.

All in one process, so that test and app can share gates.
"""

import contextlib
import logging
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import uvicorn
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.frameworks.gates import WAIT_SECONDS
from tests.support.in_process import ASGITransport
from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI

HOST = "127.0.0.1"
SITE = "http://site"


@contextlib.asynccontextmanager
async def client_in_process(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a WSGI app behind a bridge of its own, in the running event loop."""
    bridge = WSGIToASGI(app)
    transport = ASGITransport(bridge)
    try:
        async with httpx.AsyncClient(transport=transport, base_url=SITE) as client:
            yield client
    finally:
        await bridge.aclose()


@contextlib.contextmanager
def caller_in_process(app: Any, **options: Any) -> Iterator[httpx.Client]:
    """A client of an ASGI app behind a bridge of its own; this thread is the WSGI server's."""
    with (
        ASGIToWSGI(app, **options) as bridge,
        httpx.Client(transport=httpx.WSGITransport(bridge), base_url=SITE) as client,
    ):
        yield client


@contextlib.contextmanager
def served_by_uvicorn(asgi_app: Any, **options: Any) -> Iterator[str]:
    """The base URL of `asgi_app` on uvicorn; its lifespan is over when the block is left."""
    settings: dict[str, Any] = {"log_config": None, "timeout_graceful_shutdown": 5, **options}
    server = uvicorn.Server(uvicorn.Config(asgi_app, **settings))
    # Bound and listening before uvicorn starts: a client that connects early waits in the backlog.
    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), name="uvicorn")
        thread.start()
        try:
            yield f"http://{HOST}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive(), "uvicorn did not stop"


class QuietHandler(WSGIRequestHandler):
    """No access log in the tests' output."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


@contextlib.contextmanager
def served_by_werkzeug(wsgi_app: Any) -> Iterator[str]:
    """The base URL of `wsgi_app` on werkzeug's server, one thread a connection."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server(HOST, 0, wsgi_app, threaded=True, request_handler=QuietHandler)
    # Joined when the server closes, so that no request outlives its test.
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="werkzeug")
    thread.start()
    try:
        yield f"http://{HOST}:{server.port}"
    finally:
        server.shutdown()
        thread.join(WAIT_SECONDS)
        server.server_close()
        assert not thread.is_alive(), "werkzeug's server did not stop"

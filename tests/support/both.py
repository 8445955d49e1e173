"""Apps behind both bridges in one process, and what the tests of it need of either driver."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio.to_thread
import uvloop

from tests.support.fake_asgi_server import serving
from tests.support.fake_wsgi_server import Backend, bridged, close_bridge
from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI

Middle = Callable[[Any], Any]
"""A middleware between the bridges: takes what the inner one made, gives what the outer gets."""


def plainly(app: Any) -> Any:
    """No middleware."""
    return app


@contextmanager
def wsgi_behind_both(
    app: Any, backend: Backend | None = None, *, middle: Middle = plainly, **options: Any
) -> Iterator[ASGIToWSGI]:
    """`ASGIToWSGI(middle(WSGIToASGI(app)))`; `options` are the inner bridge's."""
    inner = WSGIToASGI(app, **{"shutdown_timeout": 5.0, **options})
    try:
        with bridged(middle(inner), backend, disconnect_poll=0.01) as outer:
            yield outer
    finally:
        inner.close()


@asynccontextmanager
async def asgi_behind_both(
    app: Any, backend: Backend | None = None, *, middle: Middle = plainly, **options: Any
) -> AsyncIterator[WSGIToASGI]:
    """`WSGIToASGI(middle(ASGIToWSGI(app)))`; `options` are the outer bridge's."""
    quick = {"lifespan": "off", "shutdown_timeout": 5.0, "disconnect_poll": 0.01}
    inner = ASGIToWSGI(app, **quick, **(backend or {}))
    try:
        async with serving(middle(inner), **options) as outer:
            yield outer
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(close_bridge, inner)


def like(anyio_backend: Any) -> Backend:
    """The private loop of the kind that the test runs on."""
    name, options = anyio_backend
    if name == "trio":
        return {"backend": "trio"}
    if options["use_uvloop"]:
        return {"loop_factory": uvloop.new_event_loop}
    return {"loop_factory": asyncio.SelectorEventLoop}

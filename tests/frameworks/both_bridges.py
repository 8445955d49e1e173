"""Apps as they are, and behind both bridges: what the frameworks' own test clients are given."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI

SHUTDOWN_SECONDS = 5.0

Served = Callable[..., AbstractContextManager[Any]]
"""Takes an app and gives, for as long as a block lasts, the app that a client is to call."""


@contextlib.contextmanager
def wsgi_behind_both(app: Any, **options: Any) -> Iterator[Any]:
    """The WSGI app `ASGIToWSGI(WSGIToASGI(app, **options))`.

    Whatever the app still does after its responses is over when the block is left.
    """
    inner = WSGIToASGI(app, shutdown_timeout=SHUTDOWN_SECONDS, **options)
    with ASGIToWSGI(inner, lifespan="on", shutdown_timeout=SHUTDOWN_SECONDS) as bridged:
        yield bridged


@contextlib.contextmanager
def asgi_behind_both(app: Any, **options: Any) -> Iterator[Any]:
    """The ASGI app `WSGIToASGI(ASGIToWSGI(app, **options))`; leaving the block as above."""
    with (
        ASGIToWSGI(app, shutdown_timeout=SHUTDOWN_SECONDS, **options) as inner,
        contextlib.closing(WSGIToASGI(inner, shutdown_timeout=SHUTDOWN_SECONDS)) as bridged,
    ):
        yield bridged


def as_it_is(app: Any, **_: Any) -> AbstractContextManager[Any]:
    """The app itself, so that a test is seen to hold without any bridge."""
    return contextlib.nullcontext(app)

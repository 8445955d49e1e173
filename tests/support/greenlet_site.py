"""What servers serve whose threads are greenlets: the ASGI site, and apps behind both bridges.

Everything that waits here waits for one second, so that requests one after the other would be seen.
"""

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async

from tests.support import asgi_apps
from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI

SECONDS = 1.0
MOST_AT_ONCE = 100


async def sleeps(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(SECONDS)
    await asgi_apps.answer(send, b"slept")


async def sleeps_in_its_greenlet(scope: Any, receive: Any, send: Any) -> None:
    """As thread-sensitive code of Django does: in the greenlet that serves the request."""
    await sync_to_async(time.sleep)(SECONDS)
    await asgi_apps.answer(send, b"slept")


def sleeps_behind_both(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    time.sleep(SECONDS)
    start_response("200 OK", [])
    return [b"slept"]


def sleeps_in_the_loop(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """As an `async def` view of Flask does."""
    outer = async_to_sync(_slept_in)()
    start_response("200 OK", [])
    return [b"slept" if outer is not None else b"no loop"]


def sleeps_in_another_bridge(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    return _inner(environ, start_response)


async def _slept_in() -> asyncio.AbstractEventLoop:
    await asyncio.sleep(SECONDS)
    return asyncio.get_running_loop()


_inner = ASGIToWSGI(sleeps, lifespan="off")
_ASGI = {"/sleeps": sleeps, "/sleeps_in_its_greenlet": sleeps_in_its_greenlet}
_WSGI = (sleeps_behind_both, sleeps_in_the_loop, sleeps_in_another_bridge)
SLEEPING = (sleeps, sleeps_in_its_greenlet, *_WSGI)
for _app in _WSGI:
    _ASGI[f"/{_app.__name__}"] = WSGIToASGI(_app, workers=MOST_AT_ONCE)


async def _site(scope: Any, receive: Any, send: Any) -> None:
    app = _ASGI.get(scope.get("path"), asgi_apps.site)
    await app(scope, receive, send)


site = ASGIToWSGI(_site)

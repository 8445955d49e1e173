"""Every bridge that is compared, a table a direction: how it is built around an app, how it ends.

Each bridge that lets itself be told gets `THREADS` threads. One that is not installed, or not there
in the installed version, is left out and named.
"""

import asyncio
import warnings
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from threading import Thread
from typing import Any

OURS = "ours"
FLOOR = "floor"
INCUMBENT = "a2wsgi"

# Servers that run the app without a bridge. `--peers native` names all of them by their first word.
NATIVE_GTHREAD = "native gthread"
NATIVE_GRANIAN = "native granian"
NATIVE_UVICORN = "native uvicorn"
NATIVE_GUNICORN = "native gunicorn"
NATIVES = (NATIVE_GTHREAD, NATIVE_GRANIAN, NATIVE_UVICORN, NATIVE_GUNICORN)

THREADS = 40
REQUEST_BODY_LIMIT = 2**40  # hypercorn's adapter refuses bodies over 64 KiB unless told

ASGIApp = Callable[..., Awaitable[None]]
WSGIApp = Callable[..., Iterable[bytes]]
NewLoop = Callable[[], asyncio.AbstractEventLoop]


@dataclass(frozen=True)
class Bridge:
    """A bridge built around one app: the callable, and what ends it (it may block)."""

    call: Callable[..., Any]
    end: Callable[[], None]


def nothing() -> None:
    """The end of a bridge that starts nothing of its own, or hides it."""


# A WSGI app under an ASGI server


def our_wsgi_to_asgi(app: WSGIApp, threads: int = THREADS, **settings: Any) -> Bridge:
    from wsgi_asgi_bridge import WSGIToASGI

    bridge = WSGIToASGI(app, workers=threads, **settings)
    return Bridge(bridge, bridge.close)


def a2wsgi_wsgi_to_asgi(app: WSGIApp, threads: int = THREADS) -> Bridge:
    from a2wsgi import WSGIMiddleware

    bridge = WSGIMiddleware(app, workers=threads)
    return Bridge(bridge, bridge.executor.shutdown)


def asgiref_wsgi_to_asgi(app: WSGIApp, threads: int = THREADS) -> Bridge:
    from asgiref.wsgi import WsgiToAsgi

    bridge = WsgiToAsgi(app)  # type: ignore[no-untyped-call]
    return Bridge(bridge, nothing)  # one thread for all requests, by its design


def uvicorn_wsgi_to_asgi(app: WSGIApp, threads: int = THREADS) -> Bridge:
    # The public name is a2wsgi's where that is installed; this is uvicorn's own.
    bridge = quiet_attribute("uvicorn.middleware.wsgi", "_WSGIMiddleware")(app, workers=threads)
    return Bridge(bridge, bridge.executor.shutdown)


def starlette_wsgi_to_asgi(app: WSGIApp, threads: int = THREADS) -> Bridge:
    return Bridge(quiet_attribute("starlette.middleware.wsgi", "WSGIMiddleware")(app), nothing)


def hypercorn_wsgi_to_asgi(app: WSGIApp, threads: int = THREADS) -> Bridge:
    from hypercorn.middleware import AsyncioWSGIMiddleware

    return Bridge(AsyncioWSGIMiddleware(app, REQUEST_BODY_LIMIT), nothing)


WSGI_TO_ASGI: dict[str, Callable[..., Bridge]] = {
    OURS: our_wsgi_to_asgi,
    INCUMBENT: a2wsgi_wsgi_to_asgi,
    "asgiref": asgiref_wsgi_to_asgi,
    "uvicorn": uvicorn_wsgi_to_asgi,
    "starlette": starlette_wsgi_to_asgi,
    "hypercorn": hypercorn_wsgi_to_asgi,
}


# An ASGI app under a WSGI server


def our_asgi_to_wsgi(app: ASGIApp, new_loop: NewLoop | None = None) -> Bridge:
    from wsgi_asgi_bridge import ASGIToWSGI

    bridge = ASGIToWSGI(app, loop_factory=new_loop)
    return Bridge(bridge, bridge.close)


def a2wsgi_asgi_to_wsgi(app: ASGIApp, new_loop: NewLoop | None = None) -> Bridge:
    from a2wsgi import ASGIMiddleware

    if new_loop is None:
        return Bridge(ASGIMiddleware(app), nothing)
    loop = new_loop()
    thread = Thread(target=loop.run_forever, name="a2wsgi-loop", daemon=True)
    thread.start()

    def end() -> None:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    return Bridge(ASGIMiddleware(app, loop=loop), end)


ASGI_TO_WSGI: dict[str, Callable[..., Bridge]] = {
    OURS: our_asgi_to_wsgi,
    INCUMBENT: a2wsgi_asgi_to_wsgi,
}


# Who there is


def contender_names() -> list[str]:
    """Every name that a result can have."""
    return [*dict.fromkeys([OURS, FLOOR, *WSGI_TO_ASGI, *ASGI_TO_WSGI, *NATIVES])]


def quiet_attribute(module: str, name: str) -> Any:
    """The attribute, without the deprecation warnings that its module gives at import and call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = getattr(import_module(module), name)

    def called_quietly(*args: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return found(*args, **kwargs)

    return called_quietly


def new_loops() -> dict[str, NewLoop]:
    """The event loops to measure on: asyncio's, and uvloop's where it is installed."""
    loops: dict[str, NewLoop] = {"asyncio": asyncio.SelectorEventLoop}
    try:
        import uvloop
    except ImportError:
        return loops
    return {**loops, "uvloop": uvloop.new_event_loop}

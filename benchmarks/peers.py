"""Every bridge that is compared, a table a direction: how it is built around an app, how it ends.

To add one, add its line. Where it is not installed it is left out, and named.
"""

import asyncio
import sys
import warnings
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from importlib.util import module_from_spec, spec_from_file_location
from operator import attrgetter
from pathlib import Path
from pkgutil import resolve_name
from threading import Thread
from typing import Any, NamedTuple

OURS = "ours"
FLOOR = "floor"
INCUMBENT = "a2wsgi"
BEFORE = "before"
# Servers that run the app without a bridge. `--peers native` names all of them by their first word.
NATIVES = ("native gthread", "native granian", "native uvicorn", "native gunicorn")
THREADS = 40  # for each bridge that has such a parameter

ASGIApp = Callable[..., Awaitable[None]]
WSGIApp = Callable[..., Iterable[bytes]]
NewLoop = Callable[[], asyncio.AbstractEventLoop]


class Bridge(NamedTuple):
    """A bridge built around one app: the callable, and what ends it (it may block)."""

    call: Callable[..., Any]
    end: Callable[[], Any] = lambda: None


def wsgi_to_asgi(
    where: str, threads_are: str = "", ended_by: str = "", **others: Any
) -> Callable[..., Bridge]:
    """How it is built: its name, its parameter for threads, its attribute that ends it."""

    def build(app: WSGIApp, threads: int = THREADS) -> Bridge:
        settings = others | ({threads_are: threads} if threads_are else {})
        with warnings.catch_warnings():  # some are deprecated
            warnings.simplefilter("ignore")
            bridge = resolve_name(where)(app, **settings)
        return Bridge(bridge, attrgetter(ended_by)(bridge)) if ended_by else Bridge(bridge)

    return build


EXECUTOR = ("workers", "executor.shutdown")
WSGI_TO_ASGI = {
    OURS: wsgi_to_asgi("wsgi_asgi_bridge:WSGIToASGI", "workers", "close"),
    INCUMBENT: wsgi_to_asgi("a2wsgi:WSGIMiddleware", *EXECUTOR),
    "asgiref": wsgi_to_asgi("asgiref.wsgi:WsgiToAsgi"),  # one thread for all, by its design
    # uvicorn's own: its public name is a2wsgi's where that is installed
    "uvicorn": wsgi_to_asgi("uvicorn.middleware.wsgi:_WSGIMiddleware", *EXECUTOR),
    "starlette": wsgi_to_asgi("starlette.middleware.wsgi:WSGIMiddleware"),
    "hypercorn": wsgi_to_asgi("hypercorn.middleware:AsyncioWSGIMiddleware", max_body_size=2**40),
}


def asgi_to_wsgi(where: str) -> Callable[..., Bridge]:
    """How ours is built."""

    def build(app: ASGIApp, new_loop: NewLoop | None = None) -> Bridge:
        bridge = resolve_name(where)(app, loop_factory=new_loop)
        return Bridge(bridge, bridge.close)

    return build


def a2wsgi_asgi_to_wsgi(app: ASGIApp, new_loop: NewLoop | None = None) -> Bridge:
    from a2wsgi import ASGIMiddleware

    if new_loop is None:
        return Bridge(ASGIMiddleware(app))
    loop = new_loop()
    return Bridge(ASGIMiddleware(app, loop=loop), run_in_thread(loop))


ASGI_TO_WSGI = {OURS: asgi_to_wsgi("wsgi_asgi_bridge:ASGIToWSGI"), INCUMBENT: a2wsgi_asgi_to_wsgi}


def add_before(checkout: Path) -> None:
    """Let the package of another checkout compete in this process, under another name."""
    package = checkout / "wsgi_asgi_bridge"
    made = spec_from_file_location(
        BEFORE, package / "__init__.py", submodule_search_locations=[str(package)]
    )
    sys.modules[BEFORE] = module_from_spec(made)  # its own imports are relative
    made.loader.exec_module(sys.modules[BEFORE])
    WSGI_TO_ASGI[BEFORE] = wsgi_to_asgi(f"{BEFORE}:WSGIToASGI", "workers", "close")
    ASGI_TO_WSGI[BEFORE] = asgi_to_wsgi(f"{BEFORE}:ASGIToWSGI")


def run_in_thread(loop: Any) -> Callable[[], None]:
    """Gives what ends it."""
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def end() -> None:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    return end


def new_loops() -> dict[str, NewLoop]:
    """The event loops to measure on: asyncio's, and uvloop's where it is installed."""
    loops: dict[str, NewLoop] = {"asyncio": asyncio.SelectorEventLoop}
    with suppress(ImportError):
        loops["uvloop"] = resolve_name("uvloop:new_event_loop")
    return loops

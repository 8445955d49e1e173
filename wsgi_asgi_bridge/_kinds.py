"""What kind of app an object is, told by how it can be called, and what to write for it."""

import inspect
from enum import Enum
from typing import Any

__all__ = ["Kind", "kind_of", "refuse_asgi_app", "refuse_wsgi_app"]


class Kind(Enum):
    """What an object is to a server. The values are words for messages."""

    WSGI = "a WSGI app"
    ASGI = "an ASGI app"
    ASGI_2 = "an ASGI 2 app"
    FACTORY = "a factory"
    """Called without arguments it may return an app."""
    UNKNOWN = "unknown"


def kind_of(app: Any) -> Kind:
    """The kind of a callable; UNKNOWN if its signature leaves it open, as `*args` does."""
    try:
        signature = inspect.signature(app)
    except (TypeError, ValueError):
        return Kind.UNKNOWN
    counts = [count for count in range(4) if _can_take(signature, count)]
    if is_async(app):
        return Kind.ASGI if 3 in counts else Kind.FACTORY if 0 in counts else Kind.UNKNOWN
    if counts == [3]:
        return Kind.ASGI  # a plain function that returns an awaitable
    if counts in ([2], [2, 3]):
        return Kind.WSGI
    if counts == [1] and (inspect.isclass(app) or "scope" in signature.parameters):
        return Kind.ASGI_2
    if counts in ([0], [0, 1]):
        return Kind.FACTORY
    return Kind.UNKNOWN


def _can_take(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def is_async(app: Any) -> bool:
    """Whether a call of `app` makes a coroutine."""
    call = None if inspect.isclass(app) else getattr(app, "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(call)


def refuse_asgi_app(app: Any) -> None:
    """Raise TypeError if `app` is surely no WSGI app; swapped bridges are the usual reason."""
    kind = kind_of(app)
    if kind in (Kind.ASGI, Kind.ASGI_2):
        raise TypeError(
            f"app is {app!r}, {kind.value}; WSGIToASGI takes a WSGI app. An ASGI server runs an "
            "ASGI app as it is; for a WSGI server write ASGIToWSGI(app)"
        )
    if kind is Kind.FACTORY:
        raise _factory_error(app, "WSGIToASGI")
    if is_async(app):
        raise TypeError(f"app is {app!r}, an async callable; WSGIToASGI takes a WSGI app")


def refuse_wsgi_app(app: Any) -> None:
    """Raise TypeError if `app` is surely no ASGI app."""
    kind = kind_of(app)
    if kind is Kind.WSGI:
        raise TypeError(
            f"app is {app!r}, {kind.value}; ASGIToWSGI takes an ASGI app. A WSGI server runs a "
            "WSGI app as it is; for an ASGI server write WSGIToASGI(app)"
        )
    if kind is Kind.FACTORY:
        raise _factory_error(app, "ASGIToWSGI")


def _factory_error(app: Any, bridge: str) -> TypeError:
    name = getattr(app, "__qualname__", "factory")
    return TypeError(
        f"app is {app!r}, which takes no arguments, as a factory does; {bridge} takes the app that "
        f"it makes: {bridge}({name}())"
    )

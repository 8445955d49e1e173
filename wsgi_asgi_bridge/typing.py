"""The types of the apps that the two adapters take and are.

WSGI's are those of the standard library. ASGI's are wider than asgiref's, because the frameworks
differ: a scope is a TypedDict in asgiref, another one in Litestar, a `MutableMapping` in Starlette,
a `dict` in Django and Falcon, and none of these is assignable to another. So an app may annotate
scope and messages as it likes, and only the shape of its call is checked, by which a type checker
distinguishes ASGI from WSGI apps. As an app, an adapter takes all of those scopes.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = [
    "ASGI2App",
    "ASGI3App",
    "ASGIApp",
    "Backend",
    "Environ",
    "Headers",
    "LifespanMode",
    "Message",
    "Receive",
    "ReleaseMode",
    "Scope",
    "Send",
    "StartResponse",
    "WSGIApp",
]

Environ = WSGIEnvironment
WSGIApp = WSGIApplication

ASGI3App = Callable[[Any, Any, Any], Awaitable[None]]
"""Called with scope, receive and send."""
ASGI2App = Callable[[Any], Callable[[Any, Any], Awaitable[None]]]
"""Called with the scope; the result is called with receive and send."""
ASGIApp = ASGI3App | ASGI2App

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Any], Awaitable[None]]
Message = dict[str, Any]
Headers = list[tuple[bytes, bytes]]
"""ASGI's header list: lower-case names."""

Backend = Literal["asyncio", "trio"]
"""What kind of event loop an ASGI app was written for."""
LifespanMode = Literal["auto", "on", "off"]
"""Whether an ASGI app's lifespan runs, as uvicorn has it."""
ReleaseMode = Literal["auto", "off"]
"""Whether the connections of WebSockets and event streams are taken over from a WSGI server."""

"""The types on both sides, as the two adapters take and give them.

WSGI's are the standard library's own. ASGI's are wider than asgiref's, because the frameworks
disagree: a scope is a TypedDict in asgiref, another one in Litestar, a `MutableMapping` in
Starlette, a `dict` in Django and Falcon, and none of these stands for another. So an app that we
take may name what it likes for scope and messages; its shape is checked, which is what tells an
ASGI app from a WSGI app. What we are as an app takes all of those.
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
"""Called with the scope; what comes back is called with receive and send."""
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

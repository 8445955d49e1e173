"""The callables on both sides. ASGI's types are asgiref's, WSGI's are typeshed's (PEP 3333)."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from asgiref.typing import (
    ASGI2Application,
    ASGI3Application,
    ASGIReceiveCallable,
    ASGISendCallable,
    Scope,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication
else:
    StartResponse = Callable[..., Callable[[bytes], object]]
    WSGIApplication = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

__all__ = [
    "ASGIApp",
    "Environ",
    "Headers",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "StartResponse",
    "WSGIApp",
]

Environ = dict[str, Any]
WSGIApp = WSGIApplication
ASGIApp = ASGI3Application | ASGI2Application
Receive = ASGIReceiveCallable
Send = ASGISendCallable
Message = dict[str, Any]
Headers = list[tuple[bytes, bytes]]
"""ASGI's header list: lower-case names."""

"""Whether the server itself has called the bridge, with no WSGI middleware in between (R-2).

A middleware may want the body: it replaces `start_response`, or it wraps the iterable only. So both
are checked: whose `start_response` this is, and who is the caller. What a function says of itself
does not count, since `functools.wraps` copies that; its globals are its module's own.

A few callers in between are known to return what the bridge returns, and to hand `start_response`
on: they do not count. A subclass of one of them, with a `__call__` of its own, does.
"""

import sys
from types import BuiltinFunctionType, FrameType

from ..typing import StartResponse

__all__ = ["is_called_by_server"]

_CALLERS = {
    "gunicorn.http.wsgi": "gunicorn.workers.",
    "werkzeug.serving": "werkzeug.serving",
    "wsgiref.handlers": "wsgiref.handlers",
    "cheroot.wsgi": "cheroot.wsgi",
    "gevent.pywsgi": "gevent.pywsgi",
}
"""By the module of a server's `start_response`: how the name of the module that calls the app
begins. All of them write a head whose framing fits a body that is yet to come, if they get an
iterable of one empty chunk.
"""

_PASSING_ON = {
    ("werkzeug.middleware.dispatcher", "DispatcherMiddleware.__call__"),
    ("werkzeug.middleware.proxy_fix", "ProxyFix.__call__"),
    ("flask.app", "Flask.__call__"),
}
"""Module and function: each is `return app(environ, start_response)` in the end."""

_PACKAGE = __name__.partition(".")[0]


def is_called_by_server(start_response: StartResponse) -> bool:
    """In the calling thread, below the bridge's `__call__`. False for a server that is unknown."""
    caller = _caller_of_the_bridge()
    if type(start_response) is BuiltinFunctionType:
        # uWSGI calls from C: there is no frame, or that of the script that has started pyuwsgi.
        return start_response.__name__ == "uwsgi_spit" and (
            caller is None or caller.f_code.co_name == "<module>"
        )
    function = getattr(start_response, "__func__", start_response)
    begins = _CALLERS.get(str(getattr(function, "__globals__", {}).get("__name__")))
    return begins is not None and caller is not None and _module_of(caller).startswith(begins)


def _caller_of_the_bridge() -> FrameType | None:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and (_is_of_the_bridge(frame) or _passes_on(frame)):
        frame = frame.f_back
    return frame


def _is_of_the_bridge(frame: FrameType) -> bool:
    return _module_of(frame).partition(".")[0] == _PACKAGE


def _passes_on(frame: FrameType) -> bool:
    return (_module_of(frame), frame.f_code.co_qualname) in _PASSING_ON


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))

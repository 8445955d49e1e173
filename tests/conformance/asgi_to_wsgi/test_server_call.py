"""server_call.py: whose `start_response` it is, and who has called the bridge (R-2).

Callers and callables are made in modules of the names that servers have. The servers themselves are
in tests/servers/asgi_to_wsgi/test_event_streams.py.
"""

import functools
from typing import Any

import pytest

from wsgi_asgi_bridge.asgi_to_wsgi import server_call
from wsgi_asgi_bridge.asgi_to_wsgi.server_call import is_called_by_server

SERVERS = {
    "gunicorn sync": ("gunicorn.http.wsgi", "gunicorn.workers.sync"),
    "gunicorn gthread": ("gunicorn.http.wsgi", "gunicorn.workers.gthread"),
    "gunicorn gevent": ("gunicorn.http.wsgi", "gunicorn.workers.base_async"),
    "werkzeug": ("werkzeug.serving", "werkzeug.serving"),
    "wsgiref": ("wsgiref.handlers", "wsgiref.handlers"),
    "cheroot": ("cheroot.wsgi", "cheroot.wsgi"),
    "gevent.pywsgi": ("gevent.pywsgi", "gevent.pywsgi"),
}
"""The modules of `start_response` and of what calls the app."""

SOURCE = """
def start_response(status, headers, exc_info=None): ...

class Response:
    def start_response(self, status, headers, exc_info=None): ...

def call(app, start_response):
    return app(start_response)
"""


def module(name: str) -> dict[str, Any]:
    made: dict[str, Any] = {"__name__": name}
    exec(SOURCE, made)
    return made


def called(start_response: Any, caller: str) -> bool:
    """As a function of the module `caller` calls the bridge."""
    result: bool = module(caller)["call"](is_called_by_server, start_response)
    return result


@pytest.mark.parametrize(("owner", "caller"), SERVERS.values(), ids=SERVERS)
def test_known_servers(owner: str, caller: str) -> None:
    """R-2: by a function or a method."""
    assert called(module(owner)["start_response"], caller)
    assert called(module(owner)["Response"]().start_response, caller)


@pytest.mark.parametrize(("owner", "caller"), SERVERS.values(), ids=SERVERS)
def test_a_start_response_that_looks_like_the_servers(owner: str, caller: str) -> None:
    """R-2: `functools.wraps` copies names; a partial or a callable object is nobody's function."""
    own = module(owner)["start_response"]

    @functools.wraps(own)
    def wrapping(status: Any, headers: Any, exc_info: Any = None) -> Any:
        return own(status, headers, exc_info)

    assert wrapping.__module__ == owner
    for start_response in (wrapping, functools.partial(own), print, object()):
        assert not called(start_response, caller)


@pytest.mark.parametrize(("owner", "caller"), SERVERS.values(), ids=SERVERS)
@pytest.mark.parametrize("other", ["mysite.middleware", "gunicorn", "gunicorn.workers_of_mine"])
def test_another_caller(owner: str, caller: str, other: str) -> None:
    """R-2: a middleware that hands the server's `start_response` on may still want the body."""
    own = module(owner)["start_response"]
    assert not called(own, other)


def test_a_server_of_another_kind() -> None:
    for owner, caller in (("waitress.task", "waitress.task"), ("mine", "mine")):
        assert not called(module(owner)["start_response"], caller)


def test_uwsgi(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-2: it calls from C, below nobody or below the script that has started it."""

    class Builtin:
        def __init__(self, name: str) -> None:
            self.__name__ = name

    monkeypatch.setattr(server_call, "BuiltinFunctionType", Builtin)
    caller: dict[str, Any] = {"__name__": "mysite"}
    called_in_a_script = "is_called = check(start_response)"
    called_in_a_function = f"def middleware(): {called_in_a_script}; return is_called\n"
    for name, expected in (("uwsgi_spit", True), ("print", False)):
        caller |= {"check": is_called_by_server, "start_response": Builtin(name)}
        exec(called_in_a_script, caller)
        assert caller["is_called"] is expected
        exec(called_in_a_function + "is_called = middleware()", caller)
        assert caller["is_called"] is False

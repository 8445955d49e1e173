"""D-4: how a WSGI app leaves gunicorn when it has taken the connection over."""

from typing import Any

import pytest

from tests.support.both import wsgi_behind_both
from tests.support.fake_wsgi_server import Backend, environ_for, on_every_backend
from wsgi_asgi_bridge import AppError


@on_every_backend
def test_stop_iteration_of_the_app_reaches_the_server(backend: Backend) -> None:
    """D-4, WS-W-4: it cannot travel through a coroutine, and arrives as the object that it is."""
    error = StopIteration("the connection is mine")

    def app(environ: Any, start_response: Any) -> list[bytes]:
        raise error

    with wsgi_behind_both(app, backend) as bridge, pytest.raises(StopIteration) as caught:
        bridge(environ_for(), lambda *_: lambda data: None)
    assert caught.value is error


@on_every_backend
def test_other_ends_that_no_loop_survives_are_app_errors(backend: Backend) -> None:
    """D-4, W-CALL-3: SystemExit would end the server's thread."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        raise SystemExit(1)

    with wsgi_behind_both(app, backend) as bridge, pytest.raises(AppError, match="SystemExit"):
        bridge(environ_for(), lambda *_: lambda data: None)

"""Responses that may have no body, made by apps that send one all the same (A-OUT-1, A-OUT-4)."""

import threading
from typing import Any

from tests.support.fake_wsgi_server import on_every_backend, serve
from wsgi_asgi_bridge import ASGIToWSGI, ClientDisconnected

PARTS = 100
BOUND_SECONDS = 10.0


def head_environ(path: str) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "HEAD",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": None,
    }


class Streams:
    """An app that streams for ever at /endless, and some parts elsewhere; it keeps how it ended."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.error: BaseException | None = None
        self.after_the_body = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            parts = 0
            while scope["path"] == "/endless" or parts < PARTS:
                parts += 1
                part = {"type": "http.response.body", "body": b"x" * 100, "more_body": True}
                await send(part)
            await send({"type": "http.response.body", "body": b""})
            self.after_the_body = True
        except BaseException as exc:
            self.error = exc
            raise
        finally:
            self.ended.set()


@on_every_backend
def test_head_of_an_endless_stream_ends(backend: dict[str, Any]) -> None:
    """A-OUT-4, A-LOOP-5: neither the caller nor the loop is held; the app is told in the end."""
    app = Streams()
    with ASGIToWSGI(app, lifespan="off", **backend) as bridge:
        answer = serve(bridge, head_environ("/endless"))
        assert answer.body == b""
        assert app.ended.wait(BOUND_SECONDS)
    assert isinstance(app.error, ClientDisconnected)


@on_every_backend
def test_head_of_a_page_in_parts_runs_to_its_end(backend: dict[str, Any]) -> None:
    """A-OUT-1, A-OUT-5: the parts are dropped, and what comes after them still runs."""
    app = Streams()
    with ASGIToWSGI(app, lifespan="off", **backend) as bridge:
        assert serve(bridge, head_environ("/parts")).body == b""
        assert app.ended.wait(BOUND_SECONDS)
    assert app.error is None
    assert app.after_the_body

"""The job that reads the request's body, once the thread that would run it has left."""

import threading
from typing import Any

from tests.support.fake_wsgi_server import (
    BodyInput,
    bridged,
    must_become,
    on_every_backend,
    start,
    stream,
    upload_environ,
)


@on_every_backend
def test_a_read_job_is_dropped_with_its_thread(backend: dict[str, Any]) -> None:
    """A-IN-2, A-OUT-3: no spare thread starts for it, and the app receives a disconnect."""
    received: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await stream(send, b"one")
        received.append((await receive())["type"])

    body = BodyInput(b"x" * 100)
    with bridged(app, backend, request_buffer=10) as bridge:
        response: Any = bridge(upload_environ(body, length=100), lambda *_: lambda _: None)
        assert next(response) == b"one"
        must_become(lambda: len(response._caller._jobs) == 1, "the job")
        response.close()
        must_become(lambda: received == ["http.disconnect"], "the disconnect")
        assert [item.name for item in threading.enumerate() if "-sync" in item.name] == []
    assert body.reads == []

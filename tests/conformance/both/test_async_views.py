"""W-CALL-4 behind both bridges: the private loop is the one that must not wait."""

import threading
from typing import Any

import anyio.from_thread
import pytest

from tests.conformance.wsgi_to_asgi.test_async_views import every_door
from tests.support.both import wsgi_behind_both
from tests.support.fake_asgi_server import plain_app
from tests.support.fake_wsgi_server import (
    Backend,
    BodyInput,
    Exchange,
    GeneratedInput,
    must_happen,
    on_every_backend,
    serve,
    upload_environ,
)
from wsgi_asgi_bridge import ClientDisconnected

BUFFER = 1000
BODY_BYTES = 3_000_000
"""Beyond what either bridge reads ahead."""


@on_every_backend
@every_door
@pytest.mark.parametrize("declared", [True, False])
def test_the_private_loop_reads_a_body_that_has_not_arrived(
    backend: Backend, enter: Any, declared: bool
) -> None:
    """W-CALL-4: the caller's thread reads it from its server meanwhile."""
    sizes: list[int] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"]
        sizes.append(len(body.read(1)) + len(enter(body.read)))
        return plain_app(environ, start_response)

    with wsgi_behind_both(app, backend, request_buffer=BUFFER) as both:
        exchanges = [
            Exchange(
                both,
                upload_environ(
                    GeneratedInput(BODY_BYTES, piece=65_536),
                    length=BODY_BYTES if declared else None,
                ),
            )
            for _ in range(3)
        ]
        assert [exchange.body for exchange in exchanges] == [b"hello"] * 3
    assert sizes == [BODY_BYTES] * 3


@on_every_backend
@every_door
def test_a_body_that_breaks_off_is_an_error_of_the_read(backend: Backend, enter: Any) -> None:
    """W-CALL-4, W-IN-3."""

    errors: list[str] = []
    read = threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with pytest.raises(ClientDisconnected) as caught:
            enter(environ["wsgi.input"].read)
        errors.append(str(caught.value))
        read.set()
        return plain_app(environ, start_response)

    with wsgi_behind_both(app, backend, request_buffer=BUFFER) as both:
        cut = BodyInput(b"x" * 1_000_000, error=ConnectionResetError("gone"))
        serve(both, upload_environ(cut, length=BODY_BYTES))
        must_happen(read, "the read")  # the caller does not wait for an app without a client
    assert errors == ["the client disconnected before the exchange was over"]


@on_every_backend
def test_a_write_that_would_wait_in_the_private_loop_is_refused(backend: Backend) -> None:
    """W-CALL-4: the caller, which would take what is written, may be slow."""
    refused: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [("Content-Type", "text/plain")])

        def write_all() -> None:
            for _ in range(100):
                write(b"x" * BUFFER)

        try:
            anyio.from_thread.run_sync(write_all)
        except RuntimeError as error:
            refused.append(str(error))
        return [b"end"]

    with wsgi_behind_both(app, backend, response_buffer=BUFFER) as both:
        assert serve(both).body.endswith(b"xend")
    assert len(refused) == 1
    assert "write() would wait" in refused[0]

"""D-1: a status's reason phrase, and request headers that were sent more than once, pass both
bridges as they were; what the middle changed wins.
"""

from typing import Any

import anyio
import pytest

from tests.support.both import asgi_behind_both, like, plainly, wsgi_behind_both
from tests.support.fake_asgi_server import Client, answered, http_scope
from tests.support.fake_wsgi_server import (
    Backend,
    ScopeCapture,
    environ_for,
    on_every_backend,
    respond,
    serve,
)

# --- the reason phrase


def saying(*statuses: str) -> Any:
    """A WSGI app that says these, the last of which stands."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        exc_info = None
        for status in statuses:
            start_response(status, [("Content-Type", "text/plain")], exc_info)
            exc_info = (ValueError, ValueError(), None)
        return [b"body"]

    return app


async def made_anew(message: Any, send: Any, **changes: Any) -> None:
    """As frameworks send on what they have taken apart."""
    if message["type"] == "http.response.start":
        message = {"type": message["type"], "headers": [], "status": message["status"], **changes}
    await send(message)


def around(inner: Any) -> Any:
    """An ASGI middleware that runs the app in a task of its own and makes its messages anew."""

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(inner, scope, receive, lambda message: made_anew(message, send))

    return middleware


@on_every_backend
@pytest.mark.parametrize("middle", [plainly, around], ids=lambda middle: middle.__name__)
@pytest.mark.parametrize(
    ("statuses", "line"),
    [
        (["200 Fine"], "200 Fine"),
        (["418 Short and stout"], "418 Short and stout"),
        (["299 Caf\xe9"], "299 Caf\xe9"),
        (["500 "], "500 "),
        (["404"], "404 Not Found"),
        (["200 Fine", "503 Tired"], "503 Tired"),
    ],
    ids=str,
)
def test_the_reason_of_a_wsgi_app_reaches_the_server(
    backend: Backend, middle: Any, statuses: list[str], line: str
) -> None:
    """D-1."""
    with wsgi_behind_both(saying(*statuses), backend, middle=middle) as both:
        exchange = serve(both)
    assert exchange.started.status == line
    assert exchange.body == b"body"


@on_every_backend
def test_a_status_that_the_middle_changed_has_its_own_reason(backend: Backend) -> None:
    """D-1."""

    def changing(inner: Any) -> Any:
        async def middleware(scope: Any, receive: Any, send: Any) -> None:
            await inner(scope, receive, lambda message: made_anew(message, send, status=202))

        return middleware

    with wsgi_behind_both(saying("200 Fine"), backend, middle=changing) as both:
        assert serve(both).started.status == "202 Accepted"


@on_every_backend
def test_an_answer_of_the_middle_has_its_own_reason(backend: Backend) -> None:
    """D-1."""

    def answering(inner: Any) -> Any:
        async def middleware(scope: Any, receive: Any, send: Any) -> None:
            await respond(send, b"no", status=403)

        return middleware

    with wsgi_behind_both(saying("200 Fine"), backend, middle=answering) as both:
        assert serve(both).started.status == "403 Forbidden"


@on_every_backend
def test_a_reason_passes_four_bridges(backend: Backend) -> None:
    """D-1."""
    with (
        wsgi_behind_both(saying("200 Fine"), backend) as inner,
        wsgi_behind_both(inner, backend) as quadruple,
    ):
        assert serve(quadruple, environ_for()).started.status == "200 Fine"


# --- repeated request headers

SENT = [
    (b"x-part", b"1"),
    (b"cookie", b"a=1"),
    (b"X-Part", b"2"),
    (b"cookie", b"b=2; c=3"),
    (b"accept", b"text/html, */*"),
    (b"x-part", b"1"),
]


async def headers_behind(
    backend: Backend, middle: Any = plainly, sent: Any = SENT
) -> dict[bytes, list[bytes]]:
    """The values of each header that an ASGI app behind both bridges finds, in their order."""
    app = ScopeCapture()
    async with asgi_behind_both(app, backend, middle=middle) as both:
        await answered(both, Client(http_scope(headers=sent)))
    found: dict[bytes, list[bytes]] = {}
    for name, value in app.scope["headers"]:
        found.setdefault(name, []).append(value)
    return found


async def test_repeated_headers_arrive_as_they_were_sent(anyio_backend: Any) -> None:
    """D-1."""
    assert await headers_behind(like(anyio_backend)) == {
        b"host": [b"example.test"],
        b"x-part": [b"1", b"2", b"1"],
        b"cookie": [b"a=1", b"b=2; c=3"],
        b"accept": [b"text/html, */*"],
    }


async def test_what_the_middle_changed_of_a_header_wins(anyio_backend: Any) -> None:
    """D-1."""

    def changing(inner: Any) -> Any:
        def middle(environ: Any, start_response: Any) -> Any:
            assert environ["HTTP_X_PART"] == "1,2,1"
            environ["HTTP_X_PART"] = "1,2"
            del environ["HTTP_COOKIE"]
            environ["HTTP_X_NEW"] = "1,2"
            return inner(environ, start_response)

        return middle

    assert await headers_behind(like(anyio_backend), changing) == {
        b"host": [b"example.test"],
        b"x-part": [b"1,2"],
        b"accept": [b"text/html, */*"],
        b"x-new": [b"1,2"],
    }


async def test_a_length_that_was_sent_twice_is_one(anyio_backend: Any) -> None:
    """D-1, W-ENV-5: that is a repair, not a translation."""
    sent = [(b"content-length", b"0"), (b"content-length", b"0")]
    assert (await headers_behind(like(anyio_backend), sent=sent))[b"content-length"] == [b"0"]

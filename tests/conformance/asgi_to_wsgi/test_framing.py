"""A-IN-4, A-IN-1: what says where a request's body ends, and when it is asked for."""

from typing import Any

import pytest

from tests.support.fake_wsgi_server import (
    SERVERS,
    BodyInput,
    Request,
    bridged,
    respond,
    serve,
    upload_environ,
    whole_body,
)

BODY = b"hello world"
NOT_DECODED = {"wsgi.input_terminated": None}


class Uploads:
    """An app that answers with the body and keeps the header names of its scopes."""

    def __init__(self) -> None:
        self.names: list[list[bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.names.append([name for name, _ in scope["headers"]])
        await respond(send, await whole_body(receive))


def both(**extra: Any) -> dict[str, Any]:
    """A chunked body of eleven bytes whose Content-Length says five."""
    chunked: dict[str, Any] = {"HTTP_TRANSFER_ENCODING": "chunked"}
    return upload_environ(BodyInput(BODY), length=5, **(chunked | extra))


def test_transfer_encoding_wins_over_content_length() -> None:
    """A-IN-4: all eleven bytes, and the app is not told of five."""
    app = Uploads()
    with bridged(app) as bridge:
        assert serve(bridge, both()).body == BODY
    assert b"content-length" not in app.names[0]
    assert b"transfer-encoding" in app.names[0]


@pytest.mark.parametrize("length", ["", "05", "no number", "5, 5"])
def test_a_content_length_that_does_not_count_may_be_anything(length: str) -> None:
    """A-IN-4: it is neither believed nor passed on."""
    app = Uploads()
    with bridged(app) as bridge:
        assert serve(bridge, both(CONTENT_LENGTH=length)).body == BODY
    assert b"content-length" not in app.names[0]


@pytest.mark.parametrize("coding", ["chunked", "gzip, chunked", "identity"])
@pytest.mark.parametrize(("length", "status"), [(None, 411), (5, 400)])
def test_a_body_whose_end_nobody_tells_is_refused(
    coding: str, length: int | None, status: int
) -> None:
    """A-IN-4: the app never sees an empty body that looks complete."""
    app, body = Uploads(), BodyInput(BODY)
    environ = upload_environ(body, length=length, **NOT_DECODED, HTTP_TRANSFER_ENCODING=coding)
    with bridged(app) as bridge:
        exchange = serve(bridge, environ)
        assert exchange.status == status
    assert "Transfer-Encoding" in exchange.body.decode()
    assert "Content-Length" in exchange.body.decode()
    assert (app.names, body.reads) == ([], [])


@pytest.mark.parametrize("coding", ["Chunked", "gzip, chunked", "gzip ,\tCHUNKED ", "chunked, ,"])
def test_chunked_may_be_spelt_in_any_way(coding: str) -> None:
    """A-IN-4: where the server has decoded it."""
    with bridged(Uploads()) as bridge:
        assert serve(bridge, both(HTTP_TRANSFER_ENCODING=coding)).body == BODY


@pytest.mark.parametrize(
    "coding", ["identity", "gzip", "chunked, identity", "chunked;a=b", "xchunked", "chunked\x0b"]
)
def test_a_last_coding_that_tells_no_end_is_refused(coding: str) -> None:
    """A-IN-4: gunicorn 23 hands such a body over as one of Content-Length, and a cut one
    would look whole.
    """
    app, body = Uploads(), BodyInput(BODY)
    environ = upload_environ(body, length=50, HTTP_TRANSFER_ENCODING=coding)
    with bridged(app) as bridge:
        exchange = serve(bridge, environ)
    assert exchange.status == 400
    assert "chunked" in exchange.body.decode()
    assert (app.names, body.reads) == ([], [])


@pytest.mark.parametrize("server", SERVERS)
def test_each_servers_environ_of_a_chunked_body(server: str) -> None:
    """A-IN-4: the whole body, or 411."""
    headers = (("Host", "x"), ("Transfer-Encoding", "chunked"))
    environ = SERVERS[server](Request("POST", headers=headers))
    environ["wsgi.input"] = BodyInput(BODY)
    with bridged(Uploads()) as bridge:
        exchange = serve(bridge, environ)
        exchange.finish()
    decoded = bool(environ.get("wsgi.input_terminated"))
    assert exchange.status == (200 if decoded else 411)
    assert not decoded or exchange.body == BODY


@pytest.mark.parametrize("framed", ["length", "chunked"])
def test_body_that_is_held_back_is_not_read_before_the_app_asks(framed: str) -> None:
    """A-IN-1: the first read makes the server ask for it, and the app may refuse it."""
    body = BodyInput(BODY)

    async def refuses(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"too large")

    length = len(BODY) if framed == "length" else None
    environ = upload_environ(body, length=length, HTTP_EXPECT="100-continue")
    with bridged(refuses) as bridge:
        assert serve(bridge, environ).body == b"too large"
    assert body.reads == []
    with bridged(Uploads()) as bridge:
        assert serve(bridge, environ).body == BODY

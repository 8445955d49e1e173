"""W-OUT-1, A-OUT-1: what is around a header's value, and what a header pair may be."""

from collections import UserList
from typing import Any, NamedTuple

import pytest

from tests.support.fake_asgi_server import app_returning, fetched
from tests.support.fake_wsgi_server import bridged, on_every_backend, serve

VALUES = [
    pytest.param(" csrftoken=abc; Path=/", "csrftoken=abc; Path=/", id="a space before"),
    pytest.param("default-src 'self'; ", "default-src 'self';", id="a space after"),
    pytest.param("\t both \t ", "both", id="tabs too"),
    pytest.param(" \t", "", id="nothing else"),
    pytest.param("a  b", "a  b", id="inside they stay"),
    pytest.param(" caf\xe9 ", "caf\xe9", id="beyond ASCII"),
    pytest.param("\xa0hard\x85 ", "\xa0hard\x85", id="no other blank"),
]


@pytest.mark.parametrize(("value", "meant"), VALUES)
async def test_w_blanks_around_a_value_are_dropped(value: str, meant: str) -> None:
    """W-OUT-1: spaces and tabs around a value are not part of it (RFC 9110 5.5)."""
    client = await fetched(app_returning([b"x"], headers=[("X-Given", value)]))
    assert client.header("x-given") == meant


@pytest.mark.parametrize("length", [" 1", "1 ", "\t1\t"])
async def test_w_blanks_around_a_length_are_dropped(length: str) -> None:
    """W-OUT-1."""
    client = await fetched(app_returning([b"x"], headers=[("Content-Length", length)]))
    assert client.header("content-length") == "1"


class Pair(NamedTuple):
    name: str
    value: str


@pytest.mark.parametrize(
    "pair", [["X-Given", " 1"], Pair("X-Given", "1"), UserList(["X-Given", "1"])], ids=repr
)
async def test_w_header_pair_is_any_sequence_of_two(pair: Any) -> None:
    """W-OUT-1: frameworks give lists."""
    client = await fetched(app_returning([b"x"], headers=[pair]))
    assert client.header("x-given") == "1"


def answering(headers: Any) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x"})

    return app


@pytest.mark.parametrize(("value", "meant"), VALUES)
@on_every_backend
def test_a_blanks_around_a_value_are_dropped(backend: Any, value: str, meant: str) -> None:
    """W-OUT-1, A-OUT-1: WSGI servers differ in what they do with them."""
    app = answering([(b"x-given", value.encode("latin-1"))])
    with bridged(app, backend) as bridge:
        answer = serve(bridge)
    assert [v for name, v in answer.starts[0].headers if name.lower() == "x-given"] == [meant]


@pytest.mark.parametrize("pair", [[b"content-length", b" 1\t"], (b"content-length", b"1")])
@on_every_backend
def test_a_header_pair_is_any_sequence_of_two(backend: Any, pair: Any) -> None:
    """W-OUT-1, A-OUT-1: lists, and a length with blanks around it."""
    with bridged(answering([pair]), backend) as bridge:
        answer = serve(bridge)
    assert [v for name, v in answer.starts[0].headers if name.lower() == "content-length"] == ["1"]

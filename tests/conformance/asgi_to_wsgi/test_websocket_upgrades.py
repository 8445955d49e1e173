"""A-WS-1: a request that asks for a WebSocket."""

import pytest

from tests.support.fake_wsgi_server import (
    BodyInput,
    ScopeCapture,
    bridged,
    environ_for,
    hello,
    serve,
)

# A-WS-1


UPGRADE = (
    ("Host", "example.org"),
    ("Connection", "keep-alive, Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
)


@pytest.mark.parametrize("spelling", ["websocket", "WebSocket"])
def test_websocket_upgrade_is_501(spelling: str) -> None:
    """A-WS-1: refused with a clear text, without the app, where no socket can be had."""
    capture = ScopeCapture()
    headers = tuple((k, spelling if k == "Upgrade" else v) for k, v in UPGRADE)
    with bridged(capture) as bridge:
        exchange = serve(bridge, environ_for(headers=headers))
        assert b"websocket" in exchange.body.lower()
        assert exchange.status == 501
        assert exchange.header_values("content-type")[0].startswith("text/plain")
    assert capture.scopes == []


@pytest.mark.parametrize("method", ["HEAD", "POST"])
def test_upgrade_of_another_method_is_a_plain_request(method: str) -> None:
    """A-WS-1: a handshake is a GET (RFC 6455 4.1)."""
    capture = ScopeCapture()
    with bridged(capture) as bridge:
        exchange = serve(bridge, environ_for(method=method, headers=UPGRADE))
        assert exchange.status == 200
        assert exchange.body == (b"" if method == "HEAD" else b"captured")
    assert capture.scope["method"] == method


def test_other_upgrades_are_plain_requests() -> None:
    """A-WS-1: a server may ignore an offer to upgrade (RFC 9110 7.8)."""
    headers = (("Host", "h"), ("Connection", "Upgrade"), ("Upgrade", "h2c"))
    with bridged(hello) as bridge:
        assert serve(bridge, environ_for(headers=headers)).body == b"hello"


def test_unread_input_of_a_refusal_is_left_alone() -> None:
    """A-WS-1: what follows an upgrade on the socket is not HTTP and is not read."""
    body = BodyInput(past_end="hang")
    with bridged(hello) as bridge:
        exchange = serve(bridge, environ_for(headers=UPGRADE) | {"wsgi.input": body})
        assert exchange.status == 501
    assert body.reads == []

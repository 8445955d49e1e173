"""Early hints through `ASGIToWSGI`, on real servers."""

import pytest

from tests.support.asgi_sites import RunningSite, site_fixture
from tests.support.hint_sites import LINKS
from tests.support.wsgi_servers import CONCURRENCY, GREENLET_SERVERS, SERVERS

HINTS = (
    b"HTTP/1.1 103 Early Hints\r\n" + b"".join(f"Link: {x}\r\n".encode() for x in LINKS) + b"\r\n"
)
HINTING = [server for server in (*SERVERS, *GREENLET_SERVERS) if server.name.startswith("gunicorn")]


site = site_fixture(HINTING, "tests.support.hint_sites:asgi_bridged")


def test_hints_come_before_the_response(site: RunningSite) -> None:
    """A-OUT-6: byte by byte what the server makes of them, and then the response."""
    with site.connect() as client:
        client.send(b"GET /hinted HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        assert client.receive_until(b"\r\n\r\n") == HINTS
        assert client.receive_until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
        assert client.receive_until(b"page").endswith(b"page")


def test_hints_do_not_wait_for_the_response(site: RunningSite) -> None:
    """A-OUT-6"""
    if not site.server.can(CONCURRENCY):
        pytest.skip(site.server.lacks[CONCURRENCY])
    with site.connect() as client:
        client.send(b"GET /held HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        assert client.receive_until(b"\r\n\r\n") == HINTS
        assert site.get("/go").body == b"gone"
        assert client.receive_until(b"page").endswith(b"page")

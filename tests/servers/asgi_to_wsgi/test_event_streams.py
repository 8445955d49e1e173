"""Event streams that take no thread, on real servers with raw clients (A-REL-1, R-1 to R-5).

docs/event_streams.md shows which servers can do it; tests/docs/test_event_streams.py compares.
"""

import http.client
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.asgi_sites import RunningSite, on_each, running_site, site_fixture
from tests.support.certificates import made_certificate
from tests.support.event_site import FIRST_EVENT
from tests.support.processes import accepts_connections
from tests.support.raw_http import Connection, CutResponseError, request_head
from tests.support.witness import became_true
from tests.support.wsgi_servers import (
    CHUNKED_RESPONSE,
    GREENLET_SERVERS,
    KEEP_ALIVE,
    RELEASE,
    SERVERS,
    WSGIServer,
    by_name,
)

SITE = "tests.support.event_site:bridge"
ALL_SERVERS = (*SERVERS, *GREENLET_SERVERS)
RELEASING = [server for server in ALL_SERVERS if server.can(RELEASE)]
KEEPING = [server for server in ALL_SERVERS if not server.can(RELEASE)]
GTHREAD = by_name("gunicorn-gthread").with_options("--threads", "4")
MANY = 50
WAIT_SECONDS = 20.0


site = site_fixture(RELEASING, SITE)


def stats(site: RunningSite) -> dict[str, Any]:
    counts: dict[str, Any] = json.loads(site.get("/stats").body)
    return counts


def released_become(site: RunningSite, count: int) -> bool:
    return became_true(lambda: stats(site)["released_event_streams"] == count, WAIT_SECONDS)


def opened(site: RunningSite, stack: ExitStack) -> Connection:
    """A stream whose first event has come."""
    client = stack.enter_context(site.connect(WAIT_SECONDS))
    client.send_head("GET", "/events")
    assert client.read_head().header("content-type") == "text/event-stream"
    assert client.read_body_exactly(len(FIRST_EVENT)) == FIRST_EVENT
    return client


def many_streams(site: RunningSite, count: int) -> None:
    """They are all open at once, ordinary requests are answered beside them, and each gets each
    event and a well-formed end.
    """
    threads = stats(site)["threads"]
    with ExitStack() as stack:
        clients = []
        for number in range(count):
            clients.append(opened(site, stack))
            if number % 10 == 0:
                assert site.get("/hello").body == b"Hello, world!"
        counts = stats(site)
        assert counts["released_event_streams"] == count
        assert counts["threads"] <= threads + 8  # those that the server starts as it likes
        assert site.get("/publish?news").body == b"%d" % count
        for client in clients:
            assert client.read_body_exactly(12) == b"data: news\n\n"
        assert site.get("/publish?end").body == b"%d" % count
        for client in clients:
            assert client.read_body() == b""
    assert released_become(site, 0)
    assert stats(site)["failed"] == 0


def test_many_streams_and_ordinary_requests_beside_them(site: RunningSite) -> None:
    """R-1, A-REL-1: more streams than the server has threads, on some but one."""
    many_streams(site, MANY)


def test_two_hundred_streams_on_four_threads() -> None:
    """R-1, A-REL-1"""
    with running_site(GTHREAD, SITE) as site:
        many_streams(site, 4 * MANY)


def test_the_bytes_on_the_wire(site: RunningSite) -> None:
    """R-3, R-4: the server's own head, then the body in the framing that it names, and no more."""
    with site.connect(WAIT_SECONDS) as client:
        client.send_head("GET", "/events")
        head = client.receive_until(b"\r\n\r\n").lower()
        chunked = site.server.can(CHUNKED_RESPONSE)
        first = b"c\r\n" + FIRST_EVENT + b"\r\n" if chunked else FIRST_EVENT
        assert client.receive_until(first) == first
        assert site.get("/publish?0123456789").body == b"1"
        event = b"data: 0123456789\n\n"
        event = b"12\r\n" + event + b"\r\n" if chunked else event
        assert client.receive_until(event) == event
        assert site.get("/publish?end").body == b"1"
        if chunked:
            assert client.receive_until(b"0\r\n\r\n") == b"0\r\n\r\n"
        with pytest.raises(CutResponseError, match="after b''"):
            client.receive_until(b"\n")
    assert head.startswith((b"http/1.1 200 ok\r\n", b"http/1.0 200 ok\r\n"))
    assert head.count(b"\r\ncontent-type: text/event-stream\r\n") == 1
    assert head.count(b"\r\nconnection: close\r\n") == head.count(b"\r\nconnection:") == 1
    assert head.count(b"\r\ntransfer-encoding: chunked\r\n") == chunked
    assert b"content-length" not in head


@pytest.mark.parametrize("way", ["close", "reset"])
def test_a_client_that_leaves_ends_its_stream(site: RunningSite, way: str) -> None:
    """R-4: at once, also on servers that do not show it otherwise."""
    with ExitStack() as stack:
        leaving, staying = opened(site, stack), opened(site, stack)
        getattr(leaving, way)()
        assert released_become(site, 1)
        assert site.get("/publish?end").body == b"1"
        assert staying.read_body() == b""


def test_a_stream_on_a_connection_that_was_used_before(site: RunningSite) -> None:
    """R-1: the second request of a connection, where the server takes one; it is the last."""
    if not site.server.can(KEEP_ALIVE):
        pytest.skip(site.server.lacks[KEEP_ALIVE])
    with site.connect(WAIT_SECONDS) as client:
        assert client.get("/hello").body == b"Hello, world!"
        client.send_head("GET", "/events")
        assert client.read_head().header("connection") == "close"
        assert client.read_body_exactly(len(FIRST_EVENT)) == FIRST_EVENT
        assert released_become(site, 1)
        assert site.get("/publish?end").body == b"1"
        assert client.read_body() == b""
        assert client.is_closed_by_server(WAIT_SECONDS)


def test_a_request_that_was_sent_behind_it_is_not_served(site: RunningSite) -> None:
    """R-4: a server may have read it already, and its answer could go to nobody (RFC 9112 9.6)."""
    with site.connect(WAIT_SECONDS) as client:
        client.send(request_head("GET", "/events", ()) + request_head("GET", "/publish?lost", ()))
        assert client.read_head().header("connection") == "close"
        assert client.read_body_exactly(len(FIRST_EVENT)) == FIRST_EVENT
        assert site.get("/publish?end").body == b"1"
        assert client.read_body() == b""


def test_over_tls_the_thread_is_kept(tmp_path: Path) -> None:
    """R-1: what the loop would write to the connection is not what the client reads."""
    certificate = made_certificate(tmp_path)
    server = GTHREAD.with_options(*certificate.gunicorn_options())
    with running_site(server, SITE, ready=accepts_connections) as site, ExitStack() as stack:

        def asked(target: str) -> http.client.HTTPResponse:
            connection = http.client.HTTPSConnection(
                *site.process.address, timeout=WAIT_SECONDS, context=certificate.client_context()
            )
            stack.callback(connection.close)
            connection.request("GET", target)
            return connection.getresponse()

        stream = asked("/events")
        assert stream.read(len(FIRST_EVENT)) == FIRST_EVENT
        assert json.loads(asked("/stats").read())["released_event_streams"] == 0
        assert asked("/publish?end").read() == b"1"
        assert stream.read() == b""


@pytest.mark.parametrize("server", on_each(KEEPING))
def test_other_servers_keep_their_thread(server: WSGIServer) -> None:
    """R-2: the stream is as before."""
    with running_site(server, SITE) as site, ExitStack() as stack:
        client = opened(site, stack)
        assert stats(site)["released_event_streams"] == 0
        assert site.get("/publish?end").body == b"1"
        assert client.read_body() == b""


@pytest.mark.parametrize("server", on_each(RELEASING))
def test_a_server_that_is_stopped_ends_its_streams(server: WSGIServer) -> None:
    """R-5: the clients see a cut, the apps end, and the worker leaves."""
    with running_site(server, SITE) as site, ExitStack() as stack:
        clients = [opened(site, stack) for _ in range(5)]
        site.stop()
        for client in clients:
            if server.can(CHUNKED_RESPONSE):
                with pytest.raises(CutResponseError):
                    client.read_body()
            else:
                with pytest.raises((CutResponseError, ConnectionResetError)):
                    client.read_body()
        site.wait_until_ended()
        assert [what for what, _ in site.witness.notes()] == ["a stream ended"] * 5


@pytest.mark.parametrize("name", ["gunicorn-sync", "gunicorn-gthread"])
def test_the_access_log_has_the_status(name: str) -> None:
    """R-3: the server has answered, as far as it knows."""
    server = by_name(name).with_options("--access-logfile", "-")
    with running_site(server, SITE) as site, ExitStack() as stack:
        opened(site, stack)
        assert became_true(
            lambda: '"GET /events HTTP/1.1" 200 0' in site.process.output(), WAIT_SECONDS
        )
        assert "Traceback" not in site.process.output()

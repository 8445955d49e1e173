"""`ASGIToWSGI` on real servers: where a body ends, and that the rest is no request."""

import json
import socket
from contextlib import suppress

import pytest

from tests.support.asgi_sites import ANSWER_SECONDS, RunningSite, site_fixture
from tests.support.raw_http import LAST_CHUNK, chunk, request_head
from tests.support.wsgi_servers import ASKS_LATE, CHUNKED_UPLOAD, SERVERS

BODY = b"hello world"
HELLO = b"Hello, world!"
NEXT = request_head("GET", "/hello", [("host", "x"), ("connection", "close")])
UNDECODED = chunk(b"five " + NEXT) + LAST_CHUNK
CHUNKED = ("transfer-encoding", "chunked")
EXPECT = ("expect", "100-continue")
HOST = ("host", "x")
# One of each kind: what is loaded before a fork makes no difference here.
SERVERS_ONCE = [server for server in SERVERS if "preload" not in server.name]


site = site_fixture(SERVERS_ONCE)


def all_answers(site: RunningSite, *sent: bytes) -> bytes:
    """What comes back on one connection until the server closes it."""
    with socket.create_connection(site.process.address, ANSWER_SECONDS) as client:
        received = bytearray()
        with suppress(OSError):  # it may have answered and closed already
            for data in sent:
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)  # werkzeug goes on reading until then
        with suppress(ConnectionError):
            while data := client.recv(65536):
                received += data
        return bytes(received)


@pytest.mark.parametrize("length", [None, 5], ids=["alone", "beside a length"])
def test_chunked_body(site: RunningSite, length: int | None) -> None:
    """A-IN-4: eleven bytes are eleven, and a server that does not decode them says so."""
    lengths = [] if length is None else [("content-length", str(length))]
    head = request_head("POST", "/counts_upload", [HOST, *lengths, CHUNKED])
    with site.connect() as client:
        client.send(head + chunk(BODY) + LAST_CHUNK)
        response = client.read_response()
    if response.status == 200:
        assert json.loads(response.body)["size"] == len(BODY)
        assert site.server.can(CHUNKED_UPLOAD)
    elif length is None:
        assert response.status == 411
        assert not site.server.can(CHUNKED_UPLOAD)
    else:  # gunicorn refuses it itself
        assert response.status == 400


@pytest.mark.parametrize("path", ["/counts_upload", "/refuses_upload"])
@pytest.mark.parametrize(
    "framing",
    [
        pytest.param([CHUNKED], id="chunked"),
        pytest.param([("content-length", "5"), CHUNKED], id="both"),
        pytest.param([("content-length", f"+{len(UNDECODED)}")], id="malformed"),
    ],
)
def test_body_is_never_the_next_request(
    site: RunningSite, path: str, framing: list[tuple[str, str]]
) -> None:
    """A-IN-4: a request within the body is not answered, whatever answers the body."""
    head = request_head("POST", path, [HOST, *framing])
    answers = all_answers(site, head + UNDECODED, NEXT)
    assert answers.count(b"HTTP/1.") in (1, 2)
    # A second answer is that of the request behind the body, and not of a part of the body.
    assert answers.count(HELLO) == answers.count(b"HTTP/1.") - 1
    assert site.answers_hello()


def test_refusal_comes_without_the_body_being_asked_for(site: RunningSite) -> None:
    """A-IN-1: where the server asks when its `wsgi.input` is read; others ask by themselves."""
    head = request_head("POST", "/refuses_upload", [HOST, EXPECT, ("content-length", "5")])
    with site.connect() as client:
        client.send(head)
        answer = client.receive_until(b"\r\n\r\n")
        if site.server.can(ASKS_LATE):
            assert b" 413 " in answer.partition(b"\r\n")[0]
        else:
            assert answer == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert site.answers_hello()


def test_body_that_is_held_back_comes_once_the_app_reads(site: RunningSite) -> None:
    """A-IN-1"""
    head = request_head("POST", "/counts_upload", [HOST, EXPECT, ("content-length", "11")])
    with site.connect() as client:
        client.send(head)
        if site.server.name not in ("wsgiref", "uwsgi"):  # which never ask
            assert client.receive_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(BODY)
        assert json.loads(client.read_response().body)["size"] == len(BODY)

"""`ASGIToWSGI` on real servers: whole requests, whole answers, large bodies in flat memory."""

import json
import zlib

import pytest

from tests.support.asgi_sites import RunningSite, is_refused, running_site, site_fixture
from tests.support.raw_http import request_head
from tests.support.wsgi_servers import KEEP_ALIVE, SERVERS, by_name, servers_with

MEBIBYTE = 1024 * 1024
LARGE_MEBIBYTES = 64
# Room for the allocator and the kernel's moods; a body held in memory would be all of 64 MiB.
FLAT_BYTES = 24 * MEBIBYTE
REQUEST_BUFFER_BYTES = 524_288
PAUSE_SECONDS = 0.5


site = site_fixture(SERVERS)

hintless_site = site_fixture([row for row in SERVERS if not row.name.startswith("gunicorn")])
keep_alive_site = site_fixture(servers_with(KEEP_ALIVE))


def test_hello(site: RunningSite) -> None:
    """A-CALL-1"""
    response = site.get("/hello")
    assert (response.status, response.body) == (200, b"Hello, world!")


def test_app_is_asked_what_the_client_asked(site: RunningSite) -> None:
    """A-SCOPE-1, A-IN-1"""
    with site.connect() as client:
        response = client.request("POST", "/echoes_request?a=%20b", [("x-name", "value")], b"body")
    told = json.loads(response.body)
    assert (told["method"], told["path"], told["query"]) == ("POST", "/echoes_request", "a=%20b")
    assert ["x-name", "value"] in told["headers"]
    assert ["content-length", "4"] in told["headers"]
    assert told["body"] == "body"


def test_servers_that_take_no_early_hints(hintless_site: RunningSite) -> None:
    """A-OUT-6: the app can tell, and answers as ever. test_early_hints.py has the others."""
    assert hintless_site.get("/sends_early_hint").text == "no hints"


def test_requests_follow_each_other_on_one_connection(keep_alive_site: RunningSite) -> None:
    """A-OUT-5: the end of a response is the end of its exchange."""
    with keep_alive_site.connect() as client:
        for _ in range(3):
            assert client.get("/hello").body == b"Hello, world!"
            assert client.request("POST", "/counts_upload", body=b"body").status == 200


def test_head_has_no_body(site: RunningSite) -> None:
    """A-OUT-1"""
    with site.connect() as client:
        client.send(request_head("HEAD", "/hello", [("host", "x"), ("connection", "close")]))
        received = client.receive_until(b"\r\n\r\n")
        assert b"200" in received.partition(b"\r\n")[0]
        assert client.is_closed_by_server(5.0)


@pytest.mark.parametrize("status", [204, 304])
def test_response_without_a_body_has_no_length_of_one(site: RunningSite, status: int) -> None:
    """A-OUT-1: a client of it waits for no byte. wsgiref adds a length of 0 by itself."""
    response = site.get(f"/bare?status={status}")
    assert (response.status, response.body, response.header("etag")) == (status, b"", '"1"')
    assert response.header("content-length") in (None, "0")
    assert site.answers_hello()


@pytest.mark.parametrize("status", [100, 101, 103])
def test_interim_status_is_no_response(site: RunningSite, status: int) -> None:
    """A-OUT-1: the client would take what follows on the connection for the response."""
    with site.connect() as client:
        client.send_head("GET", f"/bare?status={status}")
        assert is_refused(client)
    assert site.answers_hello()


def test_large_upload_in_flat_memory(site: RunningSite) -> None:
    """A-IN-1: 64 MiB up; no part is larger than the buffer, and nothing is kept."""
    part = bytes(range(256)) * 4096
    site.process.reset_peak_rss()
    before = site.process.rss_bytes()
    with site.connect() as client:
        size = LARGE_MEBIBYTES * len(part)
        client.send_head("POST", "/counts_upload", content_length=size)
        client.send_body_parts(part for _ in range(LARGE_MEBIBYTES))
        counted = json.loads(client.read_response().body)
    grown = site.process.peak_rss_bytes() - before
    assert counted["size"] == size
    assert counted["checksum"] == zlib.crc32(part * LARGE_MEBIBYTES)
    assert counted["largest_part"] <= REQUEST_BUFFER_BYTES
    assert grown < FLAT_BYTES, f"grew by {grown / MEBIBYTE:.1f} MiB"


def test_large_download_waits_for_its_reader_in_flat_memory(site: RunningSite) -> None:
    """A-OUT-2: 64 MiB down; a reader that pauses stops the app."""
    site.process.reset_peak_rss()
    before = site.process.rss_bytes()
    with site.connect() as client:
        client.send_head("GET", f"/sends_megabytes?megabytes={LARGE_MEBIBYTES}&name=large")
        assert client.read_head().status == 200
        with pytest.raises(AssertionError, match="'large sent' not noted"):
            site.witness.wait_for("large sent", PAUSE_SECONDS)
        size = checksum = 0
        while part := client.read_body():
            size += len(part)
            checksum = zlib.crc32(part, checksum)
    grown = site.process.peak_rss_bytes() - before
    assert size == LARGE_MEBIBYTES * MEBIBYTE
    assert checksum == zlib.crc32(bytes(size))
    site.witness.wait_for("large sent", 5.0)
    assert grown < FLAT_BYTES, f"grew by {grown / MEBIBYTE:.1f} MiB"


def test_head_that_asks_for_websocket_keeps_connection_in_step(
    keep_alive_site: RunningSite,
) -> None:
    """A-OUT-1: what follows the head of one response is the head of the next."""
    upgrade = [("host", "x"), ("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]
    with keep_alive_site.connect() as client:
        client.send(request_head("HEAD", "/hello", upgrade))
        first = client.receive_until(b"\r\n\r\n")
        assert first.endswith(b"\r\n\r\n")
        client.send(request_head("GET", "/hello", [("host", "x"), ("connection", "close")]))
        assert client.receive_until(b"world!").startswith(b"HTTP/1.1 200")


def test_gunicorn_serves_an_import_string_with_no_file_written() -> None:
    """A-CALL-1"""
    target = 'wsgi_asgi_bridge:ASGIToWSGI("tests.support.asgi_apps:hello")'
    with running_site(by_name("gunicorn-gthread"), target) as site:
        assert site.answers_hello()


def test_trio_behind_a_real_server() -> None:
    """A-LOOP-1"""
    with running_site(by_name("gunicorn-gthread"), "tests.support.bridged_asgi:on_trio") as site:
        assert site.answers_hello()

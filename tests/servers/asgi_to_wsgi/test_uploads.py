"""`ASGIToWSGI` on real servers: bodies that come in chunks, in part, or never whole."""

import json
import zlib

from tests.support.asgi_sites import RunningSite, site_fixture
from tests.support.raw_http import LAST_CHUNK, chunk, request_head
from tests.support.wsgi_servers import CHUNKED_UPLOAD, SERVERS, STREAMED_UPLOAD, servers_with

LEAVE_SECONDS = 2.0
PART = bytes(range(256)) * 256
LARGE_BODY_BYTES = 1024 * 1024


site = site_fixture(SERVERS)

chunk_taking_site = site_fixture(servers_with(CHUNKED_UPLOAD))

streaming_site = site_fixture(servers_with(STREAMED_UPLOAD))


def test_chunked_upload_is_read_to_its_end(chunk_taking_site: RunningSite) -> None:
    """A-IN-1: no CONTENT_LENGTH, `wsgi.input_terminated`."""
    with chunk_taking_site.connect() as client:
        client.send_head("POST", "/counts_upload", chunked=True)
        client.send_body_parts([PART] * 32)
        counted = json.loads(client.read_response().body)
    assert (counted["size"], counted["checksum"]) == (32 * len(PART), zlib.crc32(PART * 32))
    assert chunk_taking_site.answers_hello()


def test_chunked_upload_never_hangs(site: RunningSite) -> None:
    """A-IN-1: also where the server does not decode it, there is an answer and then the next."""
    with site.connect() as client:
        headers = [("host", "x"), ("connection", "close"), ("transfer-encoding", "chunked")]
        head = request_head("POST", "/counts_upload", headers)
        # In one packet: a server that does not decode it may answer and close before a second.
        client.send(head + chunk(b"body") + LAST_CHUNK)
        client.read_head()
    assert site.answers_hello()


def test_client_that_leaves_within_its_body_is_a_disconnect(streaming_site: RunningSite) -> None:
    """A-IN-1: a short body is a disconnect, never the end of the body."""
    site = streaming_site
    before = site.process.output_size()
    tasks = site.describe()["tasks"]
    with site.connect() as client:
        client.send_head(
            "POST", "/reads_until_client_leaves?name=cut", content_length=LARGE_BODY_BYTES
        )
        client.send_body(PART)
        site.witness.wait_for("cut reads", 5.0)
    site.witness.wait_for("cut left", LEAVE_SECONDS)
    assert not site.witness.is_noted("cut got a whole body")
    assert site.waiting_tasks_become(tasks, LEAVE_SECONDS)
    # The app returned as it was told: nobody calls that an error of the app's.
    assert "AppError" not in site.process.output(before)


def test_small_body_that_is_cut_never_looks_whole(site: RunningSite) -> None:
    """A-IN-1: a small body is read before the app starts; cut, it still is no body."""
    with site.connect() as client:
        client.send_head("POST", "/reads_until_client_leaves?name=small", content_length=1000)
        client.send_body(b"short")
        client.end_sending()
        client.is_closed_by_server(LEAVE_SECONDS)
    assert site.answers_hello()
    assert not site.witness.is_noted("small got a whole body")


def test_answer_does_not_wait_for_the_body(streaming_site: RunningSite) -> None:
    """A-OUT-5: an app that answers without reading is done, however slow its client uploads."""
    with streaming_site.connect() as client:
        client.send_head(
            "POST", "/hello", [("connection", "close")], content_length=LARGE_BODY_BYTES
        )
        client.send_body(PART[:1000])
        assert client.read_head().status == 200
        assert client.read_body_exactly(13) == b"Hello, world!"
    assert streaming_site.answers_hello()

"""Uploads from real clients into a WSGI app: in pieces, undeclared, announced, cut."""

import hashlib
import json
from collections.abc import Iterator

import pytest

from tests.support.asgi_servers import Ability, Served
from tests.support.raw_http import Connection
from tests.support.wsgi_apps import LARGE_BODY, MIB, READ_BYTES, digest_of, download_parts


def parts_of(body: bytes, size: int) -> Iterator[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))


# In pieces


@pytest.mark.parametrize("framing", ["declared", "undeclared"])
def test_body_arrives_byte_by_byte(served: Served, framing: str) -> None:
    """W-IN-1, W-IN-2, W-IN-5."""
    body = bytes(range(256))
    with served.connect() as client:
        declared = {"content_length": len(body)} if framing == "declared" else {}
        client.send_head("POST", "/echo", chunked=framing == "undeclared", **declared)
        client.send_body_parts(parts_of(body, 1))
        assert client.read_response().body == body


def test_body_larger_than_the_buffers_is_echoed(served: Served) -> None:
    """W-IN-1: the 5 MB come back, whatever the parts they arrive in."""
    with served.connect() as client:
        client.send_head("POST", "/echo", content_length=len(LARGE_BODY))
        client.send_body_parts(parts_of(LARGE_BODY, 99_991))
        assert client.read_response().body == LARGE_BODY


@pytest.mark.parametrize("size", [1, 1000])
def test_app_that_reads_what_is_declared_reads_a_chunked_body(served: Served, size: int) -> None:
    """W-IN-2: a small one has its length; in one packet, with its end or in pieces."""
    body = bytes(range(256)) * 4
    with served.connect() as client:
        client.send_head("POST", "/echo_of_declared", chunked=True)
        client.send_body_parts(parts_of(body, size))
        assert client.read_response().body == body


def test_chunked_upload_into_flask(served: Served) -> None:
    """W-IN-2: Flask reads a body without Content-Length to its end."""
    with served.connect() as client:
        client.send_head("POST", "/flask/raw", chunked=True)
        client.send_body_parts(download_parts(1))
        answer = json.loads(client.read_response().body)
    assert answer == {"size": MIB, "sha256": digest_of(download_parts(1))}


@pytest.mark.parametrize("framing", ["declared", "undeclared"])
def test_form_with_a_file_into_flask(served: Served, framing: str) -> None:
    """W-IN-1, W-IN-2: werkzeug's multipart parser over `wsgi.input`."""
    data = b"".join(download_parts(1))
    body = (
        b'--mark\r\ncontent-disposition: form-data; name="name"\r\n\r\nnumbers\r\n'
        b'--mark\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n'
        + data
        + b"\r\n--mark--\r\n"
    )
    headers = [("content-type", "multipart/form-data; boundary=mark")]
    declared = {"content_length": len(body)} if framing == "declared" else {}
    with served.connect() as client:
        chunked = framing == "undeclared"
        client.send_head("POST", "/flask/form", headers, chunked=chunked, **declared)
        client.send_body_parts(parts_of(body, 50_000))
        answer = json.loads(client.read_response().body)
    digest = hashlib.sha256(data).hexdigest()
    assert answer == {"size": len(data), "sha256": digest, "name": "numbers"}


@pytest.mark.parametrize("size", [100, 1_000_000])
def test_expect_100_continue(served: Served, size: int) -> None:
    """W-IN-5: the client is told to go on, for a small body and for one that streams."""
    body = b"x" * size
    with served.connect() as client:
        client.send_head("POST", "/echo", [("expect", "100-continue")], content_length=size)
        if served.can(Ability.SENDS_100_CONTINUE):
            assert isinstance(client, Connection)
            assert client.receive_until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        client.send_body(body, end=True)
        assert client.read_response().body == body


# Cut


@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize(
    ("framing", "sent"),
    [("declared", 100_000), ("undeclared", 100_000), ("undeclared", 10)],
)
def test_cut_upload_is_an_error_in_the_app(
    served: Served, framing: str, sent: int, ending: str
) -> None:
    """W-IN-3: the app that reads sees an OSError, never a short body."""
    token = f"cut-{framing}-{sent}-{ending}-{served.server.name}"
    with served.connect() as client:
        declared = {"content_length": 10 * sent} if framing == "declared" else {}
        target = f"/upload_digest?id={token}"
        client.send_head("POST", target, chunked=framing == "undeclared", **declared)
        client.send_body(b"x" * sent)
        # The app asks for more than 10 bytes at once: such a read waits, and fails, whole.
        events = ["called", "first part"] if sent > READ_BYTES else ["called"]
        if served.can(Ability.UPLOADS_ARRIVE_AS_SENT):
            served.wait_for_journal(token, events[-1])
        getattr(client, ending)()
        if served.can(Ability.UPLOADS_ARRIVE_AS_SENT):
            ended = "OSError: ClientDisconnected"
            assert served.wait_for_journal(token, ended) == [*events, ended]
        else:
            served.assert_answers(3)
            assert served.journal(token) == []


@pytest.mark.parametrize("ending", ["close", "reset"])
def test_cut_small_upload_never_reaches_the_app(served: Served, ending: str) -> None:
    """W-IN-5, W-IN-3: a body that fits the buffer is collected first, and a cut one is dropped."""
    token = f"cut-small-{ending}-{served.server.name}"
    before = served.stats()["disconnected"]
    with served.connect() as client:
        client.send_head("POST", f"/upload_digest?id={token}", content_length=1000)
        client.send_body(b"x" * 100)
        if served.can(Ability.UPLOADS_ARRIVE_AS_SENT):
            served.wait_for_stats(in_flight=1, busy=0)
        getattr(client, ending)()
        if served.can(Ability.UPLOADS_ARRIVE_AS_SENT):
            served.wait_for_stats(in_flight=0, disconnected=before + 1)
        served.assert_answers(3)
        assert served.journal(token) == []

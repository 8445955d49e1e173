"""server_head.py: the head that a server wrote, read in any pieces, and the framing it names."""

import http.client
import io
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsgi_asgi_bridge._protocol.server_head import (
    MAX_HEAD_BYTES,
    Framing,
    ServerHead,
    framed_end,
    framed_part,
)
from wsgi_asgi_bridge.errors import ServerError

GUNICORN = (
    b"HTTP/1.1 200 OK\r\nServer: gunicorn\r\nDate: Sat, 28 Nov 2026 05:47:00 GMT\r\n"
    b"Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Type: text/event-stream\r\n\r\n"
)
CHEROOT = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    b"Date: Sat, 28 Nov 2026 05:47:00 GMT\r\nServer: Cheroot/11.1.2\r\n\r\n"
)
WSGIREF = (
    b"HTTP/1.0 200 OK\r\nDate: Sat, 28 Nov 2026 05:47:00 GMT\r\n"
    b"Server: WSGIServer/0.2 CPython/3.11.7\r\nContent-Type: text/event-stream\r\n\r\n"
)
UWSGI = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"

KNOWN = {
    "gunicorn": (GUNICORN, Framing.CHUNKED),
    "cheroot": (CHEROOT, Framing.CHUNKED),
    "wsgiref": (WSGIREF, Framing.UNTIL_CLOSE),
    "uwsgi": (UWSGI, Framing.UNTIL_CLOSE),
}


def read(*pieces: bytes, status: str = "200") -> ServerHead:
    """The head in `pieces`, complete with the last of them."""
    head = ServerHead(status)
    for piece in pieces[:-1]:
        assert not head.feed(piece)
    assert head.feed(pieces[-1])
    return head


def with_line(line: bytes, version: bytes = b"1.1") -> bytes:
    return b"HTTP/%b 200 OK\r\n%b\r\n\r\n" % (version, line)


@pytest.mark.parametrize(("written", "framing"), KNOWN.values(), ids=KNOWN)
def test_heads_of_known_servers(written: bytes, framing: Framing) -> None:
    """R-3: the lines are the server's own, but for what it says of the connection."""
    head = read(written + b"0\r\n\r\n")
    assert head.framing is framing
    own = written.replace(b"Connection: keep-alive\r\n", b"").removesuffix(b"\r\n")
    assert head.lines == own + b"Connection: close\r\n\r\n"


@settings(deadline=None)
@given(st.sampled_from(sorted(KNOWN)), st.sets(st.integers(1, 150)), st.binary(max_size=20))
def test_pieces_make_no_difference(server: str, cuts: set[int], rest: bytes) -> None:
    """R-3: a head in any pieces reads as the whole; what follows it is dropped."""
    written, framing = KNOWN[server]
    places = [0, *sorted(cut for cut in cuts if cut < len(written)), len(written)]
    pieces = [written[a:b] for a, b in pairwise(places)]
    head = read(*pieces[:-1], pieces[-1] + rest)
    assert head.lines == read(written).lines
    assert head.framing is framing


@pytest.mark.parametrize(
    "written",
    [
        b"\r\n\r\n",
        b"200 OK\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 500 Internal Server Error\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"\0\1\2 HTTP/1.1 200 OK\r\n\r\n",
        with_line(b"no colon"),
        with_line(b": no name"),
        with_line(b"Name : a space before the colon"),
        with_line(b"X: folded\r\n over two lines"),
        with_line(b"X: a\rb"),
        with_line(b"X: a\nSet-Cookie: b"),
        with_line(b"X: a\0"),
        with_line(b"Content-Length: 0"),
        with_line(b"content-length: 5"),
        with_line(b"Transfer-Encoding: gzip"),
        with_line(b"Transfer-Encoding: gzip, chunked"),
        with_line(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        with_line(b"Transfer-Encoding: chunked", version=b"1.0"),
    ],
)
def test_heads_that_cannot_be_understood(written: bytes) -> None:
    """R-3: the body could not be framed as such a head says, or the head is another response's."""
    with pytest.raises(ServerError):
        ServerHead("200").feed(written)


def test_a_reason_may_be_missing_and_any_status_be_the_apps() -> None:
    assert read(b"HTTP/1.1 404\r\n\r\n", status="404").lines == (
        b"HTTP/1.1 404\r\nConnection: close\r\n\r\n"
    )


@settings(deadline=None)
@given(st.integers(256, 4096))
def test_a_head_has_a_limit(size: int) -> None:
    """R-3: without an end, or with a late one, a head is given up."""
    head = ServerHead("200")
    for _ in range(MAX_HEAD_BYTES // size):
        assert not head.feed(b"x" * size)
    with pytest.raises(ServerError, match="longer than"):
        head.feed(b"x" * size)
    long = b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n"
    with pytest.raises(ServerError, match="longer than"):
        ServerHead("200").feed(long)


class Sent:
    """A socket, as far as http.client uses one, on which these bytes have come."""

    def __init__(self, sent: bytes) -> None:
        self._sent = sent

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._sent)


def body_seen_by_a_client(sent: bytes) -> bytes:
    response = http.client.HTTPResponse(Sent(sent))  # type: ignore[arg-type]
    response.begin()
    return response.read()


@settings(deadline=None)
@given(st.lists(st.binary(max_size=300)), st.sampled_from(sorted(KNOWN)))
def test_another_implementation_reads_the_body(parts: list[bytes], server: str) -> None:
    """R-3, R-4: http.client reads head and framed parts as one well-formed response."""
    head = read(KNOWN[server][0])
    framed = [piece for part in parts for piece in framed_part(head.framing, part)]
    sent = b"".join([head.lines, *framed, *framed_end(head.framing)])
    assert body_seen_by_a_client(sent) == b"".join(parts)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=300)))
def test_a_body_without_its_end_is_seen_as_cut(parts: list[bytes]) -> None:
    """R-4: chunks without the last chunk are never a whole body."""
    framed = [piece for part in parts for piece in framed_part(Framing.CHUNKED, part)]
    with pytest.raises(http.client.IncompleteRead):
        body_seen_by_a_client(b"".join([read(GUNICORN).lines, *framed]))


def test_an_empty_part_is_no_chunk() -> None:
    """R-4: an empty chunk would end the body."""
    assert framed_part(Framing.CHUNKED, b"") == framed_part(Framing.UNTIL_CLOSE, b"") == ()

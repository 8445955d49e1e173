"""What the calling thread reads of a request's body, from inputs that block, end early or give what
they have.
"""

import io
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.fake_wsgi_server import BodyInput, InThread
from wsgi_asgi_bridge.asgi_to_wsgi.request_body import BodyState, RequestBody, request_body

BLOCK = 1000


@contextmanager
def connection() -> Iterator[tuple[socket.socket, Any]]:
    """A client's socket, and the `wsgi.input` that wsgiref and werkzeug make of the server's."""
    client, server = socket.socketpair()
    with server, server.makefile("rb") as source, client:  # the client ends first, if a read waits
        yield client, source


def all_parts(body: RequestBody) -> tuple[list[bytes], BodyState]:
    parts = []
    while True:
        part, state = body.read()
        parts.append(part)
        if state is not BodyState.MORE:
            return parts, state


def test_a_connection_gives_what_has_come() -> None:
    """A-IN-1: without waiting for a whole block, which the client may never send."""
    with connection() as (client, source):
        body = RequestBody(source, 10 * BLOCK, BLOCK)
        for sent in (b"one", b"two" * 100, b"3"):
            client.sendall(sent)
            assert InThread(body.read, "a read").result() == (sent, BodyState.MORE)


def test_what_a_connection_has_buffered_is_given_first() -> None:
    """A-IN-1: what came together with the head is in the file's buffer, in its order."""
    with connection() as (client, source):
        client.sendall(b"HEAD\r\nbegin")
        assert source.readline() == b"HEAD\r\n"
        client.sendall(b"end")
        body = RequestBody(source, 10 * BLOCK, BLOCK)
        received = b""
        while len(received) < 8:
            received += InThread(body.read, "a read").result()[0]
    assert received == b"beginend"


@pytest.mark.parametrize("seed", range(20))
def test_a_connection_is_read_to_the_length_and_no_further(seed: int) -> None:
    """A-IN-1: nothing is lost or doubled, whatever the pieces, and what follows is left."""
    draw = random.Random(seed)
    data = draw.randbytes(draw.randint(BLOCK + 1, 30 * BLOCK))
    follows = b"GET / HTTP/1.1\r\n"
    with connection() as (client, source):

        def send() -> None:
            rest = data + follows
            while rest:
                size = draw.randint(1, 3 * BLOCK)
                client.sendall(rest[:size])
                rest = rest[size:]

        sending = InThread(send, "the sending")
        parts, state = InThread(
            lambda: all_parts(RequestBody(source, len(data), BLOCK)), "the body"
        ).result()
        sending.result()
        assert (b"".join(parts), state) == (data, BodyState.COMPLETE)
        assert all(0 < len(part) <= BLOCK for part in parts)
        assert source.readline() == follows


@pytest.mark.parametrize("size", [0, 1, BLOCK, 3 * BLOCK])
@pytest.mark.parametrize("length", [None, 5 * BLOCK], ids=["undeclared", "declared"])
def test_a_connection_that_ends(size: int, length: int | None) -> None:
    """A-IN-1: its end is that of the body where none was declared, else the body breaks off."""
    with connection() as (client, source):
        client.sendall(b"x" * size)
        client.shutdown(socket.SHUT_WR)
        parts, state = InThread(
            lambda: all_parts(RequestBody(source, length, BLOCK)), "the body"
        ).result()
    assert b"".join(parts) == b"x" * size
    assert state is (BodyState.COMPLETE if length is None else BodyState.BROKEN)


@pytest.mark.parametrize("length", [None, 5 * BLOCK], ids=["undeclared", "declared"])
def test_a_connection_that_does_not_block_has_not_ended(length: int | None) -> None:
    """A-IN-1: read1() gives b"" there, or None, where no more has come yet."""
    client, server = socket.socketpair()
    with client, server:
        server.setblocking(False)
        with io.BufferedReader(socket.SocketIO(server, "r")) as source:
            body = RequestBody(source, length, BLOCK)
            client.sendall(b"begin")
            assert body.read() == (b"begin", BodyState.MORE)
            assert body.read() == (b"", BodyState.BROKEN)


def test_a_small_body_is_read_whole() -> None:
    """A-IN-1: however it comes; it waits for what has not come yet."""
    with connection() as (client, source):
        body = RequestBody(source, 6, BLOCK)
        assert body.small
        client.sendall(b"one")
        reading = InThread(body.read_all, "the body")
        assert not reading.done.wait(0.05)
        client.sendall(b"two")
        assert reading.result() == (b"onetwo", BodyState.COMPLETE)


class Counting(io.BufferedReader):
    """A middleware's input, which would not see what is read past its own read()."""

    def __init__(self, raw: Any) -> None:
        super().__init__(raw)
        self.counted = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.counted += len(data)
        return data


def test_an_input_of_somebody_else_is_read_by_read() -> None:
    """PEP 3333 names read() only: what wraps an input wraps that."""
    source = Counting(io.BytesIO(b"x" * 3 * BLOCK))  # type: ignore[arg-type]
    parts, state = all_parts(RequestBody(source, 3 * BLOCK, BLOCK))
    assert ([len(part) for part in parts], state) == ([BLOCK] * 3, BodyState.COMPLETE)
    assert source.counted == 3 * BLOCK


def test_no_input_is_no_body() -> None:
    """A-SCOPE-2"""
    assert request_body({"wsgi.input": None}, None, BLOCK).read() == (b"", BodyState.COMPLETE)
    assert request_body({"wsgi.input": None}, 5, BLOCK).read() == (b"", BodyState.BROKEN)
    assert request_body({"wsgi.input": BodyInput(b"hello")}, 5, BLOCK).read() == (
        b"hello",
        BodyState.COMPLETE,
    )


def test_without_method_it_is_a_get_which_has_no_undeclared_body() -> None:
    """A-SCOPE-2."""
    environ = {"wsgi.input_terminated": True, "wsgi.input": io.BytesIO(b"of the next request")}
    assert request_body(environ, None, 10).empty

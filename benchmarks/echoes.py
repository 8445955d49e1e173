"""`python -m benchmarks.echoes PORT CLIENTS BYTES SECONDS`: round trips a second over WebSockets.

A process of its own, bare sockets and a frame made beforehand: as little work as Python can do.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from select import EPOLLIN, epoll
from socket import IPPROTO_TCP, TCP_NODELAY, create_connection, socket

from tests.support.processes import HOST

from .contest import WrongAnswerError
from .sites import BLOCK

ANSWER_SECONDS = 10.0
CHECKS = 20  # round trips of each client that are compared, before the time is taken
OPENING = (
    b"GET /echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def frames(size: int) -> tuple[bytes, bytes]:
    """A binary message from the client, masked with zeros, and its echo."""
    payload = (BLOCK * (size // len(BLOCK) + 1))[:size]
    code, width = (size, 0) if size < 126 else (126, 2) if size < 2**16 else (127, 8)
    length = size.to_bytes(width) if width else b""
    masked = bytes([0x82, 0x80 | code]) + length + bytes(4) + payload
    return masked, bytes([0x82, code]) + length + payload


def received(client: socket, is_whole: Callable[[bytearray], bool]) -> bytearray:
    got = bytearray()
    while not is_whole(got):
        if not (block := client.recv(2**20)):
            raise WrongAnswerError(f"the connection ended after {len(got)} bytes")
        got += block
    return got


def exchange(client: socket, message: bytes, answer: bytes) -> None:
    """Raises WrongAnswerError at another answer."""
    client.sendall(message)
    got = received(client, lambda got: len(got) >= len(answer))
    if got != answer:
        raise WrongAnswerError(f"{bytes(got[:60])!r}")


@contextmanager
def clients(port: int, count: int, size: int, checks: int = CHECKS) -> Iterator[list[socket]]:
    """Open WebSockets, all of which have had right answers."""
    with ExitStack() as ending:
        opened = []
        for _ in range(count):
            opened.append(ending.enter_context(create_connection((HOST, port), ANSWER_SECONDS)))
            opened[-1].setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
            opened[-1].sendall(OPENING)
            head = received(opened[-1], lambda got: got.endswith(b"\r\n\r\n"))
            if not head.startswith(b"HTTP/1.1 101 "):
                raise WrongAnswerError(f"{bytes(head[:60])!r}")
        for client in opened * checks:
            exchange(client, *frames(size))
        yield opened


def round_trips(opened: Sequence[socket], size: int, seconds: float) -> dict[str, float]:
    """A client sends its next message when it has the echo of the last one."""
    message, echo = frames(size)
    poll, buffer, count = epoll(), bytearray(2**20), 0
    of_number, left = {client.fileno(): client for client in opened}, {}
    for number, client in of_number.items():
        poll.register(number, EPOLLIN)
        left[number] = len(echo)
        client.sendall(message)
    started, used = time.perf_counter(), time.process_time()
    while (spent := time.perf_counter() - started) < seconds:
        for number, _ in poll.poll(ANSWER_SECONDS):
            left[number] -= of_number[number].recv_into(buffer)
            if not left[number]:
                left[number], count = len(echo), count + 1
                of_number[number].sendall(message)
    busy = (time.process_time() - used) / spent
    return {"trips": count, "trips_per_second": count / spent, "client": busy}


if __name__ == "__main__":
    PORT, CLIENTS, SIZE = map(int, sys.argv[1:4])
    with clients(PORT, CLIENTS, SIZE) as several:
        json.dump(round_trips(several, SIZE, float(sys.argv[4])), sys.stdout)

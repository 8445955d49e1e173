"""`python -m benchmarks.echoes PORT CLIENTS BYTES SECONDS`: round trips a second over WebSockets.

A process of its own, bare sockets and a frame made beforehand: as little work as Python can do.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from select import EPOLLIN, epoll
from socket import IPPROTO_TCP, TCP_NODELAY, create_connection, socket

from tests.support import async_http as http
from tests.support.processes import HOST

from .contest import WrongAnswerError
from .sites import BLOCK

ANSWER_SECONDS = 10.0
CHECKS = 20  # round trips of each client that are compared, before the time is taken
KEY = ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
OPENING = http.head("GET", "/echo", "Upgrade: websocket", "Connection: Upgrade", *KEY)


def frames(size: int) -> tuple[bytes, bytes]:
    """A binary message from the client, masked with zeros, and its echo."""
    payload = (BLOCK * (size // len(BLOCK) + 1))[:size]
    code, width = (size, 0) if size < 126 else (126, 2) if size < 2**16 else (127, 8)
    length = size.to_bytes(width) if width else b""
    masked = bytes([0x82, 0x80 | code]) + length + bytes(4) + payload
    return masked, bytes([0x82, code]) + length + payload


@contextmanager
def clients(port: int, count: int, size: int, checks: int = CHECKS) -> Iterator[list[socket]]:
    """Open WebSockets, all of which have had right answers."""
    message, echo = frames(size)
    with ExitStack() as ending:
        opened = []
        for _ in range(count):
            client = ending.enter_context(create_connection((HOST, port), ANSWER_SECONDS))
            client.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
            client.sendall(OPENING)
            answer = ending.enter_context(client.makefile("rb"))
            head = b"".join(takewhile(bytes.strip, iter(answer.readline, None)))
            for _ in range(checks):
                client.sendall(message)
                if (got := answer.read(len(echo))) != echo:
                    raise WrongAnswerError(f"{got[:60]!r} after {head!r}")
            opened.append(client)
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
    # Not on the CPU of the server, to which its parent is pinned.
    os.sched_setaffinity(0, {*range(os.cpu_count() or 1)} - os.sched_getaffinity(0) or {0})
    PORT, CLIENTS, SIZE = map(int, sys.argv[1:4])
    with clients(PORT, CLIENTS, SIZE) as several:
        json.dump(round_trips(several, SIZE, float(sys.argv[4])), sys.stdout)

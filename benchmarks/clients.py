"""Clients of the memory and hostile parts: raw sockets, so each byte and each pause is theirs."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from threading import Event, Thread

from .apps import HELLO, LARGE_CHUNK
from .contest import WrongAnswerError
from .server_processes import HOST

READ_BYTES = 262144
SMALL_ANSWER_BYTES = 65536
SLOW_READ_SECONDS = 0.002
SLOW_SEND_SECONDS = 0.0005
HABIT_SECONDS = 0.2


def connected(port: int, timeout: float, receive_buffer: int | None = None) -> socket.socket:
    client = socket.socket()
    if receive_buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(timeout)
    try:
        client.connect((HOST, port))
    except BaseException:
        client.close()
        raise
    return client


def head(method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {HOST}", *lines, "", ""]).encode()


# Ordinary clients


def get(port: int, path: str, timeout: float) -> bytes:
    """The whole answer, head and body, over a connection of its own. It must be a small one."""
    with connected(port, timeout) as client:
        client.sendall(head("GET", path, "Connection: close"))
        answer = b""
        while block := client.recv(READ_BYTES):
            answer += block
            if len(answer) > SMALL_ANSWER_BYTES:
                raise WrongAnswerError(
                    f"{path} was answered with more than {SMALL_ANSWER_BYTES} bytes"
                )
    return answer


def census(port: int) -> dict[str, int]:
    """What the server says of its event loop; nothing where it has none to tell of."""
    answer = get(port, "/census", 5.0)
    start = answer.find(b"{")
    try:
        return json.loads(answer[start:]) if start >= 0 else {}
    except ValueError as error:
        raise WrongAnswerError(f"no census: {answer[-60:]!r}") from error


def hello_seconds(port: int, timeout: float) -> float | None:
    """How long an ordinary request took; None when there was no answer in time."""
    started = time.perf_counter()
    try:
        right = HELLO in get(port, "/hello", timeout)
    except OSError:
        return None
    return time.perf_counter() - started if right else None


def download(port: int, mebibytes: int, slow: bool) -> None:
    """Read so much; raises WrongAnswerError when less comes."""
    pause = SLOW_READ_SECONDS if slow else 0.0
    with connected(port, 30.0) as client:
        client.sendall(head("GET", f"/download?{mebibytes}", "Connection: close"))
        total = 0
        while block := client.recv(READ_BYTES):
            total += len(block)
            if pause:
                time.sleep(pause)
    if total < mebibytes * 1024 * 1024:
        raise WrongAnswerError(f"{total} bytes instead of {mebibytes} MiB")


def upload(port: int, mebibytes: int, path: str = "/upload", slow: bool = False) -> None:
    """Send so much; raises WrongAnswerError when the app counted something else."""
    length = mebibytes * 1024 * 1024
    with connected(port, 30.0) as client:
        client.sendall(head("POST", path, "Connection: close", f"Content-Length: {length}"))
        for _ in range(length // len(LARGE_CHUNK)):
            client.sendall(LARGE_CHUNK)
            if slow:
                time.sleep(SLOW_SEND_SECONDS)
        answer = b"".join(iter(lambda: client.recv(READ_BYTES), b""))
    if b"%d\n" % length not in answer:
        raise WrongAnswerError(answer[-60:])


def many_hellos(port: int, count: int, connections: int) -> None:
    """So many requests over a few keep-alive connections."""

    def lane(requests: int) -> None:
        request = head("GET", "/hello")
        with connected(port, 10.0) as client:
            for _ in range(requests):
                client.sendall(request)
                answer = b""
                while not answer.endswith(HELLO):
                    block = client.recv(READ_BYTES)
                    if not block:
                        raise WrongAnswerError("the server closed the connection")
                    answer += block

    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(lane, [count // connections] * connections))


def drop_stream(port: int, timeout: float) -> bool:
    """Open an event stream, read its first bytes, leave. False when none came in time."""
    try:
        with connected(port, timeout) as client:
            client.sendall(head("GET", "/events"))
            return bool(client.recv(64))
    except OSError:
        return False


# Hostile clients


@contextmanager
def crowd(
    port: int,
    request: bytes,
    count: int,
    habit: Callable[[socket.socket], None],
    receive_buffer: int | None = None,
) -> Iterator[None]:
    """So many connections that send the request and stay; each follows its habit now and then."""
    over = Event()
    with ExitStack() as ending:
        clients = [ending.enter_context(connected(port, 5.0, receive_buffer)) for _ in range(count)]
        for client in clients:
            client.sendall(request)
            client.setblocking(False)
        thread = Thread(target=keep, args=(clients, habit, over), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def keep(clients: list[socket.socket], habit: Callable[[socket.socket], None], over: Event) -> None:
    while not over.wait(HABIT_SECONDS):
        for client in clients:
            try:
                habit(client)
            except OSError:  # full, empty, or closed by the server: a crowd does not care
                continue


def reads(client: socket.socket) -> None:
    client.recv(READ_BYTES)


def drips(client: socket.socket) -> None:
    client.send(b"x")


def does_nothing(client: socket.socket) -> None:
    """Neither reads nor sends."""

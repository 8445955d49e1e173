"""A keep-alive client in a process of its own: on each connection one request after another.

`python -m benchmarks.load_client PORT PATH CONNECTIONS SECONDS` prints a JSON object. Every answer
must be 200 and end as it says it does; anything else ends the run with an error.
"""

import asyncio
import json
import sys
import time
from typing import Any

from .measuring import percentile
from .peers import new_loops

HOST = "127.0.0.1"
LAST_CHUNK = b"\r\n0\r\n\r\n"


class Connection(asyncio.Protocol):
    """Sends the request again as soon as the answer is whole."""

    def __init__(self, request: bytes, run: "Run") -> None:
        self.request = request
        self.run = run
        self.received = b""
        self.needed: int | None = None  # bytes of head and body, where the length is declared

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        self.received, self.needed = b"", None
        self.started = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.needed is None and not self.read_head():
            return
        if self.is_whole():
            self.run.note(time.perf_counter() - self.started)
            if self.run.over:
                self.transport.close()
            else:
                self.send()

    def is_whole(self) -> bool:
        if not self.needed:
            return self.received.endswith(LAST_CHUNK)
        return len(self.received) >= self.needed

    def read_head(self) -> bool:
        """Set `needed`: 0 for a chunked body. False while the head is not whole."""
        head, end, _ = self.received.partition(b"\r\n\r\n")
        if not end:
            return False
        if not head.startswith(b"HTTP/1.1 200"):
            self.run.fail(f"answered {head[:40]!r}")
        lowered = head.lower()
        if b"\r\ntransfer-encoding: chunked" in lowered:
            self.needed = 0
            return True
        _, found, rest = lowered.partition(b"\r\ncontent-length:")
        if not found:
            self.run.fail(f"the body's end is not told: {head!r}")
            return False
        self.needed = len(head) + 4 + int(rest.partition(b"\r\n")[0])
        return True

    def connection_lost(self, error: Exception | None) -> None:
        if not self.run.over:
            self.run.fail(f"the server closed the connection ({error})")


class Run:
    """What all connections together saw."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.over = False
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def note(self, seconds: float) -> None:
        self.seconds.append(seconds)

    def fail(self, reason: str) -> None:
        if not self.failed.done():
            self.failed.set_exception(RuntimeError(reason))


async def load(port: int, path: str, connections: int, seconds: float) -> dict[str, Any]:
    run = Run()
    request = f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    for _ in range(connections):
        await loop.create_connection(lambda: Connection(request, run), HOST, port)
    await asyncio.wait([run.failed], timeout=seconds)
    if run.failed.done():
        await run.failed
    run.over = True
    took = time.perf_counter() - started
    return {
        "requests": len(run.seconds),
        "seconds": took,
        "p50": percentile(run.seconds, 50) if run.seconds else None,
        "p95": percentile(run.seconds, 95) if run.seconds else None,
    }


def main() -> None:
    port, path, connections, seconds = sys.argv[1:]
    new_loop = list(new_loops().values())[-1]
    with asyncio.Runner(loop_factory=new_loop) as runner:
        outcome = runner.run(load(int(port), path, int(connections), float(seconds)))
    sys.stdout.write(json.dumps(outcome) + "\n")


if __name__ == "__main__":
    main()

"""What the server can do beside a plain response: send a file itself, and early hints (A-OUT-6).

The server's own callables are called in the calling thread, as a WSGI app would.
"""

import io
import os
import stat
from collections.abc import Iterator
from functools import partial
from typing import Protocol

from .._crossing.calling_thread import CallingThread
from .._crossing.calling_thread_job import run_in_calling_thread
from .._protocol.asgi_response import DEBUG, EARLY_HINT, PATHSEND, ASGIResponse
from ..errors import AppError
from ..typing import Environ
from .disconnects import client_disconnected

__all__ = ["FILE_BLOCK_BYTES", "SentFile", "carried_out"]

FILE_BLOCK_BYTES = 65536
"""A file is read in blocks of this size if the server does not send it by itself."""


class LoopHalf(Protocol):
    """What this module uses of the loop's half of a request."""

    caller: CallingThread
    response: ASGIResponse
    file: "SentFile | None"


async def carried_out(task: LoopHalf, environ: Environ) -> tuple[bytes, bool] | None:
    """Carry out `response.beside`, the message of an extension.

    Returns a body part that has to follow, as `ASGIResponse.accept` does: the end, after a file.
    Raises AppError for a file that cannot be sent, ClientDisconnected after the end of the request.
    """
    response = task.response
    assert response.beside is not None
    kind, value = response.beside
    response.beside = None
    if kind == DEBUG:
        # A WSGIToASGI around this bridge: it only queues the message, so any thread may call it.
        environ["wsgi_asgi_bridge.send_debug"](value)
        return None
    if kind == EARLY_HINT:
        if value and not await run_in_calling_thread(
            task.caller, partial(environ["wsgi.early_hints"], value)
        ):
            raise client_disconnected()
        return None
    file = task.file = SentFile(value)
    if not await run_in_calling_thread(task.caller, file.open_from_thread):
        raise client_disconnected()
    file.length = response.file_length(file.size)
    return b"", True


class SentFile:
    """A file that is the body of a response.

    The calling thread opens and closes it; the loop reads `size` after that and sets `length`
    before it puts the end.
    """

    __slots__ = ("_path", "length", "raw", "size")

    def __init__(self, path: str) -> None:
        self._path = path
        self.raw: io.FileIO | None = None
        self.size: int = 0
        self.length: int = 0
        """How many bytes of it are the body."""

    def open_from_thread(self) -> None:
        """Raises AppError: an OSError would look like the client's disconnect to the app."""
        try:
            # Asked first: to open a pipe would wait for its writer.
            regular = stat.S_ISREG(os.stat(self._path).st_mode)
            if regular:
                self.raw = io.FileIO(self._path)
                self.size = os.fstat(self.raw.fileno()).st_size
        except (OSError, ValueError) as exc:
            raise AppError(f"{PATHSEND}: {self._path!r} cannot be opened: {exc}") from exc
        if not regular:
            raise AppError(f"{PATHSEND}: {self._path!r} is not a regular file")

    def blocks(self) -> Iterator[bytes]:
        """The body. Raises AppError if the file has become shorter."""
        left = self.length
        while left and self.raw is not None:
            block = self.raw.read(min(left, FILE_BLOCK_BYTES))
            if not block:
                raise AppError(
                    f"{PATHSEND}: {self._path!r} ended {left} bytes short of its Content-Length"
                )
            left -= len(block)
            yield block

    def close(self) -> None:
        if self.raw is not None:
            self.raw.close()

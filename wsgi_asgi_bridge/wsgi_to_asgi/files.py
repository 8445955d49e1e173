"""`wsgi.file_wrapper`, and which files the server may send by itself (W-OUT-10).

`http.response.pathsend` names a file, which the server opens when it likes: granian does so after
its `send()` has returned. So the name must lead to the very file that the app has opened, and stay:
the app's `close()`, which may remove it, runs before the name is checked for the last time. From
then on the app has no part in the request. Somebody else may still replace the file in that
moment, as on any server that opens files by their names.

`http.response.zerocopysend` takes a descriptor. It is a duplicate, so that the app may close its
file, and another file never gets its number while the server sends.
"""

import io
import os
import stat
from collections.abc import Iterator, Mapping
from typing import Any

from .._protocol.asgi_response import PATHSEND

__all__ = ["FileWrapper", "SentFile", "file_to_send"]

FILE_BLOCK_BYTES = 65536
"""`wsgi.file_wrapper` reads blocks of at least this size, even if the app asks for smaller ones."""

PIECE_BYTES = 262144
"""A file goes out in pieces of this size, so that `stall_timeout` applies to each."""

ZEROCOPYSEND = "http.response.zerocopysend"


class FileWrapper:
    """`wsgi.file_wrapper` (PEP 3333), in large blocks.

    It has the file's `seek()`, so that a framework need not read what precedes a range.
    """

    def __init__(self, filelike: Any, blksize: int = FILE_BLOCK_BYTES) -> None:
        self.filelike: Any = filelike
        self.blksize: int = max(blksize, FILE_BLOCK_BYTES)
        self._error: BaseException | None = None
        self.left: int | None = None
        """Bytes up to Content-Length, at which PEP 3333 ends a file; None if that is not known."""

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        size = self.blksize if self.left is None else min(self.blksize, self.left)
        block: bytes = self.filelike.read(size) if size else b""
        if not block:
            raise StopIteration
        if self.left is not None:
            self.left -= len(block)
        return block

    def seekable(self) -> bool:
        return bool(getattr(self.filelike, "seekable", bool)())

    def seek(self, *position: int) -> int:
        return self.filelike.seek(*position)  # type: ignore[no-any-return]

    def tell(self) -> int:
        return self.filelike.tell()  # type: ignore[no-any-return]

    def close(self) -> None:
        close = getattr(self.filelike, "close", None)
        if close is not None:
            close()
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # break the cycle: its traceback refers to this frame

    def close_early(self, descriptor: int) -> None:
        """Close the app's file and go on with a duplicate of its descriptor, at the same place.

        What the app's `close()` raises is raised by the next one, after the body.
        """
        duplicate = io.FileIO(os.dup(descriptor))
        try:
            self.close()
        except BaseException as exc:
            self._error = exc
        self.filelike = duplicate
        self.__dict__.pop("close", None)  # one that the app has set has been called


class _Descriptor(int):
    """A file descriptor that is closed with the last reference to it, which the server may hold.

    ASGI says "file descriptor object": some servers take a number, some call its `fileno()`.
    """

    def fileno(self) -> int:
        return int(self)

    def __del__(self) -> None:
        os.close(self)


class SentFile:
    """A file that the server is to send by itself: a path, or a part of an open file."""

    __slots__ = ("_count", "_file", "_offset", "path")

    def __init__(self, path: str | None, file: _Descriptor | None, offset: int, count: int) -> None:
        self.path: str | None = path
        """If it is not None, the whole file is one message."""
        self._file = file
        self._offset = offset
        self._count = count

    def messages(self) -> Iterator[tuple[dict[str, Any], int]]:
        """The messages that send it, each with its bytes; the last has `more_body` False."""
        if self.path is not None:
            yield {"type": PATHSEND, "path": self.path}, self._count
            return
        end = self._offset + self._count
        for start in range(self._offset, end, PIECE_BYTES):
            count = min(PIECE_BYTES, end - start)
            yield (
                {
                    "type": ZEROCOPYSEND,
                    "file": self._file,
                    "offset": start,
                    "count": count,
                    "more_body": start + count < end,
                },
                count,
            )


def file_to_send(
    wrapper: FileWrapper, extensions: Mapping[str, Any], declared: int | None
) -> SentFile | None:
    """The file for the server to send by itself; None if the wrapper is to be iterated.

    `declared` is the Content-Length. The wrapper's file may be closed afterwards, by its `close()`
    as ever. In the thread of the app.
    """
    file = _plain_file(wrapper.filelike)
    if file is None:
        return None
    try:
        descriptor = file.fileno()
        status = os.fstat(descriptor)
        offset = file.tell()
    except (OSError, ValueError):  # closed: to iterate it raises as well
        return None
    left = status.st_size - offset
    count = left if declared is None else declared
    if not stat.S_ISREG(status.st_mode) or not 0 < count <= left:
        return None
    path = _absolute_path(file.name) if PATHSEND in extensions else None
    if path is not None and count == status.st_size and _leads_to(path, status):
        wrapper.close_early(descriptor)
        if _leads_to(path, status):
            return SentFile(path, None, 0, count)
        wrapper.seek(0)
    elif ZEROCOPYSEND in extensions:
        return SentFile(None, _Descriptor(os.dup(descriptor)), offset, count)
    return None


def _plain_file(filelike: Any) -> Any:
    """The file whose bytes `filelike.read()` gives, as they are on the disk; None if there is none.

    By its `read` itself: a file that unpacks or counts has one of its own, one that only stands in
    for another (Django's `File`) has that of the other.
    """
    read = getattr(filelike, "read", None)
    file = getattr(read, "__self__", None)
    raw = file
    if isinstance(file, io.BufferedReader):
        raw = file.raw
        if type(file).read is not io.BufferedReader.read:
            return None
    if (
        not isinstance(raw, io.FileIO)
        or type(raw).read is not io.FileIO.read
        or type(raw).readinto is not io.FileIO.readinto
        or getattr(read, "__name__", "") != "read"
        or not raw.readable()
    ):
        return None
    return file


def _absolute_path(name: Any) -> str | None:
    """The name of an open file, if it is an absolute path of Unicode text."""
    try:
        path = os.fspath(name)
        path.encode()
    except (TypeError, AttributeError, UnicodeEncodeError):  # a number, bytes, no text
        return None
    return path if os.path.isabs(path) else None


def _leads_to(path: str, status: os.stat_result) -> bool:
    """Whether `path` leads to this very file, as it was then."""
    try:
        now = os.stat(path)
    except (OSError, ValueError):
        return False
    return os.path.samestat(now, status) and now.st_size == status.st_size

"""The head of a response as a WSGI server writes it, and the framing of the body behind it (R-3).

The bridge reads the head, passes it on and then sends the body itself, so it frames the body as the
head says: in chunks, or up to the close of the connection (RFC 9112 6.3).
"""

import re
from enum import Enum
from typing import Final

from ..errors import ServerError

__all__ = ["MAX_HEAD_BYTES", "Framing", "ServerHead", "framed_end", "framed_part"]

MAX_HEAD_BYTES = 65536
"""More than a client takes: the usual limit is 8 to 16 KiB."""

COPIED_BYTES = 4096
"""A copy of so many bytes costs less than to write three pieces."""

_STATUS_LINE = re.compile(rb"(HTTP/1\.[01]) ([0-9]{3})(?: [^\r\n\x00]*)?")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\r\n\x00]*?)[ \t]*")

_OF_THE_CONNECTION = frozenset({b"connection", b"keep-alive"})
"""What the server says of a connection that it no longer has."""


class Framing(Enum):
    """How the body's end shows."""

    CHUNKED = "chunked"
    UNTIL_CLOSE = "until close"


_UNTIL_CLOSE: Final = Framing.UNTIL_CLOSE
"""An attribute of an Enum class costs a call in Python 3.11."""


class ServerHead:
    """Collects one head; `feed` takes the bytes in whatever pieces the server writes them.

    `status`: the three digits that the app's response has.
    """

    __slots__ = ("_received", "_searched", "_status", "framing", "lines")

    def __init__(self, status: str) -> None:
        self._status = status.encode("latin-1")
        self._received = bytearray()
        self._searched = 0
        self.framing: Framing
        """Set once the head is complete, as is `lines`."""
        self.lines: bytes
        """The head for the client: as the server wrote it, but for `Connection: close`."""

    def feed(self, data: bytes) -> bool:
        """Take the next bytes; return whether the head is complete. What follows it is dropped.

        Raises ServerError for a head that cannot be understood, or is too long.
        """
        received = self._received
        received += data
        end = received.find(b"\r\n\r\n", self._searched)
        if end < 0:
            self._searched = max(0, len(received) - 3)
        if end > MAX_HEAD_BYTES or (end < 0 and len(received) > MAX_HEAD_BYTES):
            raise ServerError(f"the server's head is longer than {MAX_HEAD_BYTES} bytes")
        if end < 0:
            return False
        self._understand(bytes(received[:end]).split(b"\r\n"))
        return True

    def _understand(self, lines: list[bytes]) -> None:
        status_line = _STATUS_LINE.fullmatch(lines[0])
        if status_line is None:
            raise ServerError(f"the server's status line is {lines[0]!r:.200}")
        version, status = status_line.groups()
        if status != self._status:
            raise ServerError(f"the server's status is {status!r}, the app's is {self._status!r}")
        kept, codings = [lines[0]], []
        for line in lines[1:]:
            field = _FIELD.fullmatch(line)
            if field is None:
                raise ServerError(f"the server's head has the line {line!r:.200}")
            name = field[1].lower()
            if name in _OF_THE_CONNECTION:
                continue
            if name == b"content-length":
                raise ServerError(f"the server's head has {line!r:.200}, the app's has no length")
            if name == b"transfer-encoding":
                codings.append(field[2].lower())
            kept.append(line)
        if codings not in ([], [b"chunked"]) or (codings and version != b"HTTP/1.1"):
            raise ServerError(f"the server's head has the codings {codings!r:.200} in {version!r}")
        self.framing = Framing.CHUNKED if codings else Framing.UNTIL_CLOSE
        self.lines = b"\r\n".join([*kept, b"Connection: close", b"", b""])


def framed_part(framing: Framing, part: bytes) -> tuple[bytes, ...]:
    """What to send for one part of the body; a long one is not copied."""
    if not part:
        return ()  # a chunk of no bytes would be the last (RFC 9112 7.1)
    if framing is _UNTIL_CLOSE:
        return (part,)
    if len(part) <= COPIED_BYTES:
        return (b"%x\r\n%b\r\n" % (len(part), part),)
    return (b"%x\r\n" % len(part), part, b"\r\n")


def framed_end(framing: Framing) -> tuple[bytes, ...]:
    """What to send at the end of a whole body, and never after one that is cut (R-4)."""
    return (b"0\r\n\r\n",) if framing is Framing.CHUNKED else ()

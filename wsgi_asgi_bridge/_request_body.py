"""The request's body as the calling thread of an ASGIToWSGI reads it (A-IN-1)."""

import errno
import io
import logging

from .errors import BridgeError, ClientDisconnected
from .typing import Environ

__all__ = ["RequestBody", "request_body"]

logger: logging.Logger = logging.getLogger("wsgi_asgi_bridge")


class RequestBody:
    """`wsgi.input` of one request.

    `length` is how long it is, None where only its end will tell, `block` the bytes that are read
    at a time. `held_back`: the client sends it when it is asked to, as the first read does.
    """

    __slots__ = ("_at_once", "_block", "_input", "_remaining", "empty", "small")

    def __init__(
        self,
        source: io.BufferedIOBase | None,
        length: int | None,
        block: int,
        *,
        held_back: bool = False,
    ) -> None:
        self._input = source
        self._block = block
        self._remaining = length
        self.empty = length == 0
        self.small = length is not None and 0 < length <= block and not held_back
        """Read before the app starts, since its first `receive()` then costs no hand-over
        (A-IN-1).
        """
        # The bare connection, as wsgiref and werkzeug give it, can give what has come instead of
        # waiting for a whole block. Not what else has a read1(): PEP 3333 knows read() only, so a
        # middleware that wraps an input, to count or to limit it, wraps no more than that.
        self._at_once = (
            source.read1 if type(source) is io.BufferedReader and not self.small else None
        )

    def read_all(self) -> tuple[bytes, bool | None]:
        """All that is left, as `read` gives it; raises what it raises."""
        parts: list[bytes] = []
        while True:
            part, ended = self.read()
            parts.append(part)
            if ended is not False:
                return parts[0] if len(parts) == 1 else b"".join(parts), ended

    def read(self) -> tuple[bytes, bool | None]:
        """The next part and whether it is the last; None for that when the body breaks off before
        its end.

        Raises ClientDisconnected where the input raises: then the client has gone. Where the input
        only ends early, the client may have shut down no more than its sending side.
        """
        remaining = self._remaining
        if remaining == 0:
            return b"", True
        size = self._block if remaining is None else min(self._block, remaining)
        try:
            part = self._part(size)
        except BridgeError:
            raise  # a bridge around this one knows better: its client may have sent too much
        except Exception as exc:
            logger.debug("wsgi.input.read() raised; taken for a disconnect", exc_info=True)
            raise ClientDisconnected(
                errno.EPIPE, "the client disconnected before the end of the request's body"
            ) from exc
        if remaining is None:
            return (part, not part) if part is not None else (b"", None)
        if not part:
            return b"", None
        self._remaining = remaining - len(part)
        return part, not self._remaining

    def _part(self, size: int) -> bytes | None:
        """At most `size` bytes; b"" at the end. None, which is no end, of a connection that does
        not block.
        """
        if self._at_once is not None:
            part = self._at_once(size)
            if part:
                return part
            # b"" is also what read1() gives where a connection would block; read() tells.
        return self._input.read(size) if self._input is not None else b""


_NO_BODY = RequestBody(None, 0, 0)
"""Of all requests that have none; reading it changes nothing in it."""


def request_body(environ: Environ, length: int | None, block: int) -> RequestBody:
    """The body of a request; `length` is its CONTENT_LENGTH."""
    if length == 0 or (length is None and not _has_undeclared_body(environ)):
        return _NO_BODY
    # Not read before the app asks for it: that would ask the client, whom the app may refuse.
    held_back = "HTTP_EXPECT" in environ
    return RequestBody(environ.get("wsgi.input"), length, block, held_back=held_back)


def _has_undeclared_body(environ: Environ) -> bool:
    """Whether there may be a body without a CONTENT_LENGTH, and its end can be seen (A-IN-1).

    Some servers say `wsgi.input_terminated` with every request; a GET without a header that
    announces a body has none.
    """
    if not environ.get("wsgi.input_terminated"):
        return False
    if "HTTP_TRANSFER_ENCODING" in environ:
        return True
    if environ.get("REQUEST_METHOD", "GET") not in ("GET", "HEAD"):
        return True
    # A WSGIToASGI takes that header out; a request without a body has a BytesIO there.
    return "asgi.scope" in environ and isinstance(environ.get("wsgi.input"), io.BufferedReader)

"""The response of a WSGI app, and which step is legal when (PEP 3333, W-OUT).

    EXPECTED --start_response--> HELD --first chunk, write() or end--> SEALED

    state      start_response(...)   start_response(..., exc_info)   write / chunk   end
    EXPECTED   -> HELD               -> HELD                         error           error
    HELD       error                 -> HELD, replaced               -> SEALED       -> SEALED
    SEALED     error                 raises exc_info                 stays           stays

Once SEALED, the head is what the server gets, and the body obeys its Content-Length.
"""

import re
from collections.abc import Sequence
from enum import Enum
from types import TracebackType
from typing import Any

from ..errors import AppError, content_length_error, content_lengths_differ
from ..typing import Headers
from .headers import (
    APP_HEADER_NAMES,
    BODYLESS_STATUSES,
    LEAST_FINAL_STATUS,
    MAX_LENGTH_DIGITS,
    TranslationCache,
    header_value_from_app,
)

__all__ = ["Head", "ResponseState", "WSGIResponse", "checked_chunk"]

ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]

_STATUS = re.compile(r"[1-9][0-9]{2}(?: [\x20-\x7e\x80-\xff]*)?")


FEW_CHUNKS = 64
"""Empty chunks are dropped from a whole body of more chunks than these."""

Head = tuple[int, Headers]
"""A response without its body: status and headers."""


class ResponseState(Enum):
    EXPECTED = "expected"
    HELD = "held"
    SEALED = "sealed"


_EXPECTED, _HELD, _SEALED = ResponseState
_NONE_YET: Headers = []
"""Never changed: `start` sets a new list."""


class WSGIResponse:
    """One response, as its app makes it. `method` decides whether it may have a body."""

    __slots__ = ("_headers", "_method", "_sent", "_status", "bodyless", "declared", "state")

    def __init__(self, method: str) -> None:
        self._method = method
        self._status = 0
        self._headers: Headers = _NONE_YET
        self._sent = 0
        self.state = _EXPECTED
        self.declared: int | None = None
        """Content-Length."""
        self.bodyless = False
        """Whether no byte of a body may be sent; set once SEALED."""

    # ------------------------------------------------------------ the head

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None) -> None:
        """`start_response`.

        Raises AppError for what PEP 3333 does not allow, and the error of `exc_info` once SEALED.
        """
        if exc_info is not None and exc_info[1] is not None:
            try:
                if self.state is _SEALED:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # it refers to a traceback, whose frames refer to it
        elif self.state is not _EXPECTED:
            raise AppError(
                f"start_response({status!r}) is a second call without exc_info (PEP 3333); "
                f"the first said {self._status}"
            )
        if not isinstance(status, str):
            raise AppError(
                f"start_response: the status is {status!r}, "
                "expected a str such as '200 OK' (PEP 3333)"
            )
        code = _STATUS_CODES[status]
        self._headers, self.declared = _translated_headers(headers)
        self._status = code
        self.state = _HELD

    def has_no_body(self) -> bool:
        """Whether the status, as it is now, or the method allows no body."""
        return self._method == "HEAD" or self._status in BODYLESS_STATUSES

    def seal(self, length: int | None = None) -> Head:
        """The head, which is final from here on. `length`: of the body, if that is known."""
        if self.state is _EXPECTED:
            raise AppError("the app gave its response without calling start_response (PEP 3333)")
        self.state = _SEALED
        status = self._status
        if status in BODYLESS_STATUSES:
            self.bodyless = True
            if self.declared is not None:
                self._headers = [pair for pair in self._headers if pair[0] != b"content-length"]
        elif self._method == "HEAD":
            self.bodyless = True
        elif length is not None and self.declared is None:
            self.declared = length
            self._headers.append((b"content-length", b"%d" % length))
        return status, self._headers

    def is_event_stream(self) -> bool:
        """Whether the content type, as it is now, says `text/event-stream`."""
        for name, value in self._headers:
            if name == b"content-type":
                return value.partition(b";")[0].strip().lower() == b"text/event-stream"
        return False

    # ------------------------------------------------------------ the body

    def whole(self, chunks: Sequence[bytes]) -> tuple[Head, Sequence[bytes]]:
        """The head of a response whose body is `chunks`, and the chunks that may be sent.

        Raises AppError for a body short of Content-Length.
        """
        length = 0
        for chunk in chunks:
            if type(chunk) is not bytes:
                checked_chunk(chunk)
            length += len(chunk)
        if len(chunks) > FEW_CHUNKS:
            chunks = [chunk for chunk in chunks if chunk]  # here rather than in the server's loop
        head = self.seal(length)
        if self.bodyless:
            return head, ()
        self._sent = length
        if length == self.declared:
            return head, chunks
        self.check_end()
        self._sent = 0
        admitted = map(self.admitted, chunks)
        return head, [chunk for chunk in admitted if chunk]

    def admitted(self, chunk: bytes) -> bytes:
        """The part of the next chunk that may be sent: up to Content-Length, none if bodyless."""
        if self.bodyless:
            return b""
        self._sent += len(chunk)
        if self.declared is None or self._sent <= self.declared:
            return chunk
        return chunk[: max(0, len(chunk) - (self._sent - self.declared))]

    def complete(self) -> bool:
        """Whether no further byte may follow."""
        return self.bodyless or (self.declared is not None and self._sent >= self.declared)

    def excess(self) -> int:
        """How many bytes the app has given beyond its Content-Length."""
        if self.bodyless or self.declared is None:
            return 0
        return max(0, self._sent - self.declared)

    def check_end(self) -> None:
        """The body is over. Raises AppError if it is short of its Content-Length (W-OUT-6)."""
        if self.declared is not None and self._sent < self.declared and not self.bodyless:
            raise AppError(
                f"the body ended {self.declared - self._sent} bytes short of Content-Length "
                f"{self.declared}"
            )


def checked_chunk(chunk: Any) -> bytes:
    """`chunk`, if it is what PEP 3333 lets an app give."""
    if not isinstance(chunk, bytes):
        raise AppError(
            f"the app gave a chunk of type {type(chunk).__name__}, "
            f"expected bytes (PEP 3333): {chunk!r:.100}"
        )
    return chunk


def _status_code(status: str) -> int:
    if _STATUS.fullmatch(status) is None:
        raise AppError(
            f"start_response: the status is {status!r}, "
            "expected three digits and a latin-1 reason without control characters (PEP 3333)"
        )
    code = int(status[:3])
    if code < LEAST_FINAL_STATUS:
        raise AppError(
            f"start_response: the status is {status!r}, which only precedes a response; "
            "expected that of the response, from 200 on (RFC 9110 15.2)"
        )
    return code


_STATUS_CODES = TranslationCache(_status_code)


def _translated_headers(headers: Any) -> tuple[Headers, int | None]:
    """ASGI's headers, without hop-by-hop ones, and the Content-Length among them (W-OUT-7)."""
    if not isinstance(headers, list):
        raise AppError(
            f"start_response: the headers are {headers!r:.200}, expected a list (PEP 3333)"
        )
    translated: Headers = []
    declared: int | None = None
    for pair in headers:
        if type(pair) is not tuple or len(pair) != 2:
            pair = _checked_pair(pair)
        name, value = pair
        try:
            raw_name = APP_HEADER_NAMES[name]
        except TypeError:
            raise AppError(
                f"start_response: a header name is {name!r:.200}, expected a str (PEP 3333)"
            ) from None
        # The usual value is checked without a call. Of printable ASCII, strip() removes spaces
        # only; of bytes, it costs little.
        if type(value) is str and value.isascii() and value.isprintable():
            raw_value = value.encode().strip()
        else:
            raw_value = header_value_from_app(name, value)
        if raw_name is None:
            continue
        if raw_name == b"content-length":
            before, declared = declared, _length_from_app(raw_value)
            if before is not None:
                if before != declared:
                    raise content_lengths_differ("start_response", before, declared)
                continue
        translated.append((raw_name, raw_value))
    return translated, declared


def _checked_pair(pair: Any) -> Sequence[Any]:
    """`pair`, if it is a sequence of two: some frameworks give lists (W-OUT-1)."""
    if isinstance(pair, Sequence) and not isinstance(pair, str | bytes) and len(pair) == 2:
        return pair
    raise AppError(
        f"start_response: a header is {pair!r:.200}, expected a tuple of name and value (PEP 3333)"
    )


def _length_from_app(value: bytes) -> int:
    if not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
        raise content_length_error("start_response", value)
    return int(value)

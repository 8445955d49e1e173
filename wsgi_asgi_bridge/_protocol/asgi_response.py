"""The response of an ASGI app, and which message is legal when (ASGI HTTP 2.5, A-OUT).

    EXPECTED --start--> STARTED --body, the last--> ENDED
                     --path--------------------> ENDED
                                 or, if the start announced trailers:
                                 --> TRAILERS --trailers, the last--> ENDED

A message that is not drawn above raises AppError out of `send()`, and changes nothing. The path of
a file, early hints and what is for tests are messages of extensions: only if the scope offers them,
the last two only while the start is EXPECTED.
"""

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from http import HTTPStatus
from typing import Any

from ..errors import (
    AppError,
    content_length_error,
    content_lengths_differ,
    control_character_error,
    header_name_error,
)
from .headers import (
    BODYLESS_STATUSES,
    HOP_BY_HOP,
    LEAST_FINAL_STATUS,
    MAX_LENGTH_DIGITS,
    TOKEN,
    TranslationCache,
)

__all__ = ["DEBUG", "EARLY_HINT", "PATHSEND", "ASGIResponse", "ASGIResponseState"]

_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""A tab is legal inside a value (RFC 9110 5.5); it becomes a space, since PEP 3333 allows none."""

_START = "http.response.start"
PATHSEND = "http.response.pathsend"
EARLY_HINT = "http.response.early_hint"
DEBUG = "http.response.debug"


class ASGIResponseState(Enum):
    EXPECTED = "before http.response.start"
    STARTED = "after http.response.start"
    TRAILERS = "after the last http.response.body, before the trailers"
    ENDED = "after the end of the response"


_NO_EXTENSIONS: Mapping[str, Any] = {}

LEAST_PART_BYTES = 512
"""What even an empty part adds to `passed_over`."""

_EXPECTED, _STARTED, _TRAILERS, _ENDED = ASGIResponseState

_LEGAL_IN = {PATHSEND: _STARTED, EARLY_HINT: _EXPECTED, DEBUG: _EXPECTED}
"""The messages of extensions, and the state in which each is legal."""


class ASGIResponse:
    """One response, as its app sends it. `extensions` are those of its scope."""

    __slots__ = (
        "_declared",
        "_extensions",
        "_method",
        "_sent",
        "_trailers",
        "beside",
        "bodyless",
        "headers",
        "in_parts",
        "is_event_stream",
        "passed_over",
        "state",
        "status",
    )

    def __init__(self, method: str, extensions: Mapping[str, Any] = _NO_EXTENSIONS) -> None:
        self._method = method
        self._extensions = extensions
        self.state: ASGIResponseState = _EXPECTED
        self.status: str = ""
        """PEP 3333's status: three digits, a space and a reason."""
        self.headers: list[tuple[str, str]] = []
        self._declared: int | None = None
        self._sent = 0
        self.in_parts: bool = False
        """Whether the body comes in several messages and without a Content-Length (A-OUT-7)."""
        self.bodyless: bool = False
        """Whether the status or the method allows no body; known after the start."""
        self.is_event_stream: bool = False
        """Whether the content type says `text/event-stream`; known after the start."""
        self.passed_over: int = 0
        """Bytes of a body that may not be sent."""
        self.beside: tuple[str, Any] | None = None
        """The message of an extension that is to be carried out now: its type, and the path, the
        headers of an early hint or the info for tests.
        """
        self._trailers = False

    def set_reason(self, line: str) -> None:
        """Take the status line of the WSGI app behind both bridges, if the status is still the
        same (D-1).
        """
        if self.state is _STARTED and line[:3] == self.status[:3] and line[3:4] == " ":
            self.status = line

    def is_endless(self) -> bool:
        """Whether it is an event stream whose end nobody has announced (R-1)."""
        return self.is_event_stream and self._declared is None and not self.bodyless

    def add_length(self, length: int) -> None:
        """Add the Content-Length of a body that came in one message, as servers do for a list.

        Called before the head goes to the server.
        """
        if self._declared is None and not (self.in_parts or self.bodyless):
            self.headers.append(("Content-Length", str(length)))

    def switch_protocols(self) -> None:
        """Become the empty 101 with which the server is told that the connection is not its own."""
        self.status = "101 Switching Protocols"
        self.bodyless = True
        self.state = _ENDED

    def accept(self, message: Mapping[str, Any]) -> tuple[bytes, bool] | None:
        """Take the app's next message.

        Returns, for a body part, the bytes to send and whether they are the last; for all others
        None, and that of an extension is `beside`. Raises AppError for a message that is illegal in
        this state.
        """
        try:
            kind = message["type"]
        except KeyError:
            kind = None
        except TypeError:
            raise AppError(
                f"the app sent {message!r:.200} {self.state.value}, expected a dict"
            ) from None
        if self.state is _STARTED and kind == "http.response.body":
            return self._body(message)
        if self.state is _EXPECTED and kind == _START:
            self._start(message)
            return None
        if self.state is _TRAILERS and kind == "http.response.trailers":
            # WSGI has no trailers: they are accepted and dropped (A-OUT-6).
            if not message.get("more_trailers", False):
                self.state = _ENDED
            return None
        if type(kind) is str and kind in self._extensions and self.state is _LEGAL_IN.get(kind):
            return self._extension(kind, message)
        raise AppError(
            f"the app sent {kind!r} {self.state.value}, where the ASGI spec does not allow it"
        )

    def _start(self, message: Mapping[str, Any]) -> None:
        status = message.get("status")
        if type(status) is not int:  # 200.0 would match the cached 200
            status = _plain_status(status)
        line = _STATUS_LINES[status]
        self.headers, self._declared, self.is_event_stream = _native_headers(
            message.get("headers") or ()
        )
        self.status = line
        self.bodyless = self._method == "HEAD"
        if status in BODYLESS_STATUSES:
            self.bodyless = True
            if self._declared is not None:
                self._declared = None
                self.headers = [pair for pair in self.headers if pair[0] != "Content-Length"]
        self._trailers = message.get("trailers", False)
        self.state = _STARTED

    def _body(self, message: Mapping[str, Any]) -> tuple[bytes, bool]:
        body = message.get("body", b"")
        if type(body) is not bytes:
            if not isinstance(body, bytes | bytearray | memoryview):
                raise AppError(
                    f"http.response.body: the body is a {type(body).__name__}, expected bytes: "
                    f"{body!r:.100}"
                )
            body = bytes(body)
        last = not message.get("more_body", False)
        if not last and self._declared is None:
            self.in_parts = True
        if self.bodyless:
            self.passed_over += len(body) + LEAST_PART_BYTES
            body = b""
        elif (declared := self._declared) is not None:
            sent = self._sent + len(body)
            if sent != declared and (last or sent > declared):
                raise _wrong_length(sent, declared)
            self._sent = sent
        if last:
            self.state = _TRAILERS if self._trailers else _ENDED
        return body, last

    def _extension(self, kind: str, message: Mapping[str, Any]) -> tuple[bytes, bool] | None:
        if kind == PATHSEND:
            path = message.get("path")
            if not isinstance(path, str):
                raise AppError(f"{PATHSEND}: the path is {path!r:.200}, expected a str")
            if self.in_parts or self._sent:
                raise AppError(f"the app sent {PATHSEND!r} after a part of the body")
            if self.is_endless():  # the server may have its thread back
                raise AppError(f"the app sent {PATHSEND!r} for an event stream without a length")
            self.state = _TRAILERS if self._trailers else _ENDED
            if self.bodyless:
                return b"", True
            self.beside = kind, path
        elif kind == EARLY_HINT:
            links = message.get("links") or ()
            if isinstance(links, bytes | str) or not isinstance(links, Iterable):
                raise AppError(f"{EARLY_HINT}: the links are {links!r:.200}, expected a list")
            self.beside = kind, _native_headers(((b"link", link) for link in links), kind)[0]
        else:
            self.beside = kind, message.get("info")
        return None

    def file_length(self, size: int) -> int:
        """How many bytes of a file of `size` bytes are the body: Content-Length, if the head has
        one.

        Raises AppError if the file is shorter.
        """
        if self._declared is None:
            return size
        if size < self._declared:
            raise _wrong_length(size, self._declared, PATHSEND)
        return self._declared


def _wrong_length(sent: int, declared: int, call: str = "http.response.body") -> AppError:
    if sent > declared:
        return AppError(
            f"{call}: {sent} bytes make the body longer than its Content-Length {declared}"
        )
    return AppError(
        f"{call}: the body ends after {sent} bytes, short of its Content-Length {declared}"
    )


def _plain_status(status: Any) -> int:
    """`status` as a plain int: that of an IntEnum, for one."""
    if isinstance(status, int) and not isinstance(status, bool):
        return int(status)
    raise _wrong_status(status)


def _status_line(status: int) -> str:
    if not LEAST_FINAL_STATUS <= status <= 999:
        raise _wrong_status(status)
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} Unknown"


def _wrong_status(status: Any) -> AppError:
    return AppError(
        f"{_START}: the status is {status!r}, expected an int from {LEAST_FINAL_STATUS} to 999: "
        "that of the response, not what precedes it (RFC 9110 15.2)"
    )


_STATUS_LINES = TranslationCache(_status_line)


def _native_name(name: bytes) -> str | None:
    """A header name in title case, as WSGI servers expect it; None for one an app may not set.

    `Etag` and `Www-Authenticate` too: names are compared without regard to case.
    """
    if TOKEN.fullmatch(name) is None:
        raise header_name_error(_START, name)
    lower = name.lower()
    if lower in HOP_BY_HOP:
        return None
    return "-".join(word.capitalize() for word in lower.decode("latin-1").split("-"))


_NATIVE_NAMES = TranslationCache(_native_name)


def _native_headers(
    headers: Iterable[Any], call: str = _START
) -> tuple[list[tuple[str, str]], int | None, bool]:
    """WSGI's headers, the Content-Length among them, and whether they announce an event stream
    (A-OUT-1).
    """
    if type(headers) is not list and not isinstance(headers, Iterable):
        raise AppError(
            f"{call}: the headers are {headers!r:.200}, "
            "expected an iterable of pairs of byte strings"
        )
    native: list[tuple[str, str]] = []
    declared: int | None = None
    is_event_stream = False
    for pair in headers:
        try:
            raw_name, raw_value = pair
            name = _NATIVE_NAMES[raw_name if type(raw_name) is bytes else _as_bytes(raw_name)]
            value = raw_value if type(raw_value) is bytes else _as_bytes(raw_value)
        except (TypeError, ValueError):
            raise AppError(
                f"{call}: a header is {pair!r:.200}, expected two byte strings"
            ) from None
        if name is None:
            continue
        text = value.decode("latin-1")
        # isprintable() is quick and true for nearly every value; only the others are searched. Of
        # what is printable, strip() removes only spaces, no part of a value (RFC 9110 5.5).
        if text.isprintable():
            text = text.strip()
        elif _CONTROL.search(value) is not None:
            raise control_character_error(call, raw_name, value)
        else:
            text = text.strip(" \t").replace("\t", " ")
        if name == "Content-Length":
            if not (text.isdecimal() and text.isascii()) or len(text) > MAX_LENGTH_DIGITS:
                raise content_length_error(_START, value)
            before, declared = declared, int(text)
            if before is not None:
                if before != declared:
                    raise content_lengths_differ(_START, before, declared)
                continue
        elif name == "Content-Type":
            # A slice: hardly any other type is as long, and each response passes here.
            is_event_stream = text[:17].lower() == "text/event-stream" and text[17:18] in "; "
        native.append((name, text))
    return native, declared, is_event_stream


def _as_bytes(value: Any) -> bytes:
    """`value` as plain bytes. Raises TypeError unless it is bytes-like."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise TypeError

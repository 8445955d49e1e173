"""The header rules that both directions share.

Names are few and come again with every request, so their translations are remembered, unless they
are long. Values are new each time and are only checked.
"""

import re
import sys
from collections.abc import Callable
from typing import TypeVar

from ..errors import AppError, BadRequest

__all__ = [
    "APP_HEADER_NAMES",
    "BODYLESS_STATUSES",
    "ENVIRON_KEYS",
    "HOP_BY_HOP",
    "LEAST_FINAL_STATUS",
    "MAX_CACHED_NAMES",
    "MAX_CACHED_NAME_BYTES",
    "MAX_LENGTH_DIGITS",
    "TranslationCache",
    "cache_translation",
    "content_length",
    "environ_key",
    "header_name_from_app",
    "header_value_from_app",
]

MAX_CACHED_NAMES = 1024
"""How many names are remembered; a client that invents names only makes itself slower."""

MAX_CACHED_NAME_BYTES = 256
"""The memory of a name that is remembered, as sys.getsizeof() tells it. The longest registered
header names take a third of it; a client may make one as long as its server allows, and another
with each request.
"""

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"trailers",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""RFC 9110 7.6.1 and PEP 3333: these belong to the server's connection, not to the app."""

BODYLESS_STATUSES = frozenset({204, 304})
"""RFC 9110 6.4.1: a response with one of these has no body. Nor has a 1xx, which is no response.

None of them goes out with a Content-Length, although 8.6 would allow it with a 304: 15.4.5 advises
against it, and servers that count (uvicorn with httptools) break the connection for the bytes.
"""

LEAST_FINAL_STATUS = 200
"""RFC 9110 15.2: what is below only precedes a response. A client goes on waiting for that, and
would take what is sent next on the connection for it.
"""

_Said = TypeVar("_Said")
_Meant = TypeVar("_Meant")

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DIGITS = re.compile(r"[0-9]+")
MAX_LENGTH_DIGITS = 18
"""More digits than any body has bytes; int() of a huge run of digits is quadratic."""


def cache_translation(known: dict[_Said, _Meant], name: _Said, meant: _Meant) -> None:
    """Put `meant` into `known`, which keeps MAX_CACHED_NAMES names of MAX_CACHED_NAME_BYTES."""
    if sys.getsizeof(name) > MAX_CACHED_NAME_BYTES:
        return
    if len(known) >= MAX_CACHED_NAMES:
        known.clear()  # of names that nobody uses twice; the others are soon back
    known[name] = meant


class TranslationCache(dict[_Said, _Meant]):
    """`remembered[name]` is `translate(name)`, remembered for up to MAX_CACHED_NAMES short names.

    A subscript of a dict costs half of what a call of functools.lru_cache costs. Any thread: each
    step of a dict is atomic by itself (Python's "thread safety guarantees"), and two threads that
    miss one name at once find the same translation. What raises is not remembered.
    """

    __slots__ = ("_translate",)

    def __init__(self, translate: Callable[[_Said], _Meant]) -> None:
        super().__init__()
        self._translate = translate

    def __missing__(self, name: _Said) -> _Meant:
        meant = self._translate(name)
        cache_translation(self, name, meant)
        return meant


def environ_key(name: bytes) -> str | None:
    """`b"x-name"` as `"HTTP_X_NAME"`; None for a name that must not reach a WSGI app (W-ENV-6).

    A name with `_` would be taken for its twin with `-`; `Proxy` would become HTTP_PROXY, which
    HTTP clients obey.
    """
    upper = name.upper()  # of bytes: ASCII letters only, so no other letter becomes one
    if b"_" in upper or upper == b"PROXY":
        return None
    key = upper.replace(b"-", b"_").decode("latin-1")
    if key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        return key
    return "HTTP_" + key


ENVIRON_KEYS = TranslationCache(environ_key)


def content_length(value: str) -> int:
    """The bytes that a Content-Length declares.

    Raises BadRequest unless it is plain digits (RFC 9110 8.6).
    """
    if _DIGITS.fullmatch(value) is None or len(value) > MAX_LENGTH_DIGITS:
        raise BadRequest(
            f"Content-Length is {value[:80]!r}, expected decimal digits (RFC 9110 8.6)"
        )
    return int(value)


def header_name_from_app(name: str) -> bytes | None:
    """A WSGI app's header name as ASGI wants it: lower-case bytes.

    None for one that is not the app's to set.

    Raises TypeError unless it is a str, AppError unless it is an RFC 9110 token.
    """
    if not isinstance(name, str):
        raise TypeError
    try:
        encoded = name.encode("latin-1")
    except UnicodeEncodeError:
        encoded = b""
    if _TOKEN.fullmatch(encoded) is None:
        raise AppError(f"start_response: header name {name!r} is not a token (RFC 9110 5.1)")
    lower = encoded.lower()
    return None if lower in HOP_BY_HOP else lower


APP_HEADER_NAMES = TranslationCache(header_name_from_app)


def header_value_from_app(name: str, value: str) -> bytes:
    """A WSGI app's header value as bytes, without the spaces and tabs around it (RFC 9110 5.5).

    Raises AppError unless it is latin-1 text without control characters.
    """
    try:
        stripped = str.strip(value, " \t")
        # isprintable() is the quick answer for nearly every value; only what it doubts is searched.
        if not stripped.isprintable() and _CONTROL.search(stripped) is not None:
            raise AppError(
                f"start_response: header {name!r} has the value {value!r}, "
                "which holds a control character (PEP 3333)"
            )
        return stripped.encode("latin-1")
    except TypeError:
        expected = "a str"
    except UnicodeEncodeError:
        expected = "latin-1 text only"
    raise AppError(
        f"start_response: header {name!r} has the value {value!r}, expected {expected} (PEP 3333)"
    )

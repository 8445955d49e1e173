"""The header rules that both directions share.

Names are few and come again with every request, so their translations are cached, unless they are
long. Values are new each time and are only checked.
"""

import re
import sys
from collections.abc import Callable
from typing import TypeVar

from ..errors import AppError, BadRequest, control_character_error, header_name_error

__all__ = [
    "APP_HEADER_NAMES",
    "BODYLESS_STATUSES",
    "ENVIRON_KEYS",
    "HOP_BY_HOP",
    "LEAST_FINAL_STATUS",
    "MAX_CACHED_NAMES",
    "MAX_CACHED_NAME_BYTES",
    "MAX_LENGTH_DIGITS",
    "TOKEN",
    "TranslationCache",
    "cache_translation",
    "content_length",
    "environ_key",
    "header_name_from_app",
    "header_value_from_app",
]

MAX_CACHED_NAMES = 1024
"""How many names are cached; a client that invents names only makes itself slower."""

MAX_CACHED_NAME_BYTES = 256
"""The size of the longest name that is cached, by sys.getsizeof(): three times that of the longest
registered header name. A client may send longer ones, and another with each request.
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
"""Headers of the server's connection, which an app may not set (RFC 9110 7.6.1, PEP 3333)."""

BODYLESS_STATUSES = frozenset({204, 304})
"""The statuses of final responses without a body (RFC 9110 6.4.1).

They are sent without a Content-Length. RFC 9110 8.6 allows one with a 304, but 15.4.5 advises
against it, and uvicorn with httptools breaks the connection for the missing bytes.
"""

LEAST_FINAL_STATUS = 200
"""A lower status only precedes a response, for which the client goes on waiting: it would take the
next one on the connection for it (RFC 9110 15.2).
"""

_Name = TypeVar("_Name")
_Translation = TypeVar("_Translation")

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DIGITS = re.compile(r"[0-9]+")
MAX_LENGTH_DIGITS = 18
"""More digits than the length of any body has; int() of very many digits is quadratic."""


def cache_translation(
    cache: dict[_Name, _Translation], name: _Name, translation: _Translation
) -> None:
    """Put `translation` into `cache`, of MAX_CACHED_NAMES names of MAX_CACHED_NAME_BYTES each."""
    if sys.getsizeof(name) > MAX_CACHED_NAME_BYTES:
        return
    if len(cache) >= MAX_CACHED_NAMES:
        cache.clear()  # of names that come once; the others are soon back
    cache[name] = translation


class TranslationCache(dict[_Name, _Translation]):
    """`cache[name]` is `translate(name)`, kept for up to MAX_CACHED_NAMES short names.

    A subscript of a dict costs half as much as a call of functools.lru_cache. Any thread: each step
    of a dict is atomic by itself (Python's "thread safety guarantees"), and two threads that miss
    one name at once find the same translation. What raises is not kept.
    """

    __slots__ = ("_translate",)

    def __init__(self, translate: Callable[[_Name], _Translation]) -> None:
        super().__init__()
        self._translate = translate

    def __missing__(self, name: _Name) -> _Translation:
        translation = self._translate(name)
        cache_translation(self, name, translation)
        return translation


def environ_key(name: bytes) -> str | None:
    """`b"x-name"` as `"HTTP_X_NAME"`; None for a name that must not reach a WSGI app (W-ENV-6).

    A name with `_` would pass for the one with `-`. `Proxy` would become HTTP_PROXY, which HTTP
    clients in the app obey.
    """
    upper = name.upper()  # of bytes, so of ASCII letters only
    if b"_" in upper or upper == b"PROXY":
        return None
    key = upper.replace(b"-", b"_").decode("latin-1")
    if key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        return key
    return "HTTP_" + key


ENVIRON_KEYS = TranslationCache(environ_key)


def content_length(value: str) -> int:
    """A Content-Length in bytes. Raises BadRequest unless it is decimal digits (RFC 9110 8.6)."""
    if _DIGITS.fullmatch(value) is None or len(value) > MAX_LENGTH_DIGITS:
        raise BadRequest(
            f"Content-Length is {value[:80]!r}, expected decimal digits (RFC 9110 8.6)"
        )
    return int(value)


def header_name_from_app(name: str) -> bytes | None:
    """A WSGI app's header name as lower-case bytes; None for one that an app may not set.

    Raises TypeError unless it is a str, AppError unless it is a token (RFC 9110 5.1).
    """
    if not isinstance(name, str):
        raise TypeError
    try:
        encoded = name.encode("latin-1")
    except UnicodeEncodeError:
        encoded = b""
    if TOKEN.fullmatch(encoded) is None:
        raise header_name_error("start_response", name)
    lower = encoded.lower()
    return None if lower in HOP_BY_HOP else lower


APP_HEADER_NAMES = TranslationCache(header_name_from_app)


def header_value_from_app(name: str, value: str, call: str = "start_response") -> bytes:
    """A WSGI app's header value as bytes, without the spaces and tabs around it (RFC 9110 5.5).

    `call` is what the app called with it. Raises AppError unless it is latin-1 text without control
    characters.
    """
    try:
        stripped = str.strip(value, " \t")
        # isprintable() is quick and true for nearly every value; only the others are searched.
        if not stripped.isprintable() and _CONTROL.search(stripped) is not None:
            raise control_character_error(call, name, value)
        return stripped.encode("latin-1")
    except TypeError:
        expected = "a str"
    except UnicodeEncodeError:
        expected = "latin-1 text only"
    raise AppError(
        f"{call}: header {name!r} has the value {value!r}, expected {expected} (PEP 3333)"
    )

"""The names of a2wsgi's `wsgi_typing`, for annotations; the types are the standard library's."""

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any
from wsgiref.types import (
    ErrorStream,
    InputStream,
    StartResponse,
    WSGIApplication,
    WSGIEnvironment,
)

__all__ = [
    "CGIOptionalDefined",
    "CGIRequiredDefined",
    "Environ",
    "ErrorStream",
    "ExceptionInfo",
    "InputStream",
    "IterableChunks",
    "StartResponse",
    "WSGIApp",
    "WSGIDefined",
    "WriteCallable",
]

Environ = WSGIEnvironment
CGIRequiredDefined = dict[str, Any]
CGIOptionalDefined = dict[str, Any]
WSGIDefined = dict[str, Any]
"""Parts of an environ."""

ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None]
WriteCallable = Callable[[bytes], object]
IterableChunks = Iterable[bytes]
WSGIApp = WSGIApplication

"""environ -> scope (ASGI HTTP 2.5; A-SCOPE in the contract).

Servers differ in what they put into an environ; what any of them really puts there is accepted.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

from ..errors import BadRequest, ServerError
from ..typing import Environ, Headers
from .carried import headers_as_sent, scope_beside_the_message, state_of_both
from .headers import cache_translation, content_length

__all__ = ["LengthRequired", "declared_length", "is_websocket", "scope_from_environ"]

HTTP_VERSIONS = {"HTTP/1.0": "1.0", "HTTP/1.1": "1.1", "HTTP/2": "2", "HTTP/2.0": "2"}
PATH_SAFE = "/:@!$&'()*+,;=-._~"
"""The characters that are not escaped in the path of a URL (RFC 3986 3.3)."""

_PLAIN_PATH = re.compile(rb"[A-Za-z0-9/:@!$&'()*+,;=._~-]*")
"""A path that quoting would not change."""

_AUTHORITY = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")


_CHUNKED_LAST = re.compile(r"(?:^|,)[ \t]*chunked[ \t,]*\Z", re.IGNORECASE | re.ASCII)
"""A list of transfer codings may have empty elements (RFC 9110 5.6.1)."""


_OFFERED = (
    ("wsgi.file_wrapper", "http.response.pathsend"),
    ("wsgi.early_hints", "http.response.early_hint"),
    ("wsgi_asgi_bridge.send_debug", "http.response.debug"),  # of a bridge around this one
)
"""What a server may give to a WSGI app, and the extension that it makes work (A-OUT-6)."""

_NO_OPTIONS: dict[str, Any] = {}
"""What the scope says about an extension beside its name; shared by all requests."""


class LengthRequired(BadRequest):
    """The body has a transfer coding that this server does not decode; the client gets a 411."""


def declared_length(environ: Environ) -> int | None:
    """CONTENT_LENGTH; None if it is missing or overridden by Transfer-Encoding (RFC 9112 6.3).

    Raises BadRequest unless it is decimal digits (A-SCOPE-2), and if the body's end is unknown
    (A-IN-4): its last transfer coding is not chunked, or the server has not decoded it; if so, and
    without CONTENT_LENGTH, LengthRequired.
    """
    value = environ.get("CONTENT_LENGTH")
    if coding := environ.get("HTTP_TRANSFER_ENCODING"):
        if environ.get("wsgi.input_terminated"):
            if _CHUNKED_LAST.search(coding) is not None:
                return None
            raise BadRequest(
                f"Transfer-Encoding is {coding!r}, expected one that ends in chunked, which "
                "alone marks the end of a body (RFC 9112 6.3); "
                "send the body in chunks, or with a Content-Length alone"
            )
        if value:
            raise BadRequest(
                f"Transfer-Encoding {coding!r} and Content-Length {value!r} came, expected one of "
                "them; send the body with Content-Length alone"
            )
        raise LengthRequired(
            f"Transfer-Encoding is {coding!r}, which this server does not decode; "
            "send the body with a Content-Length"
        )
    if not value:
        return None
    return content_length(str(value))


def is_websocket(environ: Environ) -> bool:
    """Whether the request is a WebSocket handshake, which is a GET (RFC 6455 4.1)."""
    return (
        "HTTP_UPGRADE" in environ
        and environ.get("REQUEST_METHOD", "GET") == "GET"
        and environ["HTTP_UPGRADE"].lower() == "websocket"
        and "upgrade" in environ.get("HTTP_CONNECTION", "").lower()
    )


def scope_from_environ(
    environ: Environ, root_path: str, state: Mapping[str, Any]
) -> dict[str, Any]:
    """The `http` scope of a request.

    `root_path` comes before SCRIPT_NAME. `state` is copied, not deeply (lifespan 2.0). Raises
    ServerError for an environ that PEP 3333 does not allow.
    """
    try:
        path = _octets(environ.get("PATH_INFO", ""))
        root = root_path
        if path[:1] != b"/" and path and path != b"*":
            path = b"/" + path
        if script := environ.get("SCRIPT_NAME"):
            mount = _mount(script)
            if path != b"*":
                path = mount + (path or b"/" if script[-1] == "/" else path)
            root += mount.decode("utf-8", "replace")
        if path == b"*":  # OPTIONS of the whole server, which has no prefix
            root_path = ""
        raw_path = _raw_path(environ, path)
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": HTTP_VERSIONS.get(environ.get("SERVER_PROTOCOL", ""), "1.1"),
            "method": environ.get("REQUEST_METHOD", "GET").upper(),
            "scheme": environ.get("wsgi.url_scheme", "http"),
            "path": root_path + path.decode("utf-8", "replace"),
            "raw_path": quote_from_bytes(root_path.encode(), PATH_SAFE).encode() + raw_path
            if root_path
            else raw_path,
            "query_string": _octets(environ.get("QUERY_STRING", "")),
            "root_path": root,
            "headers": _headers(environ),
            "client": _address(environ.get("REMOTE_ADDR"), environ.get("REMOTE_PORT"), 0),
            "server": _address(environ.get("SERVER_NAME"), environ.get("SERVER_PORT"), None),
            "state": dict(state),
            "extensions": {},
            # uWSGI empties its own once the thread is back; the app may go on after that.
            "wsgi_environ": dict(environ) if "uwsgi.version" in environ else environ,
        }
        outer = environ.get("asgi.scope")
        if outer is not None:
            _carry(outer, scope, state)
        for key, name in _OFFERED:
            if environ.get(key) is not None:
                scope["extensions"][name] = _NO_OPTIONS
        return scope
    except (KeyError, TypeError, AttributeError, ValueError) as exc:
        raise ServerError(f"the server's environ cannot be translated: {exc!r}") from exc


def _carry(outer: Mapping[str, Any], scope: dict[str, Any], state: Mapping[str, Any]) -> None:
    """Add to `scope` what the outer bridge's scope has beside the message."""
    scope |= scope_beside_the_message(outer)
    scope["state"] = state_of_both(outer.get("state"), state)
    scope["headers"] = headers_as_sent(outer.get("headers") or (), scope["headers"])


def _mount(script: str) -> bytes:
    """SCRIPT_NAME without a slash at its end and with one in front."""
    mount = _octets(script).rstrip(b"/")
    return b"/" + mount if mount and mount[:1] != b"/" else mount


def _octets(text: str) -> bytes:
    """The bytes behind a native string (PEP 3333), also one that a server decoded as UTF-8."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")


def _raw_path(environ: Environ, path: bytes) -> bytes:
    """The path as the client sent it, if the environ has it and it still is `path`; else `path`
    quoted anew (A-SCOPE-1).
    """
    target = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    if target:
        if target[0] != "/" and (authority := _AUTHORITY.match(target)) is not None:
            target = target[authority.end() :]
        raw = _octets(target).partition(b"?")[0]
        if raw == path or unquote_to_bytes(raw) == path:
            return raw
    if _PLAIN_PATH.fullmatch(path) is not None:
        return path
    return quote_from_bytes(path, PATH_SAFE).encode("ascii")


def _headers(environ: Environ) -> Headers:
    names = _header_names
    headers: Headers = []
    try:
        for key in environ:
            name = names[key]
            if name is not None:
                headers.append((name, environ[key].encode("latin-1")))
    except (KeyError, UnicodeEncodeError):  # a name not in the cache, or what _octets accepts
        headers = [
            (name, _octets(value))
            for key, value in environ.items()
            # A key of another type is none of CGI's; the cache would keep it for good.
            if isinstance(key, str) and (name := _cached_name(key)) is not None
        ]
    # Servers set these to "" if there is none, and a few set a number.
    if kind := environ.get("CONTENT_TYPE"):
        headers.append((b"content-type", _octets(str(kind))))
    if (length := environ.get("CONTENT_LENGTH")) and not environ.get("HTTP_TRANSFER_ENCODING"):
        headers.append((b"content-length", _octets(str(length))))
    return headers


def _header_name(key: str) -> bytes | None:
    """`"HTTP_X_NAME"` as `b"x-name"`; None for other keys and for HTTP_CONTENT_*, which a few
    servers add.
    """
    if not key.startswith("HTTP_") or key in ("HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"):
        return None
    return key[5:].lower().replace("_", "-").encode("latin-1", "replace")


def _cached_name(key: str) -> bytes | None:
    try:
        return _header_names[key]
    except KeyError:
        name = _header_name(key)
        cache_translation(_header_names, key, name)
        return name


_header_names: dict[str, bytes | None] = {}
"""A cache of `_header_name`, for any thread and bounded as headers.TranslationCache.

A plain dict, since a lookup of each key in a subclass costs a third more.
"""


def _address(host: str | None, port: Any, no_port: int | None) -> tuple[str, int | None] | None:
    if not host:
        return None
    text = str(port) if port is not None else ""
    return host, int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else no_port

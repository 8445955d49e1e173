"""scope -> environ (PEP 3333 and CGI names; W-ENV in the contract).

Nothing here is quadratic in what a client sends: repeated headers are collected in lists and joined
once.
"""

import re
import ssl
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes

from ..errors import BadRequest, ServerError
from ..typing import Environ
from .carried import environ_beside_the_message
from .headers import ENVIRON_KEYS, content_length
from .scope_view import ScopeView, sketch

__all__ = ["environ_from_scope", "environ_template", "set_handshake"]

DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}
MAX_PORT = 65535
MAX_PORT_DIGITS = 5
HTTP_SCHEMES = {"ws": "http", "wss": "https"}
TLS_VERSIONS = {0x0301: "TLSv1", 0x0302: "TLSv1.1", 0x0303: "TLSv1.2", 0x0304: "TLSv1.3"}


def environ_template(*, multithread: bool, file_wrapper: object) -> Environ:
    """The pairs that are the same in every request of one bridge; copied for each."""
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "",
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multithread": multithread,
        # ASGI does not say how many processes the server runs; True is the safe value.
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "wsgi.file_wrapper": file_wrapper,
    }


def environ_from_scope(
    scope: Mapping[str, Any], template: Environ, *, max_header_repeats: int
) -> Environ:
    """The environ of an `http` or `websocket` scope, without `wsgi.input` and `wsgi.errors`.

    Raises BadRequest for a malformed head, ServerError for a malformed scope.
    """
    environ = template.copy()
    try:
        environ["asgi.scope"] = view = ScopeView()
        view._scope = scope
        environ["REQUEST_METHOD"] = scope.get("method", "GET")
        query = scope.get("query_string")
        if query:  # a websocket's may be missing or None
            environ["QUERY_STRING"] = query.decode("latin-1")
        version = scope.get("http_version", "1.1")
        if version != "1.1":
            # With two numbers, as CGI has it (RFC 3875 4.1.16).
            environ["SERVER_PROTOCOL"] = f"HTTP/{version if '.' in version else version + '.0'}"
        scheme: str = scope.get("scheme", "http")
        _set_paths(environ, scope)
        _set_headers(environ, scope["headers"], max_header_repeats)
        if scheme != "http":
            environ["wsgi.url_scheme"] = scheme = HTTP_SCHEMES.get(scheme, scheme)
            if scheme == "https":
                environ["HTTPS"] = "on"
        _set_peers(environ, scope, scheme)
        extensions = scope.get("extensions")
        if extensions and "tls" in extensions:
            _set_tls(environ, extensions["tls"] or {})
        outer = scope.get("wsgi_environ")
        if outer is not None:
            environ |= environ_beside_the_message(outer, environ)
    except (KeyError, TypeError, AttributeError, ValueError) as exc:
        if isinstance(exc, BadRequest):
            raise
        raise ServerError(
            f"the server's scope cannot be translated: {exc!r} in {sketch(scope)}"
        ) from exc
    return environ


_SAMPLE_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
"""RFC 6455's own example; for HTTP/2, whose handshake has no key."""


def set_handshake(environ: Environ, subprotocols: Iterable[str]) -> None:
    """Make the environ of a `websocket` scope that of a handshake over HTTP/1.1 (WS-W-2)."""
    environ["REQUEST_METHOD"] = "GET"
    environ["HTTP_UPGRADE"] = "websocket"
    environ["HTTP_CONNECTION"] = "Upgrade"
    environ["HTTP_SEC_WEBSOCKET_VERSION"] = "13"
    environ.setdefault("HTTP_SEC_WEBSOCKET_KEY", _SAMPLE_KEY)
    if "HTTP_HOST" not in environ:
        environ["HTTP_HOST"] = _host_of(environ)
    offered = ", ".join(subprotocols)
    if offered:
        environ["HTTP_SEC_WEBSOCKET_PROTOCOL"] = offered
    for name in ("HTTP_SEC_WEBSOCKET_EXTENSIONS", "HTTP_TRANSFER_ENCODING", "CONTENT_LENGTH"):
        environ.pop(name, None)


def _host_of(environ: Environ) -> str:
    name, port = environ["SERVER_NAME"], environ["SERVER_PORT"]
    host = f"[{name}]" if ":" in name else name
    return host if port == DEFAULT_PORTS.get(environ["wsgi.url_scheme"]) else f"{host}:{port}"


# ---------------------------------------------------------------- paths


def _set_paths(environ: Environ, scope: Mapping[str, Any]) -> None:
    """SCRIPT_NAME, PATH_INFO and the undecoded target (W-ENV-2, W-ENV-3, W-ENV-4)."""
    path: str = scope["path"]
    raw_path: bytes | None = scope.get("raw_path")
    root_path: str = scope.get("root_path") or ""
    script, info = "", path
    # An ASCII path without escapes is exact as it is.
    if not path.isascii() or (raw_path is not None and b"%" in raw_path):
        info = _path_bytes(path, raw_path).decode("latin-1")
    if info[:1] != "/":
        info = _without_authority(info)
    if root_path:
        script, info = _mounted(root_path, info, environ["REQUEST_METHOD"])
        environ["SCRIPT_NAME"] = script
        if raw_path is not None and script != root_path and root_path.isascii():
            raw_path = _mounted_target(root_path, raw_path, script, environ["REQUEST_METHOD"])
    if info[:1] != "/" and (info or not script):
        info = "/" + info  # an empty path, or `*`: PEP 3333 has no other form
    environ["PATH_INFO"] = info
    if raw_path is not None:
        target = raw_path.decode("latin-1")
        if "?" in target:
            target = target.partition("?")[0]
        if query := environ["QUERY_STRING"]:
            target = target + "?" + query
        environ["REQUEST_URI"] = environ["RAW_URI"] = target


def _mounted(root_path: str, path: str, method: str) -> tuple[str, str]:
    """SCRIPT_NAME and PATH_INFO, perhaps empty, of a path below `root_path`.

    Some servers put root_path, as it was configured, in front of the path, even of `*` (uvicorn).
    Others leave the path as it is.
    """
    if not root_path.isascii():
        root_path = root_path.encode("utf-8", "surrogateescape").decode("latin-1")
    if root_path[0] != "/":
        root_path = "/" + root_path
        if path[:1] != "/" and path:
            path = "/" + path
    # Never two slashes in front: a URL made of those names another host.
    script = "/" + stripped if (stripped := root_path.strip("/")) else ""
    if path.startswith(root_path):
        rest = path[len(root_path) :]
        if rest[:1] == "/" or (rest == "*" and method == "OPTIONS"):
            return script, rest
    if path == script:
        return script, ""
    if path.startswith(script + "/"):
        return script, path[len(script) :]
    return script, path


_ABSOLUTE_FORM = re.compile(r"https?://[^/]*/?", re.IGNORECASE)


def _without_authority(target: str) -> str:
    """The path of a target in absolute form, which every server has to take (RFC 9112 3.2.2).

    Servers on h11 give the whole target as the path.
    """
    match = _ABSOLUTE_FORM.match(target)
    return target if match is None else "/" + target[match.end() :]


def _mounted_target(root_path: str, target: bytes, script: str, method: str) -> bytes:
    """The target below `script`, if the server put root_path, as configured, in front of it."""
    prefix = root_path.encode()
    rest = target[len(prefix) :]
    if target.startswith(prefix) and (rest[:1] == b"/" or (rest == b"*" and method == "OPTIONS")):
        return script.encode() + rest
    return target


def _path_bytes(path: str, raw_path: bytes | None) -> bytes:
    """The path's bytes by `raw_path`, unless a middleware has rewritten `path`: then by `path`."""
    if raw_path is not None:
        exact = unquote_to_bytes(raw_path.partition(b"?")[0])
        for errors in ("replace", "surrogateescape", "ignore"):
            if exact.decode("utf-8", errors) == path:
                return exact
        if exact.decode("latin-1") == path:
            return exact
    return path.encode("utf-8", "surrogateescape")


# ---------------------------------------------------------------- headers


def _set_headers(
    environ: Environ, headers: Iterable[tuple[bytes, bytes]], max_repeats: int
) -> None:
    """Set CONTENT_* and HTTP_* (W-ENV-5, W-ENV-6), but no empty HTTP_HOST (W-ENV-10).

    The template holds none, so a key that is set already is a repeat.
    """
    repeated: dict[str, list[str]] = {}
    for name, value in headers:
        key = ENVIRON_KEYS[name]
        if key is None or (not value and key == "HTTP_HOST"):
            continue
        if key not in environ:
            environ[key] = value.decode("latin-1")
            continue
        values = repeated.get(key)
        if values is None:
            values = repeated[key] = [environ[key]]
        values.append(value.decode("latin-1"))
        if len(values) > max_repeats:
            raise BadRequest(
                f"header {name.decode('latin-1')!r} is repeated more than "
                f"max_header_repeats={max_repeats} times"
            )
    for key, values in repeated.items():
        if key == "HTTP_HOST":
            _refuse_two_hosts(values)
        else:
            environ[key] = ("; " if key == "HTTP_COOKIE" else ",").join(values)
    declared = environ.get("CONTENT_LENGTH")
    if declared is not None:
        environ["CONTENT_LENGTH"] = _one_length(declared)
        if "HTTP_TRANSFER_ENCODING" in environ:
            del environ["CONTENT_LENGTH"]  # overridden (RFC 9112 6.3)


def _refuse_two_hosts(hosts: list[str]) -> None:
    """One program would take the request for another site's than the next one. HTTP/2 may give one
    host twice, as `:authority` too (RFC 9113 8.3.1).
    """
    if len(set(hosts)) > 1:
        raise BadRequest(f"Host is given as {hosts[:2]!r:.200}, expected one (RFC 9112 3.2)")


def _one_length(declared: str) -> str:
    """One Content-Length of a list whose values are the same (RFC 9110 8.6)."""
    lengths = {content_length(part.strip(" \t")) for part in declared.split(",")}
    if len(lengths) > 1:
        raise BadRequest(
            f"Content-Length is given as {declared[:80]!r}: the values differ (RFC 9112 6.3)"
        )
    return str(lengths.pop())


# ---------------------------------------------------------------- peers


def _set_peers(environ: Environ, scope: Mapping[str, Any], scheme: str) -> None:
    """Set SERVER_NAME and SERVER_PORT, and REMOTE_* if known (W-ENV-7, W-ENV-10)."""
    name, port = scope.get("server") or (None, None)
    if port is None or not name:
        # No address, or a Unix socket (path, None): the best name is the client's Host.
        host_name, host_port = _name_and_port(environ.get("HTTP_HOST", ""))
        name = host_name or (name if port is not None else None) or "localhost"
        port = host_port if port is None else port
    environ["SERVER_NAME"] = name
    environ["SERVER_PORT"] = (
        str(port) if port not in (None, "") else DEFAULT_PORTS.get(scheme, "80")
    )
    client = scope.get("client")
    if client:
        if type(client) is not tuple:  # isinstance() with two types costs ten times as much
            client = tuple(client)
        if client[0]:
            environ["REMOTE_ADDR"] = client[0]
            # Servers set port 0 for a client without a port.
            if len(client) > 1 and (port := client[1]) and port != "0":
                environ["REMOTE_PORT"] = str(port)


def _name_and_port(host: str) -> tuple[str, str | None]:
    """Split `name:port`, `name` or `[v6]:port`.

    A port out of TCP's range is dropped: a client may send thousands of digits, for which int() in
    an app raises.
    """
    name, colon, port = host.rpartition(":")
    if colon and port.isascii() and port.isdigit():
        return name, port if len(port) <= MAX_PORT_DIGITS and int(port) <= MAX_PORT else None
    return host, None


# ---------------------------------------------------------------- TLS


def _set_tls(environ: Environ, tls: Mapping[str, Any]) -> None:
    """The `tls` extension (ASGI TLS 0.2) under the names of mod_ssl."""
    environ["SSL_PROTOCOL"] = TLS_VERSIONS.get(tls.get("tls_version") or 0, "")
    suite = tls.get("cipher_suite")
    if suite is not None:
        environ["SSL_CIPHER"] = _cipher_names().get(suite, f"0x{suite:04X}")
    if certificate := tls.get("server_cert"):
        environ["SSL_SERVER_CERT"] = certificate
    chain = list(tls.get("client_cert_chain") or ())
    error = tls.get("client_cert_error")
    if chain:
        environ["SSL_CLIENT_CERT"] = chain[0]
        for position, certificate in enumerate(chain[1:]):
            environ[f"SSL_CLIENT_CERT_CHAIN_{position}"] = certificate
    if name := tls.get("client_cert_name"):
        environ["SSL_CLIENT_S_DN"] = name
    environ["SSL_CLIENT_VERIFY"] = f"FAILED:{error}" if error else "SUCCESS" if chain else "NONE"


@lru_cache(maxsize=1)
def _cipher_names() -> dict[int, str]:
    """OpenSSL's names of the cipher suites by their IANA number."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    return {cipher["id"] & 0xFFFF: cipher["name"] for cipher in context.get_ciphers()}

"""Carries what stands beside the message through both bridges of one process.

The message is translated, never copied: a middleware between the bridges may have changed it, and a
header that it removed must not come back. Only the repeats of a header are restored, if its value
is still the same. What a server or a middleware put beside the message has no translation and is
copied. So the functions here list what is not carried:

- the message: the request line, headers, body, peers, and what another framework has read from it;
- the protocol: what each bridge sets itself (`wsgi.*`, `asgi`, `extensions`);
- what would not work: it belongs to one loop, or to the routing of the other side.

What the translation has set wins. What is carried is the same object, so a session that the app
changes has changed for the middleware outside.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ..typing import Environ, Headers
from .headers import TranslationCache

__all__ = [
    "OUTER_WEBSOCKET",
    "environ_beside_the_message",
    "headers_as_sent",
    "scope_beside_the_message",
    "serves_wsgi",
    "state_of_both",
]

OUTER_WEBSOCKET = "wsgi_asgi_bridge.websocket"
"""In the environ of a WebSocket of WSGIToASGI: its WebSocketCall, for an ASGIToWSGI inside."""


def serves_wsgi(app: object) -> bool:
    """Whether an ASGI app is a WSGIToASGI."""
    return bool(getattr(app, "_serves_wsgi", False))


# ---------------------------------------------------------------- environ -> scope -> environ

_REQUEST_KEYS = frozenset(
    {
        # CGI's request line and peers (RFC 3875).
        "REQUEST_METHOD",
        "SCRIPT_NAME",
        "PATH_INFO",
        "PATH_TRANSLATED",
        "QUERY_STRING",
        "SERVER_NAME",
        "SERVER_PORT",
        "SERVER_PROTOCOL",
        "REMOTE_ADDR",
        "REMOTE_PORT",
        # The same again, as servers add it.
        "REQUEST_URI",
        "RAW_URI",
        "UNENCODED_URL",
        "DOCUMENT_URI",
        "SCRIPT_URI",
        "SCRIPT_URL",
        "REQUEST_SCHEME",
        "HTTPS",
        "mod_wsgi.input_chunked",
        "eventlet.input",
        # A framework's view of the request that it saw.
        "werkzeug.request",
    }
)

_REQUEST_PREFIXES = (
    "HTTP_",
    "CONTENT_",
    "REDIRECT_",  # Apache's copies of all the above, headers included
    "wsgi.",
    "x-wsgiorg.fdevent.",  # uWSGI's, for an app that it iterates itself
    "asgi.",
    "wsgi_asgi_bridge.",
    "webob._",
    "webob.is_body_",
    "bottle.",
    "paste.parsed_",
)

_SERVERS_OWN = frozenset({"wsgi.errors"})
"""The only key of PEP 3333's that describes neither the message nor what a bridge can do: the
server's log is the same at any depth.
"""

_FOUND_ABOUT_CLIENT = ("REMOTE_HOST", "REMOTE_IDENT")
"""What a server found out about REMOTE_ADDR; wrong for another address."""


def environ_beside_the_message(outer: Mapping[str, Any], environ: Environ) -> Environ:
    """The part of `outer`, the outer bridge's environ, that belongs into `environ`.

    REMOTE_USER and AUTH_TYPE, SSL_* unless the scope has a `tls` of its own, `wsgi.errors`, the
    keys of servers (`mod_wsgi.*`, `werkzeug.*`, `gunicorn.socket`, `waitress.client_disconnected`),
    of middleware and of the deployer.
    """
    own_tls = "SSL_PROTOCOL" in environ
    # Servers set "" for a Unix socket; a WSGIToASGI leaves out what is unknown.
    same_client = (outer.get("REMOTE_ADDR") or None) == environ.get("REMOTE_ADDR")
    return {
        key: value
        for key, value in outer.items()
        if key not in environ
        and _BESIDE_THE_REQUEST[key]
        and (same_client or key not in _FOUND_ABOUT_CLIENT)
        and not (own_tls and key.startswith("SSL_"))
    }


def _is_beside_the_request(key: object) -> bool:
    if not isinstance(key, str) or key in _REQUEST_KEYS:
        return False
    return key in _SERVERS_OWN or not key.startswith(_REQUEST_PREFIXES)


_BESIDE_THE_REQUEST = TranslationCache(_is_beside_the_request)


# ---------------------------------------------------------------- scope -> environ -> scope

_CONNECTION_KEYS = frozenset(
    {
        # ASGI HTTP and WebSocket 2.5.
        "type",
        "asgi",
        "http_version",
        "method",
        "scheme",
        "path",
        "raw_path",
        "query_string",
        "root_path",
        "headers",
        "client",
        "server",
        "subprotocols",
        "extensions",
        "state",
        "wsgi_environ",
        # What a framework has read from the headers, or has still to route.
        "cookies",
        "path_remaining",
        # The outer app's routing: an inner app would build its URLs by the outer one's routes, and
        # run its error handlers in the wrong loop.
        "app",
        "app_root_path",
        "router",
        "route",
        "route_root_path",
        "route_handler",
        "endpoint",
        "path_template",
    }
)

_FRAMEWORK_PREFIXES = ("starlette.", "fastapi", "litestar", "_ls_")
"""A framework's private keys, among them context managers that belong to the outer loop."""

_TRUE_IN_BOTH = ("tls",)
"""Extensions that are mere data. All others allow a message that the inner bridge does not take."""


def scope_beside_the_message(outer: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `outer`, the outer bridge's scope, that belongs into the new scope.

    `session`, `user`, `auth`, `path_params`, the keys of middleware and of the deployer, and of
    `extensions` those that still hold. For `state` see `state_of_both`.
    """
    carried = {key: value for key, value in outer.items() if _BESIDE_THE_CONNECTION[key]}
    extensions = outer.get("extensions")
    carried["extensions"] = {
        name: extensions[name] for name in _TRUE_IN_BOTH if extensions and name in extensions
    }
    return carried


def headers_as_sent(outer: Iterable[tuple[bytes, bytes]], headers: Headers) -> Headers:
    """`headers`, with repeats restored from `outer`, the outer scope's headers (D-1).

    A value is split only if it is still what the repeats were joined to: a middleware's change
    wins.
    """
    sent: dict[bytes, list[bytes]] = {}
    repeated = False
    for name, value in outer:
        values = sent.setdefault(name.lower(), [])
        values.append(value)
        repeated = repeated or len(values) > 1
    if not repeated:
        return headers
    taken_apart: Headers = []
    for name, value in headers:
        values = sent.get(name, [])
        joined = (b"; " if name == b"cookie" else b",").join(values)
        if len(values) > 1 and joined == value:
            taken_apart += [(name, each) for each in values]
        else:
            taken_apart.append((name, value))
    return taken_apart


def state_of_both(outer: dict[str, Any] | None, own: Mapping[str, Any]) -> dict[str, Any]:
    """The `state` of a request that came through both bridges.

    `outer` is the server's and middleware's, `own` that of the inner app's lifespan. The result is
    `outer` itself, updated, so that the outer side sees what the app puts there. If the two differ
    in a name it is a copy, in which `own` wins: only a pool made in the app's own loop works there.
    """
    if outer is None:
        return dict(own)
    if any(outer.get(name, value) is not value for name, value in own.items()):
        return {**outer, **own}
    outer.update(own)
    return outer


def _is_beside_the_connection(key: object) -> bool:
    return (
        isinstance(key, str)
        and key not in _CONNECTION_KEYS
        and not key.startswith(_FRAMEWORK_PREFIXES)
    )


_BESIDE_THE_CONNECTION = TranslationCache(_is_beside_the_connection)

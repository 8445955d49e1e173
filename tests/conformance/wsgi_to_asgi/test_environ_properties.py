"""W-ENV-1: any scope that a server may make gives a valid environ."""

import warnings
from typing import Any
from urllib.parse import quote_from_bytes, unquote, unquote_to_bytes
from wsgiref.validate import check_environ

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.middleware.lint import LintMiddleware

from tests.support.environs import environ_of
from tests.support.fake_asgi_server import (
    ABSENT,
    Scope,
    http_scope,
    plain_app,
)

Environ = dict[str, Any]


E_ACUTE = "\N{LATIN SMALL LETTER E WITH ACUTE}"


# --- any scope that a server may make

METHODS = st.sampled_from(["GET", "HEAD", "POST", "OPTIONS", "PATCH", "PUT", "DELETE", "TRACE"])
ADDRESSES = st.one_of(
    st.none(),
    st.just(ABSENT),
    st.tuples(
        st.sampled_from(["127.0.0.1", "::1", "example.test", "", "/run/s.sock", "unix:/run/s"]),
        st.one_of(st.none(), st.integers(0, 65535), st.integers(0, 65535).map(str)),
    ),
    st.lists(st.just("10.0.0.1"), min_size=1, max_size=1).map(lambda host: [*host, 80]),
)
TARGET_BYTES = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=4),
        st.sampled_from([b"/", b"//", b"api", b"..", b"%41", b"\xc3\xa9", b"\xe9", b" ", b"?"]),
    ),
    max_size=6,
).map(b"".join)
ROOTS = st.sampled_from(["", "/", "/api", "/api/", "/a/b", "/api/v1/", f"/{E_ACUTE}"])
NAMES = st.one_of(
    st.sampled_from(
        [b"accept", b"cookie", b"content-type", b"x-a", b"x_a", b"proxy", b"x-a-b", b"x-a_b"]
    ),
    st.text("abcxyz019-_!#$%&'*+.^`|~", min_size=1, max_size=8).map(lambda name: name.encode()),
)
VALUES = st.binary(max_size=12).map(
    lambda value: bytes(byte for byte in value if byte >= 0x20 and byte != 0x7F).strip()
)
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=12)
NOTHING = st.just(ABSENT)


@st.composite
def scopes(draw: st.DrawFn) -> tuple[Scope, str]:
    """A scope as some server makes it, and the PATH_INFO that an app must see."""
    path_bytes, root = b"/" + draw(TARGET_BYTES), draw(ROOTS)
    raw = quote_from_bytes(path_bytes).encode("ascii")
    root_bytes = root.encode()
    if draw(st.booleans()):  # as uvicorn does, with the slash at its end if there is one
        raw = quote_from_bytes(root_bytes).encode("ascii") + raw
    path = unquote(raw.decode("ascii"))
    form = draw(st.sampled_from(["raw", "raw and query", "None", "absent"]))
    query = draw(st.binary(max_size=10))
    websocket = draw(st.booleans())
    known_bytes = unquote_to_bytes(raw) if form.startswith("raw") else path.encode()
    scope = http_scope(
        draw(METHODS),
        path,
        raw_path={"raw": raw, "raw and query": raw + b"?" + query, "None": None}.get(form, ABSENT),
        root_path=root or draw(st.sampled_from(["", ABSENT])),
        query_string=query or (draw(st.sampled_from([b"", None, ABSENT])) if websocket else b""),
        client=draw(ADDRESSES),
        server=draw(ADDRESSES),
        scheme=draw(st.sampled_from(["ws", "wss"] if websocket else ["http", "https"]) | NOTHING),
        http_version=draw(st.sampled_from(["1.0", "1.1", "2", "3"])),
        extensions=draw(st.sampled_from([{}, None, ABSENT, {"tls": {}}, {"unknown": {}}])),
        asgi=draw(st.sampled_from([{"version": "3.0"}, {"version": "3.0", "spec_version": "2.1"}])),
    )
    headers = draw(HEADERS)
    if websocket:
        del scope["method"]
        scope["type"] = "websocket"
        scope["extensions"] = (scope.get("extensions") or {}) | {"websocket.http.response": {}}
        scope["subprotocols"] = []
    kind = draw(st.sampled_from([list, tuple]))
    scope["headers"] = kind([list(pair) for pair in headers] if draw(st.booleans()) else headers)
    return scope, _cut(root_bytes, known_bytes).decode("latin-1")


def _cut(root: bytes, path: bytes) -> bytes:
    stripped = root.rstrip(b"/")
    if stripped and path == stripped:
        return b""
    for prefix in filter(None, (root, stripped)):
        if path.startswith(prefix + b"/"):
            return path[len(prefix) :]
    return path


def _handshake_model(environ: Environ) -> dict[str, str]:
    """What is added or replaced in the handshake of a WebSocket (WS-W-2)."""
    environ = dict(environ)
    names = ("UPGRADE", "CONNECTION", "HOST", "SEC_WEBSOCKET_KEY", "SEC_WEBSOCKET_VERSION")
    return {key: environ[key] for key in (f"HTTP_{name}" for name in names)}


def _header_model(headers: Any) -> dict[str, str]:
    """The HTTP_ variables that these headers make."""
    joined: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode(), raw_value.decode("latin-1")
        if "_" in name or name in ("proxy", "content-type", "content-length"):
            continue
        key = "HTTP_" + name.upper().replace("-", "_")
        separator = "; " if name == "cookie" else ","
        joined[key] = joined[key] + separator + value if key in joined else value
    return joined


def _linted(environ: Environ) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_environ(environ)
        LintMiddleware(plain_app).check_environ(environ)  # type: ignore[arg-type]


@given(case=scopes())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_any_scope_makes_a_valid_environ(case: tuple[Scope, str]) -> None:
    """W-ENV-1..7: wsgiref and werkzeug accept every environ, and paths and headers say what the
    scope says.
    """
    scope, path_info = case
    environ = await environ_of(scope)
    _linted(environ)
    assert environ["PATH_INFO"] == path_info
    assert environ["SCRIPT_NAME"] == scope.get("root_path", "").rstrip("/").encode().decode(
        "latin-1"
    )
    assert environ["QUERY_STRING"].encode("latin-1") == (scope.get("query_string") or b"")
    expected = _header_model(scope["headers"])
    if scope["type"] == "websocket":
        expected = _handshake_model(environ) | expected
    assert {k: v for k, v in environ.items() if k.startswith("HTTP_")} == expected
    assert environ["SERVER_NAME"]
    assert environ["SERVER_PORT"]
    for name, value in environ.items():
        if "." not in name:
            value.encode("latin-1")


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param({"method": "OPTIONS", "path": "*", "raw_path": b"*"}, id="OPTIONS *"),
        pytest.param({"path": ""}, id="empty path"),
        pytest.param({"path": "", "root_path": "/api"}, id="empty path under a root"),
        pytest.param({"path": "api/x", "root_path": "api"}, id="root without a slash"),
        pytest.param({"path": "/x", "root_path": "//"}, id="root of slashes"),
    ],
)
async def test_odd_targets_make_a_valid_environ(overrides: dict[str, Any]) -> None:
    """W-ENV-1: targets that are no path, and root paths as people type them, pass the linters."""
    scope = http_scope(**overrides)
    _linted(await environ_of(scope))

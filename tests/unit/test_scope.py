"""_protocol/scope.py: environ -> scope, one clause a table, and the round trips with environ.py."""

import sys
from copy import copy
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wsgi_asgi_bridge._protocol.environ import environ_from_scope, environ_template
from wsgi_asgi_bridge._protocol.headers import MAX_CACHED_NAME_BYTES, MAX_CACHED_NAMES
from wsgi_asgi_bridge._protocol.scope import (
    _header_names,
    declared_length,
    is_websocket,
    scope_from_environ,
)
from wsgi_asgi_bridge.errors import BadRequest, ServerError

Environ = dict[str, Any]
Scope = dict[str, Any]

TEMPLATE = environ_template(multithread=True, file_wrapper=None)


def environ_with(**overrides: Any) -> Environ:
    """A plain GET, with what PEP 3333 requires."""
    environ: Environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "SERVER_NAME": "192.0.2.7",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.1",
        "REMOTE_PORT": "50000",
        "wsgi.url_scheme": "http",
    }
    return environ | overrides


def scope_with(
    *, root_path: str = "", state: dict[str, Any] | None = None, **overrides: Any
) -> Scope:
    """The scope of a plain GET with these changes; a key that is None is not there."""
    environ = {k: v for k, v in environ_with(**overrides).items() if v is not None}
    return scope_from_environ(environ, root_path=root_path, state=state or {})


# --- what is always there


def test_the_fixed_part() -> None:
    """A-SCOPE-1."""
    scope = scope_with()
    assert scope["type"] == "http"
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.5"}
    assert scope["extensions"] == {}


def test_the_environ_itself_is_in_the_scope() -> None:
    """A-SCOPE-3."""
    environ = environ_with()
    before = copy(environ)
    assert scope_from_environ(environ, root_path="", state={})["wsgi_environ"] is environ
    assert environ == before


def test_uwsgis_environ_is_copied() -> None:
    """A-SCOPE-3: uWSGI empties it after the request, when the app may still run."""
    environ = environ_with() | {"uwsgi.version": b"2.0"}
    scope = scope_from_environ(environ, root_path="", state={})
    kept = copy(environ)
    environ.clear()
    assert scope["wsgi_environ"] == kept


def test_the_state_is_a_shallow_copy() -> None:
    """A-SCOPE-1: what a request adds is its own, what the lifespan put there is shared."""
    shared: list[int] = []
    state = {"pool": shared}
    scope = scope_with(state=state)
    assert scope["state"] == state
    assert scope["state"] is not state
    assert scope["state"]["pool"] is shared


# --- the request line


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        ({"REQUEST_METHOD": "post"}, "method", "POST"),
        ({"REQUEST_METHOD": None}, "method", "GET"),
        ({"SERVER_PROTOCOL": "HTTP/1.0"}, "http_version", "1.0"),
        ({"SERVER_PROTOCOL": "HTTP/1.1"}, "http_version", "1.1"),
        ({"SERVER_PROTOCOL": "HTTP/2"}, "http_version", "2"),
        ({"SERVER_PROTOCOL": "HTTP/2.0"}, "http_version", "2"),
        ({"SERVER_PROTOCOL": "HTTP/0.9"}, "http_version", "1.1"),
        ({"SERVER_PROTOCOL": None}, "http_version", "1.1"),
        ({"wsgi.url_scheme": "https"}, "scheme", "https"),
        ({"wsgi.url_scheme": None}, "scheme", "http"),
        ({"QUERY_STRING": "a=%20"}, "query_string", b"a=%20"),
        ({"QUERY_STRING": "\xe9"}, "query_string", b"\xe9"),
        ({"QUERY_STRING": None}, "query_string", b""),
    ],
)
def test_the_request_line(overrides: Environ, key: str, value: object) -> None:
    """A-SCOPE-1, A-SCOPE-2."""
    assert scope_with(**overrides)[key] == value


# --- paths


@pytest.mark.parametrize(
    ("option", "script_name", "path_info", "root_path", "path", "raw_path"),
    [
        pytest.param("", "", "/a", "", "/a", b"/a", id="plain"),
        pytest.param("", "/api", "/a", "/api", "/api/a", b"/api/a", id="mounted"),
        pytest.param("", "/api", "", "/api", "/api", b"/api", id="the mount itself"),
        pytest.param(
            "/proxy",
            "/api",
            "/a",
            "/proxy/api",
            "/proxy/api/a",
            b"/proxy/api/a",
            id="behind a proxy",
        ),
        pytest.param(
            "/proxy", "", "/a", "/proxy", "/proxy/a", b"/proxy/a", id="behind a proxy, not mounted"
        ),
        pytest.param("", "", "/caf\xc3\xa9", "", "/caf\xe9", b"/caf%C3%A9", id="UTF-8"),
        pytest.param("", "", "/\xe9", "", "/\ufffd", b"/%E9", id="not UTF-8"),
        pytest.param(
            "", "", "/a b?c#d%", "", "/a b?c#d%", b"/a%20b%3Fc%23d%25", id="what must be quoted"
        ),
        pytest.param(
            "",
            "",
            "/:@!$&'()*+,;=-._~",
            "",
            "/:@!$&'()*+,;=-._~",
            b"/:@!$&'()*+,;=-._~",
            id="what must not",
        ),
        pytest.param(
            "", "", "/\u540d", "", "/\u540d", b"/%E5%90%8D", id="a server that decoded it as UTF-8"
        ),
        pytest.param(
            "/caf\xe9",
            "",
            "/a",
            "/caf\xe9",
            "/caf\xe9/a",
            b"/caf%C3%A9/a",
            id="a proxy prefix beyond ASCII",
        ),
        pytest.param("", None, None, "", "", b"", id="nothing"),
        pytest.param("", "/api/", "/a", "/api", "/api/a", b"/api/a", id="a slash behind a mount"),
        pytest.param("", "/api/", "a", "/api", "/api/a", b"/api/a", id="between mount and path"),
        pytest.param("", "/api/", "", "/api", "/api/", b"/api/", id="that mount itself"),
        pytest.param("", "/api/", "*", "/api", "*", b"*", id="OPTIONS * below it"),
        pytest.param("", "/", "/a", "", "/a", b"/a", id="a mount that is none"),
        pytest.param("", "/", "", "", "/", b"/", id="that mount itself, at the root"),
        pytest.param("", "api", "/a", "/api", "/api/a", b"/api/a", id="no slash before a mount"),
        pytest.param("", "/api", "a", "/api", "/api/a", b"/api/a", id="no slash before a path"),
        pytest.param("", "", "a", "", "/a", b"/a", id="no slash before it, not mounted"),
        pytest.param(
            "/proxy", "/api/", "a", "/proxy/api", "/proxy/api/a", b"/proxy/api/a", id="and a proxy"
        ),
    ],
)
def test_paths(
    option: str,
    script_name: str | None,
    path_info: str | None,
    root_path: str,
    path: str,
    raw_path: bytes,
) -> None:
    """A-SCOPE-1, A-SCOPE-2."""
    scope = scope_with(root_path=option, SCRIPT_NAME=script_name, PATH_INFO=path_info)
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == (root_path, path, raw_path)


@pytest.mark.parametrize("key", ["RAW_URI", "REQUEST_URI"])
@pytest.mark.parametrize(
    ("target", "path_info", "raw_path"),
    [
        pytest.param("/a%2Fb", "/a/b", b"/a%2Fb", id="quoted as the client did"),
        pytest.param("/a%2Fb?x=/a", "/a/b", b"/a%2Fb", id="with a query"),
        pytest.param("/%61", "/a", b"/%61", id="needlessly quoted"),
        pytest.param("/caf\xe9", "/caf\xe9", b"/caf\xe9", id="not quoted at all"),
        pytest.param("http://a.test/a%2Fb?x", "/a/b", b"/a%2Fb", id="the absolute form"),
        pytest.param(
            "http://a.test:81/a%2Fb", "/a/b", b"/a%2Fb", id="the absolute form with a port"
        ),
        pytest.param("/old", "/new", b"/new", id="rewritten on the way"),
        pytest.param("/api/a", "/a", b"/a", id="stripped on the way"),
        pytest.param("*", "/", b"/", id="OPTIONS *"),
        pytest.param("", "/a", b"/a", id="empty"),
    ],
)
def test_the_raw_path_is_the_clients_where_it_still_is_the_path(
    key: str, target: str, path_info: str, raw_path: bytes
) -> None:
    """A-SCOPE-1."""
    assert scope_with(**{key: target, "PATH_INFO": path_info})["raw_path"] == raw_path


def test_the_raw_path_covers_the_mount() -> None:
    """A-SCOPE-1."""
    scope = scope_with(SCRIPT_NAME="/api", PATH_INFO="/a/b", REQUEST_URI="/api/a%2Fb?x=1")
    assert scope["raw_path"] == b"/api/a%2Fb"
    assert scope["path"] == "/api/a/b"


# --- headers


@pytest.mark.parametrize(
    ("overrides", "headers"),
    [
        pytest.param({}, [], id="none"),
        pytest.param({"HTTP_X_A": "1"}, [(b"x-a", b"1")], id="one"),
        pytest.param({"HTTP_X_A": ""}, [(b"x-a", b"")], id="an empty one"),
        pytest.param({"HTTP_X_A": "\xe9"}, [(b"x-a", b"\xe9")], id="latin-1"),
        pytest.param({"CONTENT_TYPE": "text/plain"}, [(b"content-type", b"text/plain")], id="type"),
        pytest.param({"CONTENT_LENGTH": "5"}, [(b"content-length", b"5")], id="length"),
        pytest.param(
            {"CONTENT_LENGTH": 5}, [(b"content-length", b"5")], id="a length that is an int"
        ),
        pytest.param({"CONTENT_TYPE": "", "CONTENT_LENGTH": ""}, [], id="empty ones of CGI"),
        pytest.param(
            {"CONTENT_TYPE": "a", "HTTP_CONTENT_TYPE": "a"}, [(b"content-type", b"a")], id="a twin"
        ),
        pytest.param({"HTTP_CONTENT_LENGTH": "5"}, [], id="a twin alone"),
        pytest.param(
            {"HTTP_HOST": "a.test", "HTTP_COOKIE": "a=1; b=2"},
            [(b"host", b"a.test"), (b"cookie", b"a=1; b=2")],
            id="in order",
        ),
        pytest.param(
            {"HTTPS": "on", "SSL_PROTOCOL": "TLSv1.3", "http_x": "no"}, [], id="what is no header"
        ),
    ],
)
def test_headers(overrides: Environ, headers: list[tuple[bytes, bytes]]) -> None:
    """A-SCOPE-1, A-SCOPE-2."""
    assert scope_with(**overrides)["headers"] == headers


def test_a_client_that_invents_names_gets_them_all() -> None:
    """A-SCOPE-1: more names than are remembered, and the well-known ones before and after."""
    invented = {f"HTTP_X_{number}": "1" for number in range(MAX_CACHED_NAMES + 5)}
    for _ in range(2):
        assert scope_with(HTTP_HOST="a.test")["headers"] == [(b"host", b"a.test")]
        headers = scope_with(HTTP_HOST="a.test", **invented)["headers"]
        assert [name for name, _ in headers[1:]] == [
            b"x-%d" % number for number in range(len(invented))
        ]
    assert len(_header_names) <= MAX_CACHED_NAMES


def test_names_that_a_client_made_long_are_not_kept() -> None:
    """A-SCOPE-1: it gets them all the same, and the others beside them."""
    for number in range(20):
        name = f"X_{number}_" + "A" * 10_000
        for _ in range(2):
            headers = scope_with(HTTP_HOST="a.test", **{f"HTTP_{name}": "1"})["headers"]
            translated = name.lower().replace("_", "-").encode()
            assert headers == [(b"host", b"a.test"), (translated, b"1")]
    kept = sum(sys.getsizeof(key) + sys.getsizeof(name) for key, name in _header_names.items())
    assert kept <= 3 * MAX_CACHED_NAMES * MAX_CACHED_NAME_BYTES
    assert max(map(len, _header_names)) < 10_000


# --- peers


@pytest.mark.parametrize(
    ("address", "port", "client"),
    [
        ("192.0.2.1", "50000", ("192.0.2.1", 50000)),
        ("192.0.2.1", 50000, ("192.0.2.1", 50000)),
        ("192.0.2.1", None, ("192.0.2.1", 0)),
        ("192.0.2.1", "", ("192.0.2.1", 0)),
        ("192.0.2.1", "x", ("192.0.2.1", 0)),
        ("192.0.2.1", "٣", ("192.0.2.1", 0)),
        ("::1", "5", ("::1", 5)),
        ("", "5", None),
        (None, None, None),
    ],
)
def test_the_client(address: str | None, port: Any, client: Any) -> None:
    """A-SCOPE-1, A-SCOPE-2."""
    assert scope_with(REMOTE_ADDR=address, REMOTE_PORT=port)["client"] == client


@pytest.mark.parametrize(
    ("name", "port", "server"),
    [
        ("a.test", "80", ("a.test", 80)),
        ("a.test", 80, ("a.test", 80)),
        ("a.test", "", ("a.test", None)),
        ("a.test", None, ("a.test", None)),
        ("", "80", None),
        (None, None, None),
    ],
)
def test_the_server(name: str | None, port: Any, server: Any) -> None:
    """A-SCOPE-1, A-SCOPE-2."""
    assert scope_with(SERVER_NAME=name, SERVER_PORT=port)["server"] == server


# --- what cannot be translated


@pytest.mark.parametrize(
    "overrides",
    [
        {"REQUEST_METHOD": 5},
        {"PATH_INFO": b"/bytes"},
        {"PATH_INFO": "/\ud800"},
        {"HTTP_X_A": 5},
        {"QUERY_STRING": b"bytes"},
    ],
    ids=repr,
)
def test_an_environ_that_makes_no_sense_is_the_servers_error(overrides: Environ) -> None:
    """Never a KeyError from the inside."""
    with pytest.raises(ServerError, match="the server's environ cannot be translated") as raised:
        scope_with(**overrides)
    assert raised.value.__cause__ is not None


NATIVE_STRINGS = st.text(st.characters(max_codepoint=0xFF, exclude_characters="%"), max_size=8)
PATHS = st.just("") | NATIVE_STRINGS.map(lambda text: "/" + text)
OTHER_KEYS = [
    "QUERY_STRING",
    "HTTP_X_A",
    "CONTENT_TYPE",
    "SERVER_PORT",
    "REMOTE_PORT",
    "REMOTE_ADDR",
]


@given(
    paths=st.dictionaries(
        st.sampled_from(["SCRIPT_NAME", "PATH_INFO", "REQUEST_URI", "RAW_URI"]), PATHS
    ),
    others=st.dictionaries(st.sampled_from(OTHER_KEYS), NATIVE_STRINGS),
)
def test_any_native_strings_make_a_sound_scope(paths: Environ, others: Environ) -> None:
    """A-SCOPE-2."""
    scope = scope_with(**paths, **others)
    assert type(scope["path"]) is type(scope["root_path"]) is str
    assert type(scope["raw_path"]) is type(scope["query_string"]) is bytes
    assert scope["path"].startswith(scope["root_path"])
    assert all(type(part) is bytes for pair in scope["headers"] for part in pair)
    assert unquote_to_bytes(scope["raw_path"]).decode("utf-8", "replace") == scope["path"]


# --- the two questions before


@pytest.mark.parametrize(
    ("environ", "length"),
    [
        ({}, None),
        ({"CONTENT_LENGTH": ""}, None),
        ({"CONTENT_LENGTH": None}, None),
        ({"CONTENT_LENGTH": "0"}, 0),
        ({"CONTENT_LENGTH": "5"}, 5),
        ({"CONTENT_LENGTH": 5}, 5),
    ],
    ids=repr,
)
def test_the_declared_length(environ: Environ, length: int | None) -> None:
    """A-SCOPE-2."""
    assert declared_length(environ) == length


@pytest.mark.parametrize(
    "value", ["x", "-1", "+5", "5,6", " 5", "5 ", "5.0", "9" * 19, -1], ids=repr
)
def test_a_malformed_length_is_a_bad_request(value: Any) -> None:
    """A-SCOPE-2."""
    with pytest.raises(BadRequest, match="Content-Length"):
        declared_length({"CONTENT_LENGTH": value})


@pytest.mark.parametrize(
    ("upgrade", "connection", "asked"),
    [
        ("websocket", "Upgrade", True),
        ("WebSocket", "keep-alive, Upgrade", True),
        ("websocket", None, False),
        (None, "Upgrade", False),
        ("h2c", "Upgrade", False),
        (None, None, False),
    ],
)
def test_whether_a_websocket_is_asked_for(
    upgrade: str | None, connection: str | None, asked: bool
) -> None:
    """WS-A-1."""
    given = {"REQUEST_METHOD": "GET", "HTTP_UPGRADE": upgrade, "HTTP_CONNECTION": connection}
    assert is_websocket({k: v for k, v in given.items() if v is not None}) is asked


@pytest.mark.parametrize("method", ["HEAD", "POST", "OPTIONS", "get", ""])
def test_only_a_get_asks_for_a_websocket(method: str) -> None:
    """WS-A-1: RFC 6455 4.1 names the method, and methods are case-sensitive (RFC 9110 9.1)."""
    upgrade = {"HTTP_UPGRADE": "websocket", "HTTP_CONNECTION": "Upgrade"}
    assert not is_websocket({"REQUEST_METHOD": method} | upgrade)


def test_without_a_method_it_is_a_get() -> None:
    """A-SCOPE-2, WS-A-1."""
    assert is_websocket({"HTTP_UPGRADE": "websocket", "HTTP_CONNECTION": "Upgrade"})


# --- round trips

SEGMENTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=3)
ROOTS = st.lists(
    st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="/"), min_size=1, max_size=4
    ),
    max_size=2,
).map(lambda parts: "".join("/" + part for part in parts))
TOKENS = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=8)
SPECIAL_NAMES = {"proxy", "transfer-encoding", "content-length", "content-type", "host"}
HEADERS = st.dictionaries(
    TOKENS.filter(lambda name: name not in SPECIAL_NAMES), st.binary(max_size=6), max_size=4
)
PORTS = st.integers(0, 65535)


@st.composite
def scopes(draw: st.DrawFn) -> Scope:
    """What an ASGI server gives that prefixes `path` with `root_path`, each header once."""
    root_path = draw(ROOTS)
    segments = draw(SEGMENTS)
    path = root_path + "".join("/" + part for part in segments) if segments or root_path else "/"
    headers = [(name.encode(), value) for name, value in draw(HEADERS).items()]
    headers += draw(
        st.sampled_from([[], [(b"content-type", b"text/plain")], [(b"content-length", b"5")]])
    )
    scheme = draw(st.sampled_from(["http", "https"]))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": draw(st.sampled_from(["1.0", "1.1", "2"])),
        "method": draw(st.sampled_from(["GET", "HEAD", "POST", "M-SEARCH"])),
        "scheme": scheme,
        "path": path,
        "raw_path": quote_from_bytes(
            path.encode(), draw(st.sampled_from(["/", "/:@!$&'()*+,;=-._~"]))
        ).encode(),
        "query_string": draw(st.binary(max_size=8)),
        "root_path": root_path,
        "headers": headers,
        "client": draw(st.none() | st.tuples(st.just("192.0.2.1"), PORTS)),
        "server": ("198.51.100.2", draw(PORTS)),
        "extensions": {},
    }


@settings(deadline=None)
@given(scopes())
def test_scope_environ_scope(scope: Scope) -> None:
    """A-SCOPE-4."""
    environ = environ_from_scope(scope, TEMPLATE, max_header_repeats=100)
    back = scope_from_environ(environ, root_path="", state={})
    for key in scope:
        if key == "headers":
            assert sorted(back[key]) == sorted(scope[key])
        else:
            assert back[key] == scope[key], key
    assert back["wsgi_environ"]["asgi.scope"] == scope


# What does not come back, and why: HTTP_PROXY and HTTP_TRANSFER_ENCODING are dropped or read by
# rule, and a mount point that is no UTF-8 has no `root_path`.
KEYS = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_", min_size=1, max_size=8).map(
    "HTTP_{}".format
)
LOST_KEYS = {
    "HTTP_PROXY",
    "HTTP_TRANSFER_ENCODING",
    "HTTP_CONTENT_TYPE",
    "HTTP_CONTENT_LENGTH",
    "HTTP_HOST",
}
LATIN_1 = st.text(st.characters(max_codepoint=0xFF), max_size=6)


@st.composite
def environs(draw: st.DrawFn) -> Environ:
    """What a WSGI server gives, any bytes in its native strings."""
    script_name = draw(ROOTS).encode().decode("latin-1")
    path_info = draw(
        LATIN_1.map(lambda text: "/" + text) | (st.just("") if script_name else st.nothing())
    )
    query = draw(LATIN_1)
    environ = environ_with(
        SCRIPT_NAME=script_name,
        PATH_INFO=path_info,
        QUERY_STRING=query,
        REQUEST_METHOD=draw(st.sampled_from(["GET", "POST", "PROPFIND"])),
        SERVER_PORT=str(draw(PORTS)),
        REMOTE_PORT=str(draw(PORTS.filter(bool))),  # 0 is none (W-ENV-10)
        SERVER_PROTOCOL=draw(st.sampled_from(["HTTP/1.0", "HTTP/1.1", "HTTP/2.0"])),
    )
    environ["wsgi.url_scheme"] = draw(st.sampled_from(["http", "https"]))
    headers = draw(
        st.dictionaries(KEYS.filter(lambda key: key not in LOST_KEYS), LATIN_1, max_size=4)
    )
    environ |= headers
    environ |= draw(st.sampled_from([{}, {"CONTENT_TYPE": "text/plain"}, {"CONTENT_LENGTH": "5"}]))
    raw = quote_from_bytes((script_name + path_info).encode("latin-1"))
    target = raw + "?" + query if query else raw
    environ |= draw(st.sampled_from([{}, {"REQUEST_URI": target, "RAW_URI": target}]))
    return environ


@settings(deadline=None)
@given(environs())
@example(environ_with(PATH_INFO="/caf\xe9"))
@example(environ_with(SCRIPT_NAME="/\xc3\xa9", PATH_INFO="/\xe9"))
def test_environ_scope_environ(environ: Environ) -> None:
    """A-SCOPE-4: to the byte, also where a path is no UTF-8."""
    scope = scope_from_environ(environ, root_path="", state={})
    back = environ_from_scope(scope, TEMPLATE, max_header_repeats=100)
    assert {key: back.get(key) for key in environ} == environ
    headers = {key for key in back if key.startswith(("HTTP_", "CONTENT_"))}
    assert headers == {key for key in environ if key.startswith(("HTTP_", "CONTENT_"))}

"""A-SCOPE-1..3: what the app's scope holds, clause by clause."""

import gc
import weakref
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest

from tests.support.asgi_scopes import check_address, header_map, scope_of
from tests.support.fake_wsgi_server import (
    SERVERS,
    Environ,
    Request,
    ScopeCapture,
    UnreadableInput,
    bridged,
    environ_for,
    hello,
    respond,
    serve,
    upload_environ,
    whole_body,
)

# A-SCOPE-1: one clause a test


@pytest.mark.parametrize("server", SERVERS)
def test_every_server_gives_a_sound_scope(server: str) -> None:
    """A-SCOPE-1: the same request has the same meaning, whichever server brought it."""
    request = Request(
        method="POST",
        target="/app/a%20b/%C3%A9?q=%20x&r",
        headers=(
            ("Host", "example.org"),
            ("Content-Type", "text/csv"),
            ("Content-Length", "3"),
            ("Cookie", "a=1; b=2"),
            ("X-Many", "1"),
            ("X-Many", "2"),
        ),
        body=b"abc",
        script_name="/app",
    )
    scope = scope_of(SERVERS[server](request))
    assert scope["type"] == "http"
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.5"}
    assert scope["http_version"] == "1.1"
    assert scope["method"] == "POST"
    assert scope["scheme"] == "http"
    assert scope["root_path"] == "/app"
    assert scope["path"] == "/app/a b/é"
    assert scope["raw_path"] == b"/app/a%20b/%C3%A9"
    assert scope["query_string"] == b"q=%20x&r"
    assert header_map(scope) == {
        b"host": b"example.org",
        b"content-type": b"text/csv",
        b"content-length": b"3",
        b"cookie": b"a=1; b=2",
        b"x-many": b"1,2",
    }
    host, port = scope["client"]
    assert host == "127.0.0.1"
    assert port in ((0, None) if server == "wsgiref" else (50123,))
    assert tuple(scope["server"]) == ("127.0.0.1", 8000)


@pytest.mark.parametrize("server", SERVERS)
def test_every_server_on_a_unix_socket(server: str) -> None:
    """A-SCOPE-2: without a peer address or a port the scope is sound still."""
    scope = scope_of(SERVERS[server](Request(client=None, server=None)))
    check_address(scope.get("client"))
    check_address(scope["server"])
    assert scope["path"] == "/"


def test_spec_versions() -> None:
    """A-SCOPE-1: the app learns which ASGI it talks to."""
    assert scope_of(environ_for())["asgi"] == {"version": "3.0", "spec_version": "2.5"}


@pytest.mark.parametrize(
    ("protocol", "version"),
    [
        ("HTTP/1.0", "1.0"),
        ("HTTP/1.1", "1.1"),
        ("HTTP/2", "2"),
        ("HTTP/2.0", "2"),
        ("http/1.1", "1.1"),
    ],
)
def test_http_version(protocol: str, version: str) -> None:
    """A-SCOPE-1: `http_version` is one of ASGI's three."""
    assert scope_of(environ_for(version=protocol))["http_version"] == version


@pytest.mark.parametrize("protocol", ["HTTP/3", "HTTP/0.9", "INCLUDED", "", None, "HTTP"])
def test_odd_server_protocols_give_a_legal_http_version(protocol: str | None) -> None:
    """A-SCOPE-1: whatever the gateway says, the app sees a version that ASGI knows."""
    environ = environ_for() | {"SERVER_PROTOCOL": protocol}
    if protocol is None:
        del environ["SERVER_PROTOCOL"]
    assert scope_of(environ)["http_version"] in ("1.0", "1.1", "2")


@pytest.mark.parametrize("method", ["GET", "get", "Patch", "PROPFIND", "X-CUSTOM"])
def test_method_is_upper_case(method: str) -> None:
    """A-SCOPE-1: apps compare with upper-case names."""
    assert scope_of(environ_for(method=method))["method"] == method.upper()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_scheme(scheme: str) -> None:
    """A-SCOPE-1: `wsgi.url_scheme` is the scheme."""
    assert scope_of(environ_for(scheme=scheme))["scheme"] == scheme


PATHS = {
    # (SCRIPT_NAME, PATH_INFO): (root_path, path, raw_path without a known target)
    ("", "/"): ("", "/", b"/"),
    ("", "/a b"): ("", "/a b", b"/a%20b"),
    ("", "/\xc3\xa9"): ("", "/é", b"/%C3%A9"),
    ("/app", "/x"): ("/app", "/app/x", b"/app/x"),
    ("/app", ""): ("/app", "/app", b"/app"),
    ("/app", "/"): ("/app", "/app/", b"/app/"),
    ("/\xc3\xa9", "/x"): ("/é", "/é/x", b"/%C3%A9/x"),
    ("", "/a%b"): ("", "/a%b", b"/a%25b"),
    ("", "/a?b#c"): ("", "/a?b#c", b"/a%3Fb%23c"),
    ("", "//double"): ("", "//double", b"//double"),
    ("", "/a/../b"): ("", "/a/../b", b"/a/../b"),
}


@pytest.mark.parametrize(("names", "expected"), PATHS.items(), ids=map(repr, PATHS))
def test_paths_without_a_request_target(names: Any, expected: Any) -> None:
    """A-SCOPE-1: `path` holds `root_path`, decoded; `raw_path` is quoted again."""
    environ = environ_for() | {"SCRIPT_NAME": names[0], "PATH_INFO": names[1]}
    environ.pop("RAW_URI")
    scope = scope_of(environ)
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == expected


@pytest.mark.parametrize("key", ["RAW_URI", "REQUEST_URI"])
@pytest.mark.parametrize(
    ("target", "raw_path"),
    [
        ("/a%2Fb", b"/a%2Fb"),
        ("/a%2fb?x=/%3F", b"/a%2fb"),
        ("/~user/%7Euser", b"/~user/%7Euser"),
        ("http://example.org/a%20b?q", b"/a%20b"),
        ("http://example.org:8000", b"/"),
        ("http://example.org?q=1", b"/"),
        ("//double/slash", b"//double/slash"),
        ("/%E9", b"/%E9"),
        ("/a;p=1,2/b", b"/a;p=1,2/b"),
        ("/http://other/x", b"/http://other/x"),
    ],
)
def test_raw_path_is_the_path_of_the_target(key: str, target: str, raw_path: bytes) -> None:
    """A-SCOPE-1: `raw_path` has the bytes of the request line, without query and authority."""
    environ = environ_for(target)
    environ[key] = environ.pop("RAW_URI")
    assert scope_of(environ)["raw_path"] == raw_path


def test_raw_path_of_an_asterisk() -> None:
    """A-SCOPE-2: `OPTIONS *` is a request that servers accept."""
    environ = environ_for(method="OPTIONS") | {"RAW_URI": "*", "PATH_INFO": "*"}
    scope = scope_of(environ)
    assert scope["method"] == "OPTIONS"
    assert scope["raw_path"] == b"*"


@pytest.mark.parametrize(
    ("query", "expected"), [("", b""), ("a=b&c", b"a=b&c"), ("n=\xe9\xff", b"n=\xe9\xff")]
)
def test_query_string_is_bytes(query: str, expected: bytes) -> None:
    """A-SCOPE-1: any latin-1 QUERY_STRING becomes its bytes."""
    assert scope_of(environ_for() | {"QUERY_STRING": query})["query_string"] == expected


def test_missing_query_string_is_empty() -> None:
    """A-SCOPE-2: QUERY_STRING may be absent (PEP 3333)."""
    environ = environ_for()
    del environ["QUERY_STRING"]
    assert scope_of(environ)["query_string"] == b""


def test_missing_script_name_and_path_info() -> None:
    """A-SCOPE-2: empty CGI variables may be absent (PEP 3333)."""
    environ = environ_for()
    del environ["SCRIPT_NAME"], environ["PATH_INFO"], environ["RAW_URI"]
    scope = scope_of(environ)
    assert scope["root_path"] == ""
    assert scope["path"] in ("", "/")


def test_headers_are_lower_case_bytes() -> None:
    """A-SCOPE-1: pairs of bytes, names with dashes, values as they came (latin-1)."""
    scope = scope_of(environ_for(headers=(("X-Some-Thing", "v\xe9"), ("HOST", "h"))))
    assert header_map(scope) == {b"x-some-thing": b"v\xe9", b"host": b"h"}
    assert {type(part) for pair in scope["headers"] for part in pair} == {bytes}


def test_empty_content_headers_are_left_out() -> None:
    """A-SCOPE-1: CGI's empty CONTENT_TYPE and CONTENT_LENGTH say that there was no such header."""
    headers = header_map(scope_of(environ_for() | {"CONTENT_TYPE": "", "CONTENT_LENGTH": ""}))
    assert headers == {b"host": b"example.org"}


def test_only_headers_become_headers() -> None:
    """A-SCOPE-1: server variables are none, and a content header comes once."""
    extra = {
        "SSL_CLIENT_CERT": "x",
        "HTTPS": "on",
        "REMOTE_USER": "me",
        "HTTP_CONTENT_LENGTH": "9",
        "HTTP_CONTENT_TYPE": "text/html",
        "CONTENT_LENGTH": "0",
        "CONTENT_TYPE": "text/plain",
    }
    headers = header_map(scope_of(environ_for() | extra))
    assert headers == {
        b"host": b"example.org",
        b"content-length": b"0",
        b"content-type": b"text/plain",
    }


CLIENTS = {
    "address and port": ({"REMOTE_ADDR": "10.0.0.1", "REMOTE_PORT": "5"}, "10.0.0.1", (5,)),
    "port as int": ({"REMOTE_ADDR": "10.0.0.1", "REMOTE_PORT": 5}, "10.0.0.1", (5,)),
    "ipv6": ({"REMOTE_ADDR": "::1", "REMOTE_PORT": "5"}, "::1", (5,)),
    "no port": ({"REMOTE_ADDR": "10.0.0.1"}, "10.0.0.1", (0, None)),
    "empty port": ({"REMOTE_ADDR": "10.0.0.1", "REMOTE_PORT": ""}, "10.0.0.1", (0, None)),
    "port None as text": (
        {"REMOTE_ADDR": "localhost", "REMOTE_PORT": "None"},
        "localhost",
        (0, None),
    ),
}


@pytest.mark.parametrize("case", CLIENTS.values(), ids=CLIENTS)
def test_client(case: Any) -> None:
    """A-SCOPE-1: a pair of host and port, also where the server knows no port."""
    keys, host, ports = case
    environ = environ_for()
    del environ["REMOTE_ADDR"], environ["REMOTE_PORT"]
    client = scope_of(environ | keys)["client"]
    assert client[0] == host
    assert client[1] in ports
    check_address(client)


@pytest.mark.parametrize("keys", [{}, {"REMOTE_ADDR": ""}, {"REMOTE_ADDR": "", "REMOTE_PORT": ""}])
def test_unknown_client_is_none(keys: Environ) -> None:
    """A-SCOPE-1: a Unix socket has no peer address."""
    environ = environ_for()
    del environ["REMOTE_ADDR"], environ["REMOTE_PORT"]
    assert scope_of(environ | keys).get("client") is None


@pytest.mark.parametrize(
    ("name", "port", "expected"),
    [
        ("example.org", "8000", ("example.org", 8000)),
        ("::1", "443", ("::1", 443)),
    ],
)
def test_server(name: str, port: str, expected: Any) -> None:
    """A-SCOPE-1: SERVER_NAME and SERVER_PORT, the port as an int."""
    scope = scope_of(environ_for() | {"SERVER_NAME": name, "SERVER_PORT": port})
    assert tuple(scope["server"]) == expected


@pytest.mark.parametrize("port", ["", None, "None", "http"])
def test_server_without_a_port(port: str | None) -> None:
    """A-SCOPE-2: an empty SERVER_PORT (Unix socket) is accepted."""
    environ = environ_for() | {"SERVER_PORT": port}
    if port is None:
        del environ["SERVER_PORT"]
    check_address(scope_of(environ)["server"])


def test_state_is_a_shallow_copy_for_each_request() -> None:
    """A-SCOPE-1: what startup left is the same object in each scope; a key set by one request is
    not in the next.
    """
    shared: list[str] = []
    states: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            scope["state"]["shared"] = shared
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        states.append(dict(scope["state"]))
        scope["state"]["mine"] = 1
        await respond(send)

    with bridged(app, lifespan="on") as bridge:
        serve(bridge).finish()
        serve(bridge).finish()
    assert states == [{"shared": []}, {"shared": []}]
    assert all(state["shared"] is shared for state in states)


UNSUPPORTED_EXTENSIONS = (
    "http.response.push",
    "http.response.debug",
    "websocket.http.response",
    "tls",
)


def test_extensions_hold_only_what_works() -> None:
    """A-SCOPE-1: no promise that this direction cannot keep."""
    extensions = scope_of(environ_for()).get("extensions") or {}
    assert isinstance(extensions, dict)
    assert not set(extensions) & set(UNSUPPORTED_EXTENSIONS)


def test_extensions_are_not_shared_between_requests() -> None:
    """A-SCOPE-1: a middleware that adds an extension adds it to its own request."""
    seen: list[set[str]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(set(scope["extensions"]))
        scope["extensions"]["mine"] = {}
        scope["asgi"]["mine"] = True
        scope["headers"].append((b"x-mine", b"1"))
        await respond(send, b"%d" % len(scope["headers"]))

    with bridged(app) as bridge:
        first = serve(bridge).body
        assert serve(bridge).body == first
    assert seen[0] == seen[1]


# A-SCOPE-2


def test_wsgi_input_none() -> None:
    """A-SCOPE-2: a server may have no input at all; the body is empty."""
    bodies: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        bodies.append(await whole_body(receive))
        await respond(send)

    with bridged(app) as bridge:
        for environ in (
            environ_for() | {"wsgi.input": None},
            environ_for(method="POST") | {"wsgi.input": None, "wsgi.input_terminated": True},
            environ_for(method="POST") | {"wsgi.input": None, "CONTENT_LENGTH": "0"},
        ):
            serve(bridge, environ).finish()
        environ = environ_for()
        del environ["wsgi.input"]
        serve(bridge, environ).finish()
    assert bodies == [b""] * 4


@pytest.mark.parametrize(
    "path", ["/\xe9", "/\xff\xfe", "/\xc3", "/a\xed\xa0\x80b", "/\xc3\xa9\xe9"]
)
def test_invalid_utf8_in_the_path(path: str) -> None:
    """A-SCOPE-2: the path is text all the same, and `raw_path` keeps the bytes."""
    environ = environ_for() | {"PATH_INFO": path}
    environ.pop("RAW_URI")
    scope = scope_of(environ)
    assert isinstance(scope["path"], str)
    assert scope["path"].startswith("/")
    scope["path"].encode("utf-8")
    assert unquote_to_bytes(scope["raw_path"]) == path.encode("latin-1")


MALFORMED_LENGTHS = [
    "abc",
    "-1",
    "+5",
    "1_0",
    "0x10",
    "1.0",
    "1e3",
    "5 5",
    "5,6",
    "\xb2",
    "9" * 5000,
    "\xa05",
    "5\x00",
]


@pytest.mark.parametrize("length", MALFORMED_LENGTHS, ids=[repr(s[:8]) for s in MALFORMED_LENGTHS])
def test_malformed_content_length_is_400(length: str) -> None:
    """A-SCOPE-2: refused before the app, and nothing of the body is read."""
    capture = ScopeCapture()
    body = UnreadableInput()
    with bridged(capture) as bridge:
        exchange = serve(bridge, upload_environ(body, length=length))
        assert exchange.body
        assert exchange.status == 400
        assert serve(bridge).body == b"captured"
    assert len(capture.scopes) == 1
    assert body.reads == []


def test_refusal_of_a_head_has_no_body() -> None:
    """A-SCOPE-2, A-OUT-1: its client would take one for the head of the next response."""
    with bridged(ScopeCapture()) as bridge:
        exchange = serve(bridge, environ_for(method="HEAD") | {"CONTENT_LENGTH": "x"})
        assert (exchange.status, exchange.body) == (400, b"")
        assert int(exchange.header_values("content-length")[0]) > 0


class ServersEnviron(dict[Any, Any]):
    """As a few servers make theirs."""


def test_environ_subclasses_and_extra_keys_are_accepted() -> None:
    """A-SCOPE-2: servers and middleware add keys of any type and of any case."""
    extra: dict[Any, Any] = {
        "x-wsgiorg.developer_user": None,
        "uwsgi.node": b"host",
        "lower_case": "x",
        "HOME": "/",
        "HTTP_X_NEW_TO_THE_BRIDGE": "y",
        ("myserver", 1): 1,
        b"HTTP_BYTES": "z",
        7: None,
        None: "nothing",
        object(): object(),
    }
    for environ in (environ_for() | extra, ServersEnviron(environ_for() | extra)):
        scope = scope_of(environ)
        assert scope["path"] == "/"
        assert header_map(scope) == {b"host": b"example.org", b"x-new-to-the-bridge": b"y"}
        assert scope["wsgi_environ"] is environ


def test_a_key_that_is_no_name_is_not_kept() -> None:
    """A-SCOPE-2: what a middleware puts there for one request ends with it."""

    class Key:
        """Of a middleware."""

    environ: dict[Any, Any] = environ_for() | {Key(): 1}
    key = weakref.ref(next(k for k in environ if isinstance(k, Key)))
    with bridged(hello, lifespan="off") as bridge:
        assert serve(bridge, environ).body == b"hello"
    environ.clear()
    gc.collect()
    assert key() is None


# A-SCOPE-3


def test_wsgi_environ_is_in_the_scope() -> None:
    """A-SCOPE-3: the environ itself, not a copy of some of it."""
    environ = environ_for() | {"myserver.key": object()}
    assert scope_of(environ)["wsgi_environ"] is environ

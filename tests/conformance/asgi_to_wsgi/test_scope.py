"""A-SCOPE-1..4 and A-WS-1: the scope that the app sees, for any environ that a server may make."""

import gc
import io
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote_from_bytes, unquote, unquote_to_bytes

import anyio.from_thread
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.fake_wsgi_server import (
    SERVERS,
    BodyInput,
    Environ,
    Message,
    Request,
    ScopeCapture,
    UnreadableInput,
    bridged,
    close_bridge,
    environ_for,
    hello,
    respond,
    serve,
    upload_environ,
    whole_body,
)
from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI

in_hypothesis = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def scope_of(environ: Environ, **options: Any) -> Message:
    """The scope that an app sees for one environ."""
    capture = ScopeCapture()
    with bridged(capture, **options) as bridge:
        assert serve(bridge, environ).body == b"captured"
    return capture.scope


def header_map(scope: Message) -> dict[bytes, bytes]:
    """The headers by name, of which none comes twice from an environ."""
    names = [name for name, _ in scope["headers"]]
    assert len(set(names)) == len(names), f"a header came twice: {names}"
    return dict(map(tuple, scope["headers"]))


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


def check_address(address: Any) -> None:
    if address is None:
        return
    host, port = address
    assert isinstance(address, (tuple, list))
    assert type(host) is str
    assert host
    assert port is None or type(port) is int


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


# Properties

latin1 = st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_categories=["Cc"])
token = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,8}[A-Za-z0-9]", fullmatch=True)
header_value = st.text(latin1, max_size=12).map(lambda v: v.strip(" \t\xa0\x85"))
segment_bytes = st.one_of(
    st.text(max_size=5).map(lambda s: s.encode("utf-8", "ignore")), st.binary(max_size=5)
)
segment = segment_bytes.map(lambda b: b.replace(b"/", b""))
absolute_path = st.lists(segment, min_size=1, max_size=4).map(lambda s: b"/" + b"/".join(s))
script_path = st.one_of(
    st.just(b""),
    st.lists(
        st.text(min_size=1, max_size=4).map(
            lambda s: s.encode("utf-8", "ignore").replace(b"/", b"x") or b"x"
        ),
        min_size=1,
        max_size=2,
    ).map(lambda s: b"/" + b"/".join(s)),
)
query = st.text(latin1.filter(lambda c: c not in "# "), max_size=12)
RESERVED_HEADERS = {
    "content-type",
    "content-length",
    "transfer-encoding",
    "upgrade",
    "connection",
    "proxy",
    "expect",
}
request_headers = st.dictionaries(
    token.map(str.lower).filter(lambda n: n not in RESERVED_HEADERS), header_value, max_size=4
)
address = st.one_of(
    st.none(), st.tuples(st.sampled_from(["127.0.0.1", "::1", "localhost"]), st.integers(1, 65535))
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, Request]:
    """A server's name and a request whose target is any that a server lets through."""
    script = draw(script_path)
    path = script + draw(absolute_path if not script else st.one_of(st.just(b""), absolute_path))
    quoted = quote_from_bytes(path, safe=draw(st.sampled_from(["/", "/~:@!$&'()*+,;="])))
    target = draw(st.sampled_from(["", "http://example.org", "https://h:8443"])) + quoted
    text = draw(query)
    body = draw(st.binary(max_size=20))
    headers = [("Host", "example.org"), *draw(request_headers).items()]
    if draw(st.booleans()):
        headers.append(("Content-Type", "text/x-any"))
    return draw(st.sampled_from(list(SERVERS))), Request(
        method=draw(st.sampled_from(["GET", "POST", "PUT", "PURGE", "OPTIONS"])),
        target=f"{target}?{text}" if text or draw(st.booleans()) else target,
        headers=tuple(dict(headers).items()),
        body=body,
        version=draw(st.sampled_from(["HTTP/1.0", "HTTP/1.1", "HTTP/2", "HTTP/2.0"])),
        scheme=draw(st.sampled_from(["http", "https"])),
        client=draw(address),
        server=draw(address),
        script_name=script.decode("latin-1"),
    )


@contextmanager
def captured_scopes() -> Iterator[Any]:
    """A function from an environ to its scope, over one bridge."""
    capture = ScopeCapture()
    with bridged(capture) as bridge:

        def scope_from(environ: Environ) -> Message:
            assert serve(bridge, environ).body == b"captured"
            return capture.scopes.pop()

        yield scope_from


def test_any_environ_has_its_scope() -> None:
    """A-SCOPE-1, A-SCOPE-2: every key of the scope follows from the environ, for any environ of any
    server.
    """
    with captured_scopes() as scope_from:

        @in_hypothesis
        @given(requests())
        def check(named: tuple[str, Request]) -> None:
            server, request = named
            environ = SERVERS[server](request)
            scope = scope_from(environ)
            assert scope["type"] == "http"
            assert scope["http_version"] == request.version.removeprefix("HTTP/").replace(
                "2.0", "2"
            )
            assert scope["method"] == request.method
            assert scope["scheme"] == request.scheme
            path = (environ["SCRIPT_NAME"] + environ["PATH_INFO"]).encode("latin-1")
            assert unquote_to_bytes(scope["raw_path"]) == path
            assert b"?" not in scope["raw_path"]
            assert scope["raw_path"].isascii()
            assert scope["root_path"].encode() == environ["SCRIPT_NAME"].encode("latin-1")
            assert scope["path"] == unquote(path_as_text := quote_from_bytes(path)), path_as_text
            assert scope["path"].startswith(scope["root_path"])
            assert scope["query_string"] == environ["QUERY_STRING"].encode("latin-1")
            assert header_map(scope) == {
                name.removeprefix("HTTP_").lower().replace("_", "-").encode(): value.encode(
                    "latin-1"
                )
                for name, value in environ.items()
                if name.startswith("HTTP_")
                or (name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value)
            }
            check_address(scope.get("client"))
            check_address(scope["server"])
            assert scope["wsgi_environ"] is environ

        check()


def test_no_environ_is_refused() -> None:
    """A-SCOPE-2: whatever stands in the optional keys, the app is called."""
    anything = st.one_of(st.text(latin1, max_size=10), st.just(""))
    optional = {
        "SCRIPT_NAME": script_path.map(lambda b: b.decode("latin-1")),
        "PATH_INFO": st.one_of(st.just(""), absolute_path.map(lambda b: b.decode("latin-1"))),
        "QUERY_STRING": anything,
        "CONTENT_TYPE": anything,
        "REMOTE_ADDR": anything,
        "REMOTE_PORT": st.one_of(anything, st.integers(0, 65535), st.none()),
        "SERVER_NAME": anything,
        "SERVER_PORT": st.one_of(anything, st.integers(0, 65535).map(str)),
        "SERVER_PROTOCOL": anything,
        "RAW_URI": anything,
        "REQUEST_URI": anything,
        "wsgi.input": st.one_of(st.none(), st.builds(io.BytesIO)),
        "wsgi.input_terminated": st.booleans(),
    }
    with captured_scopes() as scope_from:

        @in_hypothesis
        @given(st.fixed_dictionaries({}, optional=optional))
        @example({"SERVER_PORT": "\xb2", "REMOTE_PORT": "\xb2"})
        @example({"RAW_URI": "http://[::1", "REQUEST_URI": "http://[::1"})
        @example({"RAW_URI": "?", "PATH_INFO": ""})
        def check(keys: Environ) -> None:
            environ = {
                "REQUEST_METHOD": "GET",
                "wsgi.version": (1, 0),
                "wsgi.url_scheme": "http",
                "wsgi.errors": io.StringIO(),
                **keys,
            }
            scope = scope_from(environ)
            assert isinstance(scope["path"], str)
            assert isinstance(scope["raw_path"], bytes)
            assert scope["http_version"] in ("1.0", "1.1", "2")
            check_address(scope.get("client"))
            check_address(scope["server"])

        check()


# A-SCOPE-4: both ways around, through both bridges


def environ_as_meant(environ: Environ) -> Environ:
    """What an environ says about the request, in one spelling."""
    port = environ.get("SERVER_PORT") or {"http": "80", "https": "443"}[environ["wsgi.url_scheme"]]
    headers = {k: v for k, v in environ.items() if k.startswith("HTTP_")}
    return headers | {
        "REQUEST_METHOD": environ["REQUEST_METHOD"],
        "SCRIPT_NAME": environ["SCRIPT_NAME"],
        "PATH_INFO": environ["PATH_INFO"],
        "QUERY_STRING": environ["QUERY_STRING"],
        "CONTENT_TYPE": environ.get("CONTENT_TYPE") or None,
        "CONTENT_LENGTH": environ.get("CONTENT_LENGTH") or None,
        "SERVER_NAME": environ["SERVER_NAME"],
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": environ["SERVER_PROTOCOL"].replace("2.0", "2"),
        "REMOTE_ADDR": environ.get("REMOTE_ADDR") or None,
        "REMOTE_PORT": str(environ.get("REMOTE_PORT") or "0").replace("None", "0"),
        "wsgi.url_scheme": environ["wsgi.url_scheme"],
    }


def test_environ_to_scope_to_environ() -> None:
    """A-SCOPE-4: a WSGI app behind both bridges sees the environ that the server made."""
    seen: list[Environ] = []

    def wsgi_app(environ: Environ, start_response: Any) -> list[bytes]:
        seen.append(environ)
        body = environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [body]

    inner = WSGIToASGI(wsgi_app, workers=2)
    try:
        with bridged(inner) as bridge:

            @in_hypothesis
            @given(requests())
            def check(named: tuple[str, Request]) -> None:
                server, request = named
                environ = SERVERS[server](request)
                before = environ_as_meant(environ)
                assert serve(bridge, environ).body == request.body
                after = environ_as_meant(seen.pop())
                if request.server is None:  # a Unix socket: the Host header is all that is known
                    after |= {key: before[key] for key in ("SERVER_NAME", "SERVER_PORT")}
                assert after == before

            check()
    finally:
        close_bridge(inner)


@st.composite
def scopes(draw: st.DrawFn) -> tuple[Message, bytes]:
    """A scope that an ASGI server may make, and the body."""
    root_path = draw(script_path).decode("utf-8")
    raw_path = quote_from_bytes(
        root_path.encode() + draw(absolute_path), safe=draw(st.sampled_from(["/", "/~:@,;"]))
    )
    body = draw(st.binary(max_size=20))
    headers = [(k.encode(), v.encode("latin-1")) for k, v in draw(request_headers).items()]
    if body or draw(st.booleans()):
        headers.append((b"content-length", b"%d" % len(body)))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": draw(st.sampled_from(["1.0", "1.1", "2"])),
        "method": draw(st.sampled_from(["GET", "POST", "PURGE"])),
        "scheme": draw(st.sampled_from(["http", "https"])),
        "path": unquote(raw_path),
        "raw_path": raw_path.encode(),
        "query_string": draw(query).encode("latin-1"),
        "root_path": root_path,
        "headers": headers,
        "client": draw(st.one_of(st.none(), st.just(("127.0.0.1", 5)), st.just(["::1", 65535]))),
        "server": draw(st.one_of(st.just(("127.0.0.1", 8000)), st.just(["::1", 443]))),
        "state": {},
        "extensions": {},
    }
    return scope, body


def scope_as_meant(scope: Message) -> Message:
    """What a scope says about the request, in one spelling."""
    same = ("type", "asgi", "http_version", "method", "scheme", "path", "query_string", "root_path")
    return {key: scope[key] for key in same} | {
        "raw_path": unquote_to_bytes(scope["raw_path"]),
        "headers": sorted(map(tuple, scope["headers"])),
        "client": scope["client"] and tuple(scope["client"]),
        "server": tuple(scope["server"]),
    }


async def body_through(app: Any, scope: Message, body: bytes) -> bytes:
    """The answer of an ASGI app to one scope and body."""
    incoming = [{"type": "http.request", "body": body, "more_body": False}]
    answer: list[bytes] = []
    over = anyio.Event()

    async def receive() -> Message:
        if incoming:
            return incoming.pop()
        await over.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        answer.append(message.get("body", b""))
        if message["type"] == "http.response.body" and not message.get("more_body"):
            over.set()

    await app(scope, receive, send)
    return b"".join(answer)


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_scope_to_environ_to_scope(loop: str) -> None:
    """A-SCOPE-4: an ASGI app behind both bridges sees the scope that the server made."""
    seen: list[Message] = []

    async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await respond(send, await whole_body(receive))

    inner = ASGIToWSGI(asgi_app, lifespan="off")
    outer = WSGIToASGI(inner, workers=2)
    try:
        with anyio.from_thread.start_blocking_portal(loop) as portal:

            @in_hypothesis
            @given(scopes())
            def check(given_scope: tuple[Message, bytes]) -> None:
                scope, body = given_scope
                before = scope_as_meant(scope)
                assert portal.call(body_through, outer, dict(scope), body) == body
                assert scope_as_meant(seen.pop()) == before

            check()
            portal.call(outer.aclose)
    finally:
        close_bridge(outer)
        close_bridge(inner)


# A-WS-1


UPGRADE = (
    ("Host", "example.org"),
    ("Connection", "keep-alive, Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
)


@pytest.mark.parametrize("spelling", ["websocket", "WebSocket"])
def test_websocket_upgrade_is_501(spelling: str) -> None:
    """A-WS-1: refused with a clear text, without the app, where no socket can be had."""
    capture = ScopeCapture()
    headers = tuple((k, spelling if k == "Upgrade" else v) for k, v in UPGRADE)
    with bridged(capture) as bridge:
        exchange = serve(bridge, environ_for(headers=headers))
        assert b"websocket" in exchange.body.lower()
        assert exchange.status == 501
        assert exchange.header_values("content-type")[0].startswith("text/plain")
    assert capture.scopes == []


@pytest.mark.parametrize("method", ["HEAD", "POST"])
def test_upgrade_of_another_method_is_a_plain_request(method: str) -> None:
    """A-WS-1: a handshake is a GET (RFC 6455 4.1)."""
    capture = ScopeCapture()
    with bridged(capture) as bridge:
        exchange = serve(bridge, environ_for(method=method, headers=UPGRADE))
        assert exchange.status == 200
        assert exchange.body == (b"" if method == "HEAD" else b"captured")
    assert capture.scope["method"] == method


def test_other_upgrades_are_plain_requests() -> None:
    """A-WS-1: a server may ignore an offer to upgrade (RFC 9110 7.8)."""
    headers = (("Host", "h"), ("Connection", "Upgrade"), ("Upgrade", "h2c"))
    with bridged(hello) as bridge:
        assert serve(bridge, environ_for(headers=headers)).body == b"hello"


def test_unread_input_of_a_refusal_is_left_alone() -> None:
    """A-WS-1: what follows an upgrade on the socket is not HTTP and is not read."""
    body = BodyInput(past_end="hang")
    with bridged(hello) as bridge:
        exchange = serve(bridge, environ_for(headers=UPGRADE) | {"wsgi.input": body})
        assert exchange.status == 501
    assert body.reads == []

"""_protocol/environ.py: scope -> environ, one clause of W-ENV a table."""

from copy import deepcopy
from typing import Any
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsgi_asgi_bridge._protocol.environ import environ_from_scope, environ_template
from wsgi_asgi_bridge.errors import BadRequest, ServerError

Scope = dict[str, Any]
Headers = list[tuple[bytes, bytes]]

FILE_WRAPPER = object()
TEMPLATE = environ_template(multithread=True, file_wrapper=FILE_WRAPPER)
E_ACUTE = "\N{LATIN SMALL LETTER E WITH ACUTE}"


def scope_with(**overrides: Any) -> Scope:
    """A plain GET, as uvicorn would give it."""
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": None,
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": ("192.0.2.1", 50000),
        "server": ("198.51.100.2", 8000),
    }
    return scope | overrides


def environ_with(*, max_header_repeats: int = 100, **overrides: Any) -> dict[str, Any]:
    """The environ of a plain GET with these changes."""
    return environ_from_scope(
        scope_with(**overrides), TEMPLATE, max_header_repeats=max_header_repeats
    )


# --- the template


@pytest.mark.parametrize("multithread", [True, False])
def test_the_template_holds_what_pep_3333_asks_for(multithread: bool) -> None:
    """W-ENV-7."""
    template = environ_template(multithread=multithread, file_wrapper=FILE_WRAPPER)
    assert template["wsgi.version"] == (1, 0)
    assert template["wsgi.multithread"] is multithread
    assert template["wsgi.multiprocess"] is True
    assert template["wsgi.run_once"] is False
    assert template["wsgi.input_terminated"] is True
    assert template["wsgi.file_wrapper"] is FILE_WRAPPER


def test_each_environ_is_a_dict_of_its_own() -> None:
    """W-ENV-1."""
    before = deepcopy({key: value for key, value in TEMPLATE.items() if value is not FILE_WRAPPER})
    first, second = environ_with(), environ_with()
    assert type(first) is dict
    first.clear()
    assert second["REQUEST_METHOD"] == "GET"
    assert {key: TEMPLATE[key] for key in before} == before


def test_the_scope_itself_is_in_the_environ_and_untouched() -> None:
    """W-ENV-8."""
    scope = scope_with(path="/a", headers=[(b"x-a", b"1"), (b"x-a", b"2")])
    before = deepcopy(scope)
    environ = environ_from_scope(scope, TEMPLATE, max_header_repeats=100)
    environ["asgi.scope"]["user"] = "alice"
    assert scope.pop("user") == "alice"
    assert scope == before


# --- the request line


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        ({"method": "PATCH"}, "REQUEST_METHOD", "PATCH"),
        ({"http_version": "1.0"}, "SERVER_PROTOCOL", "HTTP/1.0"),
        ({"http_version": "1.1"}, "SERVER_PROTOCOL", "HTTP/1.1"),
        ({"http_version": "1"}, "SERVER_PROTOCOL", "HTTP/1.0"),  # granian's
        ({"http_version": "2"}, "SERVER_PROTOCOL", "HTTP/2.0"),
        ({"http_version": "3"}, "SERVER_PROTOCOL", "HTTP/3.0"),
        ({"scheme": "https"}, "wsgi.url_scheme", "https"),
        ({"scheme": "ws"}, "wsgi.url_scheme", "http"),
        ({"scheme": "wss"}, "wsgi.url_scheme", "https"),
        ({"scheme": "https"}, "HTTPS", "on"),
        ({"scheme": "wss"}, "HTTPS", "on"),
        ({"scheme": "http"}, "HTTPS", None),
        ({"query_string": b"a=1&b=%20"}, "QUERY_STRING", "a=1&b=%20"),
        (
            {"query_string": bytes(range(128, 256))},
            "QUERY_STRING",
            bytes(range(128, 256)).decode("latin-1"),
        ),
    ],
)
def test_the_request_line(overrides: Scope, key: str, value: str | None) -> None:
    """W-ENV-4, W-ENV-7."""
    assert environ_with(**overrides).get(key) == value


# --- paths


@pytest.mark.parametrize(
    ("root_path", "path", "script_name", "path_info"),
    [
        pytest.param("", "/a/b", "", "/a/b", id="no root"),
        pytest.param("/", "/a", "", "/a", id="a root that is none"),
        pytest.param("/api", "/api/x", "/api", "/x", id="a server that prefixes"),
        pytest.param("/api", "/x", "/api", "/x", id="a server that does not"),
        pytest.param("/api", "/api", "/api", "", id="the root itself"),
        pytest.param("/api", "/api/", "/api", "/", id="the root and a slash"),
        pytest.param("/api/", "/api/x", "/api", "/x", id="a root with a trailing slash"),
        pytest.param("/api", "/apifoo", "/api", "/apifoo", id="no segment boundary"),
        pytest.param("/api", "/api/api/x", "/api", "/api/x", id="cut once"),
        pytest.param("/api/", "/api//x", "/api", "/x", id="that by a server that prefixes"),
        pytest.param("/api/", "/api/", "/api", "/", id="a root with a trailing slash itself"),
        pytest.param("/api/", "/x", "/api", "/x", id="that by a server that does not"),
        pytest.param("/", "//a", "", "/a", id="a root that is none, prefixed"),
        pytest.param("//api", "//api/x", "/api", "/x", id="a mount below a root that is none"),
        pytest.param("api", "/api/x", "/api", "/x", id="a root without a leading slash"),
        pytest.param("api", "api/x", "/api", "/x", id="that by a server that prefixes"),
        pytest.param("api", "/x", "/api", "/x", id="that by a server that does not prefix"),
        pytest.param("api/", "api//x", "/api", "/x", id="a root with one slash, the wrong one"),
        pytest.param("/api", "/api*", "/api", "/api*", id="an asterisk in a GET"),
        pytest.param("/a/b", "/a/b/c", "/a/b", "/c", id="two segments"),
        pytest.param("", "", "", "/", id="an empty path"),
        pytest.param("/api", "", "/api", "", id="an empty path below a root"),
        pytest.param("", "*", "", "/*", id="OPTIONS *"),
        pytest.param("", "//x", "", "//x", id="two slashes"),
        pytest.param(None, "/a", "", "/a", id="root_path is None"),
        pytest.param(f"/{E_ACUTE}", f"/{E_ACUTE}/x", "/\xc3\xa9", "/x", id="a root beyond ASCII"),
        pytest.param("/api", f"/api/{E_ACUTE}", "/api", "/\xc3\xa9", id="a path beyond ASCII"),
    ],
)
def test_script_name_and_path_info(
    root_path: str | None, path: str, script_name: str, path_info: str
) -> None:
    """W-ENV-2."""
    environ = environ_with(root_path=root_path, path=path)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script_name, path_info)


@pytest.mark.parametrize("root_path", ["", "/api", "/api/", "api", "/"])
@pytest.mark.parametrize("prefixes", [True, False])
def test_the_asterisk_of_options_is_below_no_root(root_path: str, prefixes: bool) -> None:
    """W-ENV-2: `OPTIONS *` is about the whole server, whatever a server puts in front of it."""
    path = root_path + "*" if prefixes else "*"
    raw_path = path.encode()
    environ = environ_with(method="OPTIONS", root_path=root_path, path=path, raw_path=raw_path)
    assert environ["SCRIPT_NAME"] == ("/api" if "api" in root_path else "")
    assert environ["PATH_INFO"] == "/*"


@pytest.mark.parametrize(
    ("root_path", "method", "raw_path", "target"),
    [
        ("/api", "GET", "/api/%2F", "/api/%2F"),
        ("/api/", "GET", "/api//%2F", "/api/%2F"),
        ("api", "GET", "api/%2F", "/api/%2F"),
        ("//api", "GET", "//api/%2F", "/api/%2F"),
        ("/", "GET", "//%2F", "/%2F"),
        ("/api/", "GET", "/api/%2F", "/api/%2F"),
        ("api", "GET", "/%2F", "/%2F"),
        ("api/", "OPTIONS", "api/*", "/api*"),
        ("/", "GET", "/*", "/*"),
    ],
)
def test_target_below_a_root(root_path: str, method: str, raw_path: str, target: str) -> None:
    """W-ENV-2, W-ENV-4: below a root with slashes that are too many or missing, the target is what
    it is below one without; two slashes in front would name another host.
    """
    path = raw_path.replace("%2F", "/")
    environ = environ_with(
        method=method, root_path=root_path, path=path, raw_path=raw_path.encode()
    )
    assert environ["REQUEST_URI"] == environ["RAW_URI"] == target


PATH_BYTES = st.binary(max_size=20).map(lambda raw: b"/" + raw)


@given(PATH_BYTES)
@example(b"/caf\xe9")
@example(b"/\xff\xfe/%2F")
@example(b"/a%3Fb")
def test_the_bytes_of_the_path_survive_where_raw_path_tells_them(raw: bytes) -> None:
    """W-ENV-3: as servers decode it, with U+FFFD for what is not UTF-8."""
    quoted = quote_from_bytes(raw).encode()
    environ = environ_with(path=raw.decode("utf-8", "replace"), raw_path=quoted)
    assert environ["PATH_INFO"].encode("latin-1") == raw


@pytest.mark.parametrize("errors", ["replace", "surrogateescape", "ignore"])
def test_whatever_a_server_makes_of_bytes_that_are_not_utf_8(errors: str) -> None:
    """W-ENV-3."""
    raw = b"/\xc3\xa9/\xe9"
    environ = environ_with(path=raw.decode("utf-8", errors), raw_path=b"/%C3%A9/%E9")
    assert environ["PATH_INFO"].encode("latin-1") == raw


def test_a_server_that_decodes_the_path_as_latin_1_is_understood() -> None:
    """W-ENV-3."""
    raw = b"/caf\xe9"
    environ = environ_with(path=raw.decode("latin-1"), raw_path=b"/caf%E9")
    assert environ["PATH_INFO"].encode("latin-1") == raw


@pytest.mark.parametrize(
    ("path", "raw_path", "path_info"),
    [
        pytest.param("/new", b"/old", "/new", id="ASCII"),
        pytest.param(f"/new/{E_ACUTE}", b"/old/%E9", "/new/\xc3\xa9", id="beyond ASCII"),
        pytest.param("/a/b", b"/a%2Fb", "/a/b", id="the same path, decoded"),
        pytest.param(f"/{E_ACUTE}", b"/%C3%A9?x=1", "/\xc3\xa9", id="raw_path with a query"),
        pytest.param(f"/{E_ACUTE}", None, "/\xc3\xa9", id="no raw_path"),
        pytest.param("/\udce9", None, "/\xe9", id="surrogates without raw_path"),
    ],
)
def test_where_a_middleware_rewrote_the_path_the_path_wins(
    path: str, raw_path: bytes | None, path_info: str
) -> None:
    """W-ENV-3."""
    assert environ_with(path=path, raw_path=raw_path)["PATH_INFO"] == path_info


@pytest.mark.parametrize(
    ("raw_path", "query", "target"),
    [
        (b"/a%2Fb", b"", "/a%2Fb"),
        (b"/a%2Fb", b"x=%201", "/a%2Fb?x=%201"),
        (b"/a?already=there", b"already=there", "/a?already=there"),
        (b"/caf\xe9", b"\xe9", "/caf\xe9?\xe9"),
    ],
)
def test_the_undecoded_target(raw_path: bytes, query: bytes, target: str) -> None:
    """W-ENV-4."""
    environ = environ_with(path="/whatever", raw_path=raw_path, query_string=query)
    assert environ["REQUEST_URI"] == environ["RAW_URI"] == target


def test_an_unknown_target_is_not_invented() -> None:
    """W-ENV-4."""
    scope = scope_with()
    del scope["raw_path"]
    environ = environ_from_scope(scope, TEMPLATE, max_header_repeats=100)
    assert "REQUEST_URI" not in environ
    assert "RAW_URI" not in environ


# --- headers


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param([(b"host", b"a")], {"HTTP_HOST": "a"}, id="one"),
        pytest.param([(b"X-A", b"1")], {"HTTP_X_A": "1"}, id="any case"),
        pytest.param([[b"x-a", b"1"]], {"HTTP_X_A": "1"}, id="a pair that is a list"),
        pytest.param([(b"x-a", b"\xe9")], {"HTTP_X_A": "\xe9"}, id="latin-1"),
        pytest.param(
            [(b"x-a", b"1"), (b"x-a", b"2"), (b"X-A", b"3")], {"HTTP_X_A": "1,2,3"}, id="repeated"
        ),
        pytest.param(
            [(b"cookie", b"a=1"), (b"cookie", b"b=2")],
            {"HTTP_COOKIE": "a=1; b=2"},
            id="cookies of HTTP/2",
        ),
        pytest.param(
            [(b"content-type", b"text/plain")],
            {"CONTENT_TYPE": "text/plain", "HTTP_CONTENT_TYPE": None},
            id="type",
        ),
        pytest.param(
            [(b"content-length", b"5")],
            {"CONTENT_LENGTH": "5", "HTTP_CONTENT_LENGTH": None},
            id="length",
        ),
        pytest.param([(b"x_a", b"spoof")], {"HTTP_X_A": None}, id="underscore"),
        pytest.param(
            [(b"x_a", b"spoof"), (b"x-a", b"1")],
            {"HTTP_X_A": "1"},
            id="underscore beside the real one",
        ),
        pytest.param([(b"proxy", b"http://evil")], {"HTTP_PROXY": None}, id="httpoxy"),
        pytest.param([(b"x-a", b"")], {"HTTP_X_A": ""}, id="an empty value"),
        pytest.param([(b"x-a", b""), (b"x-a", b"")], {"HTTP_X_A": ","}, id="two empty values"),
    ],
)
def test_headers(headers: Headers, expected: dict[str, str | None]) -> None:
    """W-ENV-5, W-ENV-6."""
    environ = environ_with(headers=headers)
    assert {key: environ.get(key) for key in expected} == expected


@given(st.lists(st.binary(max_size=3), min_size=1, max_size=10))
def test_every_repeat_is_joined_in_order(values: list[bytes]) -> None:
    """W-ENV-5."""
    environ = environ_with(headers=[(b"x-a", value) for value in values])
    assert environ["HTTP_X_A"].encode("latin-1") == b",".join(values)


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_one_repeat_too_many_is_a_bad_request_that_names_it(limit: int) -> None:
    """W-ENV-5."""
    allowed = [(b"x-many", b"1")] * limit
    environ = environ_with(headers=allowed, max_header_repeats=limit)
    assert environ["HTTP_X_MANY"] == ",".join("1" * limit)
    with pytest.raises(BadRequest, match=f"'x-many' .* max_header_repeats={limit}"):
        environ_with(headers=[*allowed, (b"x-many", b"1")], max_header_repeats=limit)


def test_many_different_headers_are_no_repeats() -> None:
    """W-ENV-5."""
    headers = [(b"x-%d" % number, b"1") for number in range(500)]
    environ = environ_with(headers=headers, max_header_repeats=1)
    assert sum(key.startswith("HTTP_X_") for key in environ) == 500


@pytest.mark.parametrize(
    ("values", "length"),
    [
        ([b"5"], "5"),
        ([b"5", b"5"], "5"),
        ([b"5, 5"], "5"),
        ([b"5,5", b"5"], "5"),
        ([b"05"], "5"),
        ([b"0"], "0"),
    ],
)
def test_repeats_of_one_content_length_are_one(values: list[bytes], length: str) -> None:
    """W-ENV-5."""
    headers = [(b"content-length", value) for value in values]
    assert environ_with(headers=headers)["CONTENT_LENGTH"] == length


@pytest.mark.parametrize(
    "values",
    [
        [b"5", b"6"],
        [b"5,6"],
        [b"5", b""],
        [b""],
        [b"-1"],
        [b"+5"],
        [b"5.0"],
        [b"x"],
        [b"5 5"],
        [b"0x5"],
        [b"9" * 19],
        [b"5,"],
    ],
    ids=repr,
)
def test_any_other_content_length_is_a_bad_request(values: list[bytes]) -> None:
    """W-ENV-5."""
    with pytest.raises(BadRequest, match="Content-Length"):
        environ_with(headers=[(b"content-length", value) for value in values])


def test_a_host_that_comes_twice_is_one() -> None:
    """W-ENV-5: HTTP/2 may give it as `:authority` too."""
    environ = environ_with(headers=[(b"host", b"a.test"), (b"Host", b"a.test")])
    assert environ["HTTP_HOST"] == "a.test"


@pytest.mark.parametrize("hosts", [(b"a.test", b"b.test"), (b"a", b"a", b"b")])
def test_two_hosts_are_a_bad_request(hosts: tuple[bytes, ...]) -> None:
    """W-ENV-5: RFC 9112 3.2. Some servers pass both on (uvicorn with httptools)."""
    with pytest.raises(BadRequest, match=r"Host is given as \['a"):
        environ_with(headers=[(b"host", host) for host in hosts])


@pytest.mark.parametrize("length_first", [True, False])
def test_beside_transfer_encoding_content_length_is_not_length(length_first: bool) -> None:
    """W-IN-2: RFC 9112 6.3."""
    headers = [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")]
    environ = environ_with(headers=headers if length_first else headers[::-1])
    assert "CONTENT_LENGTH" not in environ
    assert environ["HTTP_TRANSFER_ENCODING"] == "chunked"


# --- peers


@pytest.mark.parametrize(
    ("server", "host", "scheme", "expected"),
    [
        pytest.param(("192.0.2.7", 8000), None, "http", ("192.0.2.7", "8000"), id="an address"),
        pytest.param(["192.0.2.7", 8000], None, "http", ("192.0.2.7", "8000"), id="a list"),
        pytest.param(iter(("192.0.2.7", 8000)), None, "http", ("192.0.2.7", "8000"), id="iterable"),
        pytest.param(("192.0.2.7", "8000"), None, "http", ("192.0.2.7", "8000"), id="a str port"),
        pytest.param(("192.0.2.7", 0), None, "http", ("192.0.2.7", "0"), id="port 0"),
        pytest.param(("192.0.2.7", ""), None, "https", ("192.0.2.7", "443"), id="an empty port"),
        pytest.param(("::1", 8000), None, "http", ("::1", "8000"), id="v6"),
        pytest.param(("", 8000), None, "http", ("localhost", "8000"), id="no name"),
        pytest.param(("", 8000), b"a.test:1", "http", ("a.test", "8000"), id="no name, but a Host"),
        pytest.param(None, None, "http", ("localhost", "80"), id="nothing"),
        pytest.param(None, None, "https", ("localhost", "443"), id="nothing, https"),
        pytest.param(None, None, "wss", ("localhost", "443"), id="nothing, wss"),
        pytest.param(None, b"a.test", "http", ("a.test", "80"), id="a Host"),
        pytest.param(None, b"a.test", "https", ("a.test", "443"), id="a Host, https"),
        pytest.param(None, b"a.test:81", "http", ("a.test", "81"), id="a Host with a port"),
        pytest.param(None, b"[::1]:81", "http", ("[::1]", "81"), id="a v6 Host with a port"),
        pytest.param(None, b"[::1]", "http", ("[::1]", "80"), id="a v6 Host"),
        pytest.param(None, b"a.test:", "http", ("a.test:", "80"), id="a Host with half a port"),
        pytest.param(
            None, b"a.test:" + b"9" * 5000, "http", ("a.test", "80"), id="a port of 5,000 digits"
        ),
        pytest.param(None, b"a.test:65536", "https", ("a.test", "443"), id="a port of no TCP"),
        pytest.param(None, b":81", "http", ("localhost", "81"), id="a Host that is a port"),
        pytest.param(None, b"", "http", ("localhost", "80"), id="an empty Host"),
        pytest.param(
            ("/run/app.sock", None), b"a.test", "http", ("a.test", "80"), id="a Unix socket"
        ),
        pytest.param(
            ("/run/app.sock", None), None, "http", ("localhost", "80"), id="a Unix socket, no Host"
        ),
        pytest.param((None, None), None, "http", ("localhost", "80"), id="two Nones"),
    ],
)
def test_the_server_has_a_name_and_a_port_always(
    server: Any, host: bytes | None, scheme: str, expected: tuple[str, str]
) -> None:
    """W-ENV-7."""
    headers = [] if host is None else [(b"host", host)]
    environ = environ_with(server=server, headers=headers, scheme=scheme)
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == expected


@pytest.mark.parametrize(
    ("client", "address", "port"),
    [
        pytest.param(("192.0.2.1", 5), "192.0.2.1", "5", id="an address"),
        pytest.param(["192.0.2.1", "5"], "192.0.2.1", "5", id="a list, a str port"),
        pytest.param(("192.0.2.1", None), "192.0.2.1", None, id="no port"),
        pytest.param(("192.0.2.1",), "192.0.2.1", None, id="one element"),
        pytest.param(iter(("192.0.2.1", 5)), "192.0.2.1", "5", id="any iterable"),
        pytest.param({"192.0.2.1": 1, 5: 2}.keys(), "192.0.2.1", "5", id="another iterable"),
        pytest.param(("192.0.2.1", 0), "192.0.2.1", None, id="port 0"),
        pytest.param(("192.0.2.1", "0"), "192.0.2.1", None, id="port 0, a str"),
        pytest.param(("192.0.2.1", ""), "192.0.2.1", None, id="an empty port"),
        pytest.param(("", 0), None, None, id="an empty address"),
        pytest.param(None, None, None, id="unknown"),
        pytest.param((None, None), None, None, id="two Nones"),
        pytest.param("", None, None, id="an empty str"),
    ],
)
def test_the_client(client: Any, address: str | None, port: str | None) -> None:
    """W-ENV-7, W-ENV-10: what is unknown is left out."""
    environ = environ_with(client=client)
    assert environ.get("REMOTE_ADDR") == address
    assert environ.get("REMOTE_PORT") == port


# --- TLS


@pytest.mark.parametrize(
    ("tls", "expected"),
    [
        pytest.param({}, {"SSL_PROTOCOL": "", "SSL_CLIENT_VERIFY": "NONE"}, id="nothing known"),
        pytest.param(None, {"SSL_CLIENT_VERIFY": "NONE"}, id="the extension is None"),
        pytest.param({"tls_version": 0x0304}, {"SSL_PROTOCOL": "TLSv1.3"}, id="version"),
        pytest.param({"tls_version": 0x0303}, {"SSL_PROTOCOL": "TLSv1.2"}, id="older version"),
        pytest.param({"tls_version": 0x0999}, {"SSL_PROTOCOL": ""}, id="unknown version"),
        pytest.param(
            {"cipher_suite": 0x1301}, {"SSL_CIPHER": "TLS_AES_128_GCM_SHA256"}, id="cipher"
        ),
        pytest.param({"cipher_suite": 0xFAFA}, {"SSL_CIPHER": "0xFAFA"}, id="unknown cipher"),
        pytest.param({"cipher_suite": None}, {"SSL_CIPHER": None}, id="no cipher"),
        pytest.param({"server_cert": "PEM"}, {"SSL_SERVER_CERT": "PEM"}, id="own certificate"),
        pytest.param(
            {"client_cert_chain": ["A", "B", "C"], "client_cert_name": "CN=x"},
            {
                "SSL_CLIENT_CERT": "A",
                "SSL_CLIENT_CERT_CHAIN_0": "B",
                "SSL_CLIENT_CERT_CHAIN_1": "C",
                "SSL_CLIENT_S_DN": "CN=x",
                "SSL_CLIENT_VERIFY": "SUCCESS",
            },
            id="a client's chain",
        ),
        pytest.param(
            {"client_cert_chain": ["A"], "client_cert_error": "expired"},
            {"SSL_CLIENT_CERT": "A", "SSL_CLIENT_VERIFY": "FAILED:expired"},
            id="a client's bad certificate",
        ),
    ],
)
def test_the_tls_extension(tls: Any, expected: dict[str, str | None]) -> None:
    """W-ENV-7."""
    environ = environ_with(scheme="https", extensions={"tls": tls})
    assert {key: environ.get(key) for key in expected} == expected
    assert environ["HTTPS"] == "on"


@pytest.mark.parametrize("extensions", [None, {}, {"http.response.push": {}}])
def test_without_the_tls_extension_there_are_no_ssl_names(extensions: Any) -> None:
    """W-ENV-7."""
    environ = environ_with(extensions=extensions)
    assert not [key for key in environ if key.startswith("SSL_")]


# --- whatever comes


@given(
    path=st.text(max_size=10),
    raw_path=st.none() | st.binary(max_size=10),
    root_path=st.text(max_size=6),
    query=st.binary(max_size=6),
    headers=st.lists(st.tuples(st.binary(max_size=6), st.binary(max_size=6)), max_size=6),
)
def test_cgi_values_are_latin_1_or_the_scope_is_refused(
    path: str, raw_path: bytes | None, root_path: str, query: bytes, headers: Headers
) -> None:
    """W-ENV-1."""
    try:
        environ = environ_with(
            path=path,
            raw_path=raw_path,
            root_path=root_path,
            query_string=query,
            headers=headers,
        )
    except (BadRequest, ServerError):
        return
    for key, value in environ.items():
        if "." not in key:
            assert type(value) is str
            value.encode("latin-1")
    assert environ["PATH_INFO"][:1] in ("/", "")
    assert environ["SCRIPT_NAME"][:1] in ("/", "")


@pytest.mark.parametrize(
    "overrides",
    [
        {"path": None},
        {"path": b"/bytes"},
        {"path": "/\ud800"},
        {"query_string": "str"},
        {"headers": None},
        {"headers": [("str", "str")]},
        {"headers": [(b"one",)]},
        {"raw_path": "str"},
        {"server": ("one",)},
        {"http_version": 2},
    ],
    ids=repr,
)
def test_scope_that_makes_no_sense_is_servers_error_and_is_shown(overrides: Scope) -> None:
    """Split by blame: never the client's 400, never a KeyError from the inside."""
    with pytest.raises(ServerError, match="the server's scope cannot be translated") as raised:
        environ_with(**overrides)
    assert "'method': 'GET'" in str(raised.value)
    assert raised.value.__cause__ is not None


@pytest.mark.parametrize("missing", ["path", "headers"])
def test_scope_without_what_spec_requires_is_the_servers_error(missing: str) -> None:
    scope = scope_with()
    del scope[missing]
    with pytest.raises(ServerError, match=repr(missing)):
        environ_from_scope(scope, TEMPLATE, max_header_repeats=100)


@pytest.mark.parametrize("query", [{}, {"query_string": None}], ids=["absent", "None"])
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_only_what_the_spec_requires_is_needed(kind: str, query: Scope) -> None:
    """W-ENV-4: of a websocket the query is optional, and it is not missed elsewhere either."""
    scope = {"type": kind, "path": "/", "headers": [], **query}
    environ = environ_from_scope(scope, TEMPLATE, max_header_repeats=100)
    assert environ["REQUEST_METHOD"] == "GET"
    assert environ["QUERY_STRING"] == ""
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"


def test_the_shown_scope_holds_no_state_of_the_app() -> None:
    """A log line must not carry what `state` and `app` hold."""
    with pytest.raises(ServerError) as raised:
        environ_with(path=None, state={"password": "hunter2"}, app=object(), extensions={"x": 1})
    assert "hunter2" not in str(raised.value)

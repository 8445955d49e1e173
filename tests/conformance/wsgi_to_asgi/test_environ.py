"""W-ENV: the environ that an app gets for a scope."""

import io
import sys
from typing import Any
from urllib.parse import unquote

import pytest

from tests.support.environs import asked, collecting, environ_of
from tests.support.fake_asgi_server import (
    ABSENT,
    Client,
    Scope,
    answered,
    fetched,
    http_scope,
    plain_app,
    serving,
)

Environ = dict[str, Any]
Header = tuple[bytes, bytes]


async def refusal_of(scope: Scope, **options: Any) -> Client:
    """The answer to a scope that must not reach the app or take a thread."""
    environs: list[Environ] = []
    client = Client(scope)
    async with serving(collecting(environs), **options) as bridge:
        await answered(bridge, client)
        assert bridge.stats().threads == 0
    assert environs == []
    return client


# --- W-ENV-1


async def test_environ_is_a_plain_dict_of_latin_1_strings() -> None:
    """W-ENV-1: `type(environ) is dict`, CGI values are latin-1 `str`, the port too."""
    headers = [(b"x-odd", bytes(range(0x80, 0x100)))]
    environ = await environ_of(
        http_scope(path="/caf\N{LATIN SMALL LETTER E WITH ACUTE}", headers=headers)
    )
    assert type(environ) is dict
    for name, value in environ.items():
        if "." not in name:
            assert type(value) is str, name
            value.encode("latin-1")
    assert environ["SERVER_PORT"] == "8000"
    assert environ["HTTP_X_ODD"].encode("latin-1") == bytes(range(0x80, 0x100))


async def test_environ_is_the_requests_own() -> None:
    """W-ENV-1: mutable, and what one request writes into it is not seen by the next."""
    environs: list[Environ] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        environs.append(dict(environ))
        environ.update({"app.mark": 1, "SERVER_NAME": "changed", "wsgi.multithread": None})
        environ.pop("HTTP_HOST")
        return plain_app(environ, start_response)

    async with serving(app) as bridge:
        for _ in range(2):
            await answered(bridge)
    first, second = environs
    assert "app.mark" not in second
    for name in ("SERVER_NAME", "wsgi.multithread", "HTTP_HOST"):
        assert first[name] == second[name]


@pytest.mark.parametrize(
    ("overrides", "name", "value"),
    [
        ({"method": "PATCH"}, "REQUEST_METHOD", "PATCH"),
        ({"http_version": "1.0"}, "SERVER_PROTOCOL", "HTTP/1.0"),
        ({"http_version": "1.1"}, "SERVER_PROTOCOL", "HTTP/1.1"),
        ({"headers": [(b"content-type", b"text/x")]}, "CONTENT_TYPE", "text/x"),
        ({"headers": [(b"content-length", b"0")]}, "CONTENT_LENGTH", "0"),
        ({"headers": [(b"x-a-b", b"c")]}, "HTTP_X_A_B", "c"),
        ({}, "QUERY_STRING", ""),
    ],
)
async def test_cgi_names(overrides: dict[str, Any], name: str, value: str) -> None:
    """W-ENV-1: the names that CGI gives to what the scope says."""
    environ = await environ_of(http_scope(**overrides))
    assert environ[name] == value
    assert not {"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"} & set(environ)


@pytest.mark.parametrize(
    ("version", "protocol"), [("1", "HTTP/1.0"), ("1.0", "HTTP/1.0"), ("2", "HTTP/2.0")]
)
async def test_protocol_has_two_numbers(version: str, protocol: str) -> None:
    """W-ENV-1: RFC 3875 4.1.16; CherryPy takes the second one out of its place."""
    environ = await environ_of(http_scope(http_version=version))
    assert environ["SERVER_PROTOCOL"] == protocol


# --- W-ENV-2

E_ACUTE = "\N{LATIN SMALL LETTER E WITH ACUTE}"


@pytest.mark.parametrize(
    ("root_path", "path", "script_name", "path_info"),
    [
        pytest.param("", "/a/b", "", "/a/b", id="no root"),
        pytest.param("/api", "/api/users", "/api", "/users", id="prefixed as by uvicorn"),
        pytest.param("/api", "/users", "/api", "/users", id="not prefixed as by hypercorn"),
        pytest.param("/api", "/apifoo", "/api", "/apifoo", id="segment boundary"),
        pytest.param("/api", "/api", "/api", "", id="exactly the root"),
        pytest.param("/api", "/api/", "/api", "/", id="the root and a slash"),
        pytest.param("/api", "/api/api/x", "/api", "/api/x", id="cut once"),
        pytest.param("/api/", "/api/users", "/api", "/users", id="root with a trailing slash"),
        pytest.param("/api/", "/api//users", "/api", "/users", id="the same by uvicorn"),
        pytest.param("api", "/api/users", "/api", "/users", id="root without a slash in front"),
        pytest.param("api", "api/users", "/api", "/users", id="that by uvicorn"),
        pytest.param("/", "/users", "", "/users", id="root is a slash"),
        pytest.param("/", "//users", "", "/users", id="root is a slash, by uvicorn"),
        pytest.param("/api", "/", "/api", "/", id="a slash under a root"),
        pytest.param("/a/b", "/a/b/c", "/a/b", "/c", id="two segments"),
        pytest.param("/a/b", "/a/bc", "/a/b", "/a/bc", id="boundary in the second segment"),
        pytest.param("/a/b", "/a", "/a/b", "/a", id="path shorter than the root"),
        pytest.param(f"/{E_ACUTE}", f"/{E_ACUTE}/x", "/\xc3\xa9", "/x", id="not ASCII"),
        pytest.param("/API", "/api/x", "/API", "/api/x", id="case matters"),
        pytest.param("/api", "//api/x", "/api", "//api/x", id="double slash"),
        pytest.param("", "http://a.test:80/b/c", "", "/b/c", id="absolute form"),
        pytest.param("", "HTTPS://a.test", "", "/", id="absolute form without a path"),
        pytest.param("", "http://a.test//b", "", "//b", id="absolute form, double slash"),
        pytest.param("/api", "http://a.test/api/x", "/api", "/x", id="absolute form, root"),
        pytest.param("", "/http://a.test/b", "", "/http://a.test/b", id="a path with a URL"),
    ],
)
@pytest.mark.parametrize("raw", ["raw", "no raw"])
async def test_script_name_and_path_info(
    root_path: str, path: str, script_name: str, path_info: str, raw: str
) -> None:
    """W-ENV-2: SCRIPT_NAME is `root_path` without a trailing slash; PATH_INFO is the rest, cut on a
    boundary.
    """
    scope = http_scope(path=path, root_path=root_path)
    if raw == "no raw":
        del scope["raw_path"]
    environ = await environ_of(scope)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script_name, path_info)


# --- W-ENV-3

REPLACED = "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("path", "raw_path", "root_path", "path_info"),
    [
        pytest.param(f"/caf{REPLACED}", b"/caf%E9", "", "/caf\xe9", id="latin-1 byte"),
        pytest.param(f"/{REPLACED}", b"/%FF", "", "/\xff", id="no UTF-8 at all"),
        pytest.param(f"/caf{E_ACUTE}", b"/caf%C3%A9", "", "/caf\xc3\xa9", id="UTF-8"),
        pytest.param(f"/caf{E_ACUTE}", b"/caf\xc3\xa9", "", "/caf\xc3\xa9", id="unquoted UTF-8"),
        pytest.param(f"/r/{REPLACED}", b"/r/%E9", "/r", "/\xe9", id="under a prefixed root"),
        pytest.param(f"/{REPLACED}", b"/%E9", "/r", "/\xe9", id="under a root not prefixed"),
        pytest.param("/a/b", b"/a%2Fb", "", "/a/b", id="quoted slash"),
        pytest.param("/%41", b"/%2541", "", "/%41", id="decoded once"),
        pytest.param("/a+b c", b"/a+b%20c", "", "/a+b c", id="plus is a plus"),
        pytest.param("/%zz%4", b"/%zz%4", "", "/%zz%4", id="malformed escapes"),
        pytest.param("/new", b"/old", "", "/new", id="rewritten path"),
        pytest.param(f"/new{E_ACUTE}", b"/old%E9", "", "/new\xc3\xa9", id="rewritten, not ASCII"),
        pytest.param("/x", b"/legacy/x", "/legacy", "/x", id="mount that cut the path only"),
        pytest.param("/a", b"/a?q=1", "", "/a", id="raw_path with the query"),
        pytest.param(f"/caf{E_ACUTE}", None, "", "/caf\xc3\xa9", id="raw_path is None"),
        pytest.param(f"/caf{E_ACUTE}", ABSENT, "", "/caf\xc3\xa9", id="no raw_path"),
        pytest.param("/a", b"", "", "/a", id="raw_path is empty"),
    ],
)
async def test_path_bytes_survive(path: str, raw_path: Any, root_path: str, path_info: str) -> None:
    """W-ENV-3: the client's own bytes reach the app, unless somebody rewrote the path."""
    scope = http_scope(path=path, raw_path=raw_path, root_path=root_path)
    assert (await environ_of(scope))["PATH_INFO"] == path_info


# --- W-ENV-4


async def test_query_string_takes_any_byte() -> None:
    """W-ENV-4: latin-1, nothing decoded and nothing lost."""
    query = b"a=%20&b=\xe9&" + bytes(range(0x80, 0x100))
    environ = await environ_of(http_scope(query_string=query))
    assert environ["QUERY_STRING"].encode("latin-1") == query


@pytest.mark.parametrize(
    ("raw_path", "query", "target"),
    [
        (b"/caf%E9/a%2Fb", b"", "/caf%E9/a%2Fb"),
        (b"/caf%E9", b"x=%20", "/caf%E9?x=%20"),
        (b"/caf%E9?x=1", b"x=1", "/caf%E9?x=1"),
        (b"/a", b"\xe9", "/a?\xe9"),
    ],
)
async def test_undecoded_target(raw_path: bytes, query: bytes, target: str) -> None:
    """W-ENV-4: REQUEST_URI and RAW_URI are what the client asked for."""
    path = unquote(raw_path.partition(b"?")[0].decode("ascii"))
    environ = await environ_of(http_scope(path=path, raw_path=raw_path, query_string=query))
    assert environ["REQUEST_URI"] == environ["RAW_URI"] == target


# --- W-ENV-5


@pytest.mark.parametrize(
    ("headers", "name", "value"),
    [
        ([(b"x-a", b"1"), (b"x-b", b"-"), (b"x-a", b"2, 3"), (b"x-a", b"4")], "X_A", "1,2, 3,4"),
        ([(b"cookie", b"a=1"), (b"cookie", b"b=2; c=3")], "COOKIE", "a=1; b=2; c=3"),
        ([(b"accept", b""), (b"accept", b"x/y")], "ACCEPT", ",x/y"),
    ],
)
async def test_repeated_headers_join(headers: list[Header], name: str, value: str) -> None:
    """W-ENV-5: with a comma, cookies with `; `."""
    assert (await environ_of(http_scope(headers=headers)))[f"HTTP_{name}"] == value


async def test_equal_content_lengths_are_one() -> None:
    """W-ENV-5: repeated and equal is one length."""
    headers = [(b"content-length", b"3"), (b"content-length", b"3")]
    environs: list[Environ] = []
    client = Client(http_scope("POST", headers=headers), [b"abc"])
    await fetched(collecting(environs), client)
    assert environs[0]["CONTENT_LENGTH"] == "3"


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([b"3", b"4"], id="differing"),
        pytest.param([b"3", b"3", b"4"], id="the third differs"),
        pytest.param([b"3", b""], id="the second is empty"),
        pytest.param([b"abc"], id="letters"),
        pytest.param([b"-1"], id="negative"),
        pytest.param([b"+3"], id="plus sign"),
        pytest.param([b"1_0"], id="underscore"),
        pytest.param([b"3.0"], id="fraction"),
        pytest.param([b"0x3"], id="hexadecimal"),
        pytest.param([b"\xb2"], id="superscript digit"),
    ],
)
async def test_content_length_that_makes_no_sense_is_400(values: list[bytes]) -> None:
    """W-ENV-5: differing or malformed lengths are 400 before the app, without a thread."""
    headers = [(b"content-length", value) for value in values]
    assert (await refusal_of(http_scope("POST", headers=headers))).status == 400


@pytest.mark.parametrize("name", [b"x-many", b"cookie", b"content-length", b"content-type"])
async def test_too_many_repeats_are_400(name: bytes) -> None:
    """W-ENV-5: more than `max_header_repeats` (100) of one name."""
    assert (await refusal_of(http_scope(headers=[(name, b"1")] * 101))).status == 400


async def test_hundred_repeats_pass() -> None:
    """W-ENV-5: exactly `max_header_repeats` is no offence, nor are many different names."""
    headers = [(b"x-many", b"1")] * 100 + [(b"x-%d" % i, b"1") for i in range(300)]
    environ = await environ_of(http_scope(headers=headers))
    assert environ["HTTP_X_MANY"] == ",".join("1" * 100)
    assert environ["HTTP_X_299"] == "1"


async def test_repeats_are_limited_by_the_option() -> None:
    """W-ENV-5: `max_header_repeats` sets the limit."""
    for repeats, limit, refused in ((3, 2, True), (2, 2, False), (200, 200, False)):
        scope = http_scope(headers=[(b"x-many", b"1")] * repeats)
        client, environs = await asked(scope, max_header_repeats=limit)
        assert (client.status == 400) is refused
        assert bool(environs) is not refused


# --- W-ENV-6


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-real-ip", b"true"), (b"x_real_ip", b"spoof")],
        [(b"x_real_ip", b"spoof"), (b"x-real-ip", b"true")],
        [(b"x-real_ip", b"spoof"), (b"x-real-ip", b"true")],
    ],
)
async def test_underscored_headers_are_dropped(headers: list[Header]) -> None:
    """W-ENV-6: a name with `_` never reaches the app under the name of its `-` twin."""
    assert (await environ_of(http_scope(headers=headers)))["HTTP_X_REAL_IP"] == "true"


@pytest.mark.parametrize("name", [b"x_real_ip", b"content_type", b"content_length", b"proxy"])
async def test_spoofing_headers_alone_are_dropped(name: bytes) -> None:
    """W-ENV-6: `_` names and `Proxy` (httpoxy) leave no trace."""
    environ = await environ_of(http_scope(headers=[(name, b"7")]))
    assert "7" not in [value for key, value in environ.items() if "." not in key]


# --- W-ENV-7


async def test_wsgi_keys() -> None:
    """W-ENV-7: the keys of PEP 3333 and the field's `wsgi.input_terminated`."""
    environ = await environ_of(http_scope())
    assert environ["wsgi.version"] == (1, 0)
    assert type(environ["wsgi.version"]) is tuple
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["wsgi.input_terminated"] is True
    assert environ["wsgi.run_once"] is False
    assert environ["wsgi.multithread"] is True
    assert type(environ["wsgi.multiprocess"]) is bool
    assert callable(environ["wsgi.file_wrapper"])
    assert list(environ["wsgi.file_wrapper"](io.BytesIO(b"abc"))) == [b"abc"]


async def test_one_worker_is_not_multithreaded() -> None:
    """W-ENV-7: `wsgi.multithread` is False when `workers=1`."""
    assert (await environ_of(http_scope(), workers=1))["wsgi.multithread"] is False


async def test_errors_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """W-ENV-7: `wsgi.errors` is stderr, never stdout."""

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        environ["wsgi.errors"].write("written ")
        environ["wsgi.errors"].writelines(["as ", "lines"])
        environ["wsgi.errors"].flush()
        return plain_app(environ, start_response)

    await fetched(app)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "written as lines")


async def test_errors_follow_a_replaced_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    """W-ENV-7: stderr is looked up for the request, not frozen at import or construction."""
    async with serving(_writing_to_errors) as bridge:
        replacement = io.StringIO()
        monkeypatch.setattr(sys, "stderr", replacement)
        await answered(bridge)
    assert replacement.getvalue() == "here"


def _writing_to_errors(environ: Environ, start_response: Any) -> list[bytes]:
    environ["wsgi.errors"].write("here")
    return plain_app(environ, start_response)


@pytest.mark.parametrize(
    ("scheme", "url_scheme", "https"),
    [("https", "https", "on"), ("http", "http", None), (ABSENT, "http", None)],
)
async def test_scheme_and_https(scheme: Any, url_scheme: str, https: str | None) -> None:
    """W-ENV-7: `wsgi.url_scheme` and HTTPS."""
    environ = await environ_of(http_scope(scheme=scheme))
    assert environ["wsgi.url_scheme"] == url_scheme
    assert environ.get("HTTPS") == https


@pytest.mark.parametrize(
    ("client", "address", "port"),
    [
        pytest.param(("10.0.0.1", 1234), "10.0.0.1", "1234", id="int port"),
        pytest.param(["10.0.0.1", 1234], "10.0.0.1", "1234", id="list"),
        pytest.param(("::1", "1234"), "::1", "1234", id="str port"),
        pytest.param(("10.0.0.1", None), "10.0.0.1", None, id="no port"),
        pytest.param(None, None, None, id="None"),
        pytest.param(ABSENT, None, None, id="absent"),
        pytest.param(("10.0.0.1", 0), "10.0.0.1", None, id="port 0, which is none"),
        pytest.param(("", 0), None, None, id="empty, as unix sockets have it"),
    ],
)
async def test_remote_address(client: Any, address: str | None, port: str | None) -> None:
    """W-ENV-7, W-ENV-10: REMOTE_ADDR and REMOTE_PORT, left out if the server does not know them."""
    environ = await environ_of(http_scope(client=client))
    assert environ.get("REMOTE_ADDR") == address
    assert environ.get("REMOTE_PORT") == port


@pytest.mark.parametrize(
    ("server", "scheme", "name", "port"),
    [
        pytest.param(("10.0.0.1", 8000), "http", "10.0.0.1", "8000", id="int port"),
        pytest.param(["10.0.0.1", 8000], "http", "10.0.0.1", "8000", id="list"),
        pytest.param(("::1", "8000"), "http", "::1", "8000", id="str port"),
        pytest.param(("10.0.0.1", None), "http", None, None, id="no port"),
        pytest.param(("10.0.0.1", None), "https", None, None, id="no port, https"),
        pytest.param(("/run/app.sock", None), "http", None, None, id="unix socket"),
        pytest.param(("unix:/run/app.sock", None), "http", None, None, id="unix: socket"),
        pytest.param(("", 0), "http", None, None, id="empty"),
        pytest.param(None, "http", None, None, id="None"),
        pytest.param(ABSENT, "https", None, None, id="absent"),
    ],
)
@pytest.mark.parametrize("host", [True, False], ids=["host", "no host"])
async def test_server_name_and_port(
    server: Any, scheme: str, name: str | None, port: str | None, host: bool
) -> None:
    """W-ENV-7: SERVER_NAME and SERVER_PORT are never empty, and the port is a number."""
    scope = http_scope(server=server, scheme=scheme)
    if not host:
        scope["headers"] = []
    environ = await environ_of(scope)
    assert environ["SERVER_NAME"]
    assert environ["SERVER_PORT"].isdecimal()
    assert name in (None, environ["SERVER_NAME"])
    assert port in (None, environ["SERVER_PORT"])


async def test_empty_host_is_none() -> None:
    """W-ENV-10: granian gives it for a client without one, and Django answers 400 to it."""
    scope = http_scope()
    scope["headers"] = [(b"host", b""), (b"accept", b"")]
    environ = await environ_of(scope)
    assert "HTTP_HOST" not in environ
    assert environ["HTTP_ACCEPT"] == ""


@pytest.mark.parametrize(("scheme", "port"), [("http", "80"), ("https", "443")])
async def test_port_of_the_scheme(scheme: str, port: str) -> None:
    """W-ENV-7: where nobody names a port, it is the scheme's."""
    environ = await environ_of(http_scope(server=None, scheme=scheme))
    assert environ["SERVER_PORT"] == port


async def test_tls_extension() -> None:
    """W-ENV-7: the `tls` extension under the names of mod_ssl."""
    tls = {
        "server_cert": "-----BEGIN CERTIFICATE-----server",
        "client_cert_chain": ["-----BEGIN CERTIFICATE-----leaf", "-----BEGIN CERTIFICATE-----ca"],
        "client_cert_name": "CN=client,O=Example",
        "client_cert_error": None,
        "tls_version": 0x0304,
        "cipher_suite": 0x1301,
    }
    environ = await environ_of(http_scope(scheme="https", extensions={"tls": tls}))
    assert environ["SSL_SERVER_CERT"] == tls["server_cert"]
    assert environ["SSL_CLIENT_CERT"] == "-----BEGIN CERTIFICATE-----leaf"
    assert environ["SSL_CLIENT_S_DN"] == "CN=client,O=Example"
    assert environ["SSL_PROTOCOL"] == "TLSv1.3"
    assert all(type(value) is str for key, value in environ.items() if key.startswith("SSL_"))


@pytest.mark.parametrize(
    "tls",
    [
        {},
        {
            "server_cert": None,
            "client_cert_chain": [],
            "client_cert_name": None,
            "client_cert_error": "expired",
            "tls_version": None,
            "cipher_suite": None,
        },
        {"tls_version": 0x9999, "cipher_suite": 0xFFFF},
    ],
    ids=["empty", "no certificates", "unknown numbers"],
)
async def test_tls_extension_that_knows_little(tls: dict[str, Any]) -> None:
    """W-ENV-7: unknown or absent parts of `tls` break nothing, and no client certificate is
    claimed.
    """
    environ = await environ_of(http_scope(scheme="https", extensions={"tls": tls}))
    assert not environ.get("SSL_CLIENT_CERT")
    assert environ.get("SSL_CLIENT_VERIFY") != "SUCCESS"
    assert all(type(value) is str for key, value in environ.items() if key.startswith("SSL_"))


# --- W-ENV-8, W-ENV-9


async def test_scope_is_in_the_environ() -> None:
    """W-ENV-8: `asgi.scope` is the scope, with what middleware put there."""
    scope = http_scope(state={"pool": object()}, user="somebody")
    environ = await environ_of(scope)
    assert environ["asgi.scope"]["state"]["pool"] is scope["state"]["pool"]
    assert environ["asgi.scope"]["user"] == "somebody"
    environ["asgi.scope"]["left by the app"] = 1
    assert scope["left by the app"] == 1


async def test_constant_pairs_of_the_deployer() -> None:
    """W-ENV-9: `environ={...}` is in every request's environ."""
    pool = object()
    given = {"shop.pool": pool, "SHOP_MODE": "test"}
    environs: list[Environ] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        environs.append(dict(environ))
        environ["SHOP_MODE"] = "changed by a request"
        return plain_app(environ, start_response)

    async with serving(app, environ=given) as bridge:
        for _ in range(2):
            await answered(bridge)
    for environ in environs:
        assert environ["shop.pool"] is pool
        assert environ["SHOP_MODE"] == "test"
    assert given == {"shop.pool": pool, "SHOP_MODE": "test"}

"""A-SCOPE-1, 2 and 4: any environ has its scope, and comes back through both bridges."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote_from_bytes, unquote, unquote_to_bytes

import anyio.from_thread
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.asgi_scopes import check_address, header_map
from tests.support.fake_wsgi_server import (
    SERVERS,
    Environ,
    Message,
    Request,
    ScopeCapture,
    bridged,
    close_bridge,
    respond,
    serve,
    whole_body,
)
from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI

in_hypothesis = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


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
            if "uwsgi.version" in environ:  # which uWSGI empties
                assert scope["wsgi_environ"] == environ
            else:
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

"""_protocol/carried.py: which keys go past the translation, and which never do."""

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsgi_asgi_bridge._protocol.carried import (
    environ_beside_the_message,
    scope_beside_the_message,
    state_of_both,
)
from wsgi_asgi_bridge._protocol.environ import environ_from_scope, environ_template
from wsgi_asgi_bridge._protocol.headers import environ_key
from wsgi_asgi_bridge._protocol.scope import scope_from_environ

TEMPLATE = environ_template(multithread=True, file_wrapper=object())
SOMETHING = object()

# --- environ -> scope -> environ


def outer_environ(**extra: Any) -> dict[str, Any]:
    """What a WSGI server calls the outer bridge with."""
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a",
        "QUERY_STRING": "",
        "SERVER_NAME": "example.test",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.1",
        "HTTP_HOST": "example.test",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": None,
        **extra,
    }


def inner_environ(outer: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What the app gets through both bridges; `changes` are those of a middleware between them."""
    scope = scope_from_environ(outer, root_path="", state={}) | changes
    return environ_from_scope(scope, TEMPLATE, max_header_repeats=100)


@pytest.mark.parametrize(
    "key",
    [
        "REMOTE_USER",
        "AUTH_TYPE",
        "REMOTE_HOST",
        "SSL_PROTOCOL",
        "SSL_CLIENT_S_DN",
        "SSL_CLIENT_VERIFY",
        "SERVER_SOFTWARE",
        "SERVER_ADDR",
        "DOCUMENT_ROOT",
        "UNIQUE_ID",
        "mod_wsgi.process_group",
        "werkzeug.socket",
        "werkzeug.debug.preserve_context",
        "gunicorn.socket",
        "waitress.client_disconnected",
        "uwsgi.node",
        "wsgi.errors",
        "repoze.who.identity",
        "beaker.session",
        "webob.adhoc_attrs",
        "paste.urlvars",
        "wsgiorg.routing_args",
        "the deployer's own key",
        "tenant",
    ],
)
def test_what_stands_beside_the_message_is_carried(key: str) -> None:
    assert inner_environ(outer_environ(**{key: SOMETHING}))[key] is SOMETHING


@pytest.mark.parametrize(
    "key",
    [
        # headers, under whatever name
        "HTTP_X_FORWARDED_USER",
        "HTTP_AUTHORIZATION",
        "HTTP_PROXY",
        "HTTP_",
        "CONTENT_TYPE",
        "CONTENT_LENGTH",
        "CONTENT_ENCODING",
        "REDIRECT_HTTP_AUTHORIZATION",
        "REDIRECT_REMOTE_USER",
        # the request line and the peers
        "REQUEST_URI",
        "RAW_URI",
        "PATH_TRANSLATED",
        "DOCUMENT_URI",
        "SCRIPT_URI",
        "SCRIPT_URL",
        "UNENCODED_URL",
        "REQUEST_SCHEME",
        "REMOTE_PORT",
        "HTTPS",
        # the protocol
        "wsgi.input",
        "wsgi.file_wrapper",
        "wsgi.multithread",
        "wsgi.run_once",
        "wsgi.early_hints",
        "wsgi.websocket",
        "asgi.scope",
        "x-wsgiorg.fdevent.readable",
        "mod_wsgi.input_chunked",
        "wsgi_asgi_bridge.client_disconnected",
        # a framework's view of another request
        "werkzeug.request",
        "webob._parsed_post_vars",
        "webob.is_body_seekable",
        "bottle.request.query",
        "paste.parsed_formvars",
    ],
)
def test_what_describes_the_message_or_the_bridge_is_not(key: str) -> None:
    environ = TEMPLATE.copy()
    assert environ_beside_the_message({key: SOMETHING}, environ) == {}


def test_what_the_middle_changed_wins() -> None:
    """Headers, path, peers and scheme are the scope's, whatever the environ said."""
    outer = outer_environ(
        HTTP_COOKIE="secret=1", HTTPS="on", REMOTE_PORT="5", REQUEST_URI="/a", REMOTE_HOST="old"
    )
    environ = inner_environ(
        outer,
        headers=[(b"x-new", b"1")],
        path="/b",
        raw_path=None,
        root_path="/b",
        client=("198.51.100.7", 7),
    )
    assert "HTTP_COOKIE" not in environ
    assert "HTTP_HOST" not in environ
    assert environ["HTTP_X_NEW"] == "1"
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/b", "")
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("198.51.100.7", "7")
    assert environ["wsgi.url_scheme"] == "http"
    # ... and what was found out about another client goes with it.
    assert not {"HTTPS", "REQUEST_URI", "RAW_URI", "REMOTE_HOST"} & environ.keys()


def test_the_middle_decides_by_its_environ_what_is_carried() -> None:
    outer = outer_environ(REMOTE_USER="alice", AUTH_TYPE="Basic")
    changed = {**outer, "REMOTE_USER": "bob"}
    del changed["AUTH_TYPE"]
    environ = inner_environ(outer, wsgi_environ=changed)
    assert environ["REMOTE_USER"] == "bob"
    assert "AUTH_TYPE" not in environ
    assert "REMOTE_USER" not in inner_environ(outer, wsgi_environ=None)


def test_a_connection_of_the_middle_is_not_mixed_with_another() -> None:
    outer = outer_environ(SSL_PROTOCOL="TLSv1", SSL_CLIENT_S_DN="CN=old", SSL_CIPHER="OLD")
    environ = inner_environ(outer, extensions={"tls": {"tls_version": 0x0304}})
    assert environ["SSL_PROTOCOL"] == "TLSv1.3"
    assert not {"SSL_CLIENT_S_DN", "SSL_CIPHER"} & environ.keys()


def test_objects_are_very_ones_and_outer_environ_is_untouched() -> None:
    session: dict[str, Any] = {}
    outer = outer_environ(**{"beaker.session": session})
    before = outer.copy()
    assert inner_environ(outer)["beaker.session"] is session
    assert outer == before


header_names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30)


@given(header_names)
def test_no_header_of_client_reaches_app_once_middle_removed_it(name: str) -> None:
    """Whatever its name becomes in an environ, by the rules of any server."""
    for key in {
        "HTTP_" + name.upper().replace("-", "_"),
        environ_key(name.encode()) or "HTTP_X",
        "REDIRECT_HTTP_" + name.upper().replace("-", "_"),
    }:
        # HTTP_HOST and its like are in the environ only where the scope has them.
        assert key not in inner_environ(outer_environ(**{key: "spoofed"}), headers=[])


def test_a_scope_of_a_server_carries_nothing() -> None:
    scope = scope_from_environ(outer_environ(REMOTE_USER="alice"), root_path="", state={})
    del scope["wsgi_environ"]
    environ = environ_from_scope(scope, TEMPLATE, max_header_repeats=100)
    assert "REMOTE_USER" not in environ


# --- scope -> environ -> scope


def outer_scope(**extra: Any) -> dict[str, Any]:
    """What an ASGI server calls the outer bridge with."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/a",
        "raw_path": b"/a",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"example.test"), (b"cookie", b"secret=1")],
        "client": ("192.0.2.1", 50000),
        "server": ("198.51.100.2", 80),
        **extra,
    }


def inner_scope(
    outer: dict[str, Any], state: dict[str, Any] | None = None, /, **changes: Any
) -> dict[str, Any]:
    """What the app gets through both bridges; `changes` are those of a middleware between them."""
    environ = environ_from_scope(outer, TEMPLATE, max_header_repeats=100) | changes
    return scope_from_environ(environ, root_path="", state=state or {})


@pytest.mark.parametrize(
    "key", ["session", "user", "auth", "path_params", "url_route", "tenant", "the deployer's own"]
)
def test_what_stands_beside_the_connection_is_carried(key: str) -> None:
    assert inner_scope(outer_scope(**{key: SOMETHING}))[key] is SOMETHING


@pytest.mark.parametrize(
    "key",
    [
        "subprotocols",
        "cookies",
        "app",
        "router",
        "route",
        "endpoint",
        "app_root_path",
        "starlette.exception_handlers",
        "fastapi_inner_astack",
        "fastapi.telemetry",
        "litestar_app",
        "_ls_connection_state",
    ],
)
def test_what_belongs_to_the_outer_app_or_to_its_loop_is_not(key: str) -> None:
    assert key not in inner_scope(outer_scope(**{key: SOMETHING}))


@pytest.mark.parametrize("key", sorted(outer_scope().keys() - {"type"}))
def test_the_scopes_own_keys_are_never_carried(key: str) -> None:
    assert key not in scope_beside_the_message(outer_scope(**{key: SOMETHING}))


def test_of_the_extensions_only_facts_are_carried() -> None:
    """A-SCOPE-1: only what works here; the inner bridge understands no message of the others."""
    tls = {"tls_version": 0x0304, "cipher_suite": None}
    offered = {
        "tls": tls,
        "http.response.pathsend": {},
        "http.response.zerocopysend": {},
        "http.response.trailers": {},
        "http.response.early_hint": {},
        "http.response.push": {},
        "http.response.debug": {},
        "websocket.http.response": {},
        "something new": {},
    }
    carried = inner_scope(outer_scope(extensions=offered))["extensions"]
    own = {"http.response.pathsend": {}}  # by the outer bridge's own wsgi.file_wrapper
    assert carried == {"tls": tls, **own}
    assert carried["tls"] is tls
    assert inner_scope(outer_scope(extensions=None))["extensions"] == own
    assert inner_scope(outer_scope())["extensions"] == own


def test_what_a_wsgi_middleware_changed_wins() -> None:
    scope = inner_scope(
        outer_scope(path_params={"id": "1"}),
        HTTP_COOKIE="other=1",
        PATH_INFO="/b",
        SCRIPT_NAME="/site",
        REMOTE_ADDR="198.51.100.7",
        REQUEST_URI="/b",
        RAW_URI="/b",
    )
    assert dict(scope["headers"])[b"cookie"] == b"other=1"
    assert (scope["root_path"], scope["path"]) == ("/site", "/site/b")
    assert scope["client"][0] == "198.51.100.7"
    assert scope["path_params"] == {"id": "1"}


def test_a_wsgi_middleware_decides_by_its_scope_what_is_carried() -> None:
    outer = outer_scope(user="alice", auth="basic")
    changed = {**outer, "user": "bob"}
    del changed["auth"]
    scope = inner_scope(outer, **{"asgi.scope": changed})
    assert scope["user"] == "bob"
    assert "auth" not in scope
    assert "user" not in inner_scope(outer, **{"asgi.scope": None})


def test_an_environ_of_a_server_carries_nothing() -> None:
    scope = scope_from_environ(outer_environ(session=SOMETHING), root_path="", state={})
    assert "session" not in scope
    assert scope["extensions"] == {}


# --- state


def test_state_is_the_outer_one_with_the_lifespans_own_entries() -> None:
    """What the app puts there is seen outside, as without bridges."""
    state = {"request_id": 7}
    scope = inner_scope(outer_scope(state=state), {"pool": SOMETHING})
    assert scope["state"] is state
    assert state == {"request_id": 7, "pool": SOMETHING}


def test_namesakes_in_state_stay_apart() -> None:
    """A pool works in the loop that it was made in: each side keeps its own."""
    outer_pool, own_pool = object(), object()
    state = {"request_id": 7, "pool": outer_pool}
    merged = state_of_both(state, {"pool": own_pool})
    assert merged == {"request_id": 7, "pool": own_pool}
    assert state == {"request_id": 7, "pool": outer_pool}


def test_the_same_state_twice_is_no_conflict() -> None:
    """One request may be tried by several inner apps, or twice by one."""
    state: dict[str, Any] = {}
    own = {"pool": SOMETHING}
    assert state_of_both(state, own) is state
    assert state_of_both(state, own) is state


def test_without_an_outer_state_it_is_a_copy_of_the_lifespans() -> None:
    own = {"pool": SOMETHING}
    state = inner_scope(outer_scope(), own)["state"]
    assert state == own
    assert state is not own


# --- memory


@pytest.mark.parametrize("outermost", ["a WSGI server", "an ASGI server"])
def test_nothing_of_a_clients_long_names_is_kept(outermost: str) -> None:
    """W-ENV-5: once their request is over, whichever bridge they came through first."""

    def serve(number: int) -> None:
        name = f"X-{outermost.split()[1]}-{number}-" + "A" * 100_000
        if outermost == "a WSGI server":
            key = "HTTP_" + name.replace("-", "_")
            assert inner_environ(outer_environ(**{key: "1"}))[key] == "1"
        else:
            header = (name.lower().encode(), b"1")
            assert header in inner_scope(outer_scope(headers=[header]))["headers"]

    serve(0)
    tracemalloc.start()
    try:
        for number in range(1, 51):
            serve(number)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000, "50 requests brought names of 100 kB each"


@pytest.mark.parametrize("address", ["", None], ids=["empty", "absent"])
def test_an_unknown_client_is_the_same_client(address: str | None) -> None:
    """W-ENV-10: a server says "" of a Unix socket, and the inner environ nothing."""
    outer = outer_environ(REMOTE_ADDR=address, REMOTE_HOST="proxy.test")
    if address is None:
        del outer["REMOTE_ADDR"]
    environ = inner_environ(outer)
    assert "REMOTE_ADDR" not in environ
    assert environ["REMOTE_HOST"] == "proxy.test"

"""docs/coming_from.md: the names and parameters that it translates exist, with
those defaults, and the rest of what it says of them is so.
"""

import asyncio
import importlib
import inspect
import queue
import re
import sys
import threading
import warnings
from typing import Any

import a2wsgi
import pytest

from tests.support import pages
from tests.support.coming_from import TEXT, as_described
from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI

MUST_COME_SECONDS = 10.0
TITLE = "What to write instead"
NEW = {"WSGIToASGI": WSGIToASGI, "ASGIToWSGI": ASGIToWSGI}
ROWS = [
    [cell.strip("`") for cell in row]
    for row in pages.rows(pages.section(TITLE, text=TEXT))
    if "`" in row[0]
]
CLASSES = [row for row in ROWS if len(row) == 2]
PARAMETERS = [row for row in ROWS if len(row) == 3]
PARAMETER = re.compile(r"([\w.]+)[.(](\w+)=(.+?)\)?")
WHOLE_SIGNATURES = ("a2wsgi.WSGIMiddleware", "a2wsgi.ASGIMiddleware", "asgiref.wsgi.WsgiToAsgi")
"""Adapters all of whose parameters the table has."""


def named(path: str) -> Any:
    """What a dotted path of another package names, if its version is the one described."""
    distribution = path.partition(".")[0]
    if not as_described(distribution):
        pytest.skip(f"docs/coming_from.md describes another version of {distribution}")
    module, _, attribute = path.rpartition(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Starlette's and uvicorn's are deprecated
        return getattr(importlib.import_module(module), attribute)


def default_of(owner: Any, name: str) -> Any:
    parameter = inspect.signature(owner).parameters.get(name)
    return getattr(owner, name) if parameter is None else parameter.default


@pytest.mark.parametrize(("old", "new"), CLASSES)
def test_a_class(old: str, new: str) -> None:
    assert new.removesuffix("(app)") in NEW
    first, *_ = inspect.signature(named(old.removesuffix("(app)"))).parameters.values()
    assert first.default is inspect.Parameter.empty


@pytest.mark.parametrize(("old", "new"), [row[:2] for row in PARAMETERS])
def test_a_parameter(old: str, new: str) -> None:
    matched = PARAMETER.fullmatch(old)
    assert matched is not None
    path, name, default = matched.groups()
    assert repr(default_of(named(path), name)) == default
    bridge = NEW[dict(CLASSES).get(f"{path}(app)", "WSGIToASGI(app)").removesuffix("(app)")]
    name, _, default = new.partition("=")
    assert repr(default_of(bridge, name)) == default


@pytest.mark.parametrize("path", WHOLE_SIGNATURES)
def test_no_parameter_is_left_out(path: str) -> None:
    matches = [PARAMETER.fullmatch(old) for old, *_ in PARAMETERS]
    translated = {match[2] for match in matches if match is not None and match[1] == path}
    _, *parameters = inspect.signature(named(path)).parameters
    assert translated == set(parameters)


def test_starlettes_has_no_parameter() -> None:
    assert len(inspect.signature(named("starlette.middleware.wsgi.WSGIMiddleware")).parameters) == 1


def test_uvicorns_is_that_of_a2wsgi() -> None:
    assert named("uvicorn.middleware.wsgi.WSGIMiddleware") is a2wsgi.WSGIMiddleware


# ---------------------------------------------------------------- what changes


def scope(method: str = "GET", headers: tuple[tuple[bytes, bytes], ...] = ()) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"example.org"), *headers],
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
    }


def status_of(app: Any, request: dict[str, Any], body: bytes = b"") -> int:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def run() -> None:
        await app(request, receive, send)
        if isinstance(app, WSGIToASGI):
            await app.aclose()

    asyncio.run(run())
    status: int = sent[0]["status"]
    return status


def plain_app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("X-Script-Name", environ["SCRIPT_NAME"])])
    return [b"ok"]


@pytest.mark.parametrize(("adapter", "status"), [("Hypercorn's", 400), ("ours", 413)])
def test_what_is_answered_to_a_large_body(adapter: str, status: int) -> None:
    """W-IN-6"""
    made_by = (
        WSGIToASGI if adapter == "ours" else named("hypercorn.middleware.AsyncioWSGIMiddleware")
    )
    app = made_by(plain_app, max_body_size=3)
    length = ((b"content-length", b"4"),)
    assert status_of(app, scope("POST", length), b"1234") == status


@pytest.mark.parametrize("adapter", ["asgiref's", "ours"])
def test_what_is_answered_to_repeated_headers(adapter: str) -> None:
    """W-ENV-5"""
    app = (
        WSGIToASGI(plain_app, max_header_repeats=3)
        if adapter == "ours"
        else named("asgiref.wsgi.WsgiToAsgi")(plain_app, duplicate_header_limit=3)
    )
    assert status_of(app, scope(headers=((b"x-one", b"1"),) * 3)) == 200
    assert status_of(app, scope(headers=((b"x-one", b"1"),) * 4)) == 400


def test_none_of_ours_takes_no_limit_of_repeats() -> None:
    with pytest.raises(ValueError, match="max_header_repeats"):
        WSGIToASGI(plain_app, max_header_repeats=0)


class Late:
    """An ASGI app that works on after its response, until it is released or cancelled."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.ended: queue.SimpleQueue[str] = queue.SimpleQueue()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})
        try:
            await asyncio.to_thread(self.release.wait, MUST_COME_SECONDS)
        except asyncio.CancelledError:
            self.ended.put("cancelled")
            raise
        self.ended.put("done")


def get(app: Any) -> bytes:
    request = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.input": None,
    }
    return b"".join(app(request, lambda *_: None))


def test_a2wsgi_cancels_background_work_after_its_wait_time() -> None:
    adapter = named("a2wsgi.ASGIMiddleware")
    app = Late()
    assert get(adapter(app, wait_time=0.05)) == b"ok"
    assert app.ended.get(timeout=MUST_COME_SECONDS) == "cancelled"
    app.release.set()


def test_ours_lets_background_work_end() -> None:
    """A-OUT-5"""
    app = Late()
    with ASGIToWSGI(app, lifespan="off") as bridge:
        assert get(bridge) == b"ok"
        assert app.ended.empty()
        app.release.set()
    assert app.ended.get_nowait() == "done"


@pytest.mark.parametrize(("adapter", "script"), [("a2wsgi's", "/of-process"), ("ours", "")])
def test_where_script_name_is_from(
    adapter: str, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W-ENV-2"""
    monkeypatch.setenv("SCRIPT_NAME", "/of-process")
    seen: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ["SCRIPT_NAME"])
        return plain_app(environ, start_response)

    made_by = WSGIToASGI if adapter == "ours" else named("a2wsgi.WSGIMiddleware")
    assert status_of(made_by(app), scope()) == 200
    assert seen == [script]


def test_uvicorns_interface_is_the_same_middleware() -> None:
    """`--interface wsgi` wraps the app in what uvicorn.middleware.wsgi names."""
    from uvicorn import Config

    named("uvicorn.middleware.wsgi.WSGIMiddleware")
    config = Config(plain_app, interface="wsgi", log_config=None, proxy_headers=False)
    config.load()
    assert isinstance(config.loaded_app, sys.modules["uvicorn.middleware.wsgi"].WSGIMiddleware)

"""What the constructor of ASGIToWSGI takes and refuses, and what stats() counts."""

import asyncio
import dataclasses
import sys
import threading
import types
from typing import Any

import pytest

from tests.support.fake_wsgi_server import (
    Exchange,
    Gate,
    ScopeCapture,
    bridged,
    environ_for,
    hello,
    must_become,
    must_happen,
    on_every_backend,
    respond,
    serve,
    start,
    stream,
)
from wsgi_asgi_bridge import ASGIToWSGI

# Construction


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module that an import string can name."""
    module = types.ModuleType("module_of_an_asgi_app")
    module.app = hello
    module.factory = types.SimpleNamespace(inner=hello)
    module.number = 5
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.mark.parametrize("attribute", ["app", "factory.inner"])
def test_import_strings(importable: types.ModuleType, attribute: str) -> None:
    """`gunicorn 'wsgi_asgi_bridge:ASGIToWSGI("pkg.module:app")'` needs no file."""
    with bridged(f"{importable.__name__}:{attribute}") as bridge:
        assert serve(bridge).body == b"hello"


WRONG_IMPORT_STRINGS = {
    "module_of_an_asgi_app": "module_of_an_asgi_app",
    "module_of_an_asgi_app:": "module_of_an_asgi_app:",
    ":app": ":app",
    "": "''",
    "module_of_an_asgi_app:missing": "missing",
    "module_of_an_asgi_app:factory.missing": "missing",
    "module_of_an_asgi_app:number": "5",
    "no_such_module_anywhere:app": "no_such_module_anywhere",
}


@pytest.mark.parametrize(("name", "culprit"), WRONG_IMPORT_STRINGS.items())
def test_wrong_import_strings_say_why(
    importable: types.ModuleType, name: str, culprit: str
) -> None:
    """A mistake shows at construction, and the message holds what was given."""
    with pytest.raises((TypeError, ValueError, ImportError)) as caught:
        ASGIToWSGI(name)
    assert culprit in str(caught.value)


WRONG_ARGUMENTS = {
    "app None": {"app": None},
    "app number": {"app": 5},
    "unknown backend": {"backend": "curio"},
    "unknown lifespan": {"lifespan": "maybe"},
    "lifespan bool": {"lifespan": True},
    "negative startup_timeout": {"startup_timeout": -1},
    "startup_timeout text": {"startup_timeout": "60"},
    "negative shutdown_timeout": {"shutdown_timeout": -0.5},
    "shutdown_timeout text": {"shutdown_timeout": "1"},
    "request_buffer 0": {"request_buffer": 0},
    "request_buffer text": {"request_buffer": "64k"},
    "response_buffer 0": {"response_buffer": 0},
    "response_buffer negative": {"response_buffer": -1},
    "response_buffer text": {"response_buffer": "64k"},
    "disconnect_poll negative": {"disconnect_poll": -1},
    "disconnect_poll 0": {"disconnect_poll": 0},
    "disconnect_poll text": {"disconnect_poll": "often"},
    "background_wait negative": {"background_wait": -0.1},
    "background_wait None": {"background_wait": None},
    "background_wait for ever": {"background_wait": float("inf")},
    "loop_factory number": {"loop_factory": 5},
    "loop_factory with trio": {"loop_factory": asyncio.new_event_loop, "backend": "trio"},
    "root_path number": {"root_path": 5},
    "root_path without a slash": {"root_path": "api"},
    "root_path of a whole address": {"root_path": "http://example.org/api"},
    "unknown release": {"release": "on"},
    "release bool": {"release": False},
    "max_released negative": {"max_released": -1},
    "max_released text": {"max_released": "10"},
    "max_message_size 0": {"max_message_size": 0},
    "max_message_size None": {"max_message_size": None},
    "ping_interval 0": {"ping_interval": 0},
    "ping_interval text": {"ping_interval": "20"},
    "ping_timeout negative": {"ping_timeout": -1},
    "websocket_compression text": {"websocket_compression": "deflate"},
    "unknown option": {"wait_time": 1},
}


@pytest.mark.parametrize("arguments", WRONG_ARGUMENTS.values(), ids=WRONG_ARGUMENTS)
def test_wrong_arguments_raise_and_name_themselves(arguments: dict[str, Any]) -> None:
    """What is wrong shows at construction, not at the first request."""
    with pytest.raises((TypeError, ValueError)) as caught:
        ASGIToWSGI(**{"app": hello, **arguments})
    assert next(iter(arguments)) in str(caught.value)


def test_options_are_keyword_only() -> None:
    """Only the app goes by position."""
    with pytest.raises(TypeError):
        ASGIToWSGI(hello, "asyncio")  # type: ignore[misc]


def test_root_path_of_the_deployer_goes_before_the_path() -> None:
    """A-SCOPE-1: `root_path=` serves a prefix that a proxy took away."""
    capture = ScopeCapture()
    with bridged(capture, root_path="/api") as bridge:
        serve(bridge, environ_for("/x")).finish()
    assert capture.scope["root_path"] == "/api"
    assert capture.scope["path"] == "/api/x"


@pytest.mark.parametrize("root_path", ["/api", "/api/", "", "/", None])
@pytest.mark.parametrize("script", ["", "/mount"])
def test_the_asterisk_of_options_is_below_no_prefix(root_path: str | None, script: str) -> None:
    """A-SCOPE-1: `OPTIONS *` asks about the server as a whole (RFC 9110 9.3.7)."""
    capture = ScopeCapture()
    environ = environ_for("*", method="OPTIONS") | {"PATH_INFO": "*", "SCRIPT_NAME": script}
    with bridged(capture, root_path=root_path) as bridge:
        serve(bridge, environ).finish()
    assert (capture.scope["path"], capture.scope["raw_path"]) == ("*", b"*")
    assert capture.scope["root_path"] == (root_path or "").rstrip("/") + script


# stats()


def test_stats_is_a_frozen_snapshot() -> None:
    """The snapshot is typed, frozen and does not change afterwards."""
    with bridged(hello) as bridge:
        before = bridge.stats()
        serve(bridge)
        after = bridge.stats()
        assert {f.name for f in dataclasses.fields(before)} >= {
            "in_flight",
            "background",
            "completed",
            "disconnected",
            "failed",
            "running",
        }
        assert (before.completed, after.completed) == (0, 1)
        assert (before.running, after.running) == (False, True)
        with pytest.raises(dataclasses.FrozenInstanceError):
            after.completed = 7  # type: ignore[misc]
    assert bridge.stats().running is False


@on_every_backend
def test_stats_counts_every_ending(backend: dict[str, Any]) -> None:
    """An exchange is in flight first, and is then counted under one ending."""
    gate = Gate()
    inside = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/fail":
            raise ValueError("on purpose")
        if scope["path"] == "/stream":
            await start(send)
            while True:
                await stream(send, b"tick")
        inside.set()
        await gate.wait()
        await respond(send)

    def counts() -> tuple[int, ...]:
        now = bridge.stats()
        return (now.in_flight, now.completed, now.failed, now.disconnected, now.background)

    with bridged(app, backend) as bridge:
        exchange = Exchange(bridge)
        must_happen(inside, "the app's call")
        assert counts() == (1, 0, 0, 0, 0)
        gate.open()
        exchange.finish()
        must_become(lambda: counts() == (0, 1, 0, 0, 0), "one completed")
        assert isinstance(serve(bridge, environ_for("/fail")).raised(), ValueError)
        must_become(lambda: counts() == (0, 1, 1, 0, 0), "one failed")
        streaming = Exchange(bridge, environ_for("/stream"), hold=True)
        streaming.take()
        streaming.hang_up()
        must_become(lambda: counts() == (0, 1, 1, 1, 0), "one disconnected")

"""D-3: a bridge is pickled and copied as its app and its options."""

import asyncio
import copy
import inspect
import multiprocessing
import pickle
import threading
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import cloudpickle
import pytest

from tests.support.fake_asgi_server import answered
from tests.support.fake_wsgi_server import environ_for, respond, serve
from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI

CHILD_SECONDS = 60.0


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"wsgi"]


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    await respond(send, b"asgi")


Bridge = type[WSGIToASGI] | type[ASGIToWSGI]
APPS: dict[Bridge, Any] = {WSGIToASGI: wsgi_app, ASGIToWSGI: asgi_app}
on_both = pytest.mark.parametrize("kind", APPS, ids=lambda kind: kind.__name__)

COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda bridge: pickle.loads(pickle.dumps(bridge)),
    "oldest pickle": lambda bridge: pickle.loads(pickle.dumps(bridge, 0)),
    "cloudpickle": lambda bridge: cloudpickle.loads(cloudpickle.dumps(bridge)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}
in_every_way = pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)


# --- options


def another_value(hint: Any, default: Any) -> Any:
    """A value of this type that is not the default."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(each for each in typing.get_args(hint) if each is not type(None))
    if typing.get_origin(hint) is typing.Literal:
        return next(each for each in typing.get_args(hint) if each != default)
    if hint is bool:
        return not default
    if hint in (int, float):
        return hint((default or 0) + 7)
    if hint is str:
        return "/other"
    if (typing.get_origin(hint) or hint) is Mapping:
        return types.MappingProxyType({"deployer.key": "value"})
    assert typing.get_origin(hint) is Callable, f"no other value is known for {hint}"
    return asyncio.SelectorEventLoop


OPTIONS = [
    pytest.param(kind, name, id=f"{kind.__name__} {name}")
    for kind in APPS
    for name in inspect.signature(kind).parameters
    if name != "app"
]


@in_every_way
@pytest.mark.parametrize(("kind", "option"), OPTIONS)
def test_every_option_is_kept(kind: Any, option: str, copied: Any) -> None:
    """D-3: whatever the constructor takes."""
    parameter = inspect.signature(kind).parameters[option]
    value = another_value(typing.get_type_hints(kind.__init__)[option], parameter.default)
    bridge = kind(APPS[kind], **{option: value})
    other = copied(bridge)
    assert other._options == bridge._options == {option: value}
    assert other._settings == bridge._settings


@on_both
def test_the_constructor_still_shows_its_parameters(kind: Any) -> None:
    """D-3: what remembers the options does not hide them from tools that read signatures."""
    parameters = inspect.signature(kind).parameters
    assert "shutdown_timeout" in parameters
    assert all(each.kind is not each.VAR_KEYWORD for each in parameters.values())


def test_a_mapping_is_kept_as_it_was() -> None:
    """D-3: what the deployer does to it later is the deployer's own."""
    pairs = {"deployer.key": 1}
    bridge = WSGIToASGI(wsgi_app, environ=pairs)
    pairs["deployer.key"] = 2
    other = copy.copy(bridge)
    assert other._settings.extra_environ == bridge._settings.extra_environ == {"deployer.key": 1}


# --- the app


@in_every_way
@on_both
def test_the_app_is_the_same(kind: Any, copied: Any) -> None:
    """D-3: a deep copy of it too: an app has locks and connections, which have no copies."""
    assert copied(kind(APPS[kind])).app is APPS[kind]


@on_both
def test_an_import_string_stays_one(kind: Any) -> None:
    """D-3: so an app that cannot be pickled itself can be named."""
    path = f"{__name__}:{APPS[kind].__name__}"
    pickled = pickle.dumps(kind(path))
    assert path.encode() in pickled
    other = pickle.loads(pickled)
    assert other.app is APPS[kind]
    assert path.encode() in pickle.dumps(other)


class Unpicklable:
    """An app as Flask's: callable by both kinds of bridge, and no pickler takes it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self, *args: Any) -> Any:
        return wsgi_app(*args) if len(args) == 2 else asgi_app(*args)


unpicklable = Unpicklable()


@in_every_way
@on_both
def test_an_app_that_is_a_modules_is_pickled_by_its_name(kind: Any, copied: Any) -> None:
    """D-3: so that Flask's and Django's app objects reach another process."""
    assert copied(kind(unpicklable)).app is unpicklable


@on_both
def test_an_app_without_a_name_has_to_have_a_pickle(kind: Any) -> None:
    """D-3."""
    with pytest.raises(TypeError, match=r"cannot pickle '_thread\.lock' object"):
        pickle.dumps(kind(Unpicklable()))


@on_both
def test_an_app_that_was_set_is_the_one(kind: Any) -> None:
    """D-3, W-APP-1."""
    bridge = kind(f"{__name__}:{APPS[kind].__name__}")
    set_later = {WSGIToASGI: other_wsgi_app, ASGIToWSGI: other_asgi_app}[kind]
    bridge.app = set_later
    assert pickle.loads(pickle.dumps(bridge)).app is set_later


def other_wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    return wsgi_app(environ, start_response)


async def other_asgi_app(scope: Any, receive: Any, send: Any) -> None:
    await asgi_app(scope, receive, send)


@on_both
def test_cloudpickle_takes_an_app_that_has_no_name(kind: Any) -> None:
    """D-3: as Ray does with what a script defines."""
    if kind is WSGIToASGI:
        app: Any = lambda environ, start_response: wsgi_app(environ, start_response)  # noqa: E731
    else:
        app = lambda scope, receive, send: asgi_app(scope, receive, send)  # noqa: E731
    bridge = kind(app)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(bridge)
    assert callable(cloudpickle.loads(cloudpickle.dumps(bridge)).app)


# --- used ones


@in_every_way
async def test_w_a_used_bridge_gives_an_unused_one(copied: Any) -> None:
    """D-3: its pool, its counts and its requests stay where they are."""
    bridge = WSGIToASGI(wsgi_app, workers=2)
    assert (await answered(bridge)).body == b"wsgi"
    other = copied(bridge)
    assert (bridge.stats().completed, other.stats().completed) == (1, 0)
    assert other.stats().threads == 0
    assert (await answered(other)).body == b"wsgi"
    await other.aclose()
    assert bridge.stats().threads == 1
    await bridge.aclose()


@in_every_way
def test_a_used_bridge_gives_an_unused_one(copied: Any) -> None:
    """D-3: its loop, its counts and its requests stay where they are."""
    with ASGIToWSGI(asgi_app) as bridge:
        assert serve(bridge).body == b"asgi"
        with copied(bridge) as other:
            assert (bridge.stats().completed, other.stats().completed) == (1, 0)
            assert serve(other).body == b"asgi"
        assert not other.stats().running
        assert bridge.stats().running


# --- subclasses


class Named(WSGIToASGI):
    """A subclass with parameters and attributes of its own."""

    def __init__(self, name: str) -> None:
        self.before = [name]
        super().__init__(wsgi_app, workers=3)
        self.name = name


@in_every_way
def test_a_subclass_keeps_what_it_has_added(copied: Any) -> None:
    """D-3: its constructor is not called again."""
    bridge = Named("main")
    other = copied(bridge)
    assert (type(other), other.name, other.before) == (Named, "main", ["main"])
    assert other._settings == bridge._settings
    assert (other.before is bridge.before) == (copied is copy.copy)


def test_a_deep_copy_of_what_holds_a_bridge_twice_holds_one() -> None:
    """D-3."""
    bridge = WSGIToASGI(wsgi_app)
    first, second = copy.deepcopy([bridge, bridge])
    assert first is second is not bridge


# --- other processes


def answer_in_child(bridge: Any, answers: Any) -> None:
    if isinstance(bridge, WSGIToASGI):
        answers.send((asyncio.run(answer_of(bridge)), bridge._options))
    else:
        with bridge:
            answers.send((serve(bridge, environ_for()).body, bridge._options))
    answers.close()


async def answer_of(bridge: WSGIToASGI) -> bytes:
    client = await answered(bridge)
    await bridge.aclose()
    return client.body


@on_both
def test_a_bridge_goes_to_a_spawned_process(kind: Any) -> None:
    """D-3: as an argument of multiprocessing's `Process`."""
    spawn = multiprocessing.get_context("spawn")
    ours, childs = spawn.Pipe(duplex=False)
    bridge = kind(APPS[kind], shutdown_timeout=5.0)
    child = spawn.Process(target=answer_in_child, args=(bridge, childs))
    child.start()
    childs.close()
    try:
        assert ours.poll(CHILD_SECONDS)
        assert ours.recv() == (serve_name(kind), {"shutdown_timeout": 5.0})
    finally:
        child.join(CHILD_SECONDS)
        ours.close()
    assert child.exitcode == 0


def serve_name(kind: Any) -> bytes:
    return b"wsgi" if kind is WSGIToASGI else b"asgi"

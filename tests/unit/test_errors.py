"""errors.py: the tree in the docstring is the tree in the code."""

import asyncio
import errno
import inspect
import re

import pytest

from wsgi_asgi_bridge import errors
from wsgi_asgi_bridge.errors import AppError, BridgeError, presentable

TREE_LINE = re.compile(
    r"^ {4}(?P<branch>├── |└── )(?P<name>\w+) \((?P<builtin>\w+)\) +(?P<blame>\S.*)$", re.M
)


def documented_tree() -> dict[str, str]:
    """Each exception below the root, and the builtin that it is as well."""
    assert errors.__doc__ is not None
    return {line["name"]: line["builtin"] for line in TREE_LINE.finditer(errors.__doc__)}


def defined_exceptions() -> dict[str, type[BaseException]]:
    """The public ones."""
    return {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, BaseException) and name[0] != "_"
    }


def test_the_tree_in_the_docstring_is_the_tree_in_the_code() -> None:
    drawn = {
        name: kind.__bases__[1].__name__
        for name, kind in defined_exceptions().items()
        if kind is not BridgeError
    }
    assert documented_tree() == drawn


def test_every_exception_hangs_directly_below_the_root() -> None:
    for kind in defined_exceptions().values():
        if kind is not BridgeError:
            assert kind.__bases__[0] is BridgeError
    assert BridgeError.__bases__ == (Exception,)


def test_all_is_honest() -> None:
    assert set(errors.__all__) == set(defined_exceptions())
    assert errors.__all__ == sorted(errors.__all__)


def test_a_closed_connection_is_a_disconnect_and_a_broken_pipe() -> None:
    """WS-W-7: a library that writes to a socket expects BrokenPipeError."""
    error = errors.connection_closed()
    assert isinstance(error, BrokenPipeError)
    assert isinstance(error, errors.ClientDisconnected)
    assert error.errno == errno.EPIPE


@pytest.mark.parametrize("name", ["ClientDisconnected", "ClientStalled", "BodyTooLarge"])
def test_what_a_read_may_raise_is_an_os_error(name: str) -> None:
    """W-IN-3, W-IN-7, A-OUT-3: apps expect OSError of a file and of `send()`."""
    assert issubclass(getattr(errors, name), OSError)


@pytest.mark.parametrize("name", sorted(errors.__all__))
def test_every_exception_says_what_it_is_for(name: str) -> None:
    kind = getattr(errors, name)
    assert kind.__doc__ is not None
    assert str(kind("what came, what was expected")) == "what came, what was expected"


# --- presentable


@pytest.mark.parametrize(
    "error", [ValueError("x"), ConnectionError(), AppError("x"), TimeoutError()]
)
def test_an_apps_exception_travels_as_the_very_object(error: Exception) -> None:
    """W-CALL-3, A-OUT-4."""
    assert presentable(error) is error


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        asyncio.CancelledError(),
        StopIteration("value"),
        StopAsyncIteration(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_that_a_loop_or_a_server_acts_on_is_wrapped(
    error: BaseException,
) -> None:
    """W-CALL-3, A-OUT-4: SystemExit would end the server, StopIteration its iteration."""
    wrapped = presentable(error)
    assert isinstance(wrapped, AppError)
    assert wrapped.__cause__ is error
    assert type(error).__name__ in str(wrapped)

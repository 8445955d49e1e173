"""_arguments.py: wrong ones are refused at once, with what came and what was expected."""

import math
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from wsgi_asgi_bridge._options import count, imported_app, seconds

# --- apps


def an_app() -> None: ...


def test_a_callable_is_its_own_app() -> None:
    assert imported_app(an_app, kind="an app") is an_app


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that can be imported and was not yet."""
    name = "bridged_app_for_the_arguments_tests"
    (tmp_path / f"{name}.py").write_text(
        "def app(): ...\nclass holder:\n    app = staticmethod(app)\nnumber = 5\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


def test_an_import_string_names_an_app(module: str) -> None:
    app = imported_app(f"{module}:app", kind="an app")
    assert app is sys.modules[module].app


def test_an_import_string_may_go_into_attributes(module: str) -> None:
    assert imported_app(f"{module}:holder.app", kind="an app") is sys.modules[module].holder.app


@pytest.mark.parametrize("path", ["", "pkg.module", "pkg.module:", ":app", ":", "pkg/module.py"])
def test_a_malformed_import_string_says_what_it_should_be(path: str) -> None:
    with pytest.raises(ValueError, match=r"expected 'pkg\.module:attribute'") as raised:
        imported_app(path, kind="an app")
    assert repr(path) in str(raised.value)


@pytest.mark.parametrize("attributes", ["missing", "holder.missing", "app:again"])
def test_an_import_string_that_leads_nowhere_names_where_it_ends(
    module: str, attributes: str
) -> None:
    with pytest.raises(ImportError, match=f"{module}:{attributes}"):
        imported_app(f"{module}:{attributes}", kind="an app")


def test_a_module_that_is_not_there_is_pythons_own_error() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        imported_app("no_such_module_anywhere:app", kind="an app")


def test_an_error_inside_the_module_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bridged_app_that_breaks.py").write_text("import_time = 1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ZeroDivisionError):
        imported_app("bridged_app_that_breaks:app", kind="an app")


@pytest.mark.parametrize("app", [None, 5, b"pkg.module:app", Path("app.py")], ids=repr)
def test_what_cannot_be_called_is_no_app(app: Any) -> None:
    with pytest.raises(TypeError, match="expected a WSGI app or an import string") as raised:
        imported_app(app, kind="a WSGI app")
    assert repr(app) in str(raised.value)


def test_an_import_string_may_lead_to_what_cannot_be_called(module: str) -> None:
    with pytest.raises(TypeError, match=f"{module}:number.* 5, expected an app"):
        imported_app(f"{module}:number", kind="an app")


# --- counts


@pytest.mark.parametrize(("value", "least"), [(1, 1), (0, 0), (7, 1), (10**30, 1)])
def test_a_count_is_itself(value: int, least: int) -> None:
    assert count("workers", value, least=least) == value


@pytest.mark.parametrize("value", [None, "4", 4.0, True, False, Decimal(4), float("nan")], ids=repr)
def test_a_count_is_an_int_and_nothing_else(value: Any) -> None:
    with pytest.raises(TypeError, match=r"workers is .*, expected an int") as raised:
        count("workers", value, least=1)
    assert repr(value) in str(raised.value)


@pytest.mark.parametrize(("value", "least"), [(0, 1), (-1, 0), (-5, 1)])
def test_a_count_has_a_least(value: int, least: int) -> None:
    with pytest.raises(ValueError, match=f"workers is {value}, expected {least} or more"):
        count("workers", value, least=least)


# --- seconds


@pytest.mark.parametrize("value", [1, 0.001, 60, 3600.0])
def test_seconds_are_a_float(value: float) -> None:
    given = seconds("stall_timeout", value)
    assert given == value
    assert type(given) is float


@pytest.mark.parametrize("value", [None, "1", True, Decimal(1), 1j], ids=repr)
def test_seconds_are_a_number(value: Any) -> None:
    with pytest.raises(TypeError, match=r"stall_timeout is .*, expected a number of seconds"):
        seconds("stall_timeout", value)


@pytest.mark.parametrize("value", [0, 0.0, -1, -0.5, math.inf, -math.inf, math.nan])
def test_seconds_are_finite_and_above_zero(value: float) -> None:
    with pytest.raises(
        ValueError, match=r"stall_timeout is .*, expected seconds above 0 and at most"
    ):
        seconds("stall_timeout", value)


@pytest.mark.parametrize(
    "value", [threading.TIMEOUT_MAX * 2, 1e300, 10**400], ids=["twice", "float", "int"]
)
def test_seconds_that_no_lock_can_wait_for_are_refused(value: float) -> None:
    """Accepted, they would be an OverflowError of the first thread that waits."""
    with pytest.raises(ValueError, match=r"stall_timeout is .*, expected seconds above 0"):
        seconds("stall_timeout", value)


def test_the_longest_time_that_a_lock_can_wait_is_accepted() -> None:
    assert seconds("stall_timeout", threading.TIMEOUT_MAX) == threading.TIMEOUT_MAX

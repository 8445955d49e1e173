"""_protocol/scope_view.py: a scope that does not print what its headers hold."""

import pickle
from collections.abc import Mapping
from copy import copy, deepcopy
from typing import Any

import pytest

from wsgi_asgi_bridge._protocol.scope_view import ScopeView

SECRET = "c00kie"


def scope_of(**extra: Any) -> dict[str, Any]:
    headers = [(b"cookie", SECRET.encode())]
    return {"type": "http", "method": "GET", "path": "/a", "headers": headers, **extra}


def view_of(scope: Any) -> ScopeView:
    view = ScopeView()
    view._scope = scope
    return view


def test_neither_repr_nor_str_nor_format_shows_a_header() -> None:
    """W-ENV-8: what is shown says which request it is."""
    view = view_of(scope_of(state={"token": SECRET}, wsgi_environ={"HTTP_COOKIE": SECRET}))
    for text in (repr(view), str(view), f"{view}", f"{view!r:>200}"):
        assert SECRET not in text
        assert "'/a'" in text


def test_nothing_takes_it_for_a_dict() -> None:
    """W-ENV-8: what walks dicts or any other Mapping does not walk it."""
    assert not isinstance(view_of(scope_of()), dict | Mapping)


def test_it_reads_like_the_scope() -> None:
    """W-ENV-8."""
    scope = scope_of(user="alice")
    view = view_of(scope)
    assert view["user"] == view.get("user") == "alice"
    assert (view.get("nobody"), view.get("nobody", 1)) == (None, 1)
    assert "user" in view
    assert "nobody" not in view
    assert list(view) == list(scope)
    assert len(view) == len(scope)
    assert view.keys() == scope.keys()
    assert view.items() == scope.items()
    assert list(view.values()) == list(scope.values())
    assert dict(view) == {**view} == scope
    with pytest.raises(KeyError, match="nobody"):
        view["nobody"]


def test_what_is_written_is_in_the_scope() -> None:
    """W-ENV-8: middleware outside sees it, as it would with the scope itself."""
    scope = scope_of()
    view = view_of(scope)
    view["a"] = 1
    assert view.setdefault("b", 2) == 2
    view.update({"c": 3}, d=4)
    assert {key: scope[key] for key in "abcd"} == {"a": 1, "b": 2, "c": 3, "d": 4}
    del view["a"]
    assert view.pop("b") == 2
    assert view.pop("b", None) is None
    assert "a" not in scope
    assert "b" not in scope


def test_it_is_equal_to_what_is_equal_to_the_scope() -> None:
    """W-ENV-8."""
    assert view_of(scope_of()) == view_of(scope_of()) == scope_of()
    assert view_of(scope_of()) != scope_of(path="/b")
    assert view_of(scope_of()) != view_of(scope_of(path="/b"))
    assert view_of(scope_of()) != 1
    with pytest.raises(TypeError, match="unhashable"):
        hash(view_of(scope_of()))


@pytest.mark.parametrize(
    "copied",
    [copy, deepcopy, ScopeView.copy, lambda view: pickle.loads(pickle.dumps(view))],
    ids=["copy", "deepcopy", "method", "pickle"],
)
def test_a_copy_is_a_view_of_its_own(copied: Any) -> None:
    """W-ENV-8: it hides the headers too."""
    view = view_of(scope_of())
    other = copied(view)
    assert other == view
    assert SECRET not in repr(other)
    other["a"] = 1
    assert "a" not in view


def test_a_scope_that_makes_no_sense_can_be_shown() -> None:
    assert "not shown" in repr(view_of({}))
    assert "not shown" in repr(view_of({"path": object(), "method": None}))

"""`environ["asgi.scope"]`: the scope of a request as a WSGI app sees it (W-ENV-8)."""

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any

__all__ = ["ScopeView", "sketch"]


class ScopeView:
    """A view of the scope: reads and writes go through to it.

    Neither a dict nor a `collections.abc.Mapping`, since error reports print those entry by entry
    (Django's and Sentry's do), and a scope's headers hold cookies and passwords. `dict(view)` is a
    dict. Any thread, as far as the scope allows that.

    The maker sets `_scope`: an `__init__` would be one more call for each request.
    """

    __slots__ = ("_scope",)

    _scope: Any

    def __repr__(self) -> str:
        return f"<ASGI scope {sketch(self._scope)}, headers not shown>"

    def __getitem__(self, key: str) -> Any:
        return self._scope[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._scope[key] = value

    def __delitem__(self, key: str) -> None:
        del self._scope[key]

    def __contains__(self, key: object) -> bool:
        return key in self._scope

    def __iter__(self) -> Iterator[str]:
        return iter(self._scope)

    def __len__(self) -> int:
        return len(self._scope)

    def __eq__(self, other: object) -> bool:
        return bool(self._scope == (other._scope if isinstance(other, ScopeView) else other))

    def get(self, key: str, default: Any = None) -> Any:
        return self._scope.get(key, default)

    def keys(self) -> KeysView[str]:
        return self._scope.keys()  # type: ignore[no-any-return]

    def values(self) -> ValuesView[Any]:
        return self._scope.values()  # type: ignore[no-any-return]

    def items(self) -> ItemsView[str, Any]:
        return self._scope.items()  # type: ignore[no-any-return]

    def setdefault(self, key: str, default: Any = None) -> Any:
        return self._scope.setdefault(key, default)

    def pop(self, key: str, *default: Any) -> Any:
        return self._scope.pop(key, *default)

    def update(self, *args: Any, **kwargs: Any) -> None:
        self._scope.update(*args, **kwargs)

    def copy(self) -> "ScopeView":
        """A view of a shallow copy, which hides the headers as well."""
        view = ScopeView()
        view._scope = dict(self._scope)
        return view

    __copy__ = copy


def sketch(scope: Mapping[str, Any]) -> str:
    """The part of a scope that a report may show: no headers, which hold cookies and passwords."""
    shown = ("type", "http_version", "method", "scheme", "path", "root_path", "server", "client")
    return repr({key: scope[key] for key in shown if key in scope})[:1000]

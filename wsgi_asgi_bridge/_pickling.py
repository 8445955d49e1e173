"""A bridge is pickled and copied as its app and options: what comes out is new and unused (D-3)."""

import copy
import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, Self, TypeVar

__all__ = ["PickledAsNew", "keeping_options"]

Init = TypeVar("Init", bound=Callable[..., None])


def keeping_options(init: Init) -> Init:
    """Make the `__init__` of a bridge note its options, whatever they are called."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def noting(self: "PickledAsNew", *args: Any, **kwargs: Any) -> None:
        before = set(vars(self))
        init(self, *args, **kwargs)
        self._options = {
            # A copy, since the caller may change its own; other mappings may have no pickle.
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in signature.bind(self, *args, **kwargs).arguments.items()
            if name not in ("self", "app")
        }
        self._own_attributes = {*vars(self), "_own_attributes"} - before

    noted: Any = noting
    return noted  # type: ignore[no-any-return]


class PickledAsNew:
    """The base of a class whose `__init__` is `keeping_options` and takes the app and options."""

    _given_app: Any
    """As it was given: an import string stays one."""
    _options: dict[str, Any]
    _own_attributes: set[str]
    """All others are a subclass's."""

    def __getstate__(self) -> dict[str, Any]:
        added = {name: vars(self)[name] for name in vars(self).keys() - self._own_attributes}
        return {"app": _by_name(self._given_app), "options": self._options, "added": added}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Not the constructor of a subclass, which may have other parameters.
        bridge: Any = next(each for each in type(self).__mro__ if PickledAsNew in each.__bases__)
        bridge.__init__(self, state["app"], **state["options"])
        vars(self).update(state["added"])

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """The app is the same: it has locks and connections, of which there are no copies."""
        new = memo[id(self)] = type(self).__new__(type(self))
        state = self.__getstate__()
        added = copy.deepcopy(state["added"], memo)
        new.__setstate__({**state, "app": self._given_app, "added": added})
        return new


def _by_name(app: Any) -> Any:
    """The import string of an app that is an attribute of a module; else the app itself.

    Most apps of frameworks have no pickle of their own: Flask's holds weak references, Django's
    closures. A module that is run as a program can be imported by no other process.
    """
    if isinstance(app, str | type | FunctionType):  # pickle finds the name of a class or a function
        return app
    for name, module in sys.modules.copy().items():
        if name not in ("__main__", "__mp_main__"):
            for attribute, value in getattr(module, "__dict__", {}).copy().items():
                if value is app:
                    return f"{name}:{attribute}"
    return app

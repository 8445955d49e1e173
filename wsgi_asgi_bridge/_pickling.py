"""A bridge is pickled and copied as its app and options: what comes out is new and unused (D-3)."""

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

__all__ = ["PickledAsNew", "keeping_options"]

Init = TypeVar("Init", bound=Callable[..., None])


def keeping_options(init: Init) -> Init:
    """Make the `__init__` of a bridge note its options, whatever they are called."""

    @functools.wraps(init)
    def noting(self: "PickledAsNew", *args: Any, **kwargs: Any) -> None:
        before = set(vars(self))
        init(self, *args, **kwargs)
        self._options = {
            # A copy, since the caller may change its own; other mappings may have no pickle.
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in kwargs.items()
            if name != "app"
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
        return {"app": self._given_app, "options": self._options, "added": added}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Not the constructor of a subclass, which may have other parameters.
        bridge: Any = next(each for each in type(self).__mro__ if PickledAsNew in each.__bases__)
        bridge.__init__(self, state["app"], **state["options"])
        vars(self).update(state["added"])

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """The app is the same: it has locks and connections, of which there are no copies."""
        new = memo[id(self)] = type(self).__new__(type(self))
        state = self.__getstate__()
        new.__setstate__({**state, "added": copy.deepcopy(state["added"], memo)})
        return new

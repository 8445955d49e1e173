"""Checks the constructors' arguments; an error names what came and what was expected."""

import importlib
import threading
from typing import Any

__all__ = ["count", "imported_app", "optional_seconds", "seconds"]


def imported_app(app: Any, *, kind: str) -> Any:
    """`app` itself, or what the import string `"pkg.module:attribute"` names.

    Raises TypeError if it is not callable, ValueError for a malformed import string, ImportError if
    nothing has that name.
    """
    found = _attribute(app) if isinstance(app, str) else app
    if not callable(found):
        named = f"{app!r}, which is {found!r}" if isinstance(app, str) else repr(app)
        raise TypeError(
            f"app is {named}, expected {kind} or an import string 'pkg.module:attribute'"
        )
    return found


def _attribute(path: str) -> Any:
    module_name, colon, attributes = path.partition(":")
    if not (colon and module_name and attributes):
        raise ValueError(f"app is the import string {path!r}, expected 'pkg.module:attribute'")
    found: Any = importlib.import_module(module_name)
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise ImportError(
                f"app is the import string {path!r}, but {found!r} has no {attribute!r}"
            ) from None
    return found


def count(name: str, value: Any, *, least: int) -> int:
    """`value`, if it is an int of at least `least`. Raises TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r}, expected an int")
    if value < least:
        raise ValueError(f"{name} is {value}, expected {least} or more")
    return value


def seconds(name: str, value: Any, *, zero: bool = False) -> float:
    """`value` as a float, if it is a number of seconds above zero that a thread can wait for.

    `zero`: zero is allowed too. Raises TypeError or ValueError.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is {value!r}, expected a number of seconds")
    if not (0 < value <= threading.TIMEOUT_MAX or (zero and value == 0)):
        least = "0 seconds or more" if zero else "seconds above 0"
        raise ValueError(
            f"{name} is {value}, expected {least} and at most {threading.TIMEOUT_MAX:.0f}"
        )
    return float(value)


def optional_seconds(name: str, value: Any) -> float | None:
    """None, or what `seconds` returns."""
    return None if value is None else seconds(name, value)

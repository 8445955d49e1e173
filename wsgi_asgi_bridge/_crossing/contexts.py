"""What an app has set in its context, set again in its caller's.

The two sides of a crossing never share a context: one could not be entered twice, and the app may
run ahead of its caller. The app's side works in a copy, and says at certain moments what is
different in it; the caller's side repeats that where it stands. A snapshot of a context is one
pointer to an immutable table, and two that nothing was set between are equal at the first look, so
this costs next to nothing where nothing was set.
"""

import sys
from collections.abc import Mapping
from contextlib import suppress
from contextvars import Context, ContextVar, Token, copy_context
from typing import Any, NamedTuple
from weakref import ref

from asgiref.sync import AsyncToSync, SyncToAsync

__all__ = ["Changes", "ContextMirror", "changes", "notes_on", "own_context", "unchanged"]

Changes = Mapping["ContextVar[Any]", Any]
"""What is set otherwise than before."""

_OF_ONE_THREAD = frozenset(
    {
        SyncToAsync.thread_sensitive_context,
        SyncToAsync.deadlock_context,
        AsyncToSync.async_single_thread_context,
    }
)
"""asgiref's notes on which thread it works in; in another thread they would be wrong."""

_ASGIREF_LOCAL = "asgiref.local"
"""The name of the variables behind asgiref's `Local`, which is the thread's own by its contract: it
does not show what another thread put there, it would only hide what this one has.
"""

_NOTHING: Any = object()


def unchanged(before: Context, after: Context) -> bool:
    """Whether nothing was set in between; values that are equal are taken for the same."""
    try:
        return before == after
    except Exception:  # out of a value's own __eq__, which runs for new values only
        return False


def changes(before: Context, after: Context) -> Changes:
    """What `after` has otherwise than `before`; both are snapshots that nobody works in."""
    return {
        var: value
        for var, value in after.items()
        if value is not before.get(var, _NOTHING)
        and var not in _OF_ONE_THREAD
        and var is not _mirrored
        and var.name != _ASGIREF_LOCAL
    }


def notes_on(error: BaseException, told: Changes) -> Changes:
    """Those of `told` that hold `error` itself, or a weak reference to it: a monitor's note that it
    has reported this one.
    """
    return {
        var: value
        for var, value in told.items()
        if value is error or (isinstance(value, ref) and value() is error)
    }


class _Mirrored(NamedTuple):
    """One variable of a context, as mirror have left it there."""

    value: Any
    before: Any
    """Its value without them; Token.MISSING where it had none."""
    token: "Token[Any] | None"
    """What makes it unset again."""


class ContextMirror:
    """Repeats in one context what was set in another, and takes back what was taken back there.

    What the caller sets itself meanwhile stands. The echo of a request lasts until the next request
    that is made in the same context, or in a copy of it: requests see nothing of each other,
    whoever makes them, also where one is made within another.

    `context_lasts`: as that of a server's thread does. Then the echo is gone for the caller too
    with the next request. The context of a task goes with its request as a rule: it holds no token,
    which would refer to the context in turn, and leave both to the garbage collector.
    """

    __slots__ = ("_context_lasts", "_latest", "_made")

    def __init__(self, *, context_lasts: bool = False) -> None:
        self._context_lasts = context_lasts
        self._latest: Changes = {}
        self._made: dict[ContextVar[Any], tuple[Token[Any], _Mirrored | None]] = {}
        """How to take back what this echo has set, and what another one had left there."""

    def apply(self, latest: Changes) -> None:
        """In the caller's context, each time with all that is different by now."""
        earlier, self._latest = self._latest, latest
        here = dict(_mirrored.get(None) or {})
        for var, value in earlier.items():
            if var not in latest:
                self._take_back(var, value, here)
        for var, value in latest.items():
            # What is not noted any more was taken back for another request, or is noted elsewhere.
            if earlier.get(var, _NOTHING) is not value or var not in here:
                self._set(var, value, here)
        _mirrored.set(here)

    def _set(self, var: "ContextVar[Any]", value: Any, here: dict[Any, _Mirrored]) -> None:
        token = var.set(value)
        known = here.get(var)
        if known is not None and known.value is token.old_value:
            here[var] = known._replace(value=value)
        else:  # the caller's own
            known = None
            here[var] = _Mirrored(value, token.old_value, token if self._context_lasts else None)
        if known is None or var not in self._made:
            self._made[var] = token, known

    def _take_back(self, var: "ContextVar[Any]", value: Any, here: dict[Any, _Mirrored]) -> None:
        token, known = self._made.pop(var, (None, None))
        if token is None or var.get(_NOTHING) is not value:  # Ctrl-C came before it was set
            return
        if _set_back(var, token.old_value, token):
            if known is None:
                here.pop(var, None)
            else:
                here[var] = known


def _set_back(var: "ContextVar[Any]", before: Any, token: "Token[Any] | None") -> bool:
    """Give `var` its old value. False where it had none, and the token is none of this context."""
    if before is not Token.MISSING:
        var.set(before)
        return True
    if token is not None:
        # It was used already where this context is a copy of the one that it was used in.
        with suppress(ValueError, RuntimeError):
            var.reset(token)
            return True
    return False


def own_context() -> Context:
    """A copy of the current context for the app's side, without what is left in it of an earlier
    request's echo, and without the name of the library that runs this side's loop.

    `anyio.run` writes that name down. On the other side anyio would take a loop of asyncio for
    trio's by it, and refuse to run one in a thread that runs none.
    """
    echoed = _mirrored.get(None)
    left = _taken_back(echoed) if echoed else None
    context = copy_context() if not left else _copy_without(left)
    # Where sniffio is not imported, or not yet, nobody has written the name.
    library = getattr(sys.modules.get("sniffio"), "current_async_library_cvar", None)
    if library is not None and context.get(library) is not None:
        context.run(library.set, None)
    return context


def _taken_back(
    echoed: "Mapping[ContextVar[Any], _Mirrored]",
) -> "Mapping[ContextVar[Any], _Mirrored]":
    """Leave the current context as it would be without its mirror; those that have to stay."""
    left = {
        var: echo
        for var, echo in echoed.items()
        if var.get(_NOTHING) is echo.value and not _set_back(var, echo.before, echo.token)
    }
    _mirrored.set(left or None)
    return left


def _copy_without(left: "Mapping[ContextVar[Any], _Mirrored]") -> Context:
    """A copy of the current context in which `left` are not set."""
    values = [
        (var, value)
        for var, value in copy_context().items()
        if var not in left and var is not _mirrored
    ]
    made = Context()
    for var, value in values:
        made.run(var.set, value)
    return made


_mirrored: "ContextVar[Mapping[ContextVar[Any], _Mirrored] | None]" = ContextVar(
    "wsgi_asgi_bridge_echoed", default=None
)

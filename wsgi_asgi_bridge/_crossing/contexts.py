"""What an app sets in its context, mirrored in its caller's.

The two sides of a crossing never share a context: a context cannot be entered twice, and the app
may run ahead of its caller. The app runs in a copy. At certain moments its side lists what differs
there, and the caller's side applies that to its own context. If nothing was set, this costs little:
a snapshot is one pointer to an immutable table, and two equal pointers compare at once.
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
"""The variables that were set, with their new values."""

_OF_ONE_THREAD = frozenset(
    {
        SyncToAsync.thread_sensitive_context,
        SyncToAsync.deadlock_context,
        AsyncToSync.async_single_thread_context,
    }
)
"""asgiref records by them which thread it works in; in another thread they would be wrong."""

_ASGIREF_LOCAL = "asgiref.local"
"""The name of the variables behind asgiref's `Local`, which is one thread's by its contract."""

_NOTHING: Any = object()


def unchanged(before: Context, after: Context) -> bool:
    """Whether nothing was set in between; equal values count as the same."""
    try:
        return before == after
    except Exception:  # from a value's own __eq__, which runs for new values only
        return False


def changes(before: Context, after: Context) -> Changes:
    """The variables that `after` has set otherwise than `before`; both are snapshots."""
    return {
        var: value
        for var, value in after.items()
        if value is not before.get(var, _NOTHING)
        and var not in _OF_ONE_THREAD
        and var is not _mirrored
        and var.name != _ASGIREF_LOCAL
    }


def notes_on(error: BaseException, made: Changes) -> Changes:
    """Those of `made` whose value is `error` or a weak reference to it.

    A monitor records by such a variable that it has reported the error.
    """
    return {
        var: value
        for var, value in made.items()
        if value is error or (isinstance(value, ref) and value() is error)
    }


class _Mirrored(NamedTuple):
    """One variable of a context that mirrors have set there."""

    value: Any
    before: Any
    """Its value without them; Token.MISSING if it had none."""
    token: "Token[Any] | None"
    """Resets it to unset."""


class _Undo(NamedTuple):
    """How a mirror takes back what it has set in one variable."""

    token: "Token[Any]"
    """Of the first time that it set the variable: it holds the value before that."""
    earlier: _Mirrored | None
    """What another mirror had set there before."""


class ContextMirror:
    """Applies to one context what was set in another, and takes back what was taken back there.

    What the caller sets itself meanwhile stays. What a mirror has set stays until the next request
    that is made in the same context or in a copy of it, so that no request sees another's.

    `context_lasts`: the context outlives the request, as that of a server's thread does, and the
    next request unsets what the mirror has set. A task's context does not, and holds no token: a
    token refers to its context, and only the garbage collector would free the two.
    """

    __slots__ = ("_context_lasts", "_latest", "_undo")

    def __init__(self, *, context_lasts: bool = False) -> None:
        self._context_lasts = context_lasts
        self._latest: Changes = {}
        self._undo: dict[ContextVar[Any], _Undo] = {}
        """Of the variables that this mirror has set."""

    def apply(self, latest: Changes) -> None:
        """Apply `latest`, all changes so far. In the caller's context."""
        earlier, self._latest = self._latest, latest
        mirrored = dict(_mirrored.get(None) or {})
        for var, value in earlier.items():
            if var not in latest:
                self._take_back(var, value, mirrored)
        for var, value in latest.items():
            # A variable that is no longer mirrored was taken back for another request.
            if earlier.get(var, _NOTHING) is not value or var not in mirrored:
                self._set(var, value, mirrored)
        _mirrored.set(mirrored)

    def _set(self, var: "ContextVar[Any]", value: Any, mirrored: dict[Any, _Mirrored]) -> None:
        token = var.set(value)
        earlier = mirrored.get(var)
        if earlier is not None and earlier.value is token.old_value:
            mirrored[var] = earlier._replace(value=value)
        else:  # the value before is the caller's own
            earlier = None
            kept = token if self._context_lasts else None
            mirrored[var] = _Mirrored(value, token.old_value, kept)
        if earlier is None or var not in self._undo:
            self._undo[var] = _Undo(token, earlier)

    def _take_back(
        self, var: "ContextVar[Any]", value: Any, mirrored: dict[Any, _Mirrored]
    ) -> None:
        undo = self._undo.pop(var, None)
        # None: Ctrl-C came before the variable was set. Another value: the caller has set it.
        if undo is None or var.get(_NOTHING) is not value:
            return
        if _set_back(var, undo.token.old_value, undo.token):
            if undo.earlier is None:
                mirrored.pop(var, None)
            else:
                mirrored[var] = undo.earlier


def _set_back(var: "ContextVar[Any]", before: Any, token: "Token[Any] | None") -> bool:
    """Give `var` its old value. False if it had none and the token is of another context."""
    if before is not Token.MISSING:
        var.set(before)
        return True
    if token is not None:
        # The token was used already if this context is a copy of the one that used it.
        with suppress(ValueError, RuntimeError):
            var.reset(token)
            return True
    return False


def own_context() -> Context:
    """A copy of the current context for the app's side.

    Without what mirrors of earlier requests have set, and without sniffio's variable, by which
    anyio would take the other side's loop for one of this side's library.
    """
    mirrored = _mirrored.get(None)
    stuck = _take_all_back(mirrored) if mirrored else None
    context = copy_context() if not stuck else _copy_without(stuck)
    # The variable is not set before sniffio is imported.
    library = getattr(sys.modules.get("sniffio"), "current_async_library_cvar", None)
    if library is not None and context.get(library) is not None:
        context.run(library.set, None)
    return context


def _take_all_back(
    mirrored: "Mapping[ContextVar[Any], _Mirrored]",
) -> "Mapping[ContextVar[Any], _Mirrored]":
    """Undo in the current context what mirrors have set; return those that cannot be unset."""
    stuck = {
        var: each
        for var, each in mirrored.items()
        if var.get(_NOTHING) is each.value and not _set_back(var, each.before, each.token)
    }
    _mirrored.set(stuck or None)
    return stuck


def _copy_without(stuck: "Mapping[ContextVar[Any], _Mirrored]") -> Context:
    """A copy of the current context in which `stuck` are not set."""
    values = [
        (var, value)
        for var, value in copy_context().items()
        if var not in stuck and var is not _mirrored
    ]
    made = Context()
    for var, value in values:
        made.run(var.set, value)
    return made


_mirrored: "ContextVar[Mapping[ContextVar[Any], _Mirrored] | None]" = ContextVar(
    "wsgi_asgi_bridge_mirrored", default=None
)

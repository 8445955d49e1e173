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
from typing import Any
from weakref import ref

from asgiref.sync import AsyncToSync, SyncToAsync

__all__ = ["Changes", "Echo", "changes", "notes_on", "own_context", "unchanged"]

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
        and var is not _latest
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


class Echo:
    """Repeats in one context what was set in another, and takes back what was taken back there.

    What the caller sets itself meanwhile stands. The echo of a request lasts until the next request
    that is made in the same context: requests see nothing of each other, whoever makes them.
    """

    __slots__ = ("_heard", "_made")

    def __init__(self) -> None:
        self._heard: Changes = {}
        self._made: dict[ContextVar[Any], tuple[Token[Any], Any]] = {}

    def repeat(self, heard: Changes) -> None:
        """In the caller's context, each time with all that is different by now."""
        earlier, self._heard = self._heard, heard
        if not earlier:
            _latest.set(self)
        for var in earlier:
            if var not in heard:
                self._take_back(var)
        for var, value in heard.items():
            if earlier.get(var, _NOTHING) is not value:
                token = var.set(value)
                first, _ = self._made.get(var, (token, None))
                self._made[var] = first, value

    def take_back(self) -> None:
        """Leave the caller's context as it would be without the echo."""
        self._heard = {}
        for var in list(self._made):
            self._take_back(var)

    def _take_back(self, var: "ContextVar[Any]") -> None:
        token, value = self._made.pop(var)
        if var.get(_NOTHING) is value:
            # Elsewhere than where it was set, by a server that changes contexts, it stays.
            with suppress(ValueError):
                var.reset(token)


def own_context() -> Context:
    """A copy of the current context for the app's side, without what is left in it of an earlier
    request's echo, and without the name of the library that runs this side's loop.

    `anyio.run` writes that name down. On the other side anyio would take a loop of asyncio for
    trio's by it, and refuse to run one in a thread that runs none.
    """
    echo = _latest.get(None)
    if echo is not None:
        echo.take_back()
        _latest.set(None)
    context = copy_context()
    # Where sniffio is not imported, or not yet, nobody has written the name.
    library = getattr(sys.modules.get("sniffio"), "current_async_library_cvar", None)
    if library is not None and context.get(library) is not None:
        context.run(library.set, None)
    return context


_latest: ContextVar[Echo | None] = ContextVar("wsgi_asgi_bridge_echo", default=None)

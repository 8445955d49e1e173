"""What the app's task sets in its context, noted for the caller (D-2)."""

import contextvars

from .._crossing.contexts import Changes, changes, notes_on, unchanged
from ..typing import Environ

__all__ = ["NotedChanges", "is_below_a_task"]


class NotedChanges:
    """The part of an app's task that notes these changes."""

    # Set by AppTask, without one more call for each request.
    __slots__ = ("_before", "_context", "_mirrors_changes", "_seen", "changes")

    _context: contextvars.Context
    _before: contextvars.Context
    """The app's context when it began."""
    _seen: contextvars.Context
    """The same when its changes were noted last."""
    _mirrors_changes: bool
    """Whether the caller gets all of them."""
    changes: Changes | None
    """What the app's task has set in its context, to be repeated in the caller's."""

    def _note_changes(self) -> None:
        """Note what the app's first task has set in its context. Its other tasks have contexts of
        their own, which no caller sees.
        """
        now = self._context.copy()
        if not unchanged(self._seen, now):
            self._seen = now
            self.changes = changes(self._before, now)

    def note_last_changes(self, error: BaseException | None) -> None:
        """The same when the app has ended, by raising `error` or, if None, by returning."""
        self._note_changes()
        if not self._mirrors_changes and self.changes is not None:
            # Every caller gets what a monitoring tool around the app has noted about this error, so
            # that another one, around the bridge, does not report it again.
            self.changes = None if error is None else notes_on(error, self.changes)


def is_below_a_task(environ: Environ) -> bool:
    """Whether the outermost bridge of this request is a WSGIToASGI. Then its caller is a task, so
    mirrored changes stay out of a WSGI server's thread.
    """
    scope = environ.get("asgi.scope")
    while scope is not None:
        outer = scope.get("wsgi_environ")
        if outer is None:
            return True
        scope = outer.get("asgi.scope")
    return False

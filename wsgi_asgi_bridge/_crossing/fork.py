"""Resets objects in a forked child, which has none of its parent's threads and loops.

`os.register_at_fork` cannot be undone, so it is called once in a process, for the first object; the
objects are held weakly.
"""

import os
from threading import Lock
from typing import Protocol
from weakref import WeakSet

__all__ = ["Resettable", "reset_in_child"]


class Resettable(Protocol):
    def reset_after_fork(self) -> None:
        """Drop, unclosed, what belongs to the parent. Runs while the child has one thread."""


_lock = Lock()
_resettables: "WeakSet[Resettable]" = WeakSet()
_registered = False


def reset_in_child(resettable: Resettable) -> None:
    """Call `resettable.reset_after_fork()` in every child forked from now on."""
    global _registered
    with _lock:
        _resettables.add(resettable)
        register = getattr(os, "register_at_fork", None)
        if not _registered and register is not None:
            register(after_in_child=_reset_all)
            _registered = True


def _reset_all() -> None:
    global _lock
    _lock = Lock()  # another thread of the parent may have held it
    for resettable in list(_resettables):
        resettable.reset_after_fork()

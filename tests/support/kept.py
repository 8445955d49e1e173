"""Servers that outlive the test that first asked for them: a start costs half a second of a CPU."""

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, ExitStack
from typing import Any


class KeptServers:
    """Running servers by keys, at most `most`: one more ends the one that was used longest ago."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._running: dict[Hashable, tuple[Any, ExitStack]] = {}
        """The one used last is the last."""

    def get(self, key: Hashable, start: Callable[[], AbstractContextManager[Any]]) -> Any:
        """What `start()` gave under this key; it is called if nothing runs under that."""
        running = self._running.pop(key, None)
        if running is None:
            while len(self._running) >= self._most:
                self.end(next(iter(self._running)))
            stack = ExitStack()
            running = stack.enter_context(start()), stack
        self._running[key] = running
        return running[0]

    def end(self, key: Hashable) -> None:
        """End what runs under this key; the next test that asks for it gets a new one."""
        _, stack = self._running.pop(key)
        stack.close()

    def end_all(self) -> None:
        for key in list(self._running):
            self.end(key)

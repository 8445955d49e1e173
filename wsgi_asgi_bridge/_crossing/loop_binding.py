"""The thread-locals by which asgiref and anyio find the loop that a thread works for.

`asgiref.sync.async_to_sync` reads one, `anyio.from_thread.run` another. Both set them in threads of
their own pools only and offer no call for it to others; a job that went through those pools would
cost several hand-offs. So the two are set here, and nowhere else, with a test each that the
packages still read them.

Through both a thread's code enters the loop, where nothing may wait. `before_entering` runs in the
thread before that, and does what would otherwise have to wait there.
"""

import os
from collections.abc import Callable
from typing import Any

from anyio import from_thread
from anyio.lowlevel import EventLoopToken, current_token
from asgiref.sync import SyncToAsync

from .loops import LoopHandle

__all__ = ["LoopBinding"]


class _BackendFromAnyThread:
    """An anyio backend whose calls from a thread always name the loop.

    Without it, trio finds the loop in threads of its own only.
    """

    def __init__(self, token: EventLoopToken, before_entering: Callable[[], None]) -> None:
        self._token = token
        self._before_entering = before_entering

    def run_async_from_thread(self, func: Any, args: Any, token: object) -> Any:
        self._before_entering()
        native = self._token.native_token
        return self._token.backend_class.run_async_from_thread(func, args, token=native)

    def run_sync_from_thread(self, func: Any, args: Any, token: object) -> Any:
        self._before_entering()
        native = self._token.native_token
        return self._token.backend_class.run_sync_from_thread(func, args, token=native)

    def check_cancelled(self) -> None:
        raise RuntimeError(
            "a WSGI app's thread belongs to no cancel scope; "
            'environ["wsgi_asgi_bridge.client_disconnected"]() tells whether its client has left'
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._token.backend_class, name)


class _LoopFromThread:
    """An asyncio loop for `async_to_sync`, which enters it by `call_soon_threadsafe`."""

    def __init__(self, loop: Any, before_entering: Callable[[], None]) -> None:
        self._loop = loop
        self._before_entering = before_entering

    def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> Any:
        self._before_entering()
        return self._loop.call_soon_threadsafe(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


class LoopBinding:
    """Binds a worker thread to a loop; made in that loop."""

    __slots__ = ("_asyncio_loop", "_loop_token", "_pid", "_token")

    def __init__(self, handle: LoopHandle) -> None:
        self._loop_token = current_token()
        self._token = self._token_for_thread(_nothing)
        self._asyncio_loop = handle.loop if handle.backend == "asyncio" else None
        self._pid = os.getpid() if self._asyncio_loop is not None else None

    def bind_thread(self, before_entering: Callable[[], None] | None = None) -> None:
        """Make asgiref and anyio take this thread for one that works for the loop.

        `before_entering` is called, in this thread, before they run code of it in the loop, until
        the thread is bound again. asgiref restores the loop itself once that code has called
        `sync_to_async`, so the first call has to do everything.
        """
        token, loop = self._token, self._asyncio_loop
        if before_entering is not None:
            token = self._token_for_thread(before_entering)
            if loop is not None:
                loop = _LoopFromThread(loop, before_entering)
        threadlocals = from_thread.threadlocals  # type: ignore[attr-defined]  # pyright: ignore[reportPrivateImportUsage]
        threadlocals.current_token = token
        asgiref_sees = SyncToAsync.threadlocal
        # asgiref compares the process id, so that a fork does not inherit a loop.
        asgiref_sees.main_event_loop = loop
        asgiref_sees.main_event_loop_pid = self._pid
        asgiref_sees.task_context = None

    def _token_for_thread(self, before_entering: Callable[[], None]) -> EventLoopToken:
        token = self._loop_token
        backend: Any = _BackendFromAnyThread(token, before_entering)
        return EventLoopToken(backend, token.native_token)


def _nothing() -> None:
    pass

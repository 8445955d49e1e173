"""What asgiref and anyio look for in the thread they are called from.

`asgiref.sync.async_to_sync` asks a thread-local for the loop that this thread works for,
`anyio.from_thread.run` asks another. Both set them in threads of their own pools only and offer no
call for it to others; a job that went through those pools would cost several hand-offs. So the two
are set here, and nowhere else, with a test each that the packages still read them.
"""

import os
from typing import Any

from anyio import from_thread
from anyio.lowlevel import EventLoopToken, current_token
from asgiref.sync import SyncToAsync

from .loops import LoopHandle

__all__ = ["Ambient"]


class _BackendFromAnyThread:
    """An anyio backend whose calls from a thread always name the loop: trio looks for it in its own
    threads otherwise.
    """

    def __init__(self, token: EventLoopToken) -> None:
        self._token = token

    def run_async_from_thread(self, func: Any, args: Any, token: object) -> Any:
        native = self._token.native_token
        return self._token.backend_class.run_async_from_thread(func, args, token=native)

    def run_sync_from_thread(self, func: Any, args: Any, token: object) -> Any:
        native = self._token.native_token
        return self._token.backend_class.run_sync_from_thread(func, args, token=native)

    def check_cancelled(self) -> None:
        raise RuntimeError(
            "a WSGI app's thread belongs to no cancel scope; "
            'environ["wsgi_asgi_bridge.client_disconnected"]() tells whether its client has left'
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._token.backend_class, name)


class Ambient:
    """Binds a worker thread to a loop; made in that loop."""

    __slots__ = ("_asyncio_loop", "_pid", "_token")

    def __init__(self, handle: LoopHandle) -> None:
        token = current_token()
        backend: Any = _BackendFromAnyThread(token)
        self._token = EventLoopToken(backend, token.native_token)
        self._asyncio_loop = handle.loop if handle.backend == "asyncio" else None
        self._pid = os.getpid() if self._asyncio_loop is not None else None

    def bind_thread(self) -> None:
        """From now on this thread works for the loop, as asgiref and anyio see it."""
        threadlocals = from_thread.threadlocals  # type: ignore[attr-defined]  # pyright: ignore[reportPrivateImportUsage]
        threadlocals.current_token = self._token
        asgiref_sees = SyncToAsync.threadlocal
        # asgiref compares the process id, so that a fork does not inherit a loop.
        asgiref_sees.main_event_loop = self._asyncio_loop
        asgiref_sees.main_event_loop_pid = self._pid
        asgiref_sees.task_context = None

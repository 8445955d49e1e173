"""The checked options of one `ASGIToWSGI`."""

from dataclasses import dataclass

from .._crossing.event_loop import LoopFactory
from ..typing import Backend, LifespanMode, ReleaseMode

__all__ = ["Settings", "checked_root_path"]

BACKENDS = ("asyncio", "trio")
LIFESPAN_MODES = ("auto", "on", "off")
RELEASE_MODES = ("auto", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The constructor's options; `ASGIToWSGI` describes them.

    Raises TypeError or ValueError for an invalid value of those that are no numbers; the caller
    checks the rest.
    """

    backend: Backend
    loop_factory: LoopFactory | None
    lifespan: LifespanMode
    startup_timeout: float
    shutdown_timeout: float
    request_buffer: int
    response_buffer: int
    detects_disconnects: bool
    check_interval: float
    """Seconds between two checks by a waiting thread that loop and client are still there."""
    background_wait: float
    root_path: str
    release: ReleaseMode
    max_released: int
    max_message_size: int
    ping_interval: float | None
    ping_timeout: float | None
    websocket_compression: bool

    def __post_init__(self) -> None:
        backend, loop_factory = self.backend, self.loop_factory
        if backend not in BACKENDS:
            raise ValueError(f"backend is {backend!r}, expected one of {BACKENDS}")
        if self.lifespan not in LIFESPAN_MODES:
            raise ValueError(f"lifespan is {self.lifespan!r}, expected one of {LIFESPAN_MODES}")
        if self.release not in RELEASE_MODES:
            raise ValueError(f"release is {self.release!r}, expected one of {RELEASE_MODES}")
        if not isinstance(self.websocket_compression, bool):
            raise TypeError(
                f"websocket_compression is {self.websocket_compression!r}, expected a bool"
            )
        if loop_factory is not None and not callable(loop_factory):
            raise TypeError(
                f"loop_factory is {loop_factory!r}, "
                "expected a callable that makes an asyncio event loop"
            )
        if loop_factory is not None and backend == "trio":
            raise ValueError(
                "loop_factory makes asyncio's loop, it has no meaning for backend 'trio'"
            )


def checked_root_path(path: str | None) -> str:
    """Return `path` without slashes at its end; raise TypeError or ValueError."""
    if path is None:
        return ""
    if not isinstance(path, str):
        raise TypeError(f"root_path is {path!r}, expected a str")
    if path and not path.startswith("/"):
        raise ValueError(f"root_path is {path!r}, expected a path that begins with '/'")
    return path.rstrip("/")

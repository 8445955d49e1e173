"""The lifespan protocol (2.0), a server's side: the states and the messages of the app."""

from collections.abc import Mapping
from enum import Enum
from typing import Any

from ..errors import AppError

__all__ = ["Lifespan", "LifespanState"]


class LifespanState(Enum):
    STARTING = "starting"
    """lifespan.startup was given, or will be."""
    RUNNING = "running"
    STOPPING = "stopping"
    """lifespan.shutdown was given, or will be."""
    STOPPED = "stopped"
    UNSUPPORTED = "unsupported"
    """The app returned without a message, or raised, before its startup was complete."""
    FAILED = "failed"


class Lifespan:
    """One lifespan of one app. `failure` says why, once FAILED."""

    __slots__ = ("failure", "required", "state")

    def __init__(self, *, required: bool) -> None:
        self.required = required
        self.state = LifespanState.STARTING
        self.failure: str | BaseException = ""

    def accept(self, message: Mapping[str, Any]) -> None:
        """Take the app's message. Raises AppError if it is illegal in this state."""
        kind = message.get("type")
        if self.state is LifespanState.STARTING and kind == "lifespan.startup.complete":
            self.state = LifespanState.RUNNING
        elif self.state is LifespanState.STARTING and kind == "lifespan.startup.failed":
            self._fail(message)
        elif self.state is LifespanState.STOPPING and kind == "lifespan.shutdown.complete":
            self.state = LifespanState.STOPPED
        elif self.state is LifespanState.STOPPING and kind == "lifespan.shutdown.failed":
            self._fail(message)
        else:
            raise AppError(f"the app sent {kind!r} while its lifespan was {self.state.value}")

    def stop(self) -> None:
        """The app gets lifespan.shutdown now."""
        if self.state is LifespanState.RUNNING:
            self.state = LifespanState.STOPPING

    def app_ended(self, error: BaseException | None) -> None:
        """The app's callable returned or raised."""
        if self.state is LifespanState.STARTING:
            if self.required and error is not None:
                self.state, self.failure = LifespanState.FAILED, error
            else:
                self.state = LifespanState.UNSUPPORTED
        elif self.state in (LifespanState.RUNNING, LifespanState.STOPPING):
            if error is None:
                self.state = LifespanState.STOPPED
            else:
                self.state, self.failure = LifespanState.FAILED, error

    def _fail(self, message: Mapping[str, Any]) -> None:
        self.state = LifespanState.FAILED
        self.failure = str(message.get("message", "")) or "no reason given"

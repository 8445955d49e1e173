"""What one bridge does now and has done: the counters, and the snapshot that `stats()` returns."""

from dataclasses import dataclass

__all__ = ["ASGIToWSGIStats", "Counts"]


@dataclass(frozen=True, slots=True)
class ASGIToWSGIStats:
    """A snapshot of one bridge in this process.

    The first three fields and the last two describe the present; the others are counts since the
    loop started. Each request that has ended is in exactly one of these counts.
    """

    running: bool
    """Whether the private loop runs."""
    in_flight: int
    """Requests whose response has not ended, and WebSockets that are open."""
    background: int
    """App calls that go on after their response."""
    completed: int
    """Responses that the app sent whole, and WebSockets that ended by a close frame."""
    disconnected: int
    """Requests whose client left, or whose iterable the server closed, before the end. WebSockets
    whose client left without a close frame, or broke the protocol.
    """
    failed: int
    """Requests whose app ended without finishing its response, and WebSockets whose app raised."""
    rejected: int
    """Requests that did not reach the app: answered by the bridge itself (400, 411, 426, 501, 503),
    or refused because the bridge was being closed, its startup had failed, or the environ was
    invalid.
    """
    closed: int
    """Requests that were broken off because the bridge was closed."""
    released_websockets: int = 0
    """WebSockets that take no thread of the server."""
    released_event_streams: int = 0
    """Event streams that take no thread of the server."""


@dataclass(slots=True)
class Counts:
    """Requests by how they ended. Written in the loop, read in any thread."""

    background: int = 0
    completed: int = 0
    disconnected: int = 0
    failed: int = 0
    rejected: int = 0
    closed: int = 0

    def add(self, outcome: str) -> None:
        """Count one request; `outcome` is the name of a counter."""
        setattr(self, outcome, getattr(self, outcome) + 1)

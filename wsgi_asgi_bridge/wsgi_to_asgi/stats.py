"""How requests end, and how many have ended so (W-STAT-1)."""

from dataclasses import dataclass

__all__ = [
    "CLOSED",
    "COMPLETED",
    "DISCONNECTED",
    "FAILED",
    "REJECTED",
    "STALLED",
    "ClientLeft",
    "Counts",
    "WSGIToASGIStats",
]

COMPLETED = "completed"
REJECTED = "rejected"
DISCONNECTED = "disconnected"
STALLED = "stalled"
FAILED = "failed"
CLOSED = "closed"
"""The outcomes of a request: the names of its counters."""


class ClientLeft(Exception):
    """The server reported the disconnect to the task that raises this; it stays in the exchange."""


@dataclass(slots=True)
class Counts:
    """The outcomes of the requests of one loop; see WSGIToASGIStats."""

    completed: int = 0
    rejected: int = 0
    disconnected: int = 0
    stalled: int = 0
    failed: int = 0
    closed: int = 0

    def add(self, outcome: str) -> None:
        setattr(self, outcome, getattr(self, outcome) + 1)

    def plus(self, other: "Counts") -> "Counts":
        return Counts(
            self.completed + other.completed,
            self.rejected + other.rejected,
            self.disconnected + other.disconnected,
            self.stalled + other.stalled,
            self.failed + other.failed,
            self.closed + other.closed,
        )


@dataclass(frozen=True, slots=True)
class WSGIToASGIStats:
    """A snapshot of one bridge in this process.

    The first seven say what is now, the others count since construction. Each request that is over
    is in exactly one of those. One that is broken off is counted at once, and in flight until the
    server ends its task.
    """

    threads: int
    """Pool threads alive."""
    idle: int
    """Threads that wait for work."""
    busy: int
    """Threads that run the app."""
    streaming: int
    """Busy threads that do not count against `workers`: they stream for long, wait for their client
    or serve a WebSocket.
    """
    queued: int
    """Requests that wait for a thread."""
    in_flight: int
    """Requests and WebSockets between their first and last step, in any loop."""
    websockets: int
    """WebSockets that are open, and those that are closed while the app still runs."""
    completed: int
    """Responses sent whole, and WebSockets that the app or the client has closed."""
    rejected: int
    """Requests answered by the bridge itself (400, 413, 503), those with a scope that makes no
    sense, and WebSockets closed for a message that was too large.
    """
    disconnected: int
    """Requests whose client left before the end, or that the server cancelled."""
    stalled: int
    """Requests given up because the client did nothing for `stall_timeout`, or sent too little;
    also with a 408.
    """
    failed: int
    """Requests whose app raised or broke PEP 3333, or whose response the server refused by an
    exception.
    """
    closed: int
    """Requests that were broken off because the bridge was closed."""

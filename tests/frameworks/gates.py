"""What a test and the app that it serves in the same process tell each other."""

import threading
from dataclasses import dataclass, field

import anyio.to_thread

WAIT_SECONDS = 20.0
TICK_SECONDS = 0.01


@dataclass
class Gates:
    """Events that order a test: every wait is bounded and fails with `TimeoutError`."""

    first_chunk_arrived: threading.Event = field(default_factory=threading.Event)
    body_reached_app: threading.Event = field(default_factory=threading.Event)
    stream_closed: threading.Event = field(default_factory=threading.Event)
    work_done: threading.Event = field(default_factory=threading.Event)

    def wait_for_client(self) -> None:
        """In a streaming app: the client has got the first chunk, while the second is not made."""
        wait_for(self.first_chunk_arrived, "the first chunk did not reach the client")

    async def wait_for_client_async(self) -> None:
        await anyio.to_thread.run_sync(self.wait_for_client)


def wait_for(event: threading.Event, failure: str) -> None:
    if not event.wait(WAIT_SECONDS):
        raise TimeoutError(f"{failure} within {WAIT_SECONDS} s")

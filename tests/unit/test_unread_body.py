"""wsgi_to_asgi/request_body.py: how long an app may leave its request's body alone (W-FLOW-3)."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest

from tests.support.interleaving import HandTask, HandTurnedLoop, stepped
from wsgi_asgi_bridge import ClientStalled, WSGIToASGI
from wsgi_asgi_bridge.wsgi_to_asgi.request_body import READER_PATIENCE, RequestBody

STALL_SECONDS = 10.0
SIZE, PARTS = 1000, 20


class Upload:
    """A streaming body that has filled its buffer, in a loop that is turned by hand."""

    def __init__(self) -> None:
        bridge = WSGIToASGI(lambda environ, start_response: [], stall_timeout=STALL_SECONDS)
        settings = replace(bridge._settings, request_buffer=2 * SIZE, small_body=0)
        self._loop: Any = HandTurnedLoop()
        self.body = RequestBody(settings, self._loop, lambda: None, nullcontext)
        self.received = 0
        environ = {"CONTENT_LENGTH": str(SIZE * PARTS)}
        self.input: Any = stepped(self.body.open(environ, self.receive))
        self.feeding = HandTask(self.body.feed(self.receive))
        self.feeding.step()
        assert 0 < self.received < PARTS

    async def receive(self) -> dict[str, Any]:
        self.received += 1
        return {
            "type": "http.request",
            "body": b"x" * SIZE,
            "more_body": self.received < PARTS,
        }

    def read(self, size: int) -> None:
        """The app reads, and the loop makes use of the room."""
        assert self.input.read(size) == b"x" * size
        self._loop.turn()
        assert not self.feeding.step()

    def is_dropped_at(self, now: float) -> bool:
        """Whether the loop's tick throws what is left of the body away."""
        self.body.check_unread(now, is_full=False)
        return self.feeding.step()


@contextmanager
def uploading() -> Iterator[Upload]:
    upload = Upload()
    with upload.feeding:
        yield upload


def untouched(upload: Upload) -> None: ...


def begun(upload: Upload) -> None:
    upload.read(10)


def given_up(upload: Upload) -> None:
    begun(upload)
    assert isinstance(upload.body._stalled_in_thread(), ClientStalled)


@pytest.mark.parametrize(
    ("before", "patience"),
    [
        (untouched, STALL_SECONDS),
        (begun, READER_PATIENCE * STALL_SECONDS),
        (given_up, STALL_SECONDS),
    ],
)
def test_the_patience_with_an_app_that_does_not_read(before: Any, patience: float) -> None:
    """W-FLOW-3: `stall_timeout`; ten times that once it has begun to read, unless a read failed."""
    with uploading() as upload:
        before(upload)
        assert not upload.is_dropped_at(100.0)
        assert not upload.is_dropped_at(100.0 + patience - 0.1)
        assert upload.is_dropped_at(100.0 + patience)
        assert upload.received == PARTS


def test_the_patience_begins_anew_with_each_read() -> None:
    """W-FLOW-3."""
    patience = READER_PATIENCE * STALL_SECONDS
    with uploading() as upload:
        begun(upload)
        assert not upload.is_dropped_at(0.0)
        upload.read(500)
        assert not upload.is_dropped_at(patience)
        assert not upload.is_dropped_at(2 * patience - 0.1)
        assert upload.is_dropped_at(2 * patience)

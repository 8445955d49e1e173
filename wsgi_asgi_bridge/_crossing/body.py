"""The blocking file over a channel: what a thread reads while a task of the loop still receives."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

from .channel import LoopToThread, Waiting

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["ChannelReader"]


class ChannelReader(io.RawIOBase):
    """A raw stream over `LoopToThread`; io.BufferedReader around it gives the rest of the io
    semantics.

    `begin` is called once, before the first read: a body that nobody reads is never asked for
    (`Expect: 100-continue`). `waiting()` is entered around each sleep. `stalled` makes the error of
    a read that got nothing for `timeout` seconds, `given_up` that of every read after it.
    """

    def __init__(
        self,
        channel: LoopToThread,
        *,
        begin: Callable[[], None] | None,
        timeout: float,
        waiting: Waiting,
        stalled: Callable[[], Exception],
        given_up: Callable[[], Exception],
    ) -> None:
        self._channel = channel
        self._begin = begin
        self._timeout = timeout
        self._waiting = waiting
        self._stalled = stalled
        self._given_up = given_up
        self._gave_up = False
        self._rest: list[memoryview] = []  # taken and not yet read, in reverse order

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        target = memoryview(buffer).cast("B")
        if not target:
            return 0  # nothing is asked for, so nothing is waited for
        if not self._rest and not self._fetch():
            return 0
        filled = 0
        while self._rest and filled < len(target):
            chunk = self._rest.pop()
            size = min(len(chunk), len(target) - filled)
            target[filled : filled + size] = chunk[:size]
            filled += size
            if size < len(chunk):
                self._rest.append(chunk[size:])
        self._channel.release_from_thread(filled)
        return filled

    def readall(self) -> bytes:
        parts: list[memoryview] = []
        while self._rest or self._fetch():
            taken = list(reversed(self._rest))
            self._rest = []
            parts += taken
            self._channel.release_from_thread(sum(map(len, taken)))
        return b"".join(parts)

    def _fetch(self) -> bool:
        """Fill `_rest`; False at the end of the body."""
        if self._begin is not None:
            begin, self._begin = self._begin, None
            begin()
        if self._gave_up:
            # What BufferedReader had of the read that timed out was lost with it: what came later
            # would follow a gap (W-IN-3). No time-out again: who tries once more after one is not
            # to try for ever.
            raise self._given_up()
        chunks = self._channel.take_from_thread(self._timeout, self._waiting)
        if chunks is None:
            self._gave_up = True
            raise self._stalled()
        self._rest = [memoryview(chunk) for chunk in reversed(chunks)]
        return bool(chunks)

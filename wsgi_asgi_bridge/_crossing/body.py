"""The blocking file over a channel: a thread reads while a task of the loop still receives."""

import io
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from tempfile import SpooledTemporaryFile
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING

from .loop_to_thread import LoopToThread, Piece, Waiting
from .loops import WaitInLoop

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["ChannelReader"]


class ChannelReader(io.RawIOBase):
    """A raw stream over `LoopToThread`, for io.BufferedReader.

    `begin` is called once, before the first read: a body that nobody reads is never asked for
    (`Expect: 100-continue`). `waiting()` is entered around each wait. A read raises `stalled()` if
    in `timeout` seconds of waiting no byte came, or fewer than `least`; later reads `given_up()`.

    `buffer_rest` waits for the rest of the body, so that later reads need not: up to `memory` bytes
    stay in memory, more in a temporary file, until `discard`.

    Any thread: one of the app's own may read while another calls `buffer_rest`.
    """

    def __init__(
        self,
        channel: LoopToThread,
        *,
        begin: Callable[[], None] | None,
        timeout: float,
        least: float,
        memory: int,
        waiting: Waiting,
        stalled: Callable[[], Exception],
        given_up: Callable[[], Exception],
    ) -> None:
        self._channel = channel
        self._begin = begin
        self._timeout = timeout
        self._least = least
        self._waited = 0.0
        """Seconds of waiting in which `_received` bytes came, fewer than `least`."""
        self._received = 0
        self._memory = memory
        self._waiting = waiting
        self._stalled = stalled
        self._given_up = given_up
        self._lock = Lock()
        self._failure: Callable[[], Exception] | None = None
        """Makes the error of each read that needs the channel, since later bytes would follow a
        gap (W-IN-3).
        """
        self._rest: list[Piece | memoryview] = []  # taken and not yet read, in reverse order
        self._buffered: SpooledTemporaryFile[bytes] | None = None
        """What `buffer_rest` buffered and nobody has read yet; `_rest` is empty meanwhile."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        target = memoryview(buffer)
        if target.format != "B":
            target = target.cast("B")
        if not target:
            return 0  # without a wait
        if not self._lock.acquire(False):
            self._wait_for_lock()
        try:
            if self._buffered is not None and (size := self._read_buffered_into(target)):
                return size
            if not self._rest and not self._fetch():
                return 0
            filled, room = 0, len(target)
            while self._rest and filled < room:
                chunk = self._rest.pop()
                end = filled + len(chunk)
                if end > room:
                    view, left = memoryview(chunk), room - filled
                    self._rest.append(view[left:])
                    chunk, end = view[:left], room
                target[filled:end] = chunk
                filled = end
            self._channel.release_from_thread(filled)
            return filled
        finally:
            self._lock.release()

    def readall(self) -> bytes:
        parts: list[Piece | memoryview] = []
        if not self._lock.acquire(False):
            self._wait_for_lock()
        try:
            if self._buffered is not None:
                parts.append(self._buffered.read())
                self._close_buffered()
            while self._rest or self._fetch():
                taken = list(reversed(self._rest))
                self._rest = []
                parts += taken
                self._channel.release_from_thread(sum(map(len, taken)))
            return b"".join(parts)
        finally:
            self._lock.release()

    def buffer_rest(self) -> None:
        """Wait for the rest of the body, so that no later read has to. Not in the loop's thread.

        What breaks the body off is raised by the read that gets there.
        """
        with self._lock:
            if self._buffered is None:
                try:
                    self._buffer_rest()
                except OSError as exc:  # no room for the file
                    self._rest = []
                    self._close_buffered()
                    self._failure = partial(
                        OSError, exc.errno, f"the body could not be kept in a file: {exc.strerror}"
                    )

    def discard(self, reason: Callable[[], Exception]) -> None:
        """Close what `buffer_rest` buffered; a read of what is left of it raises `reason()`."""
        with self._lock:
            if self._buffered is not None:
                self._close_buffered()
                self._failure = reason

    # ------------------------------------------------------------ holding the lock

    def _buffer_rest(self) -> None:
        buffered: SpooledTemporaryFile[bytes] | None = None
        while True:
            if self._rest:
                if buffered is None:
                    buffered = self._buffered = SpooledTemporaryFile(self._memory)  # noqa: SIM115
                taken = list(reversed(self._rest))
                buffered.writelines(taken)
                self._rest = []
                self._channel.release_from_thread(sum(map(len, taken)))
            try:
                self._take()
            except Exception:
                break  # the channel raises it again for the next read
            if not self._rest:
                break
        if buffered is not None:
            buffered.seek(0)

    def _read_buffered_into(self, target: memoryview) -> int:
        """Read what was buffered into `target`; 0 at its end."""
        assert self._buffered is not None
        data = self._buffered.read(len(target))
        if not data:
            self._close_buffered()
        target[: len(data)] = data
        return len(data)

    def _close_buffered(self) -> None:
        buffered, self._buffered = self._buffered, None
        if buffered is not None:
            with suppress(OSError):  # close() tries once more to write what it could not
                buffered.close()

    def _fetch(self) -> bool:
        """Fill `_rest`. False at the end of the body. Raises what broke it off."""
        self._take()
        if self._failure is not None:
            failure = self._failure
            if failure is self._stalled:
                # An app that retries after a time-out must not retry for ever.
                self._failure = self._given_up
            raise failure()
        return bool(self._rest)

    def _take(self) -> None:
        """Fill `_rest`; it stays empty at the end of the body and if `_failure` is set."""
        if self._begin is not None:
            begin, self._begin = self._begin, None
            begin()
        if self._failure is not None:
            return
        began = monotonic()
        try:
            chunks = self._channel.take_from_thread(
                max(0.0, self._timeout - self._waited), self._waiting
            )
        except WaitInLoop as exc:
            # BufferedReader drops what it had of this read, so later reads fail too.
            self._failure = partial(WaitInLoop, *exc.args)
            raise
        if chunks is None:
            self._failure = self._stalled
        else:
            self._received += sum(map(len, chunks))
            self._rest = [*reversed(chunks)]
            if self._received >= self._least:
                self._received, self._waited = 0, 0.0
            else:
                self._waited += monotonic() - began

    # ------------------------------------------------------------

    def _wait_for_lock(self) -> None:
        """Wait for a thread that may hold the lock while it waits: never in the loop's thread."""
        self._channel.refuse_wait_in_loop()
        self._lock.acquire()

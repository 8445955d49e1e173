"""The body of one request as `wsgi.input`: collected before the app begins, or a stream (W-IN-4,
W-IN-5).
"""

import io
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, cast

from .._crossing.body import ChannelReader
from .._crossing.channel import LoopToThread, Piece, Waiting
from .._crossing.loops import LoopEvent, LoopHandle
from ..errors import AppError, BadRequest, BodyTooLarge, ClientDisconnected, ClientStalled
from ..typing import Environ, Receive
from .settings import CLOCK_NOT_STARTED, Settings
from .stats import ClientLeft

__all__ = ["NO_BODY", "RequestBody", "drop_unread", "may_have_body"]

READER_PATIENCE = 10
"""How many times `stall_timeout` an app may leave its request's body alone while it responds, once
it has begun to read: it may work on each line for long, and a buffer of lines is read as one.
"""

TURNS_TO_DROP = 32
"""Turns of the loop in which the watch takes what the server has of an unread body: on trio it
takes a part a turn, and Hypercorn puts at most one into its queue of ten in every second turn.
"""

READ_AHEAD_BYTES = 8192
"""The buffer of `wsgi.input`, allocated at once. Python 3.14's own default is 128 KiB a request."""

PART_COST_BYTES = 256
"""What a part of a body costs beside its bytes, when the loop counts how much it did at once. A
fast worker, or a server that has many small or empty parts, must not keep the loop.
"""


class UploadClock:
    """How fast the client sends a body that is collected (W-IN-7), and whether it pauses (W-IN-5).

    `now` is in seconds that the loop has waited for clients.
    """

    __slots__ = ("_came", "_handle", "_quiet_since", "_settings", "_waiting_since", "settled")

    def __init__(self, settings: Settings, handle: LoopHandle) -> None:
        self._settings = settings
        self._handle = handle
        self._came = 0
        """Bytes that came since the client was last seen to send fast enough."""
        self._waiting_since = CLOCK_NOT_STARTED
        self.settled: LoopEvent | None = None
        """Set, and replaced by None, when an undeclared body is whole or found to stream."""
        self._quiet_since: float | None = None
        """The start of a pause of an undeclared body."""

    def note_progress(self, size: int) -> None:
        """`size` bytes have come. Too few do not restart the stall clock."""
        self._quiet_since = CLOCK_NOT_STARTED
        self._came += size
        if self._came >= self._settings.least_upload:
            self._came = 0
            self._waiting_since = CLOCK_NOT_STARTED

    def settle(self) -> None:
        settled, self.settled = self.settled, None
        if settled is not None:
            self._handle.set_event(settled)

    def has_stalled(self, now: float) -> bool:
        """The loop's tick. Settles an undeclared body whose client may wait for the app."""
        if self._quiet_since is CLOCK_NOT_STARTED:
            self._quiet_since = now
        elif self._quiet_since is not None and self._quiet_since <= now - self._settings.pause:
            self.settle()
        if self._waiting_since is CLOCK_NOT_STARTED:
            self._waiting_since = now
        return self._waiting_since <= now - self._settings.stall_timeout


class RequestBody:
    """The body of one request, in the loop; the app's thread reads it by a ChannelReader.

    `begin_watching` starts the task that calls `feed`. `waiting` is entered by the thread that
    sleeps for the body.
    """

    __slots__ = (
        "_ahead",
        "_begin_watching",
        "_channel",
        "_clock",
        "_handle",
        "_held_since",
        "_length",
        "_settings",
        "_unread",
        "_waiting",
        "is_cut_short",
        "is_given_up",
        "is_held_back",
        "reader",
        "unread_since",
    )

    def __init__(
        self,
        settings: Settings,
        handle: LoopHandle,
        begin_watching: Callable[[], None],
        waiting: Waiting,
    ) -> None:
        self._settings = settings
        self._handle = handle
        self._begin_watching = begin_watching
        self._waiting = waiting
        self._length: int | None = None
        """The Content-Length of the request."""
        self._channel: LoopToThread | None = None
        self.reader: ChannelReader | None = None
        """The thread's end of `_channel`. Both are None unless the body streams."""
        self._ahead: Piece = b""
        """What came before the body was known to stream."""
        self.is_held_back: bool = False
        """The client waits for `100 Continue`."""
        self._held_since: float | None = None
        self.is_cut_short: bool = False
        """It ended before its Content-Length, without a disconnect."""
        self.is_given_up: bool = False
        """A read has timed out. Set by the thread; the loop reads it when the worker has left."""
        self._clock: UploadClock | None = None
        self.unread_since: float | None = None
        """Since when there is no room for more."""
        self._unread = 0
        """Bytes that waited for the app at the last tick."""

    async def open(self, environ: Environ, receive: Receive) -> io.BytesIO | io.BufferedReader:
        """Return `wsgi.input`: a stream, or the whole body with its CONTENT_LENGTH in `environ`.

        Waits in the loop, holding no thread. Raises BadRequest for a body shorter than declared,
        BodyTooLarge, ClientLeft.
        """
        declared = environ.get("CONTENT_LENGTH")
        may_pause = False
        if declared is not None:
            self._length = int(declared)
            self._refuse_large(self._length)
        else:
            # The server has de-chunked it; an app that saw this would do so again (W-IN-2).
            is_chunked = environ.pop("HTTP_TRANSFER_ENCODING", None) is not None
            may_pause = is_chunked or _may_converse(environ)
        expected = environ.get("HTTP_EXPECT")
        self.is_held_back = expected is not None and "100-continue" in expected.lower()
        if self.is_held_back or (
            self._length is not None and self._length > self._settings.small_body
        ):
            return self._stream()
        if may_pause:
            body = await self._collect_undeclared(b"")
        else:
            message = await receive()
            if message["type"] != "http.request":
                raise ClientLeft
            first = message.get("body", b"")
            if not message.get("more_body", False):
                return self._whole(first, environ)
            if self._length is None:
                body = await self._collect_undeclared(first)
            else:
                body = await self._collect_declared(first, receive)
        return body if isinstance(body, io.BufferedReader) else self._whole(body, environ)

    @property
    def clock(self) -> UploadClock:
        """Made when it is needed first: most bodies come with one message, in no time."""
        if self._clock is None:
            self._clock = UploadClock(self._settings, self._handle)
        return self._clock

    def break_off(self, reason: Callable[[], Exception]) -> None:
        """The thread's next read raises `reason()`."""
        if self._channel is not None:
            self._channel.break_in_loop(reason)

    # ------------------------------------------------------------ collecting

    def _whole(self, body: Piece, environ: Environ) -> io.BytesIO:
        """`wsgi.input` of a body that has come as a whole."""
        size, length = len(body), self._length
        if size != length:
            if length is not None and size < length:
                raise BadRequest(_ended_early(size, length))
            self._refuse_large(size)
            if length is None and size:
                environ["CONTENT_LENGTH"] = str(size)
        return io.BytesIO(body)

    async def _collect_declared(self, first: Piece, receive: Receive) -> Piece | io.BufferedReader:
        """A small body of which only `first` has come; a stream if the server gives more than was
        declared.
        """
        body, unbroken = bytearray(first), 0
        self.clock.note_progress(len(first))
        while len(body) <= self._settings.small_body:
            message = await receive()
            if message["type"] != "http.request":
                raise ClientLeft
            part = message.get("body", b"")
            if part:
                body += part
                self.clock.note_progress(len(part))
            if not message.get("more_body", False):
                return body
            unbroken += len(part) + PART_COST_BYTES
            if unbroken > self._settings.turn:
                unbroken = 0
                await self._handle.checkpoint()
        return self._stream(body)

    async def _collect_undeclared(self, first: Piece) -> Piece | io.BufferedReader:
        """A body without a length of which `first` has come, or nothing: whole if it ends within
        `small_body` and without a pause, since some apps read nothing without a length (Django);
        else a stream, since its client may wait for the app's first word.
        """
        settled = self.clock.settled = self._handle.create_event()
        self.clock.note_progress(len(first))
        stream = self._stream(first)
        await settled
        assert self._channel is not None
        parts = self._channel.whole_in_loop()
        if parts is None:
            return stream
        self._channel = self.reader = None
        return b"".join(parts)

    def _refuse_large(self, size: int) -> None:
        limit = self._settings.max_body_size
        if limit is not None and size > limit:
            raise BodyTooLarge(f"the body has {size} bytes or more, max_body_size is {limit}")

    # ------------------------------------------------------------ streaming

    def _stream(self, ahead: Piece = b"") -> io.BufferedReader:
        """`wsgi.input` over a channel that `feed` fills, after `ahead`, which has come already
        (W-IN-4).
        """
        settings = self._settings
        # The bytes in the BufferedReader are waiting as well: they count against the budget.
        kept = min(READ_AHEAD_BYTES, max(1, settings.request_buffer // 4))
        self._channel = LoopToThread(
            self._handle,
            max(1, settings.request_buffer - kept),
            # Many requests may wait for a thread (W-IN-5). One byte more, so that the end of a body
            # of just this size is received.
            unread_budget=settings.small_body + 1,
        )
        self._ahead = ahead
        self.reader = ChannelReader(
            self._channel,
            begin=self._continue_from_thread if self.is_held_back else None,
            timeout=settings.stall_timeout,
            least=settings.least_upload,
            memory=settings.request_buffer,
            waiting=self._waiting,
            stalled=self._stalled_in_thread,
            given_up=self._given_up_in_thread,
        )
        if not self.is_held_back:
            self._begin_watching()
        return io.BufferedReader(self.reader, kept)

    async def feed(self, receive: Receive) -> None:
        """Bring the whole body into the channel, if there is one.

        Raises ClientLeft when it breaks off before its end. What comes after the channel is broken
        is received and dropped: the server reports a disconnect only behind it.
        """
        channel = self._channel
        if channel is None:
            return
        limit, turn = self._settings.max_body_size, self._settings.turn
        put, clock = channel.put_in_loop, self.clock
        size = unbroken = 0
        part, more = self._ahead, True
        self._ahead = b""
        while True:
            size += len(part)
            unbroken += len(part) + PART_COST_BYTES
            if limit is not None and size > limit:
                self.break_off(
                    partial(BodyTooLarge, f"the body has more than max_body_size={limit} bytes")
                )
                clock.settle()
            has_room = put(part)
            if not more:
                break
            if not has_room:
                clock.settle()
                self.unread_since = CLOCK_NOT_STARTED
                if await channel.wait_for_room_in_loop():
                    unbroken = 0
                self.unread_since = None
            if unbroken > turn:
                unbroken = 0
                await self._handle.checkpoint()
            message = await receive()
            if message["type"] != "http.request":
                raise ClientLeft
            part, more = message.get("body", b""), message.get("more_body", False)
            if part and clock.settled is not None:
                clock.note_progress(len(part))
        self._end(channel, size)

    def _end(self, channel: LoopToThread, size: int) -> None:
        length = self._length
        if length is not None and size < length:
            self.is_cut_short = True
            channel.break_in_loop(partial(ClientDisconnected, _ended_early(size, length)))
        else:
            channel.end_in_loop()
        self.clock.settle()

    def check_unread(self, now: float, is_full: bool) -> None:
        """The loop's tick while there is no room and the app responds: drop a body that the app
        leaves unread, because the server reports a disconnect only behind it (W-FLOW-3).

        `is_full`: the app sleeps for its client.
        """
        if self._channel is None:
            return
        if is_full:
            self.unread_since = CLOCK_NOT_STARTED  # it cannot read meanwhile
            return
        unread, begun = self._channel.held_in_loop()
        if self.unread_since is CLOCK_NOT_STARTED or unread != self._unread:
            self.unread_since, self._unread = now, unread
            return
        patience = self._settings.stall_timeout
        if begun and not self.is_given_up:
            patience *= READER_PATIENCE
        if self.unread_since is not None and self.unread_since <= now - patience:
            why = (
                f"the app read nothing of the request's body for {patience:g} s while it sent "
                "its response; what was left of the body is gone"
            )
            self.break_off(partial(AppError, why))

    # ------------------------------------------------------------ 100 Continue

    def _continue_from_thread(self) -> None:
        """The app reads: the client is asked to send, by the server's receive()."""
        self._handle.post(self._continue)

    def _continue(self) -> None:
        self.is_held_back = False
        self._begin_watching()

    def check_held_back(self, now: float) -> None:
        """The loop's tick while the app works: no client waits for `100 Continue` for ever (RFC
        9110 10.1.1). Only then an app that polls learns that its client has left.
        """
        if self._held_since is None:
            self._held_since = now
        elif self._held_since <= now - self._settings.stall_timeout:
            self.is_held_back = False

    # ------------------------------------------------------------ a stalled upload

    def stalled(self) -> ClientStalled:
        return ClientStalled(_sent_too_little(self._settings))

    def _stalled_in_thread(self) -> ClientStalled:
        """The error of the read that timed out."""
        self.is_given_up = True
        return self.stalled()

    def _given_up_in_thread(self) -> ClientDisconnected:
        """The error of each read after that."""
        return ClientDisconnected(f"{_sent_too_little(self._settings)}, and was given up before")


def _ended_early(size: int, length: int) -> str:
    return f"the body ended after {size} of the {length} bytes that Content-Length declares"


def _sent_too_little(settings: Settings) -> str:
    rate, timeout = settings.min_upload_rate, settings.stall_timeout
    if not rate:
        return f"the client sent nothing for stall_timeout={timeout} s"
    return (
        f"the client sent less than min_upload_rate={rate} bytes a second, or nothing, for "
        f"stall_timeout={timeout} s"
    )


async def drop_unread(
    body: RequestBody, handle: LoopHandle, reason: Callable[[], Exception]
) -> None:
    """Break `body` off, and take what the server has of it, before the app's error is raised
    (W-IN-8): Hypercorn's own answer waits until there is room in its queue.
    """
    body.break_off(reason)
    for _ in range(TURNS_TO_DROP):
        await handle.checkpoint()


def may_have_body(environ: Environ) -> bool:
    """Whether a body may come. Without a header that announces one, a GET or HEAD of HTTP/1 has
    none for certain (RFC 9112 6.3).
    """
    declared = environ.get("CONTENT_LENGTH")
    if declared is not None:
        return int(declared) > 0
    return (
        environ["REQUEST_METHOD"] not in ("GET", "HEAD")
        or environ["SERVER_PROTOCOL"] not in ("HTTP/1.1", "HTTP/1.0")
        or "HTTP_TRANSFER_ENCODING" in environ
    )


def _may_converse(environ: Environ) -> bool:
    """Whether a body without a header that announces one may yet be sent piece by piece: HTTP/2
    needs no header for that, but a request whose method expects no body has none as a rule.
    """
    return environ["REQUEST_METHOD"] in ("POST", "PUT", "PATCH") and environ[
        "SERVER_PROTOCOL"
    ] not in ("HTTP/1.1", "HTTP/1.0")


def _nothing() -> None:
    pass


NO_BODY = RequestBody(cast(Any, None), cast(Any, None), _nothing, nullcontext)
"""The body of every request that has none; never written to."""

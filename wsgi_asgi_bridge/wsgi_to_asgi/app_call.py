"""One call of a WSGI app in a worker: the call, the iteration and `close()`, in one thread
(W-CALL-2).

Everything here runs in the worker, except that the loop reads `head`, `file`, `changes`,
`last_changes`, `error` and `late_error`: each is written before the worker puts, ends or leaves the
channel, and read after the loop has taken that from it. The channel's lock is between the two.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextvars import Context, copy_context
from typing import Any, NamedTuple

from .._crossing.body import ChannelReader
from .._crossing.calling_thread import CallingThread
from .._crossing.channel import ThreadToLoop
from .._crossing.contexts import Changes, changes, unchanged
from .._crossing.loop_binding import LoopBinding
from .._crossing.workers import Worker
from .._protocol.wsgi_response import Head, WSGIResponse, checked_chunk
from ..errors import (
    AppError,
    BridgeClosed,
    ClientDisconnected,
    ClientStalled,
    client_reads_nothing,
)
from ..typing import Environ, WSGIApp
from .early_messages import EarlyMessages
from .files import FileWrapper, SentFile, file_to_send

__all__ = ["AppBinding", "AppCall", "exchange_over", "run_with_body"]

logger: logging.Logger = logging.getLogger("wsgi_asgi_bridge")

_WHOLE = (list.__iter__, tuple.__iter__)
"""An iterable with one of these as its `__iter__` holds the whole body already."""


class AppBinding(NamedTuple):
    """What all calls of one app from one loop have in common."""

    app: WSGIApp
    loop_binding: LoopBinding
    stall_timeout: float


class AppCall:
    """What the worker does for one request.

    `before` is the context that it starts in, `caller` the thread that waits for this very exchange
    where that came out of an ASGIToWSGI. `on_stall` is called, in the worker, when the client has
    read nothing for `stall_timeout` seconds. `extensions` are those of the scope.
    """

    __slots__ = (
        "_binding",
        "_ended",
        "_environ",
        "_extensions",
        "_on_stall",
        "_out",
        "_response",
        "_seen",
        "_streaming",
        "_unlimited",
        "_worker",
        "before",
        "caller",
        "changes",
        "early",
        "error",
        "file",
        "head",
        "last_changes",
        "late_error",
    )

    def __init__(
        self,
        binding: AppBinding,
        environ: Environ,
        out: ThreadToLoop,
        before: Context,
        caller: CallingThread | None,
        on_stall: Callable[[], None],
        extensions: Mapping[str, Any] | None = None,
    ) -> None:
        self._binding = binding
        self._environ = environ
        self._out = out
        self.before: Context = before
        self._seen = before
        self.caller: CallingThread | None = caller
        self._on_stall = on_stall
        self._extensions = extensions
        self._response: WSGIResponse
        self._worker: Worker
        self._streaming = False
        self._unlimited = False  # no Content-Length to keep to
        self._ended = False  # the loop has the whole body
        self.head: Head | None = None
        """The response's head, once it stands."""
        self.file: SentFile | None = None
        """The body, if the server is to send a file by itself; set before the body ends."""
        self.early: EarlyMessages | None = (
            EarlyMessages.offered(extensions, environ, out) if extensions else None
        )
        self.changes: Changes | None = None
        """What the app had set in its context when the head stood."""
        self.last_changes: Changes | None = None
        """The same now, or when the body or the app's work was over."""
        self.error: BaseException | None = None
        """What ended the body before its end."""
        self.late_error: BaseException | None = None
        """What the app raised after the end of its body."""

    def waiting(self) -> Any:
        """A context manager: this thread sleeps for its client and does not count meanwhile
        (W-FLOW-8).
        """
        return self._worker.detached()

    def detach(self) -> bool:
        """Detach the worker until its job ends. False if too many are. Any thread."""
        return self._worker.mark_streaming(detach=True)

    def has_begun_to_give(self) -> bool:
        """Whether the app has given a chunk, be it empty, of a body made on the way.

        Any thread, which sees it a moment later.
        """
        return self._streaming

    def run_for_caller(self, worker: Worker) -> None:
        """`run` for a caller whose `close()` waits until it is over, as without bridges."""
        assert self.caller is not None
        done = self.caller.begin_work(self._out.is_whole)
        try:
            self.run(worker)
        finally:
            self.caller.last_changes = self.last_changes
            done.set()

    def run(self, worker: Worker) -> None:
        """All of the app's work.

        Lets nothing escape: whatever an app raises ends its request, never this thread (W-CALL-3).
        """
        app, binding, _ = self._binding
        environ = self._environ
        self._worker = worker
        if worker.bound_to is not binding:
            binding.bind_thread()
            worker.bound_to = binding
        self._response = WSGIResponse(environ["REQUEST_METHOD"])
        error: BaseException | None = None
        try:
            iterable = app(environ, self._start_response)
            kind = type(iterable)
            if (kind is list or kind is tuple) and self.head is None:
                # These have no close().
                self._give_whole(iterable, finished=True)
                return
            try:
                if getattr(kind, "__iter__", None) in _WHOLE and self.head is None:
                    # By its iterator, since `__len__` may be the app's own. A plain list runs no
                    # code of the app while a lock is held.
                    self._give_whole(list(iter(iterable)), finished=False)
                elif kind is not FileWrapper or not self._give_file(iterable):
                    self._give_pieces(iterable)
            finally:
                close = getattr(iterable, "close", None)
                if close is not None:
                    close()
        except BaseException as exc:
            error = exc
        self._leave(error)
        del error  # its traceback leads to this frame

    def _leave(self, error: BaseException | None) -> None:
        self._note_changes()
        if self._ended:
            self.late_error = error
        else:
            self.error = error
        if not self._out.finish_from_thread():
            self.log_unraised_error()

    def take_error(self) -> BaseException | None:
        """What the app raised. Its traceback leads back to this object, which forgets it.

        In the loop once the worker has left, or in the worker.
        """
        error = self.late_error if self.error is None else self.error  # an exception may be false
        self.error = self.late_error = None
        return error

    def log_unraised_error(self) -> None:
        """The exchange was over before the app raised. Where `take_error` may be called."""
        error = self.take_error()
        self.file = None
        if error is not None and not isinstance(
            error, ClientDisconnected | ClientStalled | BridgeClosed
        ):
            logger.error("the app raised after its request had been given up", exc_info=error)
        del error  # its traceback may lead to this frame

    def _note_changes(self) -> None:
        now = copy_context()
        if not unchanged(self._seen, now):
            self._seen = now
            self.last_changes = changes(self.before, now)
            if self.head is None:
                self.changes = self.last_changes

    # ------------------------------------------------------------ what the app calls

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        try:
            self._response.start(status, headers, exc_info)
        finally:
            del exc_info  # an error raised anew leads to this frame (W-OUT-2)
        if self.caller is not None and type(status) is str:
            self.caller.reply_line = status  # ASGI carries no reason phrase (D-1)
        return self._write

    def _write(self, chunk: bytes) -> None:
        """PEP 3333's `write()`: its bytes precede those that are yielded."""
        if not checked_chunk(chunk) and self.head is not None:
            self._pass_empty()
            return
        self._put(chunk)
        if excess := self._response.excess():
            raise AppError(
                f"write() went {excess} bytes beyond Content-Length {self._response.declared}"
            )

    # ------------------------------------------------------------ what the app gives

    def _give_whole(self, chunks: Any, *, finished: bool) -> None:
        """A list or tuple: one hand-over, with head and end; `finished`: and the work's end."""
        head, body = self._response.whole(chunks)
        if body is not chunks:
            _warn_of_excess(self)
        self._note_changes()
        self.head = head
        self._out.end_from_thread(body, finished=finished)
        self._ended = True  # not before: what raised there has ended the body before its end

    def _give_file(self, wrapper: Any) -> bool:
        """Hand a file over, for the server to send by itself, which frees this thread (W-OUT-10).

        False: the wrapper is to be iterated.
        """
        response = self._response
        if self.head is not None:  # write() was called
            return False
        wrapper.left = response.declared
        if not self._extensions or response.has_no_body():
            return False
        file = file_to_send(wrapper, self._extensions, response.declared)
        if file is None:
            return False
        head = response.seal()
        self._note_changes()
        self.head, self.file = head, file
        self._out.end_from_thread((), finished=False)
        self._ended = True
        return True

    def _give_pieces(self, iterable: Any) -> None:
        """A body made on the way: each chunk goes before the next is asked for (W-OUT-4)."""
        response = self._response
        put = self._out.put_from_thread
        for chunk in _iterator(iterable):
            if type(chunk) is not bytes:
                checked_chunk(chunk)
            if not chunk:
                if self._pass_empty():
                    continue
                break
            if self._unlimited:
                while not put(chunk):
                    self._wait_for_room(len(chunk))
                continue
            self._put(chunk)
            if response.bodyless or response.excess():
                break
        head = self.head or response.seal(0)
        response.check_end()
        _warn_of_excess(self)
        self._note_changes()
        self.head = head
        if not self._ended:
            self._ended = True
            self._out.end_from_thread([], finished=False)

    def _put(self, chunk: bytes) -> None:
        """Hand one chunk over, with the head before it if it is the first, and with the end if
        nothing may follow it.
        """
        response = self._response
        head = self.head or response.seal()
        admitted = response.admitted(chunk)
        if self._ended:
            return
        last = response.complete()
        first = self.head is None
        if first:
            self._note_changes()
            self.head = head
            if self.early is not None:
                self.early.closed = True
        while not self._out.put_from_thread(admitted, last=last):
            self._wait_for_room(len(admitted))
        self._ended = last
        if first and not last:
            self._unlimited = response.declared is None
            self._begin_streaming()

    def _pass_empty(self) -> bool:
        """An empty chunk, by which PEP 3333 lets an app poll: a step like any other, but nothing
        to send, and the headers are still held (W-OUT-11).

        Whether bytes may follow it. Raises the reason when the exchange is over.
        """
        self._out.check_from_thread()
        if not self._streaming:
            self._begin_streaming()
        return self.head is None or not self._response.complete()

    def _begin_streaming(self) -> None:
        self._streaming = True
        self._worker.mark_streaming(detach=self._response.is_event_stream())

    def _wait_for_room(self, size: int) -> None:
        """Sleep while the client has enough to read (W-FLOW-1)."""
        timeout = self._binding.stall_timeout
        with self.waiting():
            moved = self._out.wait_for_room_from_thread(size, timeout)
        if not moved:
            # The loop finds that out too, unless it has ended.
            self._on_stall()
            raise client_reads_nothing(timeout)


def run_with_body(
    call: AppCall, body: ChannelReader, run: Callable[[Worker], None], worker: Worker
) -> None:
    """`run`, for a request whose body still streams.

    Before code of the app enters the loop, the rest of the body is brought in (W-CALL-4).
    """
    binding = call._binding.loop_binding
    brought = False

    def bring_in() -> None:
        nonlocal brought
        # A client that has its whole response need not send any more.
        if not call._ended:
            brought = True
            body.buffer_rest()

    binding.bind_thread(bring_in)
    worker.bound_to = binding
    try:
        run(worker)
    finally:
        binding.bind_thread()
        if brought:
            body.discard(exchange_over)


def _warn_of_excess(call: AppCall) -> None:
    """Log bytes beyond Content-Length; none of them was sent (W-OUT-6)."""
    if excess := call._response.excess():
        logger.warning(
            "the app gave %d bytes beyond Content-Length %s; they were cut (%r %r)",
            excess,
            call._response.declared,
            call._environ.get("REQUEST_METHOD"),
            call._environ.get("PATH_INFO"),
        )


def exchange_over() -> ClientDisconnected:
    return ClientDisconnected("the exchange is over, and with it the request's body")


def _iterator(iterable: Any) -> Iterator[Any]:
    try:
        return iter(iterable)
    except TypeError as exc:
        if exc.__traceback__ is not None and exc.__traceback__.tb_next is not None:
            raise  # the app's own, out of its __iter__
        raise AppError(
            f"the app returned {iterable!r:.200}, expected an iterable of bytes (PEP 3333)"
        ) from None

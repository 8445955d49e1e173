"""Takes a connection over from the owner of its descriptor, and leaves a stand-in in its place.

An owner, the WSGI server, knows its connection by a number N, and will read, write, shut down and
close N. To take the connection over without its knowledge, N must go on to mean something:

    before          N -> the connection
    duplicated      N -> the connection <- ours
    replaced        N -> near == far,  the connection <- ours

- `ours` is the only descriptor of the connection from then on. It has a number that the owner has
  never seen, so nothing that the owner does reaches the connection.
- `near` is what the owner has under N. What it writes there comes out of `far`, to be read or not.
  What it reads is the end, since `far` has shut down its sending side. Its `shutdown()` and
  `close()` end the stand-in only. So it closes what it has opened, as ever.
- `far` is the loop's. It is closed at once, or read to its end, by whoever has taken over.

Why no other connection can ever be hit, or get what is meant for this one:

- N is never free. `dup2` closes the old and opens the new in one step of the kernel, so no
  `accept()` in another thread can get N between. Only its owner's `close()` frees N, after which
  nobody here uses N any more.
- N is still this connection's when it is replaced, since its owner closes N only after the calling
  thread has returned. It cannot return meanwhile: `take_over` runs inside
  `CallingThread.hand_over_in_loop`, under the lock under which that thread would leave, or in that
  very thread.
- Should an owner close N under its waiting thread all the same, the number may be another
  connection's by now. So the duplicate is compared with what was there when the thread came
  (device and inode, which no two open sockets share) before anything is replaced. An owner that
  closes N in the few instructions between the two is not guarded against; none is known.
- `ours` is closed by whoever has taken over, and by nobody else. From a thread to its loop it goes
  in a `Handover`.
- A forked child closes its copies of `ours` and `far`, or the client would see no end that the
  parent sends. So they are noted as soon as `take_over` has returned, and for good. A fork by
  another thread in the few instructions before that leaves the child a copy until it ends: to close
  that gap, each fork would have to wait for a lock.
"""

import errno
import os
import socket
import sys
from contextlib import suppress
from typing import NamedTuple

from .loops import LoopHandle

if sys.platform != "win32":
    import fcntl

__all__ = [
    "Handover",
    "HeldDescriptor",
    "close_in_child",
    "drain",
    "held_descriptor",
    "receive_some",
    "take_over",
]

LEAST_NUMBER = 1024
"""select() takes no descriptor from here on; the ones below are left to the owner and the app."""

READ_BYTES = 65536


class HeldDescriptor(NamedTuple):
    """A descriptor of another owner, and what it was when it was noted."""

    number: int
    device: int
    inode: int


def held_descriptor(number: int) -> HeldDescriptor | None:
    """Note what `number` is now. None if it is closed, or nothing here can be taken over."""
    if sys.platform == "win32" or number < 0:  # a socket of Windows is no descriptor
        return None
    try:
        opened = os.fstat(number)
    except OSError:
        return None
    return HeldDescriptor(number, opened.st_dev, opened.st_ino)


def take_over(held: HeldDescriptor) -> tuple[socket.socket, socket.socket]:
    """Replace the owner's descriptor by a stand-in; return `ours` and `far`, both non-blocking.

    Waits for nothing. To be called in `CallingThread.hand_over_in_loop` or in the calling thread.
    If it raises OSError, nothing was replaced: the owner has closed its descriptor, or there are no
    more descriptors.
    """
    ours = _as_socket(_duplicate(held.number))
    try:
        # Of the duplicate, which nobody else can close.
        if held_descriptor(ours.fileno()) != held._replace(number=ours.fileno()):
            raise OSError(errno.EBADF, "the descriptor has been closed by its owner")
        near, far = socket.socketpair()
        try:
            far.shutdown(socket.SHUT_WR)
            # The flag is the open file's: an owner that waits by itself would otherwise block.
            os.set_blocking(near.fileno(), os.get_blocking(held.number))
            os.dup2(near.fileno(), held.number, inheritable=False)
        except BaseException:
            far.close()
            raise
        finally:
            near.close()
    except BaseException:
        ours.close()
        raise
    ours.setblocking(False)
    far.setblocking(False)
    return ours, far


class Handover:
    """Both sockets on their way from a thread to the loop: one of the two gets them, once.

    A thread that Ctrl-C interrupts cannot know whether its post has reached the loop. Whoever takes
    the one item of the list has them; `list.pop` is one step, as Python documents it.
    """

    __slots__ = ("_both", "_sockets")

    def __init__(self, ours: socket.socket, far: socket.socket) -> None:
        self._both = (ours, far)
        self._sockets = [self._both]

    def taken(self) -> tuple[socket.socket, socket.socket] | None:
        """They are the caller's now. None: they are the other's, or closed."""
        try:
            return self._sockets.pop()
        except IndexError:
            return None

    def closed(self) -> bool:
        """Close them, unless they are the other's; return whether that was done."""
        sockets = self.taken()
        for each in sockets or ():
            each.close()
        return sockets is not None

    def close_in_child(self) -> None:
        """In a forked child: what is open of them, whoever has them."""
        for each in self._both:
            close_in_child(each)


def _duplicate(number: int) -> int:
    if sys.platform != "win32":
        with suppress(OSError):  # RLIMIT_NOFILE is lower
            return fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, LEAST_NUMBER)
    return os.dup(number)


def _as_socket(number: int) -> socket.socket:
    try:
        return socket.socket(fileno=number)
    except BaseException:
        os.close(number)
        raise


async def receive_some(loop: LoopHandle, source: socket.socket) -> bytes:
    """Wait in the loop for bytes of a non-blocking socket; b"" at its end. Raises OSError."""
    if loop.backend == "asyncio":
        received: bytes = await loop.loop.sock_recv(source, READ_BYTES)
        return received
    import trio

    while True:
        try:
            return source.recv(READ_BYTES)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(source)


async def drain(loop: LoopHandle, far: socket.socket) -> None:
    """Read and drop what the owner writes to its stand-in, until the owner closes it; then close
    `far`. Raises nothing but its own cancellation, which closes it too.

    An owner whose write fails may complain, and one whose write blocks would wait for ever.
    """
    with far:
        try:
            while await receive_some(loop, far):
                pass
        except OSError:
            pass


def close_in_child(own: socket.socket) -> None:
    """In a forked child: close its descriptor of the parent's socket, without any word to the peer.

    The object stays with the parent's loop, whose copy here never runs.
    """
    if own.fileno() >= 0:
        os.close(own.detach())

"""A process that uses a bridge, forks, and ends: `python -m tests.support.forked_asgi FORK USE`.

FORK is `os.fork`, or `bare`: the system's own call, of which no hook of Python hears (uWSGI's way).
USE is what the child does with the bridge: `serves` or `nothing`. Then both end as Python does.
"""

import ctypes
import os
import signal
import sys

from tests.support.bridged_asgi import body_of, idle_at_the_fork
from tests.support.witness import became_true

CHILD_SECONDS = 10.0
# PyDLL, not CDLL: it keeps the interpreter's lock, which the child could not get back otherwise.
FORKS = {"os.fork": os.fork, "bare": ctypes.PyDLL(None).fork}


bridge = idle_at_the_fork()


def _main(fork: str, use: str) -> None:
    child = FORKS[fork]()
    if child == 0:
        if use == "serves":
            assert body_of(bridge, "/hello") == b"Hello, world!"
        return
    codes: list[int] = []
    try:
        assert became_true(lambda: _has_ended(child, codes), CHILD_SECONDS), "the child hangs"
    finally:
        if not codes:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert codes == [0], f"the child ended with {codes}"
    assert body_of(bridge, "/hello") == b"Hello, world!"


def _has_ended(child: int, codes: list[int]) -> bool:
    """Whether the child has ended; its exit code is added to `codes` then."""
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid == child:
        codes.append(os.waitstatus_to_exitcode(status))
    return pid == child


if __name__ == "__main__":
    _main(*sys.argv[1:])

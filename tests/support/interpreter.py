"""What a test may expect of the Python that runs it."""

import sys

import pytest

_HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()

frees_at_once = pytest.mark.skipif(
    not _HAS_GIL, reason="without a GIL an object may wait for the thread that made it"
)
threads_take_turns = pytest.mark.skipif(
    not _HAS_GIL, reason="without a GIL two threads that run at once meet more often"
)

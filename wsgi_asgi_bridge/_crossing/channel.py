"""Bytes between one thread and one task of a loop, within a byte budget.

`ThreadToLoop` carries a body out of a thread, `LoopToThread` one into a thread. Each keeps one lock
for a few statements at a time and never while it waits, so the loop may take it (W-FLOW-7).

Whoever waits puts an event into the shared state under that lock. Whoever changes the state takes
the event out under the same lock and sets it after. So a change either comes before the wait, which
then sees it, or it finds the event.

Either end may be broken off by the other with a reason: an exception that later calls raise.
"""

from .loop_to_thread import LoopToThread, Piece, Waiting
from .thread_to_loop import ThreadToLoop

__all__ = ["LoopToThread", "Piece", "ThreadToLoop", "Waiting"]

"""One call in a calling thread, for a task that waits for what it returns or raises."""

from collections.abc import Callable
from functools import partial

from .calling_thread import CallingThread
from .calling_thread_executor import call_from_task

__all__ = ["run_in_calling_thread"]


async def run_in_calling_thread(caller: CallingThread, work: Callable[[], object]) -> bool:
    """Run `work` in the thread of `caller` while that waits; raise what it raises.

    False: the exchange is over, or the thread has left; `work` was not called. If the task is
    cancelled meanwhile, `work` may still be called, as long as the thread waits.
    """
    loop = caller.loop
    event = loop.create_event()
    ran = False
    error: BaseException | None = None

    def job() -> None:
        """What it sets is read after the loop has run the callback, which the queue orders."""
        nonlocal ran, error
        try:
            # A job of a thread that has left runs in another one: nothing is left to do there. In
            # the thread itself nobody but this thread ends its wait, so `work` is never late.
            if not caller.is_over():
                ran = True
                work()
        except BaseException as exc:
            error = exc
            if not isinstance(exc, Exception):  # Ctrl-C, or a server that ends its worker
                raise
        finally:
            loop.post(partial(loop.set_event, event))

    if not call_from_task(caller, job):
        return False
    await event
    if error is not None:
        try:
            raise error
        finally:
            del error  # its traceback leads to this frame
    return ran

"""Where asgiref's thread-sensitive code runs: in the thread that waits for the exchange (A-LOOP-4).

`ThreadSensitiveContext(executor=...)` is asgiref's executor for that. Entering one for each request
costs about 4 us, so one is entered for all, with an executor that finds the request in a
contextvar. The variables that entering sets are found by entering it in an empty context. If the
caller is itself inside asgiref's code, its context has more of asgiref's variables set, and the
request enters a context of its own. asgiref runs in asyncio's loops only: in trio's nothing is
entered.

No context is exited: it belongs to the request's tasks and ends with the last of them.

Thread-sensitive code may enter the loop again by `async_to_sync`. Until that has ended its thread
runs only what is given to asgiref's executor, which the tasks of that call find in their context.
"""

import contextvars
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from asgiref.sync import AsyncToSync, SyncToAsync, ThreadSensitiveContext

from .calling_thread import CallingThread, current_calling_thread

__all__ = ["CallingThreadExecutor", "call_from_task", "waits_for_this_task"]

logger = logging.getLogger("wsgi_asgi_bridge")


class CallingThreadExecutor:
    """One loop's executor.

    Made by a thread, before the loop's first request. `close` ends the thread that runs jobs whose
    calling thread has finished.
    """

    def __init__(self, name: str, *, backend: str) -> None:
        self._has_asgiref = backend == "asyncio"
        self._executor = _CurrentThreadExecutor(self)
        self._shared = ThreadSensitiveContext(executor=self._executor)
        made = contextvars.Context()
        made.run(_run_to_end, self._shared.__aenter__())  # type: ignore[no-untyped-call]
        self._shared.token = None
        self._shared_var = next(var for var, value in made.items() if value is self._shared)
        self._other_vars = [var for var in made if var is not self._shared_var]
        self._name = name
        # Held for a few statements; re-entered by a signal's handler that closes the bridge.
        self._lock = threading.RLock()
        self._fallback: ThreadPoolExecutor | None = None
        self._closed = False

    def entered_in_loop(self, caller: CallingThread) -> bool:
        """Run the thread-sensitive code of this task, and of those it starts, in `caller`'s thread.

        False: `enter_own_in_loop` has to follow.
        """
        current_calling_thread.set(caller)
        if not self._has_asgiref:
            return True
        for var in self._other_vars:
            if var.get(None) is not None:
                return False
        self._shared_var.set(self._shared)
        return True

    async def enter_own_in_loop(self) -> None:
        """The same for a task whose context has variables of asgiref's set already."""
        own = ThreadSensitiveContext(executor=self._executor)
        await own.__aenter__()  # type: ignore[no-untyped-call]
        # Used only to exit; it refers to the context, and that to the executor.
        own.token = None

    def run_in_fallback(self, job: Callable[[], None]) -> None:
        """Run a job whose calling thread has finished, one at a time in one thread. Any thread."""
        with self._lock:
            if self._fallback is None and not self._closed:
                self._fallback = ThreadPoolExecutor(1, thread_name_prefix=self._name)
            try:
                if self._fallback is not None:
                    self._fallback.submit(job)
                    return
            except RuntimeError:  # the interpreter ends
                pass
        # The loop, and with it whatever waits for the job, ends before this executor is closed.
        logger.debug("a job came after the shutdown and is dropped")

    def close(self) -> None:
        with self._lock:
            self._closed = True
            fallback, self._fallback = self._fallback, None
        # asgiref's table holds the executor, which holds the table's weak key.
        SyncToAsync.context_to_thread_executor.pop(self._shared, None)
        if fallback is not None:
            fallback.shutdown(wait=False, cancel_futures=True)


def waits_for_this_task(caller: CallingThread) -> bool:
    """Whether the thread of `caller` waits, in `async_to_sync`, for this task or one around it.

    In the loop. Also true, for a moment, of a task that outlives what it was started by.
    """
    return caller.is_in_job() and getattr(AsyncToSync.executors, "current", None) is not None


def call_from_task(caller: CallingThread, job: Callable[[], None]) -> bool:
    """`caller.call_in_thread(job)`, also if that thread waits for this very task.

    In the loop. `job` does nothing once the exchange is over.
    """
    if waits_for_this_task(caller):
        with suppress(RuntimeError):  # it waits no more
            AsyncToSync.executors.current.submit(_run_here_or_in, caller, job)
            return True
    return caller.call_in_thread(job)


def _run_here_or_in(caller: CallingThread, job: Callable[[], None]) -> None:
    """Run `job` in the thread of `caller`; the one that waits for the task may be another."""
    if caller.is_in_job_here() or not caller.call_in_thread(job):
        job()


class _CurrentThreadExecutor(Executor):
    """Runs code in the thread of the request that submits it."""

    def __init__(self, executor: CallingThreadExecutor) -> None:
        self._executor = executor

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        job = partial(_run_into, future, fn, args, kwargs)
        if not current_calling_thread.get().call_in_thread(job):
            self._executor.run_in_fallback(job)
        return future


def _run_into(future: "Future[Any]", fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
    """Run `fn`; what it returns or raises goes to the future.

    A KeyboardInterrupt in the main thread is raised as well: it is Ctrl-C as a rule, for which the
    server waits.
    """
    if not future.set_running_or_notify_cancel():
        return
    # asgiref records in this thread which loop it works for, and leaves it there. The thread may be
    # a worker of another loop, or serve other apps next.
    noted = SyncToAsync.threadlocal.__dict__
    before = noted.copy()
    try:
        result = fn(*args, **kwargs)
    except StopIteration as exc:  # no future takes it: what awaits it would wait for ever
        error = RuntimeError("thread-sensitive code raised StopIteration")
        error.__cause__ = exc
        future.set_exception(error)
    except BaseException as exc:  # SystemExit and Ctrl-C too: they end the request (A-LOOP-5)
        future.set_exception(exc)
        if (
            isinstance(exc, KeyboardInterrupt)
            and threading.current_thread() is threading.main_thread()
        ):
            raise
    else:
        future.set_result(result)
    finally:
        noted.clear()
        noted.update(before)


def _run_to_end(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine that awaits nothing."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise RuntimeError("asgiref's ThreadSensitiveContext awaits something on entering")

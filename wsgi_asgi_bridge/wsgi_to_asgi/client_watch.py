"""Watches the client of one request: has it left, has it stalled (W-FLOW-2, W-FLOW-5)?"""

import logging
from collections.abc import Callable
from functools import partial

from .._crossing.loops import BackgroundTask, LoopHandle
from ..errors import ClientDisconnected
from ..typing import Receive
from .request_body import RequestBody
from .response import Response
from .settings import CLOCK_NOT_STARTED
from .stats import ClientLeft

__all__ = ["ASK", "CLIENT_LEFT", "CLIENT_STALLED", "ClientWatch"]

logger: logging.Logger = logging.getLogger("wsgi_asgi_bridge")

STRAY_MESSAGES = 4
"""Maximum number of messages to skip after the end of the body while waiting for the disconnect;
one or two are usual.
"""

ASK = 1
CLIENT_LEFT = 2
CLIENT_STALLED = 3
"""What a tick may find: the server is worth asking for a disconnect, the client has left, or it has
done nothing for `stall_timeout`.
"""


class ClientWatch:
    """The watch over one client: the task that waits for its disconnect, and the stall clock.

    Made when first needed. Everything here runs in the loop.
    """

    __slots__ = ("_has_left", "_is_slow", "task")

    def __init__(self) -> None:
        self.task: BackgroundTask | None = None
        self._is_slow = False
        """A tick has seen the app work."""
        self._has_left = False

    def begin(
        self,
        handle: LoopHandle,
        receive: Receive,
        body: RequestBody,
        on_left: Callable[[], None],
    ) -> None:
        """Wait for the disconnect in a task beside the exchange's, which feeds the body first.

        `on_left` is called in that task, at most once.
        """
        self.task = handle.spawn(partial(self._pump, handle, receive, body, on_left))

    def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            # A cancelled task keeps its traceback, which leads to the exchange.
            self.task = None

    def tick(self, now: float, response: Response, stall_timeout: float) -> int | None:
        """Look at the stall clock. `now` is in seconds that the loop has waited for clients."""
        since = response.waiting_since
        if since is None:
            # The app works. Whether its client is still there is worth a task if it is slow.
            was_slow, self._is_slow = self._is_slow, True
            return ASK if was_slow else None
        if since is CLOCK_NOT_STARTED:
            response.waiting_since = now
            return None
        if self._has_left:
            return CLIENT_LEFT
        # Some servers do not end a send() when the client leaves, so ask meanwhile.
        has_stalled = since <= now - stall_timeout and not response.progress_is_hidden
        return CLIENT_STALLED if has_stalled else ASK

    async def _pump(
        self,
        handle: LoopHandle,
        receive: Receive,
        body: RequestBody,
        on_left: Callable[[], None],
    ) -> None:
        """From here on the only caller of receive() (W-FLOW-2): feeds the body, then waits for the
        disconnect.
        """
        try:
            await body.feed(receive)
            # Bounded, or a server that repeats the end of the body would keep the loop busy.
            strays = 0
            while strays < STRAY_MESSAGES:
                message = await receive()
                if message["type"] == "http.disconnect":
                    break
                if message.get("more_body", False):
                    # A part of a body that nobody reads: each is an event of its own, and no stray.
                    await handle.checkpoint()
                else:
                    strays += 1
            else:
                return
        except handle.cancelled:
            raise
        except (ClientLeft, ClientDisconnected):
            pass
        except BaseException:
            logger.debug("the server's receive() raised; taken for a disconnect", exc_info=True)
        self._has_left = True
        on_left()

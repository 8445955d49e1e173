"""What the client of a WebSocket sends, from the server's receive() into the message port."""

import logging
from typing import Any

from .._crossing.loops import LoopHandle
from .._crossing.message_port import MessagePort
from .._protocol.close_codes import NO_STATUS, TOO_BIG
from ..typing import Receive
from .settings import Settings
from .websocket_call import LOST, MESSAGE_BYTES, WIDEST_CHARACTER_BYTES, End, counted_size

__all__ = ["feed"]

logger: logging.Logger = logging.getLogger("wsgi_asgi_bridge")


async def feed(
    handle: LoopHandle, receive: Receive, port: MessagePort, settings: Settings
) -> tuple[bool, End]:
    """Put what the client sends until it leaves or sends too much: whether it left, and the end.

    The only caller of receive(), which is not called while the port is full (WS-W-10). Raises its
    own cancellation only.
    """
    turn, limit = settings.turn, settings.max_message_size
    unbroken = 0
    try:
        while True:
            message: Any = await receive()
            kind = message["type"]
            if kind == "websocket.receive":
                payload = message.get("text")
                if payload is None:
                    payload = message["bytes"]
                    if type(payload) is not bytes:
                        payload = bytes(payload)
                    size = MESSAGE_BYTES + len(payload)
                else:
                    size = counted_size(payload)
                if limit is not None and size > limit and _exceeds(payload, limit):
                    return False, (TOO_BIG, f"a message may have {limit} bytes")
                if not port.put(payload, size):
                    await port.wait_for_room_in_loop()
                unbroken += size
                if unbroken > turn:  # a receive() that never waits would keep the loop
                    unbroken = 0
                    await handle.checkpoint()
            elif kind == "websocket.disconnect":
                return True, (message.get("code") or NO_STATUS, message.get("reason") or "")
    except handle.cancelled:
        raise
    except BaseException:
        logger.debug("the server's receive() raised; taken for a disconnect", exc_info=True)
        return True, LOST


def _exceeds(payload: str | bytes, limit: int) -> bool:
    """Whether a message has more bytes than `limit`; text counts as UTF-8."""
    length = len(payload)
    if length > limit or isinstance(payload, bytes) or payload.isascii():
        return length > limit
    if length * WIDEST_CHARACTER_BYTES <= limit:
        return False
    return len(payload.encode("utf-8", "surrogatepass")) > limit

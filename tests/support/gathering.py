"""An ASGI app whose clients stay: WebSockets at `/socket`, event streams at `/events`.

All of them get the tick of each request to `/tick`; `/hello` is for ordinary requests beside them.
"""

from typing import Any

from wsgi_asgi_bridge import ASGIToWSGI

HELLO = b"Hello, world!\n"
TICK = b"data: tick\n\n"
SOCKET, EVENTS = "/socket", "/events"
TICKS: dict[str, dict[str, Any]] = {
    SOCKET: {"type": "websocket.send", "text": TICK.decode()},
    EVENTS: {"type": "http.response.body", "body": TICK, "more_body": True},
}
EVENT_STREAM = [(b"content-type", b"text/event-stream")]

_there: dict[Any, dict[str, Any]] = {}
"""The `send` of each client, and what it sends for a tick."""


async def gathering(scope: Any, receive: Any, send: Any) -> None:
    kind = (await receive())["type"]
    start: dict[str, Any] = {"type": "http.response.start", "status": 200}
    if scope["type"] == "lifespan":
        await send({"type": f"{kind}.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    elif (path := scope["path"]) in TICKS:
        accept = {"type": "websocket.accept"}
        await send(accept if path == SOCKET else {**start, "headers": EVENT_STREAM})
        _there[send] = TICKS[path]
        while not (await receive())["type"].endswith(".disconnect"):
            pass
        del _there[send]
    else:
        for other, tick in list(_there.items()) if path == "/tick" else ():
            await other(tick)
        await send({**start, "headers": [(b"content-length", b"%d" % len(HELLO))]})
        await send({"type": "http.response.body", "body": HELLO})


bridged = ASGIToWSGI(gathering)

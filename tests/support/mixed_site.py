"""An ASGI site whose every answer says to which request it belongs, and what the process holds."""

import json
import os
from dataclasses import asdict
from typing import Any

from wsgi_asgi_bridge import ASGIToWSGI

EVENTS = 5


async def app(scope: Any, receive: Any, send: Any) -> None:
    """The query string is the mark: it comes back in each body and before each message."""
    mark = scope["query_string"]
    if scope["type"] == "websocket":
        await receive()
        if scope["path"] == "/refuses":
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "bytes": mark + message["bytes"]})
        return
    kind = b"text/event-stream" if scope["path"] == "/events" else b"text/plain"
    headers = [(b"content-type", kind)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["path"] == "/holds":
        files = len(os.listdir("/proc/self/fd"))
        body = json.dumps({**asdict(site.stats()), "files": files}).encode()
    elif scope["path"] == "/events":
        for _ in range(EVENTS):
            part = b"data: " + mark + b"\n\n"
            await send({"type": "http.response.body", "body": part, "more_body": True})
        body = b""
    else:
        body = mark
    await send({"type": "http.response.body", "body": body})


site = ASGIToWSGI(app, lifespan="off")

"""The WSGI apps of `wsgi_apps` behind `WSGIToASGI`, as ASGI servers import them."""

import dataclasses
import json
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from tests.support.wsgi_apps import by_name
from wsgi_asgi_bridge import WSGIToASGI

WORKERS = 10
STREAM_AFTER_SECONDS = 0.2
STALL_SECONDS = 0.5
NEVER_SECONDS = 3600.0
STATS_PATH = "/-/stats"


class Observed:
    """The bridge, and its `stats()` under `STATS_PATH`, answered on the loop without a worker."""

    def __init__(self, bridge: WSGIToASGI) -> None:
        self.bridge = bridge

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].endswith(STATS_PATH):
            await self._send_stats(send)
        else:
            await self.bridge(scope, receive, send)

    async def _send_stats(self, send: Any) -> None:
        body = json.dumps(dataclasses.asdict(self.bridge.stats())).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def few_workers() -> WSGIToASGI:
    """A bridge with so few workers that fifty clients could starve it."""
    return WSGIToASGI(by_name, workers=WORKERS, stream_after=STREAM_AFTER_SECONDS)


async def native_page(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello from Starlette")


observed = Observed(few_workers())
never_long = Observed(WSGIToASGI(by_name, workers=WORKERS, stream_after=NEVER_SECONDS))
impatient = Observed(WSGIToASGI(by_name, stall_timeout=STALL_SECONDS))
mounted = Starlette(
    routes=[
        Route("/native", native_page),
        Mount("/legacy", app=Observed(few_workers())),
    ]
)

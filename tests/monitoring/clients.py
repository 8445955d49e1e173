"""One request to an app in this process, as its server would pass it on."""

from collections.abc import Mapping
from typing import Any

import httpx

from tests.support.in_process import ASGITransport

SITE = "http://site.test"

TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C
SPAN_ID = 0xB7AD6B7169203331
TRACEPARENT = {"traceparent": f"00-{TRACE_ID:032x}-{SPAN_ID:016x}-01"}
"""What a traced client sends along."""


async def get_asgi(
    app: Any, path: str, headers: Mapping[str, str] | None = None, *, method: str = "GET"
) -> httpx.Response:
    """The answer of an ASGI app; 500 where it raises, as its server would give."""
    transport = ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=SITE) as client:
        return await client.request(method, path, headers=headers)


def get_wsgi(
    app: Any, path: str, headers: Mapping[str, str] | None = None, *, method: str = "GET"
) -> httpx.Response:
    """The answer of a WSGI app. Raises what the app raises."""
    with httpx.Client(transport=httpx.WSGITransport(app), base_url=SITE) as client:
        return client.request(method, path, headers=headers)

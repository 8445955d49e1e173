"""W-IN-4, W-FLOW-2: a request's body in empty and in tiny pieces."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.asgi_driver import (
    Client,
    Gate,
    calling,
    http_scope,
    serving,
)

Environ = dict[str, Any]
GONE = "wsgi_asgi_bridge.client_disconnected"


# --- the disconnect behind a body that nobody reads


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("ends", [True, False], ids=["ended", "unended"])
async def test_empty_parts_do_not_hide_the_disconnect(method: str, ends: bool) -> None:
    """W-FLOW-2: a request without a body may still have empty parts before its end (HTTP/2 sends
    empty frames), more of them than there are stray messages.
    """
    seen, over = Gate(), list[bool]()

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"first"
        while not (environ[GONE]() or over):
            time.sleep(0.005)
        if not over:
            seen.open()

    scope = http_scope(method, headers=[(b"content-length", b"0")])
    client = Client(scope, [b""] * 20, body_ends=ends)
    async with serving(app) as bridge, calling(bridge, client):
        await client.until(lambda c: c.body.startswith(b"first"))
        client.leave()
        try:
            await seen.wait()
        finally:
            over.append(True)
    assert client.error is None

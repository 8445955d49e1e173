"""W-IN-7: a client that sends, but less than `min_upload_rate` while it is waited for."""

from typing import Any

import anyio
import pytest

from tests.support.fake_asgi_server import (
    Client,
    answered,
    app_returning,
    calling,
    http_scope,
    plain_app,
    post_scope,
    serving,
)
from wsgi_asgi_bridge import ClientStalled

Environ = dict[str, Any]
STALL_SECONDS = 0.4
"""At 100 bytes a second a client must send 40 bytes in that time."""
STEP_SECONDS = 0.02
HOW = {
    "streamed": post_scope(100_000),
    "undeclared": post_scope(None),
    "collected": post_scope(20_000),
}


async def send_on(client: Client, part: bytes, count: int) -> None:
    """Feed a part each step, until there is an answer."""
    for _ in range(count):
        if client.complete:
            return
        await anyio.sleep(STEP_SECONDS)
        client.feed(part)


@pytest.mark.parametrize("scope", HOW.values(), ids=HOW)
async def test_client_that_trickles_has_stalled(scope: Any) -> None:
    """W-IN-7: a byte now and then does not keep a thread, nor a place in the loop."""
    app = app_returning(lambda environ: [environ["wsgi.input"].read()])
    client = Client(scope, [b"a"], body_ends=False)
    async with (
        serving(app, workers=1, stall_timeout=STALL_SECONDS) as bridge,
        calling(bridge, client),
    ):
        await send_on(client, b"a", 200)
        assert client.status == 408
        assert b"min_upload_rate=100" in client.body
        stats = bridge.stats()
        assert (stats.stalled, stats.rejected, stats.disconnected, stats.failed) == (1, 0, 0, 0)
        await answered(bridge, Client(http_scope()))


async def test_client_that_pauses_as_it_stalls() -> None:
    """W-IN-7, W-FLOW-4: one tick sees both, as after a blocked loop; no thread is taken."""
    calls: list[Environ] = []
    client = Client(post_scope(None), [b"a"], body_ends=False)
    async with (
        serving(app_returning(lambda environ: calls.append(environ) or [])) as bridge,
        calling(bridge, client),
    ):
        await client.until(lambda client: client.receive_calls == 2)
        ((runtime,), _) = bridge._known
        (exchange,) = runtime.exchanges
        exchange.tick(0.0)
        exchange.tick(bridge._settings.stall_timeout)
        await client.until_ended()
    assert client.status == 408
    assert calls == []


async def test_app_that_reads_from_a_trickling_client_gets_the_error() -> None:
    """W-IN-7, W-IN-3: as from one that sends nothing; reading on raises as well."""
    errors: list[BaseException] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        for _ in range(2):
            try:
                environ["wsgi.input"].read(10_000)
            except OSError as error:
                errors.append(error)
        return plain_app(environ, start_response)

    client = Client(post_scope(100_000), [b"a"], body_ends=False)
    async with (
        serving(app, stall_timeout=STALL_SECONDS) as bridge,
        calling(bridge, client),
    ):
        await send_on(client, b"a", 200)
    assert type(errors[0]) is ClientStalled
    assert isinstance(errors[1], OSError)
    assert client.status == 200


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # its seconds are spent once
@pytest.mark.parametrize("how", ["streamed", "collected"])
async def test_client_that_sends_enough_is_waited_for(anyio_backend: str, how: str) -> None:
    """W-IN-7: for longer than `stall_timeout`, at ten times the least rate."""
    app = app_returning(lambda environ: [b"%d" % len(environ["wsgi.input"].read())])
    client = Client(HOW[how], body_ends=False)
    length = int(dict(HOW[how]["headers"])[b"content-length"])
    async with serving(app, stall_timeout=0.9) as bridge, calling(bridge, client):
        for _ in range(8):
            await anyio.sleep(0.15)
            client.feed(b"a" * 150)
        client.feed(b"b" * (length - 8 * 150), last=True)
    assert (client.status, client.body) == (200, b"%d" % length)

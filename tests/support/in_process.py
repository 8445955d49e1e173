"""httpx's transport to an ASGI app in this process."""

import httpx


class ASGITransport(httpx.ASGITransport):
    """One whose request may be left unread.

    httpx leaves the generator of the body as it is then, and trio warns of it when it is collected.
    """

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.stream = _WholeBody(await request.aread())
        return await super().handle_async_request(request)


class _WholeBody(httpx.AsyncByteStream):
    def __init__(self, body: bytes) -> None:
        self._parts = iter([body])

    def __aiter__(self) -> "_WholeBody":
        return self

    async def __anext__(self) -> bytes:
        for part in self._parts:
            return part
        raise StopAsyncIteration

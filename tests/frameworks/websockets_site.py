"""What gunicorn serves in `asgi_to_wsgi/test_websockets.py`: the WebSockets of each framework.

Each app has the same: `/echo` says who it is and gives each text back, choosing the subprotocol
`chat`; `/guarded` refuses who brings no token; `/broken` raises after its first message. Channels
has a room besides.
"""

import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import quart
from asgiref.sync import async_to_sync
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.urls import path
from fastapi import Depends, FastAPI, Query, WebSocketException
from litestar import Litestar
from litestar import WebSocket as LitestarWebSocket
from litestar.exceptions import NotAuthorizedException
from litestar.handlers import websocket as litestar_websocket
from starlette.applications import Starlette
from starlette.endpoints import WebSocketEndpoint
from starlette.responses import PlainTextResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from wsgi_asgi_bridge import ASGIToWSGI

SUBPROTOCOL = "chat"
TOKEN = "token=right"
ROOM = "room"


def fastapi_app() -> Any:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, str]]:
        yield {"who": "fastapi"}

    app = FastAPI(lifespan=lifespan)

    async def checked(token: Annotated[str | None, Query()] = None) -> None:
        if token != "right":
            raise WebSocketException(1008, "no token")

    @app.websocket("/echo")
    async def echo(websocket: WebSocket) -> None:
        await websocket.accept(SUBPROTOCOL)
        await websocket.send_json({"hello": f"from {websocket.state.who}"})
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    @app.websocket("/guarded", dependencies=[Depends(checked)])
    async def guarded(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close(4000, "let in")

    @app.websocket("/broken")
    async def broken(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()
        raise LookupError("broken on purpose")

    return app


def starlette_app() -> Any:
    class Echo(WebSocketEndpoint):
        encoding = "text"

        async def on_connect(self, websocket: WebSocket) -> None:
            await websocket.accept(SUBPROTOCOL)
            await websocket.send_json({"hello": "from starlette"})

        async def on_receive(self, websocket: WebSocket, data: str) -> None:
            await websocket.send_text(data)

    class Broken(WebSocketEndpoint):
        async def on_receive(self, websocket: WebSocket, data: Any) -> None:
            raise LookupError("broken on purpose")

    async def guarded(websocket: WebSocket) -> None:
        if websocket.query_params.get("token") != "right":
            await websocket.send_denial_response(PlainTextResponse("no token", 403))
            return
        await websocket.accept()
        await websocket.close(4000, "let in")

    routes = [
        WebSocketRoute("/echo", Echo),
        WebSocketRoute("/guarded", guarded),
        WebSocketRoute("/broken", Broken),
    ]
    return Starlette(routes=routes)


def quart_app() -> Any:
    app = quart.Quart(__name__)

    @app.websocket("/echo")
    async def echo() -> None:
        await quart.websocket.accept(subprotocol=SUBPROTOCOL)
        await quart.websocket.send_json({"hello": "from quart"})
        while True:
            await quart.websocket.send(await quart.websocket.receive())

    @app.websocket("/guarded")
    async def guarded() -> None:
        if quart.websocket.args.get("token") != "right":
            quart.abort(403)
        await quart.websocket.accept()
        await quart.websocket.close(4000, "let in")

    @app.websocket("/broken")
    async def broken() -> None:
        await quart.websocket.receive()
        raise LookupError("broken on purpose")

    return app


def litestar_app() -> Any:
    @litestar_websocket("/echo")
    async def echo(socket: LitestarWebSocket[Any, Any, Any]) -> None:
        await socket.accept(subprotocols=SUBPROTOCOL)
        await socket.send_json({"hello": "from litestar"})
        async for text in socket.iter_data():
            await socket.send_text(text)

    @litestar_websocket("/guarded")
    async def guarded(socket: LitestarWebSocket[Any, Any, Any]) -> None:
        if socket.query_params.get("token") != "right":
            raise NotAuthorizedException("no token")
        await socket.accept()
        await socket.close(4000, "let in")

    @litestar_websocket("/broken")
    async def broken(socket: LitestarWebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        await socket.receive_text()
        raise LookupError("broken on purpose")

    return Litestar([echo, guarded, broken])


def channels_app() -> Any:
    if not settings.configured:
        layer = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
        settings.configure(CHANNEL_LAYERS={"default": layer}, ALLOWED_HOSTS=["*"])
    http = get_asgi_application()

    class Echo(AsyncWebsocketConsumer):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.accept(SUBPROTOCOL)
            await self.send('{"hello": "from channels"}')

        async def receive(self, text_data: str = "", bytes_data: bytes = b"") -> None:
            await self.send(text_data=text_data)

    class Guarded(WebsocketConsumer):  # type: ignore[misc]
        def connect(self) -> None:
            if TOKEN.encode() not in self.scope["query_string"]:
                self.close()
                return
            self.accept()
            self.close(4000, "let in")

    class Broken(WebsocketConsumer):  # type: ignore[misc]
        def receive(self, text_data: str = "", bytes_data: bytes = b"") -> None:
            raise LookupError("broken on purpose")

    class Member(WebsocketConsumer):  # type: ignore[misc]
        """A sync consumer: each of its methods runs in a thread."""

        def connect(self) -> None:
            async_to_sync(self.channel_layer.group_add)(ROOM, self.channel_name)
            self.accept()

        def receive(self, text_data: str = "", bytes_data: bytes = b"") -> None:
            event = {"type": "said", "text": text_data, "thread": threading.get_ident()}
            async_to_sync(self.channel_layer.group_send)(ROOM, event)

        def said(self, event: dict[str, Any]) -> None:
            here = "one thread" if event["thread"] == threading.get_ident() else "another thread"
            self.send(f"{event['text']} in {here}")

        def disconnect(self, code: int) -> None:
            async_to_sync(self.channel_layer.group_discard)(ROOM, self.channel_name)

    routes = [
        path("echo", Echo.as_asgi()),
        path("guarded", Guarded.as_asgi()),
        path("broken", Broken.as_asgi()),
        path("room", Member.as_asgi()),
    ]
    return ProtocolTypeRouter({"http": http, "websocket": URLRouter(routes)})


FRAMEWORKS = {
    "fastapi": fastapi_app,
    "starlette": starlette_app,
    "quart": quart_app,
    "litestar": litestar_app,
    "channels": channels_app,
}
_bridges = {name: ASGIToWSGI(make()) for name, make in FRAMEWORKS.items()}


def site(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """`/NAME/...` is asked of the app of that framework, whose path begins after the name."""
    name, _, rest = environ["PATH_INFO"].lstrip("/").partition("/")
    environ["PATH_INFO"] = f"/{rest}"
    return _bridges[name or "fastapi"](environ, start_response)

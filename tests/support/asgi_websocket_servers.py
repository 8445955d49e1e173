"""The ASGI servers under which WebSockets are tried, each with what it cannot do, and why."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from tests.support.asgi_servers import (
    DAPHNE,
    GRACEFUL_SECONDS,
    GUNICORN,
    HYPERCORN,
    UVICORN,
    AsgiServer,
    Served,
)
from tests.support.asgi_websocket_clients import Http2WebSocket, WebSocketClient, open_by_http1


class Ability(Enum):
    """What a bridge relies on and some server does not give it."""

    CLIENTS_CODE = "the app is told the client's close code"
    CLIENTS_REASON = "the app is told the client's reason"
    CODES_BELOW_3000 = "it sends close codes such as 1009 and 1011"
    APPS_REASON = "the client gets the reason of the app's close, not just its code"
    EMPTY_MESSAGES = "an empty message of the app reaches the client"
    REFUSAL_WITH_BODY = "the app's own answer to the handshake is sent"
    TELLS_APPS_AT_SHUTDOWN = "it gives open WebSockets time to end when it is told to end"
    HEADERS_OF_ACCEPT = "the headers of websocket.accept reach the client"


@dataclass(frozen=True)
class WebSocketServer:
    """One row of the table.

    `code_at_shutdown` is what clients see when the server is told to end; 1006 is a connection that
    is cut.
    """

    name: str
    command: tuple[str, ...]
    connect: Callable[[tuple[str, int], str, Sequence[str]], WebSocketClient] = open_by_http1
    code_at_shutdown: int = 1006
    lacks: Mapping[Ability, str] = field(default_factory=dict)

    @property
    def server(self) -> AsgiServer:
        """For the requests beside the WebSockets."""
        return AsgiServer(self.name, self.command, root_path_options=())


GRANIAN = ("granian", "--host", "{host}", "--port", "{port}", "--interface", "asgi")

DAPHNE_WITH_LIMITS = (
    *DAPHNE,
    *("--websocket-max-message-size", "16777216", "--websocket-max-frame-size", "16777216"),
)
"""As large as the other servers take them; its own limit is 1 MiB."""

HYPERCORN_LACKS = {
    Ability.CLIENTS_CODE: "it says 1006 whenever the client closes, and gives no reason",
}

SERVERS = (
    WebSocketServer("uvicorn-websockets", (*UVICORN, "--ws", "websockets"), code_at_shutdown=1012),
    WebSocketServer(
        "uvicorn-sansio", (*UVICORN, "--ws", "websockets-sansio"), code_at_shutdown=1012
    ),
    WebSocketServer("uvicorn-wsproto", (*UVICORN, "--ws", "wsproto"), code_at_shutdown=1012),
    WebSocketServer(
        "hypercorn-asyncio",
        (*HYPERCORN, "--worker-class", "asyncio"),
        code_at_shutdown=1011,
        lacks=HYPERCORN_LACKS,
    ),
    WebSocketServer(
        "hypercorn-trio", (*HYPERCORN, "--worker-class", "trio"), lacks=HYPERCORN_LACKS
    ),
    WebSocketServer(
        "hypercorn-h2c",
        (*HYPERCORN, "--worker-class", "asyncio"),
        connect=Http2WebSocket,
        lacks=HYPERCORN_LACKS,
    ),
    WebSocketServer(
        "gunicorn-asgi",
        (*GUNICORN, "--graceful-timeout", str(GRACEFUL_SECONDS)),
        lacks={
            Ability.CLIENTS_REASON: "its disconnect has no reason",
            Ability.REFUSAL_WITH_BODY: "it has no websocket.http.response; the answer is 403",
            Ability.TELLS_APPS_AT_SHUTDOWN: "it waits for them until its master kills it",
        },
    ),
    WebSocketServer(
        "granian",
        GRANIAN,
        lacks={
            Ability.CLIENTS_REASON: "its disconnect has no reason",
            Ability.HEADERS_OF_ACCEPT: "it takes the subprotocol alone",
            Ability.TELLS_APPS_AT_SHUTDOWN: "it cuts the connections and ends its process",
        },
    ),
    WebSocketServer(
        "daphne",
        DAPHNE_WITH_LIMITS,
        lacks={
            Ability.CODES_BELOW_3000: (
                "Autobahn's sendClose() raises for any but 1000, and the app's exception closes"
                " with 1011"
            ),
            Ability.CLIENTS_REASON: "its disconnect has no reason",
            Ability.APPS_REASON: "serverClose() takes the code alone",
            Ability.EMPTY_MESSAGES: "handle_reply() takes an empty message for none",
            Ability.REFUSAL_WITH_BODY: "it has no websocket.http.response; the answer is 403",
            Ability.HEADERS_OF_ACCEPT: "serverAccept() takes the subprotocol alone",
        },
    ),
)


@dataclass(frozen=True)
class ServedWebSockets(Served):
    """`tests.support.wsgi_websocket_apps:observed` in a running server."""

    row: WebSocketServer

    def open(self, target: str, subprotocols: Sequence[str] = ()) -> WebSocketClient:
        return self.row.connect(self.process.address, target, subprotocols)

    def has(self, ability: Ability) -> bool:
        return ability not in self.row.lacks

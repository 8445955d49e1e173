"""ASGI apps that speak WebSocket, named by how they behave; `websocket_site` serves them by path.

Its other requests are those of `asgi_apps.site`, and it notes in the witness what a test cannot
see from outside.
"""

import json
import os
from dataclasses import asdict
from typing import Any

import anyio

from tests.support import asgi_apps
from tests.support.asgi_apps import Message, Receive, Scope, Send, note, query_of
from tests.support.witness import witness_of_this_process

GREETING = "hello from the app"
COOKIE = (b"set-cookie", b"seen=1; Path=/")
ROOM = "room"
MESSAGE_BYTES = 65536
STATS = "tests.stats"
"""Of the scope: the method of the bridge that serves it."""


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """`?name=NAME` notes `NAME left CODE`, and `NAME said REASON` if there is one."""
    await accept(scope, receive, send)
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
    if name := query_of(scope).get("name"):
        note(f"{name} left {message['code']}")
        if message["reason"]:
            note(f"{name} said {message['reason']}")


async def greets(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends a cookie with the handshake and a message with it, in one go."""
    await accept(scope, receive, send, headers=[COOKIE])
    await send({"type": "websocket.send", "text": GREETING})
    await receive()


async def closes(scope: Scope, receive: Receive, send: Send) -> None:
    """`?code=DDDD&reason=...`"""
    query = query_of(scope)
    await accept(scope, receive, send)
    code, reason = int(query["code"]), query.get("reason", "")
    await send({"type": "websocket.close", "code": code, "reason": reason})
    await receive()


async def returns(scope: Scope, receive: Receive, send: Send) -> None:
    await accept(scope, receive, send)


async def raises(scope: Scope, receive: Receive, send: Send) -> None:
    await accept(scope, receive, send)
    raise LookupError("broken on purpose")


async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
    """Closes before it has accepted."""
    await receive()
    await send({"type": "websocket.close", "code": 4000})


async def denies(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers 401 with a body in two parts."""
    await receive()
    assert "websocket.http.response" in scope["extensions"]
    headers = [(b"content-type", b"text/plain"), (b"www-authenticate", b"Bearer")]
    start = {"type": "websocket.http.response.start", "status": 401, "headers": headers}
    await send(start)
    part = {"type": "websocket.http.response.body", "body": b"who ", "more_body": True}
    await send(part)
    await send({"type": "websocket.http.response.body", "body": b"are you?"})


async def raises_before(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    raise LookupError("broken on purpose")


async def describes(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends what the app was told of the handshake."""
    await accept(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    told = {key: scope[key] for key in ("type", "scheme", "path", "subprotocols")}
    await send({"type": "websocket.send", "text": json.dumps({**told, "headers": headers})})
    await receive()


async def remembers_environ(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers each message with the query string that it finds in the environ now."""
    await accept(scope, receive, send)
    while (await receive())["type"] == "websocket.receive":
        text = scope["wsgi_environ"].get("QUERY_STRING", "nothing")
        await send({"type": "websocket.send", "text": text})


async def counts(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers each message with what `stats()` of its bridge and /proc say."""
    await accept(scope, receive, send)
    while (await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": json.dumps(counted(scope))})


async def floods(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends `?count=...` messages of MESSAGE_BYTES zeros, and notes `NAME sent` after them."""
    query = query_of(scope)
    await accept(scope, receive, send)
    for _ in range(int(query["count"])):
        await send({"type": "websocket.send", "bytes": bytes(MESSAGE_BYTES)})
    note(f"{query['name']} sent")
    await receive()


async def takes_its_time(scope: Scope, receive: Receive, send: Send) -> None:
    """Receives nothing before the gate `NAME` is open; then answers how many bytes came in all."""
    query = query_of(scope)
    await accept(scope, receive, send)
    witness = witness_of_this_process()
    with anyio.fail_after(asgi_apps.GATE_SECONDS):  # on trio, too
        while not witness.is_gate_open(query["name"]):  # noqa: ASYNC110 (another process opens it)
            await anyio.sleep(asgi_apps.GATE_POLL_SECONDS)
    size = 0
    while size < int(query["size"]):
        size += len((await receive())["bytes"])
    await send({"type": "websocket.send", "text": str(size)})
    await receive()


async def joins(scope: Scope, receive: Receive, send: Send) -> None:
    """Gets what `broadcast` says, with all others that have joined."""
    members: set[Send] = asgi_apps.shared(ROOM, set)
    await accept(scope, receive, send)
    members.add(send)
    while (await receive())["type"] == "websocket.receive":
        pass
    members.remove(send)


WEBSOCKET_APPS = (
    echo,
    greets,
    closes,
    returns,
    raises,
    refuses,
    denies,
    raises_before,
    describes,
    remembers_environ,
    counts,
    floods,
    takes_its_time,
    joins,
)
BY_PATH = {f"/{app.__name__}": app for app in WEBSOCKET_APPS}


async def broadcast(scope: Scope, receive: Receive, send: Send) -> None:
    """Tells all who have joined, and answers how many they are."""
    members: set[Send] = asgi_apps.shared(ROOM, set)
    for member in list(members):
        await member({"type": "websocket.send", "text": GREETING})
    await asgi_apps.answer(send, b"%d" % len(members))


async def sends_counts(scope: Scope, receive: Receive, send: Send) -> None:
    await asgi_apps.answer_json(send, counted(scope))


async def sends_counts_as_events(scope: Scope, receive: Receive, send: Send) -> None:
    """An event, and then at the gate `NAME` another one with what `counts` says."""
    await asgi_apps.start(send, headers=[(b"content-type", b"text/event-stream")])
    await asgi_apps.send_part(send, b"data: first\n\n")
    await asgi_apps.gate(query_of(scope)["name"])
    await asgi_apps.send_part(send, b"data: %s\n\n" % json.dumps(counted(scope)).encode())
    await asgi_apps.end(send)


async def says_what_it_is(scope: Scope, receive: Receive, send: Send) -> None:
    await asgi_apps.answer(send, f"a plain {scope['type']} scope".encode())


async def echoes_as_events(scope: Scope, receive: Receive, send: Send) -> None:
    """The query string in three events."""
    await asgi_apps.start(send, headers=[(b"content-type", b"text/event-stream")])
    for _ in range(3):
        await asgi_apps.send_part(send, b"data: %b\n\n" % scope["query_string"])
    await asgi_apps.end(send)


HTTP_BY_PATH = {
    "/echoes_as_events": echoes_as_events,
    "/broadcast": broadcast,
    "/sends_counts": sends_counts,
    "/sends_counts_as_events": sends_counts_as_events,
}


async def websocket_site(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await BY_PATH[scope["path"]](scope, receive, send)
    elif scope["type"] == "http" and scope["path"] in BY_PATH:
        await says_what_it_is(scope, receive, send)
    elif scope["type"] == "http" and scope["path"] in HTTP_BY_PATH:
        await HTTP_BY_PATH[scope["path"]](scope, receive, send)
    else:
        await asgi_apps.site(scope, receive, send)


async def accept(scope: Scope, receive: Receive, send: Send, **more: Any) -> None:
    """Accept with the first subprotocol that the client offers."""
    message: Message = await receive()
    assert message["type"] == "websocket.connect", message
    chosen = next(iter(scope["subprotocols"]), None)
    await send({"type": "websocket.accept", "subprotocol": chosen, **more})


def counted(scope: Scope) -> dict[str, Any]:
    """The numbers of the bridge that serves this scope, and of its process."""
    return {
        **asdict(scope[STATS]()),
        "pid": os.getpid(),
        "threads": len(os.listdir("/proc/self/task")),
        "files": len(os.listdir("/proc/self/fd")),
    }

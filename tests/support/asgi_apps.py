"""ASGI apps named by how they behave; each is plain ASGI 3 and answers HTTP only.

`site` serves all of them by path (`/streams_until_client_leaves?name=x`) and has a lifespan; it
writes down in the witness what a test cannot see from outside.
"""

import asyncio
import json
import os
import threading
import time
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl

from tests.support.witness import witness_of_this_process

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

GATE_SECONDS = 20.0
GATE_POLL_SECONDS = 0.01
TICK_SECONDS = 0.02
PART_BYTES = 65_536
BLOCKED_SECONDS = 1.0
PARTIES = 4
POOL_SIZE = 2


# Answers


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http", scope["type"]
    await answer(send, b"Hello, world!")


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """`?status=DDD`, with a Content-Length of a body that is not there."""
    headers = [(b"content-length", b"5"), (b"etag", b'"1"')]
    status = int(query_of(scope)["status"])
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await end(send)


async def echoes_request(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what it was asked: method, path, query, headers, body."""
    body = b""
    async for part in body_parts(receive):
        body += part
    await answer_json(
        send,
        {
            "method": scope["method"],
            "path": scope["path"],
            "query": scope["query_string"].decode("latin-1"),
            "headers": [[n.decode("latin-1"), v.decode("latin-1")] for n, v in scope["headers"]],
            "body": body.decode("latin-1"),
        },
    )


async def counts_upload(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the size and checksum of the body, keeping none of it."""
    size = checksum = largest = 0
    async for part in body_parts(receive):
        size += len(part)
        checksum = zlib.crc32(part, checksum)
        largest = max(largest, len(part))
    await answer_json(send, {"size": size, "checksum": checksum, "largest_part": largest})


async def refuses_upload(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers 413 without having asked for the body."""
    await send({"type": "http.response.start", "status": 413, "headers": []})
    await send({"type": "http.response.body", "body": b"refused"})


async def sends_megabytes(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with `megabytes` of zeros and notes `<name> sent` when all are handed over."""
    query = query_of(scope)
    size = int(query["megabytes"]) * 1024 * 1024
    await start(send, content_length=size)
    for _ in range(size // PART_BYTES):
        await send_part(send, bytes(PART_BYTES))
    await end(send)
    note(f"{query['name']} sent")


async def sends_early_hint(scope: Scope, receive: Receive, send: Send) -> None:
    """A hint, if the server takes any, and a page that tells."""
    hint = "http.response.early_hint"
    is_taken = hint in scope["extensions"]
    if is_taken:
        await send({"type": hint, "links": [b"</style.css>; rel=preload"]})
    await answer(send, b"hints" if is_taken else b"no hints")


async def describes_process(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what a test wants to know of the process that serves it."""
    loop = asyncio.get_running_loop()
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    await answer_json(
        send,
        {
            "pid": os.getpid(),
            "loop_thread": threading.get_native_id(),
            "loop": id(loop),
            "tasks": sorted(repr(task.get_coro()) for task in tasks),
            "state": {key: value for key, value in scope.get("state", {}).items() if key == "pid"},
        },
    )


# Streams


async def sends_events(scope: Scope, receive: Receive, send: Send) -> None:
    """Three server-sent events; before the later ones it waits at the gate `<name>-<number>`."""
    name = query_of(scope)["name"]
    await start(send, headers=[(b"content-type", b"text/event-stream")])
    for number in range(1, 4):
        if number > 1:
            await gate(f"{name}-{number}")
        await send_part(send, b"data: %d\n\n" % number)
    await end(send)


async def streams_until_client_leaves(scope: Scope, receive: Receive, send: Send) -> None:
    """Ticks for ever, resting in between; notes `<name> ended` when its stream ends."""
    try:
        await start(send, headers=[(b"content-type", b"text/event-stream")])
        while True:
            await send_part(send, b"data: tick\n\n")
            await asyncio.sleep(TICK_SECONDS)
    finally:
        note(f"{query_of(scope)['name']} ended")


async def sends_until_client_leaves(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends for ever, as fast as its client reads; notes `<name> ended <what send() raised>`."""
    try:
        await start(send)
        while True:
            await send_part(send, bytes(PART_BYTES))
    except BaseException as error:
        note(f"{query_of(scope)['name']} ended {_kind(error)}")
        raise


async def waits_for_disconnect(scope: Scope, receive: Receive, send: Send) -> None:
    """Says nothing and waits for its client to leave; notes `<name> waits` and `<name> left`."""
    name = query_of(scope)["name"]
    note(f"{name} waits")
    while (await receive())["type"] != "http.disconnect":
        pass
    note(f"{name} left")


async def starts_and_waits_for_disconnect(scope: Scope, receive: Receive, send: Send) -> None:
    """The same after the first part of its response."""
    await start(send)
    await send_part(send, b"first")
    await waits_for_disconnect(scope, receive, send)


async def waits_for_disconnect_or_gate(scope: Scope, receive: Receive, send: Send) -> None:
    """As `waits_for_disconnect`, but answers once the gate `<name>` is open."""
    name = query_of(scope)["name"]
    waiting = asyncio.create_task(waits_for_disconnect(scope, receive, send))
    await gate(name)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    await answer(send, b"through")


async def reads_until_client_leaves(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads a body that never comes whole; notes `<name> reads` and `<name> left`."""
    name = query_of(scope)["name"]
    note(f"{name} reads")
    message = await receive()
    while message["type"] == "http.request" and message.get("more_body"):
        message = await receive()
    note(f"{name} {'left' if message['type'] == 'http.disconnect' else 'got a whole body'}")


# Misbehaviour


async def returns_without_answering(scope: Scope, receive: Receive, send: Send) -> None:
    return


async def returns_after_start(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send, content_length=10)


async def returns_after_part(scope: Scope, receive: Receive, send: Send) -> None:
    await start_and_send_half(send)


async def raises_before(scope: Scope, receive: Receive, send: Send) -> None:
    raise LookupError("raised before the response")


async def raises_after(scope: Scope, receive: Receive, send: Send) -> None:
    await start_and_send_half(send)
    raise LookupError("raised within the response")


async def raises_within_chunked(scope: Scope, receive: Receive, send: Send) -> None:
    """As `raises_after`, and the end of the body is not declared."""
    await start(send, headers=[(b"content-type", b"text/plain")])
    await send_part(send, b"half")
    raise LookupError("raised within the response")


async def cancels_itself_before(scope: Scope, receive: Receive, send: Send) -> None:
    await cancel_this_task()


async def cancels_itself_after(scope: Scope, receive: Receive, send: Send) -> None:
    await start_and_send_half(send)
    await cancel_this_task()


async def exits_before(scope: Scope, receive: Receive, send: Send) -> None:
    raise SystemExit(3)


async def exits_after(scope: Scope, receive: Receive, send: Send) -> None:
    await start_and_send_half(send)
    raise SystemExit(3)


async def interrupts_before(scope: Scope, receive: Receive, send: Send) -> None:
    raise KeyboardInterrupt


async def interrupts_after(scope: Scope, receive: Receive, send: Send) -> None:
    await start_and_send_half(send)
    raise KeyboardInterrupt


async def sends_illegal_message(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.body", "body": b"a body without a start"})


# Work besides the response


async def works_in_background(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers, goes on until the gate `<name>` opens, and notes `<name> done`."""
    name = query_of(scope)["name"]
    await answer(send, b"accepted")
    await gate(name)
    note(f"{name} done")


async def raises_in_background(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, b"accepted")
    raise LookupError("raised in the background")


async def waits_at_gate(scope: Scope, receive: Receive, send: Send) -> None:
    """Notes `<name> waits`, and answers once the gate `<name>` is open."""
    name = query_of(scope)["name"]
    note(f"{name} waits")
    await gate(name)
    await answer(send, b"through")


# Crashes beside the request


async def has_task_that_exits(scope: Scope, receive: Receive, send: Send) -> None:
    """A task of its own raises SystemExit; the request itself answers after that."""
    await answer_after_task_that_raises(send, SystemExit(3))


async def has_task_that_interrupts(scope: Scope, receive: Receive, send: Send) -> None:
    await answer_after_task_that_raises(send, KeyboardInterrupt())


async def has_task_that_cancels_itself(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.wait([asyncio.create_task(cancel_this_task())])
    await answer(send, b"survived")


async def has_callback_that_exits(scope: Scope, receive: Receive, send: Send) -> None:
    """A bare callback of the loop raises SystemExit; nobody holds it."""
    ran = asyncio.Event()

    def exit_now() -> None:
        ran.set()
        raise SystemExit(3)

    asyncio.get_running_loop().call_soon(exit_now)
    await ran.wait()
    await answer(send, b"survived")


async def blocks_loop(scope: Scope, receive: Receive, send: Send) -> None:
    """Holds the whole loop for a while, as a forgotten blocking call does."""
    note(f"{query_of(scope)['name']} blocks")
    time.sleep(BLOCKED_SECONDS)  # noqa: ASYNC251 (that is the point)
    await answer(send, b"survived")


# What requests share


async def meets_others(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers once `PARTIES` requests are in here at the same time."""
    place = await place_among_others()
    await answer_json(send, {"place": place, "loop": id(asyncio.get_running_loop())})


async def adds_under_lock(scope: Scope, receive: Receive, send: Send) -> None:
    """Adds to a shared number in two steps with others between them, under a shared lock."""
    count = int(query_of(scope)["count"])
    lock, total = shared("lock", asyncio.Lock), shared("total", lambda: [0])
    await place_among_others()
    async with asyncio.timeout(GATE_SECONDS):
        for _ in range(count):
            async with lock:
                seen = total[0]
                await asyncio.sleep(0)
                total[0] = seen + 1
    await answer_json(send, {"total": total[0]})


async def passes_items(scope: Scope, receive: Receive, send: Send) -> None:
    """Puts `count` items into a shared queue of one place, or takes them out of it."""
    query = query_of(scope)
    queue: asyncio.Queue[int] = shared("queue", lambda: asyncio.Queue(1))
    items = []
    async with asyncio.timeout(GATE_SECONDS):
        for item in range(int(query["count"])):
            if query["does"] == "put":
                await queue.put(item)
            else:
                items.append(await queue.get())
    await answer_json(send, {"items": items})


async def uses_pool(scope: Scope, receive: Receive, send: Send) -> None:
    """Borrows from a shared pool of `POOL_SIZE` and tells how many were out at the most."""
    pool: ConnectionPool = shared("pool", ConnectionPool)
    await place_among_others()
    async with asyncio.timeout(GATE_SECONDS):
        for _ in range(int(query_of(scope)["count"])):
            await pool.use()
    await answer_json(send, {"most_in_use": pool.most_in_use})


async def place_among_others() -> int:
    """Wait until `PARTIES` requests are here together; which one of them this is."""
    async with asyncio.timeout(GATE_SECONDS):
        place: int = await shared("barrier", lambda: asyncio.Barrier(PARTIES)).wait()
    return place


class ConnectionPool:
    """What a database pool is to its users: connections that wait for one another on one loop."""

    def __init__(self) -> None:
        self._free: asyncio.Queue[object] = asyncio.Queue()
        for _ in range(POOL_SIZE):
            self._free.put_nowait(object())
        self._in_use = 0
        self.most_in_use = 0

    async def use(self) -> None:
        connection = await self._free.get()
        self._in_use += 1
        self.most_in_use = max(self.most_in_use, self._in_use)
        await asyncio.sleep(0)
        self._in_use -= 1
        self._free.put_nowait(connection)


# The site that serves them all


async def site(scope: Scope, receive: Receive, send: Send) -> None:
    """Every app above under its name, `/` for hello; with a lifespan that is written down."""
    if scope["type"] == "lifespan":
        await noted_lifespan(scope, receive, send)
        return
    assert scope["type"] == "http", scope["type"]
    if "first request" not in _shared:
        _shared["first request"] = True
        note("first request")
    await APPS[scope["path"].strip("/")](scope, receive, send)


async def site_that_fails_to_start(scope: Scope, receive: Receive, send: Send) -> None:
    """Its lifespan fails; a request that reaches it anyway would be answered."""
    if scope["type"] == "lifespan":
        await receive()
        note("startup failed")
        await send({"type": "lifespan.startup.failed", "message": "no database today"})
        return
    await hello(scope, receive, send)


async def noted_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """Notes `startup` and `shutdown`; its state tells in which process it ran."""
    assert (await receive())["type"] == "lifespan.startup"
    scope["state"]["pid"] = os.getpid()
    note("startup")
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    note("shutdown")
    await send({"type": "lifespan.shutdown.complete"})


_ANSWERS = (
    hello,
    bare,
    echoes_request,
    counts_upload,
    refuses_upload,
    sends_megabytes,
    sends_early_hint,
    describes_process,
)
_STREAMS = (
    sends_events,
    streams_until_client_leaves,
    sends_until_client_leaves,
    waits_for_disconnect,
    starts_and_waits_for_disconnect,
    waits_for_disconnect_or_gate,
    reads_until_client_leaves,
)
MISBEHAVING_BEFORE = (
    returns_without_answering,
    returns_after_start,
    raises_before,
    cancels_itself_before,
    exits_before,
    interrupts_before,
    sends_illegal_message,
)
MISBEHAVING_AFTER = (
    returns_after_part,
    raises_after,
    cancels_itself_after,
    exits_after,
    interrupts_after,
)
CRASHING_BESIDE = (
    has_task_that_exits,
    has_task_that_interrupts,
    has_task_that_cancels_itself,
    has_callback_that_exits,
)
_WORKING = (works_in_background, raises_in_background, waits_at_gate, blocks_loop)
_SHARING = (meets_others, adds_under_lock, passes_items, uses_pool)

APPS: dict[str, ASGIApp] = {
    "": hello,
    **{
        app.__name__: app
        for app in (
            *_ANSWERS,
            *_STREAMS,
            *MISBEHAVING_BEFORE,
            *MISBEHAVING_AFTER,
            raises_within_chunked,
            *CRASHING_BESIDE,
            *_WORKING,
            *_SHARING,
        )
    },
}

_shared: dict[str, Any] = {}


def shared(name: str, make: Callable[[], Any]) -> Any:
    """What requests of this process share under `name`, made by the first that asks."""
    if name not in _shared:
        _shared[name] = make()
    return _shared[name]


# The messages they send


async def answer(send: Send, body: bytes) -> None:
    """A whole response in two messages."""
    await start(send, content_length=len(body))
    await send({"type": "http.response.body", "body": body})


async def answer_json(send: Send, value: object) -> None:
    await answer(send, json.dumps(value).encode())


async def start(
    send: Send,
    *,
    content_length: int | None = None,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> None:
    length = [] if content_length is None else [(b"content-length", b"%d" % content_length)]
    await send(
        {"type": "http.response.start", "status": 200, "headers": [*length, *(headers or [])]}
    )


async def send_part(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def end(send: Send) -> None:
    await send({"type": "http.response.body"})


async def start_and_send_half(send: Send) -> None:
    """Begin a body of eight bytes and send four of them."""
    await start(send, content_length=8)
    await send_part(send, b"half")


async def answer_after_task_that_raises(send: Send, error: BaseException) -> None:
    """Answer once a task of its own has raised `error`."""

    async def raise_error() -> None:
        raise error

    task = asyncio.create_task(raise_error())
    await asyncio.wait([task])
    with suppress(BaseException):
        task.result()
    await answer(send, b"survived")


async def cancel_this_task() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def body_parts(receive: Receive) -> Any:
    """The parts of the request's body; fails when the client leaves before its end."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client left before the end of its body")
        yield message.get("body", b"")
        if not message.get("more_body"):
            return


async def gate(name: str) -> None:
    """Wait until the test opens the gate; fail when it never does."""
    witness = witness_of_this_process()
    async with asyncio.timeout(GATE_SECONDS):
        while not witness.is_gate_open(name):  # noqa: ASYNC110 (another process opens it)
            await asyncio.sleep(GATE_POLL_SECONDS)


def note(what: str) -> None:
    witness_of_this_process().note(what)


def query_of(scope: Scope) -> dict[str, str]:
    return dict(parse_qsl(scope["query_string"].decode("latin-1")))


def _kind(error: BaseException) -> str:
    """`OSError` for all of its kind: what the specification promises to an app."""
    return "OSError" if isinstance(error, OSError) else type(error).__name__

"""An ASGI server and its client in memory, and the app's side of the tests.

`Client` is one request. Its test feeds the body, leaves, and stops or goes on reading; the driver
watches that the bridge speaks legal ASGI and never calls `receive` or `send` twice at once. Works
on asyncio, uvloop and trio.
"""

import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar
from urllib.parse import quote

import anyio
import anyio.lowlevel
import anyio.to_thread

from wsgi_asgi_bridge import WSGIToASGI

DEADLINE_SECONDS = 10.0
SHUTDOWN_SECONDS = 5.0
SETTLE_CHECKPOINTS = 200
LAST_STEPS_SECONDS = 1.0
"""A thread that said it is done may take its last steps, and a timer of the bridge its last round,
within this time.
"""
THREAD_NAME_PREFIX = "wsgi_asgi_bridge"
ABSENT: Any = object()

Scope = dict[str, Any]
Message = dict[str, Any]
HeaderList = list[tuple[bytes, bytes]]


# --- scopes


def http_scope(
    method: str = "GET",
    path: str = "/",
    *,
    headers: Iterable[tuple[bytes, bytes]] = (),
    **overrides: Any,
) -> Scope:
    """An http scope as uvicorn makes it; a key given as `ABSENT` is left out."""
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": quote(path).encode("ascii"),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"example.test"), *headers],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "extensions": {},
    }
    return _with_overrides(scope, overrides)


def websocket_scope(path: str = "/", **overrides: Any) -> Scope:
    """A websocket scope as uvicorn makes it; a key given as `ABSENT` is left out."""
    scope = http_scope(path=path)
    del scope["method"]
    scope |= {
        "type": "websocket",
        "scheme": "ws",
        "subprotocols": [],
        "headers": [
            (b"host", b"example.test"),
            (b"connection", b"Upgrade"),
            (b"upgrade", b"websocket"),
            (b"sec-websocket-version", b"13"),
            (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        ],
    }
    return _with_overrides(scope, overrides)


def post_scope(length: int | None = None, **overrides: Any) -> Scope:
    """A POST; `length` declares the body's size, None leaves it undeclared (chunked)."""
    declared = (
        (b"transfer-encoding", b"chunked")
        if length is None
        else (b"content-length", b"%d" % length)
    )
    headers = [declared, *overrides.pop("headers", ())]
    return http_scope("POST", headers=headers, **overrides)


def _with_overrides(scope: Scope, overrides: dict[str, Any]) -> Scope:
    scope |= overrides
    return {key: value for key, value in scope.items() if value is not ABSENT}


# --- what threads and loops wait for


class Gate:
    """Opened once, by anyone; passed in threads and in loops, and never waited for beyond the
    deadline.
    """

    expired: ClassVar[list["Gate"]] = []
    """Gates that nobody opened in time; `serving` fails for them, wherever the error went."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __bool__(self) -> bool:
        return self._event.is_set()

    def open(self) -> None:
        self._event.set()

    def wait_in_thread(self, seconds: float = DEADLINE_SECONDS) -> None:
        if not self._event.wait(seconds):
            Gate.expired.append(self)
            raise AssertionError("a gate was not opened in time")

    async def wait(self) -> None:
        await anyio.to_thread.run_sync(self.wait_in_thread)

    async def stays_shut(self, seconds: float = 0.15) -> bool:
        """Whether nobody opens it for a while; says True wrongly at worst, so it never fails a good
        bridge.
        """
        return not await anyio.to_thread.run_sync(self._event.wait, seconds)


async def settle() -> None:
    """Let everything run that the loop can run without outside help."""
    for _ in range(SETTLE_CHECKPOINTS):
        await anyio.lowlevel.checkpoint()


# --- one request


class Client:
    """One request of an in-memory ASGI server; everything but reads of its attributes happens in
    the loop.
    """

    def __init__(
        self,
        scope: Scope | None = None,
        body: Sequence[bytes] = (),
        *,
        body_ends: bool = True,
        reads: float = float("inf"),
        send_fails_at: int | None = None,
        send_error: type[OSError] = BrokenPipeError,
        raises_when_gone: bool = False,
    ) -> None:
        """`reads` messages are accepted until `read_on`; `send_fails_at` counts messages from 0."""
        self.scope = http_scope() if scope is None else scope
        self.messages: list[Message] = []
        self.early: list[Message] = []
        """Messages of extensions that precede the start."""
        self.violations: list[str] = []
        self.error: BaseException | None = None
        self.receive_calls = 0
        self.send_calls = 0
        self.fed_bytes_taken = 0
        self.body_bytes = 0
        self.gone = False
        self.ended = False
        self.cancel_scope = anyio.CancelScope()
        self._changed = anyio.Event()
        self._inbox: deque[Message] = deque()
        self._receiving = self._sending = 0
        self._reads_left = reads
        self._send_fails_at = send_fails_at
        self._send_error = send_error
        self._raises_when_gone = raises_when_gone
        parts = list(body) or [b""]
        for part in parts[:-1]:
            self.feed(part)
        if body or body_ends:
            self.feed(parts[-1], last=body_ends)

    # what the client does

    def feed(self, part: bytes, *, last: bool = False) -> None:
        """Queue one body part; after the `last` the body is whole."""
        self._inbox.append({"type": "http.request", "body": part, "more_body": not last})
        self._notify()

    def leave(self) -> None:
        """Disconnect: `receive` says so after what is queued, a blocked `send` returns as in
        uvicorn.
        """
        self.gone = True
        self._notify()

    def read_on(self, count: float = float("inf")) -> None:
        """Accept `count` messages more."""
        self._reads_left += count
        self._notify()

    def cancel(self) -> None:
        """Cancel the ASGI task, as a server does on shutdown or timeout."""
        self.cancel_scope.cancel()

    # what the client saw

    @property
    def started(self) -> bool:
        return bool(self.messages)

    @property
    def complete(self) -> bool:
        return bool(self.messages) and self._is_final(self.messages[-1])

    @property
    def status(self) -> int:
        status = self.messages[0]["status"]
        assert isinstance(status, int)
        return status

    @property
    def headers(self) -> list[tuple[str, str]]:
        pairs = self.messages[0].get("headers", ())
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in pairs]

    def header(self, name: str) -> str | None:
        """The only value of that header, or None."""
        values = [value for key, value in self.headers if key == name]
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.messages[1:])

    @property
    def blocked_in_send(self) -> bool:
        return self._sending > 0

    @property
    def waiting_in_receive(self) -> bool:
        return self._receiving > 0

    async def until(self, condition: Callable[["Client"], object]) -> None:
        """Wait until what this client saw or did meets `condition`."""
        with anyio.fail_after(DEADLINE_SECONDS):
            while not condition(self):
                await self._changed.wait()

    async def until_ended(self) -> None:
        await self.until(lambda client: client.ended)

    # what the server does

    async def run(self, app: Any) -> None:
        """Call the ASGI app for this request; its exception is kept in `error`."""
        try:
            with self.cancel_scope:
                await app(self.scope, self.receive, self.send)
        except anyio.get_cancelled_exc_class() as error:
            if self._cancelled_from_outside():
                raise
            self.error = error
        except BaseException as error:
            self.error = error
        finally:
            self.ended = True
            self._notify()
        assert not self.violations, self.violations

    async def receive(self) -> Message:
        self.receive_calls += 1
        self._receiving += 1
        self._complain_if(self._receiving > 1, "W-FLOW-2: two receive() calls at once")
        self._notify()
        try:
            while not (self._inbox or self.gone or self.complete):
                await self._changed.wait()
            await anyio.lowlevel.checkpoint()
        finally:
            self._receiving -= 1
        if not self._inbox or self.complete:
            return {"type": "http.disconnect"}
        message = self._inbox.popleft()
        self.fed_bytes_taken += len(message["body"])
        self._notify()
        return message

    async def send(self, message: Message) -> None:
        self._check(message)
        index, self.send_calls = self.send_calls, self.send_calls + 1
        self._sending += 1
        self._complain_if(self._sending > 1, "two send() calls at once")
        self._notify()
        try:
            if self._send_fails_at is not None and index >= self._send_fails_at:
                raise self._send_error("the client hung up")
            while self._reads_left < 1 and not self.gone:
                await self._changed.wait()
            await anyio.lowlevel.checkpoint()
        finally:
            self._sending -= 1
        if not self.gone and message["type"] in self._EARLY_TYPES:
            self.early.append(message)
        elif not self.gone:
            self._reads_left -= 1
            self.messages.append(message)
            self.body_bytes += len(message.get("body", b""))
        elif self._raises_when_gone:
            raise ConnectionResetError("the client is gone")
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def _cancelled_from_outside(self) -> bool:
        # A CancelledError that nobody asked for came out of the app: no cancellation.
        return (
            anyio.get_current_task().has_pending_cancellation() or self.cancel_scope.cancel_called
        )

    def _complain_if(self, condition: bool, text: str) -> None:
        if condition:
            self.violations.append(text)

    def _check(self, message: Message) -> None:
        kind = message["type"]
        if self.complete:
            self._complain_if(True, f"{kind} after the final message")
        elif kind in self._EARLY_TYPES:
            self._complain_if(bool(self.messages), f"{kind} after the start")
            self._complain_if(kind not in self.scope["extensions"], f"{kind} is not offered")
        elif not self.messages and not self.gone:
            self._complain_if(kind != "http.response.start", f"{kind} before the start")
        elif not self.gone:
            self._complain_if(kind == "http.response.start", f"second {kind}")
        if kind == "http.response.start":
            self._check_start(message)
        elif kind == "http.response.body":
            self._complain_if(type(message.get("body", b"")) is not bytes, f"body {message!r}")

    _EARLY_TYPES = ("http.response.early_hint", "http.response.debug")

    def _check_start(self, message: Message) -> None:
        self._complain_if(type(message["status"]) is not int, f"status {message['status']!r}")
        for name, value in message.get("headers", ()):
            legal = type(name) is type(value) is bytes and name == name.lower()
            self._complain_if(not legal, f"header {(name, value)!r}")

    def _is_final(self, message: Message) -> bool:
        if message["type"] in (
            "http.response.body",
            "http.response.zerocopysend",
            "websocket.http.response.body",
        ):
            return not message.get("more_body", False)
        return message["type"] in ("http.response.pathsend", "websocket.close")


class Lifespan:
    """A server's lifespan of an app, a step at a time."""

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        self.scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}
        if state is not None:
            self.scope["state"] = state
        self.messages: list[Message] = []
        self._changed = anyio.Event()
        self._inbox: deque[Message] = deque()

    async def run(self, app: Any) -> None:
        await app(self.scope, self._receive, self._send)

    async def startup(self) -> str:
        """The type of the app's answer."""
        return await self._ask("lifespan.startup")

    async def shutdown(self) -> str:
        """The type of the app's answer."""
        return await self._ask("lifespan.shutdown")

    async def _ask(self, question: str) -> str:
        answered = len(self.messages)
        self._inbox.append({"type": question})
        self._notify()
        with anyio.fail_after(DEADLINE_SECONDS):
            while len(self.messages) == answered:
                await self._changed.wait()
        kind = self.messages[-1]["type"]
        assert isinstance(kind, str)
        return kind

    async def _receive(self) -> Message:
        while not self._inbox:
            await self._changed.wait()
        return self._inbox.popleft()

    async def _send(self, message: Message) -> None:
        self.messages.append(message)
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


# --- running


@asynccontextmanager
async def serving(app: Any, **options: Any) -> AsyncIterator[WSGIToASGI]:
    """A bridge over `app` that is closed at the end, also when the test fails."""
    options.setdefault("shutdown_timeout", SHUTDOWN_SECONDS)
    bridge = WSGIToASGI(app, **options)
    Gate.expired = []
    try:
        yield bridge
    finally:
        with anyio.CancelScope(shield=True), anyio.fail_after(2 * DEADLINE_SECONDS):
            await bridge.aclose()
    assert not Gate.expired, "an app waited in vain at a gate"


@asynccontextmanager
async def calling(bridge: Any, *clients: Any) -> AsyncIterator[None]:
    """Run the clients' requests meanwhile, and wait at the end until all are over."""
    async with anyio.create_task_group() as group:
        for client in clients:
            group.start_soon(client.run, bridge)
        try:
            yield
            for client in clients:
                await client.until_ended()
        except BaseException:
            group.cancel_scope.cancel()
            raise


async def answered(bridge: Any, client: Client | None = None) -> Client:
    """Run one request to its end and raise what came out of it."""
    client = Client() if client is None else client
    with anyio.fail_after(DEADLINE_SECONDS):
        await client.run(bridge)
    if client.error is not None:
        raise client.error
    return client


def tick(bridge: WSGIToASGI, *times: float) -> None:
    """Have the bridge look at its clients, as it does by its own clock: each of `times` is how many
    seconds its loop has waited for them. In the loop.
    """
    for now in times:
        for runtime in bridge._known[0]:
            for exchange in list(runtime.exchanges):
                exchange.tick(now)


async def fetched(app: Any, client: Client | None = None, **options: Any) -> Client:
    """Run one request on a bridge of its own and raise what came out of it."""
    async with serving(app, **options) as bridge:
        return await answered(bridge, client)


async def failure_of(app: Any, client: Client | None = None) -> tuple[BaseException, Client]:
    """The exception that the server got, and what the client saw before it."""
    client = Client() if client is None else client
    async with serving(app) as bridge:
        await client.run(bridge)
    assert client.error is not None, f"nothing was raised; the client saw {client.messages}"
    return client.error, client


# --- what must not be left


def threads_of_bridges() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith(THREAD_NAME_PREFIX)}


def open_files() -> dict[str, str]:
    """Descriptor -> what it refers to, for this process."""
    files = {}
    for name in os.listdir("/dev/fd"):
        try:
            files[name] = os.readlink(f"/dev/fd/{name}")
        except OSError:  # the listing's own descriptor is closed by now
            continue
    return files


def _new_tasks(known: set[int]) -> list[anyio.TaskInfo]:
    return [task for task in anyio.get_running_tasks() if task.id not in known]


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """At its end no thread, task or file is there that was not at its start."""
    threads, files = threads_of_bridges(), open_files()
    tasks = {task.id for task in anyio.get_running_tasks()}
    yield
    with anyio.move_on_after(LAST_STEPS_SECONDS):
        # No event tells of their end.
        while _new_tasks(tasks) or threads_of_bridges() - threads:  # noqa: ASYNC110
            await anyio.sleep(0.002)
    left = [task.name for task in _new_tasks(tasks)]
    left += [thread.name for thread in threads_of_bridges() - threads]
    assert not left, f"tasks or threads left: {left}"
    opened = dict(open_files().items() - files.items())
    assert not opened, f"files left: {opened}"


# --- the app's side


def plain_app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """200 with `hello`."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


class TrackedBody:
    """A WSGI iterable that records who stepped it, and every close()."""

    def __init__(
        self, chunks: Iterable[bytes] = (), on_close: Callable[[], object] | None = None
    ) -> None:
        self._chunks = iter(chunks)
        self._on_close = on_close
        self.threads: list[threading.Thread] = []
        self.steps = 0
        self.closes = 0
        self.closed = Gate()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.threads.append(threading.current_thread())
        chunk = next(self._chunks)
        self.steps += 1
        return chunk

    def close(self) -> None:
        self.threads.append(threading.current_thread())
        self.closes += 1
        try:
            if self._on_close is not None:
                self._on_close()
        finally:
            self.closed.open()


def app_returning(
    body: Any, status: str = "200 OK", headers: Sequence[tuple[str, str]] = ()
) -> Callable[..., Any]:
    """An app that answers with this body, or with what this function of the environ makes."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, [("Content-Type", "text/plain"), *headers])
        return body(environ) if callable(body) else body

    return app

"""The ASGI servers under which a WSGI app is tried, each with what it cannot do, and why.

A server that lacks an `Ability` is still tested: the test then asserts what it does instead.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar
from urllib.parse import quote

from tests.support.bridged_wsgi import STATS_PATH
from tests.support.processes import ServerProcess
from tests.support.raw_http import Client, Connection, Response
from tests.support.raw_http2 import Http2Connection

T = TypeVar("T")

GRACEFUL_SECONDS = 1
"""How long a server waits for open streams when it is told to end, before it cancels them."""

SETTLE_SECONDS = 10.0
NORMAL_SECONDS = 5.0
"""A normal request that takes longer has been held up by someone else."""
POLL_SECONDS = 0.02


class Ability(Enum):
    """What a bridge relies on and some server does not give it."""

    UPLOADS_ARRIVE_AS_SENT = "the app is called before the request's body is whole"
    WRITERS_WAIT = "send() waits while the client does not read"
    FAILED_RESPONSES_BREAK = "an error after the headers breaks the connection"
    SENDS_100_CONTINUE = "the client is told to go on with its body"
    SENDS_END_WITH_CONNECTION = "a send() that waits for the client ends when the client leaves"
    CANCELS_AT_SHUTDOWN = "requests that outlast the graceful time-out are cancelled"


@dataclass(frozen=True)
class AsgiServer:
    """One row of the table.

    `root_path_options` set the ASGI root_path to what they are formatted with. A server that
    `prefixes_path` puts it before the path of each request, the others find it there.
    """

    name: str
    command: tuple[str, ...]
    root_path_options: tuple[str, ...]
    prefixes_path: bool = False
    client: type[Client] = Connection
    lacks: Mapping[Ability, str] = field(default_factory=dict)

    def command_for(self, app: str, *, root_path: str = "") -> list[str]:
        options = [part.format(root_path) for part in self.root_path_options if root_path]
        return [sys.executable, "-m", *self.command, *options, app]

    def can(self, ability: Ability) -> bool:
        return ability not in self.lacks


ADDRESS = ("--host", "{host}", "--port", "{port}")
UVICORN = (
    *("uvicorn", *ADDRESS, "--no-access-log"),
    *("--timeout-graceful-shutdown", str(GRACEFUL_SECONDS)),
)
HYPERCORN = (
    *("hypercorn", "--bind", "{host}:{port}"),
    *("--graceful-timeout", str(GRACEFUL_SECONDS)),
)
HYPERCORN_ON_ASYNCIO_LACKS = (
    {
        Ability.CANCELS_AT_SHUTDOWN: (
            "its graceful time-out begins after Server.wait_closed(), which from Python 3.12 on"
            " waits for open connections, for ever"
        ),
    }
    if sys.version_info >= (3, 12)
    else {}
)
GRANIAN = ("granian", *ADDRESS, "--interface", "asgi", "--no-ws")
DAPHNE = ("daphne", "-b", "{host}", "-p", "{port}", "-v", "0")
GUNICORN = (
    *("gunicorn", "--bind", "{host}:{port}", "--worker-class", "asgi"),
    *("--graceful-timeout", "10", "--asgi-disconnect-grace-period", "1", "--no-control-socket"),
)

SERVERS = (
    AsgiServer(
        name="uvicorn-httptools",
        command=(*UVICORN, "--http", "httptools", "--loop", "uvloop"),
        root_path_options=("--root-path", "{}"),
        prefixes_path=True,
    ),
    AsgiServer(
        name="uvicorn-h11",
        command=(*UVICORN, "--http", "h11", "--loop", "asyncio"),
        root_path_options=("--root-path", "{}"),
        prefixes_path=True,
    ),
    AsgiServer(
        name="hypercorn-asyncio",
        command=(*HYPERCORN, "--worker-class", "asyncio"),
        root_path_options=("--root-path", "{}"),
        lacks=HYPERCORN_ON_ASYNCIO_LACKS,
    ),
    AsgiServer(
        name="hypercorn-trio",
        command=(*HYPERCORN, "--worker-class", "trio"),
        root_path_options=("--root-path", "{}"),
        lacks={
            Ability.CANCELS_AT_SHUTDOWN: (
                "it shields what it writes to the socket from cancellation, so a client that does"
                " not read holds up the end of the server until it leaves"
            ),
        },
    ),
    AsgiServer(
        name="hypercorn-h2c",
        # An error after the headers leaves the stream open; the connection breaks as idle.
        command=(*HYPERCORN, "--worker-class", "asyncio", "--keep-alive", "1"),
        root_path_options=("--root-path", "{}"),
        client=Http2Connection,
        lacks={
            **HYPERCORN_ON_ASYNCIO_LACKS,
            Ability.WRITERS_WAIT: (
                "StreamBuffer.pop() lets the writer go on when the window is spent, for it takes"
                " the nothing that it could send for a buffer that has run low"
            ),
            Ability.SENDS_100_CONTINUE: "no interim answers over HTTP/2",
            Ability.SENDS_END_WITH_CONNECTION: (
                "the send() of the last part waits for an event that nobody sets once the"
                " connection is closed or the stream is reset"
            ),
        },
    ),
    AsgiServer(
        name="granian",
        command=GRANIAN,
        root_path_options=("--url-path-prefix", "{}"),
        lacks={
            Ability.CANCELS_AT_SHUTDOWN: (
                "it waits for open streams for ever, or kills the worker after"
                " --workers-kill-timeout"
            ),
        },
    ),
    AsgiServer(
        name="daphne",
        command=DAPHNE,
        root_path_options=("--root-path", "{}"),
        lacks={
            Ability.UPLOADS_ARRIVE_AS_SENT: (
                "Twisted collects the whole request (in a file) before it calls Daphne, which"
                " then puts all of it in a queue; a cut upload never reaches an app"
            ),
            Ability.WRITERS_WAIT: "send() writes into Twisted's unbounded buffer",
            Ability.FAILED_RESPONSES_BREAK: (
                "it tries to send an error page, which fails after the headers, and then leaves"
                " the connection open and silent"
            ),
        },
    ),
    AsgiServer(
        name="gunicorn-asgi",
        command=GUNICORN,
        root_path_options=("--root-path", "{}"),
        lacks={
            Ability.CANCELS_AT_SHUTDOWN: (
                "worker and master use the same time-out, and the worker begins to wait later, so"
                " that the master kills it before it cancels anything"
            ),
        },
    ),
)


@dataclass(frozen=True)
class Served:
    """`tests.support.bridged_wsgi:observed` in a running server."""

    server: AsgiServer
    process: ServerProcess

    def connect(self, *, timeout: float = 20.0, receive_buffer: int | None = None) -> Client:
        return self.server.client(self.process.address, timeout, receive_buffer)

    def get(self, target: str | bytes, *, timeout: float = NORMAL_SECONDS) -> Response:
        """The response to a GET on a connection of its own."""
        with self.connect(timeout=timeout) as client:
            return client.get(target)

    def can(self, ability: Ability) -> bool:
        return self.server.can(ability)

    def assert_answers(self, times: int = 10) -> None:
        """Normal requests through the bridge are answered, each in `NORMAL_SECONDS`."""
        for _ in range(times):
            assert self.get("/hello").body == b"hello\n"

    def stats(self) -> dict[str, int]:
        """`bridge.stats()`, asked past the pool."""
        return json.loads(self.get(STATS_PATH).body)

    def journal(self, token: str) -> list[str]:
        """What the app recorded for requests with `?id=token`."""
        return json.loads(self.get(f"/journal?id={quote(token)}").body)

    def wait_for_journal(self, token: str, event: str) -> list[str]:
        """The journal once it holds `event`."""
        return waited_for(
            lambda: self.journal(token),
            lambda events: event in events,
            f"{event!r} in the journal of {token}",
        )

    def wait_for_stats(self, **expected: int) -> dict[str, int]:
        """The stats once they hold these values."""
        return waited_for(
            self.stats,
            lambda stats: expected.items() <= stats.items(),
            f"stats with {expected}",
        )

    def wait_until_idle(self) -> dict[str, int]:
        """The stats once no request is in flight and every thread is idle."""
        return self.wait_for_stats(in_flight=0, busy=0, streaming=0, queued=0)


def waited_for(
    ask: Callable[[], T], is_wanted: Callable[[T], bool], name: str, seconds: float = SETTLE_SECONDS
) -> T:
    """What `ask` gives once it is as wanted; an AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not is_wanted(answer := ask()):
        assert time.monotonic() < deadline, f"no {name} within {seconds} s, but {answer}"
        time.sleep(POLL_SECONDS)
    return answer

"""A request of an in-memory ASGI server that sends files by itself, and apps that give it some."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.fake_asgi_server import Client, app_returning, http_scope

FOLDER = "WSGI_ASGI_BRIDGE_TEST_FILES"
"""The environment's name of the folder whose files the servers' apps give."""

CONTENT = bytes(range(256)) * 4000  # four pieces
PATHSEND = "http.response.pathsend"
ZEROCOPYSEND = "http.response.zerocopysend"


class FileClient(Client):
    """One request of a server that sends files by itself, as `extensions` say."""

    def __init__(
        self,
        *extensions: str,
        method: str = "GET",
        headers: tuple[tuple[bytes, bytes], ...] = (),
        **options: Any,
    ) -> None:
        offered: dict[str, Any] = {name: {} for name in extensions}
        super().__init__(http_scope(method, extensions=offered, headers=headers), **options)
        self.received = b""

    async def send(self, message: dict[str, Any]) -> None:
        # Nothing of the bridge's is kept: a server lets go of the file with the message.
        await super().send({key: message[key] for key in message if key != "file"})
        if message["type"] == ZEROCOPYSEND:
            descriptor = message["file"].fileno()
            # After the wait, in which a client may be slow: the descriptor has to be good still.
            # Servers take the file for a number, or ask it for one.
            assert descriptor == message["file"]
            part = os.pread(descriptor, message["count"], message["offset"])
            assert len(part) == message["count"]
            self.received += part
        elif message["type"] == "http.response.body":
            self.received += message["body"]

    @property
    def path(self) -> str | None:
        """The path that the server was given."""
        paths = [m["path"] for m in self.messages if m["type"] == PATHSEND]
        assert len(paths) <= 1
        return paths[0] if paths else None

    @property
    def sent(self) -> bytes:
        """The body; of a path it is read when all is over, as granian may do."""
        return Path(self.path).read_bytes() if self.path is not None else self.received

    @property
    def kinds(self) -> set[str]:
        return {message["type"] for message in self.messages[1:]}


def giving(
    make: Callable[[], Any], *headers: tuple[str, str], status: str = "200 OK"
) -> Callable[..., Any]:
    """An app that gives what `make` opens."""
    return app_returning(lambda e: e["wsgi.file_wrapper"](make()), status, headers)

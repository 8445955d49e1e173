"""Messages that go out before the head: early hints, and what Starlette's TestClient is told."""

from collections.abc import Iterable, Mapping
from typing import Any

from .._crossing.channel import ThreadToLoop
from .._protocol.asgi_response import DEBUG, EARLY_HINT
from .._protocol.headers import APP_HEADER_NAMES, header_value_from_app
from ..errors import AppError
from ..typing import Environ

__all__ = ["EarlyMessages"]


class EarlyMessages:
    """The messages of one request that the worker has given and the loop has not sent yet.

    Any thread adds; the loop takes. A message is added before the chunk that wakes the loop is put,
    so the loop, which takes chunks first, finds it. The steps of a list are atomic by themselves.
    """

    __slots__ = ("_messages", "_out", "closed")

    def __init__(self, out: ThreadToLoop) -> None:
        self._out = out
        self.closed: bool = False
        """Set with the head: what is added later is dropped, whether or not that has gone out."""
        self._messages: list[dict[str, Any]] = []

    @classmethod
    def offered(
        cls, extensions: Mapping[str, Any], environ: Environ, out: ThreadToLoop
    ) -> "EarlyMessages | None":
        """Put what the server's extensions make possible into `environ`; None if nothing is."""
        if EARLY_HINT not in extensions and DEBUG not in extensions:
            return None
        messages = cls(out)
        if EARLY_HINT in extensions:
            environ["wsgi.early_hints"] = messages.add_early_hints
        if DEBUG in extensions:
            environ["wsgi_asgi_bridge.send_debug"] = messages.add_debug
        return messages

    def add_early_hints(self, headers: Iterable[tuple[str, str]]) -> None:
        """`wsgi.early_hints`, as gunicorn made it: send 103 with these headers.

        ASGI carries links only, so other headers are left out. After the head nothing is sent.
        Raises AppError for what is no header, ClientDisconnected if the request is over.
        """
        links = []
        for pair in headers:
            try:
                name, value = pair
                known = APP_HEADER_NAMES[name]
            except (TypeError, ValueError):
                raise AppError(
                    f"wsgi.early_hints: a header is {pair!r:.200}, expected a tuple of name and "
                    "value"
                ) from None
            checked = header_value_from_app(name, value, "wsgi.early_hints")
            if known == b"link":
                links.append(checked)
        if links:
            self._add({"type": EARLY_HINT, "links": links})

    def add_debug(self, info: Any) -> None:
        """For an ASGIToWSGI behind this bridge: what a template was, and its context."""
        self._add({"type": DEBUG, "info": info})

    def _add(self, message: dict[str, Any]) -> None:
        if self.closed:
            return
        self._messages.append(message)
        self._out.put_from_thread(b"")

    def taken_in_loop(self) -> list[dict[str, Any]]:
        """The messages that were added, in their order."""
        count = len(self._messages)  # others may be added meanwhile: they come with a later chunk
        return [self._messages.pop(0) for _ in range(count)]

"""What one bridge is set to, checked, and the measures of time that follow from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .._options import count, seconds
from .._protocol.environ import environ_template
from ..typing import Environ
from .files import FileWrapper

__all__ = ["CLOCK_NOT_STARTED", "TICKS_PER_TIMEOUT", "TURN_BYTES", "Settings"]

TICKS_PER_TIMEOUT = 8
"""The loop checks time-outs this often; it notices one at most a quarter late, and never early."""

TURN_BYTES = 524288
"""What the loop takes of one client before its other tasks have their turn, if `request_buffer` is
not less. A part of a body or a message counts for 256 bytes at least.
"""

LEAST_TICK_SECONDS = 0.001
"""The shortest time between two ticks, however short the time-outs are."""

UNDECLARED_PAUSE_SECONDS = 0.25
"""A small body without a Content-Length is collected until its client pauses for this long: then it
may be waiting for an answer. At most an eighth of `stall_timeout`; seen at the next tick.
"""

CLOCK_NOT_STARTED = float("inf")
"""The start of a wait that no tick has seen yet. The first tick that sees it sets the time, so that
no client is given up early.
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of WSGIToASGI, checked, and what is computed from them."""

    workers: int
    max_queued: int
    max_streams: int
    stream_after: float
    request_buffer: int
    small_body: int
    response_buffer: int
    max_body_size: int | None
    max_message_size: int | None
    max_header_repeats: int
    stall_timeout: float
    min_upload_rate: int
    shutdown_timeout: float
    extra_environ: Environ
    least_upload: float
    """Bytes that a client must send in `stall_timeout` seconds."""
    pause: float
    """Seconds without a byte after which an undeclared body is taken for a stream."""
    tick: float
    """Seconds between two looks at the clients."""
    turn: int
    """Bytes that the loop takes of one client before its other tasks have their turn."""
    template: Environ

    @classmethod
    def checked(
        cls,
        *,
        workers: int,
        max_queued: int,
        max_streams: int,
        stream_after: float,
        request_buffer: int,
        small_body: int,
        response_buffer: int,
        max_body_size: int | None,
        max_message_size: int | None,
        max_header_repeats: int,
        stall_timeout: float,
        min_upload_rate: int,
        shutdown_timeout: float,
        environ: Mapping[str, Any] | None,
    ) -> "Settings":
        """Raises TypeError or ValueError for what makes no sense."""
        stall_timeout = seconds("stall_timeout", stall_timeout)
        stream_after = seconds("stream_after", stream_after)
        min_upload_rate = count("min_upload_rate", min_upload_rate, least=0)
        if max_body_size is not None:
            count("max_body_size", max_body_size, least=0)
        if max_message_size is not None:
            count("max_message_size", max_message_size, least=1)
        return cls(
            workers=count("workers", workers, least=1),
            max_queued=count("max_queued", max_queued, least=0),
            max_streams=count("max_streams", max_streams, least=0),
            stream_after=stream_after,
            request_buffer=count("request_buffer", request_buffer, least=1),
            small_body=min(count("small_body", small_body, least=0), request_buffer),
            response_buffer=count("response_buffer", response_buffer, least=1),
            max_body_size=max_body_size,
            max_message_size=max_message_size,
            max_header_repeats=count("max_header_repeats", max_header_repeats, least=1),
            stall_timeout=stall_timeout,
            min_upload_rate=min_upload_rate,
            shutdown_timeout=seconds("shutdown_timeout", shutdown_timeout),
            extra_environ=_constant_pairs(environ),
            least_upload=min_upload_rate * stall_timeout,
            pause=min(UNDECLARED_PAUSE_SECONDS, stall_timeout / TICKS_PER_TIMEOUT),
            tick=max(LEAST_TICK_SECONDS, min(stall_timeout, stream_after) / TICKS_PER_TIMEOUT),
            turn=min(request_buffer, TURN_BYTES),
            template=environ_template(multithread=workers > 1, file_wrapper=FileWrapper),
        )


def _constant_pairs(environ: Mapping[str, Any] | None) -> Environ:
    if environ is None:
        return {}
    if not isinstance(environ, Mapping):
        raise TypeError(f"environ is {environ!r}, expected a mapping of str keys")
    for key in environ:
        if not isinstance(key, str):
            raise TypeError(f"environ has the key {key!r}, expected str keys only")
        if key in ("wsgi.input", "asgi.scope") or key.startswith("wsgi_asgi_bridge."):
            raise ValueError(f"environ has the key {key!r}, which belongs to each request")
    return dict(environ)

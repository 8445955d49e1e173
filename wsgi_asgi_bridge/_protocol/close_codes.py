"""The close codes of WebSockets (RFC 6455 7.4, and the IANA registry)."""

__all__ = [
    "GOING_AWAY",
    "INTERNAL_ERROR",
    "INVALID_DATA",
    "MAX_REASON_BYTES",
    "NORMAL",
    "NO_CLOSE_FRAME",
    "NO_STATUS",
    "PROTOCOL_ERROR",
    "SERVICE_RESTART",
    "TLS_HANDSHAKE",
    "TOO_BIG",
    "is_sendable_close_code",
]

NORMAL = 1000
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
NO_STATUS = 1005
"""A close frame came without a code. No frame holds this one."""
NO_CLOSE_FRAME = 1006
"""The connection ended without a close frame. No frame holds this one."""
INVALID_DATA = 1007
TOO_BIG = 1009
INTERNAL_ERROR = 1011
SERVICE_RESTART = 1012
TLS_HANDSHAKE = 1015
"""TLS failed. No frame holds this one."""

MAX_REASON_BYTES = 123
"""What a close frame has room for beside its code (RFC 6455 5.5)."""

_LAST_REGISTERED = 1014
_NEVER_SENT = (1004, NO_STATUS, NO_CLOSE_FRAME)


def is_sendable_close_code(code: int) -> bool:
    """Whether a close frame may hold `code`: one of the registry, or from 3000 to 4999."""
    return 3000 <= code <= 4999 or (NORMAL <= code <= _LAST_REGISTERED and code not in _NEVER_SENT)

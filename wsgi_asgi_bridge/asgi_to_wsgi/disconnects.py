"""How servers show that a client has left, and which errors follow from a disconnect."""

import errno
from collections.abc import Callable
from functools import partial

from .. import errors
from .._crossing.sockets import peer_has_closed
from ..errors import ClientDisconnected
from ..typing import Environ

__all__ = ["client_disconnected", "disconnect_probe", "is_consequence"]


def disconnect_probe(environ: Environ) -> Callable[[], bool]:
    """Return a callable that returns whether the client has left, if this server shows it (A-IN-3).

    The check of a WSGIToASGI around this bridge comes first: it is nearer than the outer server's.
    """
    check = environ.get("wsgi_asgi_bridge.client_disconnected") or environ.get(
        "waitress.client_disconnected"
    )
    if check is not None:
        return check  # type: ignore[no-any-return]
    connection = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    if connection is not None:
        return partial(peer_has_closed, connection)
    return bool  # bool() is False


def client_disconnected() -> ClientDisconnected:
    """Return the error with errno EPIPE, which servers take for a disconnect and do not log."""
    return errors.client_disconnected(errno.EPIPE)


def is_consequence(error: BaseException, causes: tuple[type[BaseException], ...]) -> bool:
    """Whether `error` is one of `causes`, was raised from one, or is a group of such errors only.

    `__context__` counts only if the class's name contains "Disconnect", as Starlette's
    ClientDisconnect does: an error raised while another is handled may be a bug in a `finally`.
    """
    return _leads_to(error, causes, frozenset())


def _leads_to(
    error: BaseException, causes: tuple[type[BaseException], ...], above: frozenset[int]
) -> bool:
    """`above`: ids of the exceptions already checked, since one may be its own cause."""
    current: BaseException | None = error
    while current is not None and id(current) not in above:
        if isinstance(current, causes):
            return True
        above |= {id(current)}
        if isinstance(current, BaseExceptionGroup) and all(
            _leads_to(member, causes, above) for member in current.exceptions
        ):
            return True
        if current.__cause__ is None and "Disconnect" in type(current).__name__:
            current = current.__context__
        else:
            current = current.__cause__
    return False

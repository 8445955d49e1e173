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
    """A callable that says whether the client has left, as far as this server shows it (A-IN-3).

    The nearest source first: a WSGIToASGI around this bridge passes on what an outer server shows.
    """
    check = environ.get("wsgi_asgi_bridge.client_disconnected") or environ.get(
        "waitress.client_disconnected"
    )
    if check is not None:
        return check  # type: ignore[no-any-return]
    connection = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    if connection is not None:
        return partial(peer_has_closed, connection)
    return bool  # always False


def client_disconnected() -> ClientDisconnected:
    """With the errno of a write to a closed connection, which servers recognise and do not log."""
    return errors.client_disconnected(errno.EPIPE)


def is_consequence(error: BaseException, causes: tuple[type[BaseException], ...]) -> bool:
    """Whether `error` is one of `causes` or was raised because of one: `raise ... from` one, or a
    group of nothing else.

    `__context__` counts only if the class's name says "Disconnect", as Starlette's ClientDisconnect
    does: what is raised while another error is handled may as well be a bug in a `finally`.
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

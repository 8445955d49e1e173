"""Adapters that run WSGI apps on ASGI servers and ASGI apps on WSGI servers."""

from .asgi_to_wsgi import ASGIToWSGI
from .errors import (
    AppError,
    BadRequest,
    BodyTooLarge,
    BridgeClosed,
    BridgeError,
    ClientDisconnected,
    ClientStalled,
    ServerError,
)
from .wsgi_to_asgi import WSGIToASGI

__all__ = [
    "ASGIToWSGI",
    "AppError",
    "BadRequest",
    "BodyTooLarge",
    "BridgeClosed",
    "BridgeError",
    "ClientDisconnected",
    "ClientStalled",
    "ServerError",
    "WSGIToASGI",
]

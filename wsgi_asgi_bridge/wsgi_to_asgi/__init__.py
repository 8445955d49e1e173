"""A WSGI app under an ASGI server."""

from .bridge import WSGIToASGI
from .stats import WSGIToASGIStats

__all__ = ["WSGIToASGI", "WSGIToASGIStats"]

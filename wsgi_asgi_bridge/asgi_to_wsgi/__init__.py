"""An ASGI app under a WSGI server."""

from .bridge import ASGIToWSGI, ASGIToWSGIStats

__all__ = ["ASGIToWSGI", "ASGIToWSGIStats"]

"""a2wsgi's interface: `import a2wsgi` becomes `from wsgi_asgi_bridge.compat import a2wsgi`.

docs/coming_from_a2wsgi.md says what is kept and what is not.
"""

from .asgi import ASGIMiddleware
from .wsgi import WSGIMiddleware

__all__ = ["ASGIMiddleware", "WSGIMiddleware"]

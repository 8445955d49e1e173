"""gunicorn settings for an ASGI app behind ASGIToWSGI."""

from typing import Any

bind = "127.0.0.1:8000"
worker_class = "gthread"
workers = 1
threads = 32
# The master kills a worker that has not ended this many seconds after it was told to.
graceful_timeout = 10


def post_worker_init(worker: Any) -> None:
    """Runs the app's lifespan startup now, not with the first request."""
    worker.wsgi.startup()
    # An event stream that keeps its thread, as over TLS, has no end of its own. A worker that
    # waited for it as long as the master waits for the worker would be killed before worker_exit.
    worker.cfg.set("graceful_timeout", 2)


def worker_exit(_server: Any, worker: Any) -> None:
    """Runs the app's lifespan shutdown when gunicorn ends the worker."""
    bridge = getattr(worker, "wsgi", None)  # missing where the app could not be loaded
    if bridge is not None:
        bridge.close()

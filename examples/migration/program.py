"""One program of two halves: the new one answers what it knows, the old one the rest.

From the project's root, with a user to log in as:

    flask --app examples.migration.old add-user ada

it is served by an ASGI server, and unchanged by a WSGI server:

    uvicorn examples.migration.program:asgi --timeout-graceful-shutdown 2
    gunicorn -c examples/gunicorn_conf.py examples.migration.program:wsgi
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import to_thread
from fastapi import FastAPI

from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI

from . import new, old, settings, store

old_half = WSGIToASGI(old.app, max_body_size=settings.MAX_UPLOAD_BYTES)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    await to_thread.run_sync(store.create)
    yield
    await old_half.aclose()  # a mounted app gets no lifespan of its own


asgi = FastAPI(title="Shelf", lifespan=lifespan)
asgi.include_router(new.router)
# Last, since routes are tried in their order and this one takes everything. What the new half knows
# by another method only is the old half's as well, so a route can move method by method.
asgi.mount("/", old_half)

# Event streams have no end of their own; at shutdown they are given two seconds.
wsgi = ASGIToWSGI(asgi, shutdown_timeout=2)

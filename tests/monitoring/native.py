"""What the traced apps record without any bridge: what a bridge is measured by."""

import anyio

from tests.monitoring.clients import get_asgi, get_wsgi
from tests.monitoring.traced_apps import traced_fastapi, traced_flask
from tests.monitoring.traces import Lineage, Traces
from tests.support.fake_wsgi_server import InThread


def native_flask_lineages(path: str, *, middleware: bool = False) -> list[Lineage]:
    """What the app, and the middleware around it, record in a WSGI server's thread."""
    alone = Traces()
    app = traced_flask(alone)
    InThread(lambda: get_wsgi(alone.wsgi(app) if middleware else app, path)).result()
    return alone.lineages()


def native_fastapi_lineages(path: str) -> list[Lineage]:
    """What the app records in an ASGI server's loop."""
    alone = Traces()
    with traced_fastapi(alone) as app:
        InThread(lambda: anyio.run(get_asgi, app, path)).result()
    return alone.lineages()

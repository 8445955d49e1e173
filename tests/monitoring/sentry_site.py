"""Sites for a real WSGI server, with Sentry set up as their module is imported.

What Sentry would send is printed, a line each.
"""

import json

from sentry_sdk.envelope import Envelope
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from tests.monitoring.sentry_process import Inbox, fastapi_app, flask_app, set_up
from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI

MARK = "reported: "


class Outbox(Inbox):
    """Prints instead of keeping."""

    def capture_envelope(self, envelope: Envelope) -> None:
        super().capture_envelope(envelope)
        for report in self.take():
            print(MARK + json.dumps(report), flush=True)  # noqa: T201


set_up(Outbox())

one_bridge = ASGIToWSGI(fastapi_app())

_old = ASGIToWSGI(WSGIToASGI(flask_app()), lifespan="off")
both_bridges = DispatcherMiddleware(one_bridge, {"/old": _old})

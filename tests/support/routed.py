"""Several WSGI apps in one bridge, and the clients that ask for one of them."""

from collections.abc import Callable
from typing import Any

from tests.support.fake_asgi_server import Client, http_scope, plain_app


def routed(**apps: Any) -> Callable[..., Any]:
    """An app by the first segment of the path; `/` and what is not named is `hello`."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        chosen = apps.get(environ["PATH_INFO"].strip("/"), plain_app)
        return chosen(environ, start_response)

    return app


def client_of(path: str, **options: Any) -> Client:
    return Client(http_scope(path=path), **options)

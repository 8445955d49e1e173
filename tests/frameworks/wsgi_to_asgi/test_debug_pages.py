"""What debug pages, error mails and error reports show of a request: no cookie and no password out
of `asgi.scope`.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from pprint import pformat
from typing import Any

import pytest
from sentry_sdk.serializer import serialize
from werkzeug.debug import DebuggedApplication
from werkzeug.debug.repr import debug_repr

from tests.frameworks.django_project import django_wsgi_app
from tests.frameworks.gates import Gates
from tests.frameworks.serving import client_in_process

COOKIE, PASSWORD = "c00kie0fthesession", "p4ssw0rd0fauthorization"
SECRET_HEADERS = {"Cookie": f"sessionid={COOKIE}", "Authorization": f"Bearer {PASSWORD}"}


@pytest.fixture
def django_app(gates: Gates, download: Path, django_database: Path) -> Any:
    return django_wsgi_app(gates, download)


@pytest.fixture
def mails(django_database: Path) -> Iterator[list[str]]:
    """What Django mails to its admins, as text and as HTML."""
    from django.utils.log import AdminEmailHandler

    sent: list[str] = []

    class Outbox(AdminEmailHandler):
        def send_mail(
            self, subject: str, message: str, *args: Any, html_message: str, **kwargs: Any
        ) -> None:
            sent.extend([message, html_message])

    handler = Outbox(include_html=True)
    logging.getLogger("django.request").addHandler(handler)
    yield sent
    logging.getLogger("django.request").removeHandler(handler)


@pytest.fixture
def anyio_backend() -> str:
    """What is shown is the same on every loop."""
    return "asyncio"


def must_hide_secrets(text: str) -> None:
    assert "asgi.scope" in text
    assert COOKIE not in text
    assert PASSWORD not in text


@pytest.mark.parametrize("kind", ["text/html", "text/plain"])
async def test_djangos_debug_page(django_app: Any, kind: str) -> None:
    """W-ENV-8."""
    from django.test import override_settings

    with override_settings(DEBUG=True):
        async with client_in_process(django_app) as client:
            answer = await client.get("/broken", headers={**SECRET_HEADERS, "Accept": kind})
    assert answer.status_code == 500
    assert answer.headers["content-type"].startswith(kind)
    must_hide_secrets(answer.text)


async def test_djangos_error_mail(django_app: Any, mails: list[str]) -> None:
    """W-ENV-8: text and HTML."""
    async with client_in_process(django_app) as client:
        assert (await client.get("/broken", headers=SECRET_HEADERS)).status_code == 500
    assert len(mails) == 2
    for text in mails:
        must_hide_secrets(text)


async def environ_with_secrets() -> dict[str, Any]:
    """The environ of such a request, without what CGI itself says of the two headers."""
    environs: list[dict[str, Any]] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environs.append(environ)
        start_response("200 OK", [])
        return []

    async with client_in_process(app) as client:
        await client.get("/", headers=SECRET_HEADERS)
    (environ,) = environs
    assert COOKIE in environ.pop("HTTP_COOKIE")
    assert PASSWORD in environ.pop("HTTP_AUTHORIZATION")
    return environ


@pytest.mark.parametrize(
    "report",
    [
        repr,
        pformat,
        debug_repr,  # werkzeug's
        lambda environ: repr(serialize({"asgi.scope": environ["asgi.scope"]})),
        lambda environ: f"asgi.scope: {environ['asgi.scope']}",
    ],
    ids=["repr", "pprint", "werkzeug", "sentry", "str"],
)
async def test_what_prints_an_environ(report: Any) -> None:
    """W-ENV-8: the pages of werkzeug's debugger and Sentry's reports show objects in these ways."""
    must_hide_secrets(report(await environ_with_secrets()))


async def test_werkzeugs_debugger_page() -> None:
    """W-ENV-8."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise LookupError(f"nothing in {environ['asgi.scope']}: asgi.scope")

    async with client_in_process(DebuggedApplication(app, pin_logging=False)) as client:
        answer = await client.get("/", headers=SECRET_HEADERS)
    assert answer.status_code == 500
    must_hide_secrets(answer.text)

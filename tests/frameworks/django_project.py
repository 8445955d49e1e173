"""The one Django project of the test process: Django can be configured only once.

Its database is a SQLite file, so that threads, connections and locks are those of a real site.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.test import override_settings

from tests.frameworks.gates import Gates

NOTES = "tests.frameworks.django_notes"
TEMPLATES = {"entry.html": '<form method="post">{% csrf_token %}{{ form }}</form>'}
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
]
MIDDLEWARE_OF_BOTH_KINDS = [
    f"{NOTES}.middleware.names_its_loop",
    *MIDDLEWARE,
    f"{NOTES}.middleware.names_its_thread",
]


@dataclass
class Shared:
    """What the views use of the test that is running."""

    gates: Gates = field(default_factory=Gates)
    file: Path = Path()


shared = Shared()


def configure(database: Path) -> None:
    """Set Django up with its tables in `database`. Once in a process, before anybody else does."""
    settings.configure(
        SECRET_KEY="not a secret, only long enough for the checks of django",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=f"{NOTES}.urls",
        INSTALLED_APPS=["django.contrib.sessions", NOTES],
        MIDDLEWARE=MIDDLEWARE,
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "OPTIONS": {"loaders": [("django.template.loaders.locmem.Loader", TEMPLATES)]},
            }
        ],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": database,
                "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
            }
        },
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
    )
    django.setup()
    call_command("migrate", run_syncdb=True, verbosity=0)


@contextlib.contextmanager
def connections_are_closed() -> Iterator[None]:
    """Close the connections that were made in the block, whichever thread made them.

    Behind `ASGIToWSGI` a thread keeps its connection until its next request (docs/limits.md), and
    some of these threads end before it.
    """
    made: list[BaseDatabaseWrapper] = []

    def note(connection: BaseDatabaseWrapper, **_: Any) -> None:
        made.append(connection)

    connection_created.connect(note)
    try:
        yield
    finally:
        connection_created.disconnect(note)
        for connection in made:
            connection.inc_thread_sharing()
            connection.close()
            connection.dec_thread_sharing()


def django_wsgi_app(gates: Gates, file: Path) -> Any:
    shared.gates, shared.file = gates, file
    return get_wsgi_application()


def django_asgi_app(gates: Gates, file: Path) -> Any:
    """With middleware of both kinds around the views."""
    shared.gates, shared.file = gates, file
    with override_settings(MIDDLEWARE=MIDDLEWARE_OF_BOTH_KINDS):
        return get_asgi_application()

"""What every test of a framework starts from."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frameworks import django_project
from tests.frameworks.both_bridges import Served, as_it_is, asgi_behind_both, wsgi_behind_both
from tests.frameworks.gates import Gates
from tests.frameworks.payloads import payload

DOWNLOAD_BYTES = 300_000


@pytest.fixture(scope="session")
def configured_django(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Django with its tables in a file of this session."""
    database = tmp_path_factory.mktemp("django") / "db.sqlite3"
    django_project.configure(database)
    return database


@pytest.fixture
def django_database(configured_django: Path) -> Iterator[Path]:
    """The file; whatever connects to it is disconnected when the test is over."""
    with django_project.connections_are_closed():
        yield configured_django


@pytest.fixture
def no_notes(django_database: Path) -> Iterator[None]:
    """A table without rows, and no connection of this thread left open after the test."""
    from django.db import connection

    from tests.frameworks.django_notes.models import Note

    Note.objects.all().delete()
    connection.close()
    yield
    connection.close()


@pytest.fixture
def gates() -> Gates:
    return Gates()


@pytest.fixture(scope="session")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that the apps serve."""
    file = tmp_path_factory.mktemp("files") / "download.bin"
    file.write_bytes(payload(DOWNLOAD_BYTES))
    return file


@pytest.fixture(params=["native", "bridged"])
def way(request: pytest.FixtureRequest) -> str:
    """Each test that asks for this runs on the app alone and on the app behind both bridges."""
    return str(request.param)


@pytest.fixture
def wsgi_served(way: str) -> Served:
    return wsgi_behind_both if way == "bridged" else as_it_is


@pytest.fixture
def asgi_served(way: str) -> Served:
    return asgi_behind_both if way == "bridged" else as_it_is

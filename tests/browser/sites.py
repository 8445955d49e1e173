"""The examples' servers, started as the docs print it."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from tests.support import pages
from tests.support.processes import (
    HOST,
    PROJECT_ROOT,
    ServerProcess,
    accepts_connections,
    running_server,
)

FASTAPI = "examples.fastapi_on_gunicorn:application"
SHELF_USER, SHELF_PASSWORD = "ada", "difference engine"


def script(path: str) -> AbstractContextManager[ServerProcess]:
    return running_server([*pages.serving_command(path), "--port", "{port}"])


def fastapi_on_gunicorn(port: int | None = None) -> AbstractContextManager[ServerProcess]:
    """On that port, or on a free one."""
    command = [*pages.serving_command(FASTAPI), "--bind", f"{HOST}:{port or '{port}'}"]
    return running_server(command, ready=lambda host, free: accepts_connections(host, port or free))


@contextmanager
def migration() -> Iterator[ServerProcess]:
    """On uvicorn, with one user."""
    with tempfile.TemporaryDirectory() as folder:
        env = {"MIGRATION_FOLDER": folder, "MIGRATION_PASSWORD": SHELF_PASSWORD}
        command = [*pages.serving_command("add-user")[:-1], SHELF_USER]
        subprocess.run(command, cwd=PROJECT_ROOT, env=env, check=True, capture_output=True)
        command = [*pages.serving_command("examples.migration.program:asgi")]
        with running_server([*command, "--port", "{port}"], env=env) as server:
            yield server

"""Apache with mod_wsgi around an app of the tests, as one process tree with files of its own.

Debian's packages apache2-bin and libapache2-mod-wsgi-py3. Its mod_wsgi has Debian's own Python.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import ServerProcess, running_server
from tests.support.raw_http import Connection, Response
from tests.support.witness import Witness, became_true

APACHE = "/usr/sbin/apache2"
MODULES = Path("/usr/lib/apache2/modules")
SHUTDOWN_SECONDS = 5
END_SECONDS = 30.0
THREADS = 8

CONFIGURATION = """
ServerRoot {folder}
ServerName localhost
PidFile {folder}/pid
ErrorLog /dev/stderr
LogLevel info
Mutex sem
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule wsgi_module {modules}/mod_wsgi.so
{user}
StartServers 1
GracefulShutdownTimeout 10
WSGISocketPrefix {folder}/wsgi
{site}
<Directory {folder}>
    Require all granted
</Directory>
"""
SITE = """
WSGIChunkedRequest On
WSGIPassAuthorization On
WSGIDaemonProcess site processes=1 threads={threads} shutdown-timeout={shutdown} python-path={path}
WSGIScriptAlias / {folder}/app.wsgi process-group=site application-group=%{{GLOBAL}}
"""

SCRIPT = """
import os
os.environ.update({environment!r})
from {module} import {name} as application
"""
CLOSES_AT_SHUTDOWN = """
import mod_wsgi
mod_wsgi.subscribe_shutdown(lambda *args, **kwargs: application.close())
"""
"""Of docs/how_to/mod_wsgi.md: without it mod_wsgi waits for open streams, and Apache kills it."""


PACKAGES = ("anyio", "asgiref", "idna", "starlette", "typing_extensions")
"""What the app needs, in Python alone: Apache's own Python may be of another build."""


def copy_packages(folder: Path) -> None:
    """Copy them: Apache's user may not be able to read this checkout."""
    folder.mkdir()
    for name in (*PACKAGES, "wsgi_asgi_bridge", "tests.support"):
        spec = importlib.util.find_spec(name)
        assert spec is not None, name
        assert spec.origin is not None, name
        origin = Path(spec.origin)
        if origin.name == "__init__.py":
            target = folder.joinpath(*name.split("."))
            shutil.copytree(origin.parent, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(origin, folder)
    (folder / "tests" / "__init__.py").touch()


@dataclass(frozen=True)
class Apache:
    """A running Apache, and what its app writes down."""

    process: ServerProcess
    witness: Witness

    def connect(self, timeout: float = 10.0) -> Connection:
        return Connection(self.process.address, timeout)

    def get(self, target: str) -> Response:
        with self.connect() as client:
            return client.get(target, [("connection", "close")])

    def restart_gracefully(self) -> None:
        """As `apachectl graceful` does; the daemon process is another one some time later."""
        os.kill(self.process.pid, signal.SIGUSR1)

    def touch_script(self) -> None:
        """As a deployment does: the next request is the first of a new daemon process."""
        later = time.time() + 5
        os.utime(self.witness.directory / "app.wsgi", (later, later))

    def daemon(self) -> int:
        """The id of the process that the app runs in."""
        pid: int = json.loads(self.get("/describes_process").body)["pid"]
        return pid

    def wait_for_another_daemon(self, before: int) -> None:
        """Wait until another process answers and the one before has ended."""

        def answers() -> bool:
            with contextlib.suppress(ConnectionError, ValueError):  # 503 is a page in HTML
                return self.daemon() != before
            return False

        assert became_true(answers, END_SECONDS), "no other process answers"
        assert became_true(lambda: not Path(f"/proc/{before}").exists(), END_SECONDS)

    def noted_by(self, pid: int) -> list[str]:
        return [what for what, noted_in in self.witness.notes() if noted_in == pid]


@contextlib.contextmanager
def running_apache(target: str, *, more_script: str = "", **environment: str) -> Iterator[Apache]:
    """Serve `target` ("pkg.mod:attr"); `more_script` follows its import."""
    module, _, name = target.partition(":")
    with tempfile.TemporaryDirectory(prefix="wsgi_asgi_bridge-apache-") as directory:
        folder = Path(directory)
        folder.chmod(0o777)  # Apache's children are another user if it is started by root
        copy_packages(folder / "python")
        witness = Witness(folder)
        variables = {**witness.environment, **environment}
        script = SCRIPT.format(environment=variables, module=module, name=name)
        (folder / "app.wsgi").write_text(script + more_script)
        site = SITE.format(
            folder=folder, threads=THREADS, shutdown=SHUTDOWN_SECONDS, path=folder / "python"
        )
        with running_site(folder, site) as process:
            yield Apache(process, witness)


@contextlib.contextmanager
def running_site(folder: Path, site: str) -> Iterator[ServerProcess]:
    """Apache with the directives of `site`, which serve what is in `folder`."""
    (folder / "conf").write_text(
        CONFIGURATION.format(
            folder=folder,
            modules=MODULES,
            user="User nobody\nGroup nogroup" if os.getuid() == 0 else "",
            site=site,
        )
    )
    command = [APACHE, "-f", f"{folder}/conf", "-c", "Listen {host}:{port}", "-DFOREGROUND"]
    with running_server(command) as process:
        yield process

"""Django's admin on every ASGI server of the matrix: its header values have spaces around them."""

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.support.asgi_servers import AsgiServer, Served
from tests.support.processes import PROJECT_ROOT, running_server

SITE = "tests.support.admin_site"
CREDENTIALS = {"username": "chief", "password": "not a secret"}
START_SECONDS = 60.0


@pytest.fixture(scope="package")
def database(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a site whose tables are there."""
    place: Path = tmp_path_factory.mktemp("admin") / "db.sqlite3"
    environment = {"ADMIN_SITE_DATABASE": str(place)}
    subprocess.run(
        [sys.executable, "-m", SITE],
        env=os.environ | environment,
        cwd=PROJECT_ROOT,
        timeout=START_SECONDS,
        check=True,
    )
    return environment


class Browser:
    """The cookies of one user, and a connection for each request."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self.cookies: dict[str, str] = {}

    def request(self, method: str, target: str, form: dict[str, str] | None = None) -> str:
        """The answer's body; the values of its headers are as they were meant."""
        headers = [("cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items()))]
        body = None
        if form is not None:
            body = urlencode(form).encode()
            headers.append(("content-type", "application/x-www-form-urlencoded"))
        with self._served.connect() as client:
            response = client.request(method, target, headers, body)
        for name, value in response.headers:
            if name == "set-cookie":
                cookie, _, content = value.partition(";")[0].partition("=")
                self.cookies[cookie] = content
        assert response.status == (200 if form is None else 302), response.text
        assert response.header("content-security-policy") == "default-src 'self';"
        return response.text


def test_login_to_the_admin(asgi_server: AsgiServer, database: dict[str, str]) -> None:
    """W-OUT-1: Django sends `Set-Cookie: " csrftoken=..."`; the cookie, the login and the pages
    behind it work.
    """
    command = asgi_server.command_for(f"{SITE}:bridged")
    with running_server(command, env=database) as process:
        browser = Browser(Served(asgi_server, process))
        page = browser.request("GET", "/admin/login/?next=/admin/")
        assert "csrftoken" in browser.cookies
        token = re.search('name="csrfmiddlewaretoken" value="([^"]+)"', page)
        assert token is not None
        form = {**CREDENTIALS, "csrfmiddlewaretoken": token[1], "next": "/admin/"}
        browser.request("POST", "/admin/login/?next=/admin/", form)
        assert "sessionid" in browser.cookies
        assert "Site administration" in browser.request("GET", "/admin/")
        assert "Select user to change" in browser.request("GET", "/admin/auth/user/")

"""examples/migration/ on an ASGI and on WSGI servers, as the docs start it: one program of two
halves, walked through by a real client.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import pages
from tests.support.processes import (
    PROJECT_ROOT,
    ServerProcess,
    running_server,
    shown_on_failure,
)
from tests.support.raw_http import Connection

TIMEOUT_SECONDS = 20.0
POLL_SECONDS = 0.02
MEBIBYTE = 1024 * 1024
UPLOAD = bytes(range(256)) * (8 * MEBIBYTE // 256)
UPLOAD_GROWTH_BYTES = 24 * MEBIBYTE
LARGE_UPLOAD = bytes(64 * MEBIBYTE)
COOKIE = "shelf_session"
PASSWORD = "difference engine"

ASGI = "examples.migration.program:asgi"
WSGI = "examples.migration.program:wsgi"
GUNICORN = ("--bind", "{host}:{port}", "--no-control-socket")
# The same program, whatever serves it; the options are what a deployer would choose among.
SERVERS = {
    "uvicorn": (ASGI, ("--host", "{host}", "--port", "{port}")),
    "gunicorn-gthread": (WSGI, GUNICORN),
    "gunicorn-two-processes": (WSGI, (*GUNICORN, "--workers", "2")),
    "gunicorn-sync-preload": (
        WSGI,
        (*GUNICORN, "--worker-class", "sync", "--threads", "1", "--preload"),
    ),
}
ONE_REQUEST_AT_A_TIME = "gunicorn-sync-preload"
TWO_REQUESTS_AT_A_TIME = [kind for kind in SERVERS if kind != ONE_REQUEST_AT_A_TIME]


@dataclass(frozen=True)
class Site:
    """The program on one server, with the folder that it keeps its things in."""

    kind: str
    server: ServerProcess
    folder: Path

    @contextmanager
    def client(self) -> Iterator[httpx.Client]:
        # Without TLS; to load the roots for it takes longer than most of these tests.
        with httpx.Client(
            base_url=self.server.url, timeout=TIMEOUT_SECONDS, verify=False
        ) as client:
            yield client

    def arriving(self) -> list[Path]:
        """Uploads that have not arrived whole."""
        return list((self.folder / "files").glob("arriving-*"))


def run_program(kind: str, folder: Path) -> Any:
    target, options = SERVERS[kind]
    command = [*pages.serving_command(target), *options]
    return running_server(command, env={"MIGRATION_FOLDER": str(folder)})


def add_user(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    """The command of the docs, with another name; its password comes from the environment."""
    command = pages.serving_command("add-user")
    return subprocess.run(
        [*command[:-1], name],
        cwd=PROJECT_ROOT,
        env={"MIGRATION_FOLDER": str(folder), "MIGRATION_PASSWORD": PASSWORD},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )


@pytest.fixture(scope="module")
def folder_with_users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("users")
    for name in ("ada", "charles"):
        assert add_user(folder, name).returncode == 0
    return folder


@pytest.fixture(scope="module", params=SERVERS)
def running_site(
    request: pytest.FixtureRequest,
    folder_with_users: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("shelf") / "copy"
    shutil.copytree(folder_with_users, folder)
    with run_program(request.param, folder) as server:
        yield Site(request.param, server, folder)


@pytest.fixture
def folder(folder_with_users: Path, tmp_path: Path) -> Path:
    """A copy for one test."""
    return shutil.copytree(folder_with_users, tmp_path / "copy")


@pytest.fixture
def site(running_site: Site) -> Iterator[Site]:
    with shown_on_failure(running_site.server):
        yield running_site


# ---------------------------------------------------------------- what a browser would do


def csrf(client: httpx.Client) -> str:
    """The token in the form of the old half's page."""
    found = re.search(r'name="csrf" value="([^"]+)"', client.get("/").text)
    assert found is not None
    return found[1]


def log_in(client: httpx.Client, name: str = "ada", password: str = PASSWORD) -> httpx.Response:
    form = {"csrf": csrf(client), "name": name, "password": password}
    return client.post("/login", data=form)


def log_out(client: httpx.Client) -> httpx.Response:
    return client.post("/logout", data={"csrf": csrf(client)})


def upload(client: httpx.Client, name: str, content: bytes) -> httpx.Response:
    """By the form of the old half."""
    return client.post(
        "/upload",
        data={"csrf": csrf(client)},
        files={"file": (name, content)},
        follow_redirects=True,
    )


def served_by_old(answer: httpx.Response) -> bool:
    return answer.headers.get("x-served-by") == "old"


def cookies(client: httpx.Client) -> dict[str, str]:
    return {COOKIE: client.cookies[COOKIE]}


def next_file(stream: Connection) -> dict[str, Any]:
    """The next event of a stream that never ends; its connection bounds the wait."""
    received = b""
    while not (received.startswith(b"data: ") and received.endswith(b"\n\n")):
        part = stream.read_body(1)
        assert part, "the stream has ended"
        received += part
        if received == b":\n\n":
            received = b""
    file: dict[str, Any] = json.loads(received.removeprefix(b"data: "))
    return file


def begun_stream(site: Site, path: str, client: httpx.Client) -> Connection:
    """A stream of events whose head has come; whoever opened it closes it."""
    stream = Connection(site.server.address, timeout=TIMEOUT_SECONDS)
    try:
        stream.send_head("GET", path, [("cookie", f"{COOKIE}={client.cookies[COOKIE]}")])
        head = stream.read_head()
        assert head.header("content-type") == "text/event-stream; charset=utf-8"
    except BaseException:
        stream.close()
        raise
    return stream


def wait_until(is_so: Callable[[], Any], failure: str) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, failure
        time.sleep(POLL_SECONDS)


# ---------------------------------------------------------------- the walk


def test_a_user_walks_through_both_halves(site: Site) -> None:
    """Log in on the old half, be known on the new one, upload, see a stream arrive, log out."""
    with site.client() as client:
        assert client.get("/api/me").status_code == 401
        answer = log_in(client)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert served_by_old(answer)

        me = client.get("/api/me")
        assert (me.status_code, me.json()) == (200, {"name": "ada"})
        assert not served_by_old(me)

        assert f"walk.bin: {len(UPLOAD)} bytes" in upload(client, "walk.bin", UPLOAD).text
        files = client.get("/files.json").json()
        assert (files[-1]["name"], files[-1]["size"]) == ("walk.bin", len(UPLOAD))
        assert (site.folder / "files" / str(files[-1]["id"])).read_bytes() == UPLOAD

        for path in ("/events", "/api/events"):
            with begun_stream(site, path, client) as stream:
                assert [next_file(stream) for _ in files] == files

        before = cookies(client)
        assert log_out(client).status_code == 303
        assert COOKIE not in client.cookies
        assert client.get("/api/me").status_code == 401
        # A copy of the cookie is of no use either: the database knows of no such login any more.
        client.cookies.update(before)
        assert client.get("/api/me").status_code == 401
        assert client.get("/files.csv").status_code == 401


@pytest.mark.parametrize("running_site", TWO_REQUESTS_AT_A_TIME, indirect=True)
@pytest.mark.parametrize("path", ["/events", "/api/events"], ids=["old", "new"])
def test_an_event_arrives_when_its_file_has(site: Site, path: str) -> None:
    """W-OUT-4, A-OUT-2: the stream was open before; the file comes by the other half."""
    with site.client() as client:
        log_in(client, "charles")
        with begun_stream(site, path, client) as stream:
            already = client.get("/files.json").json()
            assert [next_file(stream) for _ in already] == already
            if path == "/events":
                client.put("/api/files/late.bin", content=b"late").raise_for_status()
            else:
                upload(client, "late.bin", b"late").raise_for_status()
            event = next_file(stream)
    assert (event["name"], event["size"]) == ("late.bin", 4)


def test_a_stream_whose_client_left_frees_the_only_worker(site: Site) -> None:
    """W-FLOW-3, A-IN-3: neither half goes on streaming to nobody, else a sync worker is lost."""
    with site.client() as client:
        log_in(client)
        for path in ("/events", "/api/events"):
            begun_stream(site, path, client).reset()
            assert client.get("/api/me").status_code == 200


# ---------------------------------------------------------------- who answers what


@pytest.mark.parametrize(
    ("method", "path", "status", "by_old"),
    [
        pytest.param("GET", "/files.csv", 200, True, id="only the old half knows it"),
        pytest.param("GET", "/api/me", 200, False, id="only the new half knows it"),
        pytest.param("GET", "/files.json", 200, False, id="both know it"),
        pytest.param("HEAD", "/files.json", 200, False, id="HEAD moved with its GET"),
        pytest.param("HEAD", "/api/me", 404, True, id="FastAPI adds no HEAD to a GET"),
        pytest.param("GET", "/nowhere", 404, True, id="nobody knows it"),
        pytest.param("GET", "/files.json/", 404, True, id="no slash is taken away"),
        pytest.param("PUT", "/files.json", 405, True, id="a method that neither half knows"),
        pytest.param("DELETE", "/upload", 405, True, id="a method that the old half does not know"),
        pytest.param("OPTIONS", "/upload", 200, True, id="OPTIONS of the old half"),
        pytest.param("GET", "/openapi.json", 200, False, id="FastAPI's own page"),
    ],
)
def test_who_answers(site: Site, method: str, path: str, status: int, by_old: bool) -> None:
    with site.client() as client:
        log_in(client)
        answer = client.request(method, path)
    assert (answer.status_code, served_by_old(answer)) == (status, by_old)
    if method == "HEAD":
        assert not answer.content


def test_the_schema_holds_the_new_half_only(site: Site) -> None:
    with site.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    assert {path: set(methods) for path, methods in paths.items()} == {
        "/files.json": {"get"},
        "/api/me": {"get"},
        "/api/files/{name}": {"put"},
        "/api/events": {"get"},
    }


# ---------------------------------------------------------------- logins


@pytest.mark.parametrize(
    ("name", "password"),
    [("ada", "wrong"), ("nobody", PASSWORD), ("ada", "")],
    ids=["wrong password", "unknown name", "empty password"],
)
def test_a_login_that_fails(site: Site, name: str, password: str) -> None:
    with site.client() as client:
        answer = log_in(client, name, password)
        assert answer.status_code == 403
        assert "Name and password do not belong together." in answer.text
        assert client.get("/api/me").status_code == 401
        assert client.get("/files.csv").status_code == 401


def test_a_form_of_another_site_does_nothing(site: Site) -> None:
    with site.client() as client:
        form = {"name": "ada", "password": PASSWORD}
        assert client.post("/login", data=form).status_code == 400
        assert client.post("/login", data={**form, "csrf": ""}).status_code == 400
        csrf(client)  # now there is a session with a token, but the form does not hold it
        assert client.post("/login", data={**form, "csrf": "guessed"}).status_code == 400
        log_in(client)
        assert client.post("/logout", data={"csrf": "guessed"}).status_code == 400
        assert client.get("/api/me").status_code == 200


def test_a_forged_cookie_is_nobody(site: Site) -> None:
    with site.client() as client:
        log_in(client)
        payload, stamp, signature = client.cookies[COOKIE].rsplit(".", 2)
        swapped = signature[:-4] + signature[-4:].swapcase()
    assert swapped != signature
    for cookie in (f"{payload}.{stamp}.{swapped}", payload, "", '"\\351"'):
        headers = {"cookie": f"{COOKIE}={cookie}"}
        for path in ("/api/me", "/files.csv"):
            url = f"{site.server.url}{path}"
            answer = httpx.get(url, headers=headers, timeout=TIMEOUT_SECONDS)
            assert answer.status_code == 401, (cookie, path)


def test_users_see_their_own_files_only(site: Site) -> None:
    with site.client() as ada, site.client() as charles:
        log_in(ada)
        log_in(charles, "charles")
        ada.put("/api/files/diary.txt", content=b"mine").raise_for_status()
        assert "diary.txt" in ada.get("/files.csv").text
        assert "diary.txt" not in charles.get("/files.csv").text
        assert "diary.txt" not in charles.get("/files.json").text


# ---------------------------------------------------------------- uploads


def test_an_upload_by_the_new_half(site: Site) -> None:
    with site.client() as client:
        log_in(client)
        answer = client.put("/api/files/engine%20notes.bin", content=UPLOAD)
        assert (answer.status_code, answer.json()) == (
            201,
            {"name": "engine notes.bin", "size": len(UPLOAD)},
        )
        assert f"engine notes.bin,{len(UPLOAD)}," in client.get("/files.csv").text
    assert not site.arriving()


@pytest.mark.parametrize("half", ["old", "new"])
def test_an_upload_does_not_pass_through_memory(site: Site, half: str) -> None:
    """W-IN-4, A-IN-1: 64 MiB go to disk, through one bridge or two."""
    with site.client() as client:
        log_in(client)
        form_token = csrf(client)
        site.server.reset_peak_rss()
        before = site.server.peak_rss_bytes()
        if half == "old":
            files = {"file": ("large.bin", LARGE_UPLOAD)}
            answer = client.post("/upload", data={"csrf": form_token}, files=files)
            assert answer.status_code == 303
        else:
            answer = client.put("/api/files/large.bin", content=LARGE_UPLOAD)
            assert answer.json()["size"] == len(LARGE_UPLOAD)
        assert site.server.peak_rss_bytes() - before < UPLOAD_GROWTH_BYTES


def test_an_upload_is_on_disk_while_it_is_sent_and_gone_when_cut(site: Site) -> None:
    """A-IN-1: the new half writes what has come; what never came whole is taken away."""
    with site.client() as client:
        log_in(client)
        names = client.get("/files.json").json()
        header = ("cookie", f"{COOKIE}={client.cookies[COOKIE]}")
        with Connection(site.server.address, timeout=TIMEOUT_SECONDS) as connection:
            connection.send_head(
                "PUT", "/api/files/cut.bin", [header], content_length=2 * len(UPLOAD)
            )
            connection.send_body(UPLOAD)
            wait_until(
                lambda: sum(path.stat().st_size for path in site.arriving()) > len(UPLOAD) // 2,
                "nothing of the first half is on disk",
            )
        wait_until(lambda: not site.arriving(), "the cut upload was left on disk")
        assert client.get("/files.json").json() == names


def test_a_stranger_uploads_nothing(site: Site) -> None:
    with site.client() as client:
        assert client.put("/api/files/x", content=b"x").status_code == 401
        form = {"csrf": csrf(client)}
        assert client.post("/upload", data=form, files={"file": ("x", b"x")}).status_code == 401


# ---------------------------------------------------------------- start and end


def test_a_name_is_given_once(tmp_path: Path) -> None:
    assert add_user(tmp_path, "ada").returncode == 0
    again = add_user(tmp_path, "ada")
    assert again.returncode == 1
    assert "There is a user 'ada' already." in again.stderr


@pytest.mark.parametrize("kind", ["uvicorn", "gunicorn-gthread"])
def test_it_ends_while_streams_are_open_and_goes_on_where_it_was(kind: str, folder: Path) -> None:
    """W-LIFE-1, A-LOOP-2: a deploy cuts the streams; after it the session still holds.

    The second run finds the users, the logins and the secret of the first.
    """
    with run_program(kind, folder) as server, ExitStack() as streams:
        site = Site(kind, server, folder)
        with site.client() as client:
            log_in(client)
            kept = cookies(client)
            for path in ("/events", "/api/events"):
                streams.enter_context(begun_stream(site, path, client))
        server.terminate()
        # uvicorn ends as if it had not caught the signal, gunicorn's master with 0.
        assert server.wait(TIMEOUT_SECONDS) == (-signal.SIGTERM if kind == "uvicorn" else 0)
        printed = server.output()
    with run_program(kind, folder) as server:
        answer = httpx.get(f"{server.url}/api/me", cookies=kept, timeout=TIMEOUT_SECONDS)
        assert answer.json() == {"name": "ada"}
    if kind == "uvicorn":
        assert "Application shutdown complete." in printed
    else:
        assert "lifespan shutdown" not in printed  # the bridge tells of one that fails or hangs


def test_nothing_goes_on_for_a_client_that_left(folder: Path) -> None:
    """W-FLOW-2: the lone worker is free again, and so the shutdown waits for no thread."""
    with run_program(ONE_REQUEST_AT_A_TIME, folder) as server:
        site = Site(ONE_REQUEST_AT_A_TIME, server, folder)
        with site.client() as client:
            log_in(client)
            for path in ("/events", "/api/events"):
                begun_stream(site, path, client).close()
            assert client.get("/api/me").status_code == 200
        server.terminate()
        assert server.wait(TIMEOUT_SECONDS) == 0
        printed = server.output()
    assert "shutdown" not in printed, printed


def test_a_secret_from_the_environment_is_not_written_down(tmp_path: Path) -> None:
    program = "import examples.migration.settings as s; print(s.secret())"
    printed = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT_ROOT,
        env={"MIGRATION_FOLDER": str(tmp_path), "MIGRATION_SECRET": "given"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=True,
    )
    assert printed.stdout == "given\n"
    assert list(tmp_path.iterdir()) == []


def test_processes_that_start_together_draw_one_secret(tmp_path: Path) -> None:
    program = "import sys, examples.migration.settings as s; sys.stdin.read(); print(s.secret())"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=PROJECT_ROOT,
            env={"MIGRATION_FOLDER": str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    try:
        drawn = {process.communicate(timeout=TIMEOUT_SECONDS)[0] for process in processes}
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert len(drawn) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert (tmp_path / "secret").stat().st_mode & 0o077 == 0

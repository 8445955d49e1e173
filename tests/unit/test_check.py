"""`python -m wsgi_asgi_bridge check`: what an app is, and the lines that serve it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI
from wsgi_asgi_bridge.__main__ import main

SCRIPT_SECONDS = 60.0

SITE = """
from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI

def old(environ, start_response): ...
async def new(scope, receive, send): ...
class Holder:
    app = staticmethod(old)
    @staticmethod
    def create(): return new
class Asgi2:
    def __init__(self, scope): ...
old_on_asgi = WSGIToASGI(old)
new_on_wsgi = ASGIToWSGI(new)
def create_old(): return old
def create_new(debug=False): return new
async def create_async(): return new
def create_number(): return 5
def create_with(name): return old
def create_badly(): raise LookupError("no settings")
def neither(one): ...
number = 5
"""


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "site_to_check.py").write_text(SITE)
    (tmp_path / "needs_other.py").write_text("import package_that_nobody_has\n")
    (tmp_path / "is_broken.py").write_text("def helper():\n    return 1 / 0\nhelper()\n")
    (tmp_path / "exits.py").write_text("raise SystemExit('not like this')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("site_to_check", None)


def checked(capsys: pytest.CaptureFixture[str], path: str) -> tuple[int, str, str]:
    code = main(["check", path])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def answer(capsys: pytest.CaptureFixture[str], path: str) -> str:
    """What is said of an app: on stdout, with exit code 0."""
    code, out, err = checked(capsys, path)
    assert (code, err) == (0, "")
    return out


def complaint(capsys: pytest.CaptureFixture[str], path: str, code: int) -> str:
    """What is said of something else: on stderr."""
    found, out, err = checked(capsys, path)
    assert (found, out) == (code, "")
    return err


def written(text: str, path: Path) -> dict[str, Any]:
    """Run the module that the command tells to write."""
    block = text.partition("for example:\n\n")[2].partition("\n\nThat is started so")[0]
    lines = [line.removeprefix("    ") for line in block.splitlines()]
    names: dict[str, Any] = {}
    exec(compile("\n".join(lines), str(path), "exec"), names)
    return names


# --- apps


def test_a_wsgi_app(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = answer(capsys, "site_to_check:old")
    assert said.startswith("site_to_check:old is a WSGI app: site_to_check.old\n")
    assert "    gunicorn site_to_check:old\n" in said
    assert '    app = WSGIToASGI("site_to_check:old")\n' in said
    assert "    uvicorn asgi:app\n" in said
    app = written(said, tmp_path)["app"]
    assert type(app) is WSGIToASGI
    assert app.app is sys.modules["site_to_check"].old


def test_an_asgi_app(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = answer(capsys, "site_to_check:new")
    assert said.startswith("site_to_check:new is an ASGI app: site_to_check.new\n")
    assert "    uvicorn site_to_check:new\n" in said
    assert '    application = ASGIToWSGI("site_to_check:new")\n' in said
    assert "'wsgi_asgi_bridge:ASGIToWSGI(\"site_to_check:new\")'\n" in said
    app = written(said, tmp_path)["application"]
    assert type(app) is ASGIToWSGI
    assert app.app is sys.modules["site_to_check"].new


def test_an_asgi_2_app(capsys: pytest.CaptureFixture[str]) -> None:
    assert " is an ASGI 2 app: " in answer(capsys, "site_to_check:Asgi2")


def test_an_app_in_an_attribute(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = answer(capsys, "site_to_check:Holder.app")
    assert written(said, tmp_path)["app"].app is sys.modules["site_to_check"].old


def test_a_bridge_is_wrapped_already(capsys: pytest.CaptureFixture[str]) -> None:
    """It is not to be wrapped again: the other servers run what it holds."""
    said = answer(capsys, "site_to_check:old_on_asgi")
    assert " is an ASGI app: WSGIToASGI around site_to_check.old\n" in said
    assert "run the app inside it as it is: site_to_check.old\n" in said
    said = answer(capsys, "site_to_check:new_on_wsgi")
    assert " is a WSGI app: ASGIToWSGI around site_to_check.new\n" in said
    assert "run the app inside it as it is: site_to_check.new\n" in said


@pytest.mark.parametrize(
    ("path", "variable", "bridge"),
    [
        ("create_old()", "app", WSGIToASGI),
        ("create_new()", "application", ASGIToWSGI),
        ("Holder.create()", "application", ASGIToWSGI),
    ],
)
def test_a_factory_is_called_if_asked_for(
    path: str, variable: str, bridge: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = answer(capsys, f"site_to_check:{path}")
    assert type(written(said, tmp_path)[variable]) is bridge
    name = path.removesuffix("()")
    assert (
        f"gunicorn 'site_to_check:{name}()'" in said
        if bridge is WSGIToASGI
        else f"uvicorn --factory site_to_check:{name}" in said
    )


# --- what is no app


def test_a_factory_is_not_called_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    said = complaint(capsys, "site_to_check:create_badly", 1)
    assert "python -m wsgi_asgi_bridge check 'site_to_check:create_badly()'" in said


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("number", "which is 5, expected an app"),
        ("neither", "neither called as a WSGI app"),
        ("create_number()", "neither called as a WSGI app"),
        ("create_async()", "is an async factory"),
    ],
)
def test_something_else(path: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert why in complaint(capsys, f"site_to_check:{path}", 1)


# --- what cannot be imported


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("site_to_check:missing", "has the apps old, new, old_on_asgi, new_on_wsgi"),
        ("no_such_module:app", "there is no module 'no_such_module'"),
        ("site_to_check.inner:app", "'site_to_check.inner'"),
        ("site_to_check", "expected 'package.module:attribute'"),
        ("site_to_check.old", "'site_to_check:old' perhaps"),
        ("site_to_check:", "expected 'package.module:attribute'"),
        (":app", "expected 'package.module:attribute'"),
        ("", "expected 'package.module:attribute'"),
        ("src/site/main.py:app", "write it as a module: 'src.site.main:app'"),
        ("main.py", "write it as a module: 'main:app'"),
        ("needs_other:app", "No module named 'package_that_nobody_has'"),
        ("is_broken:app", "ZeroDivisionError"),
        ("exits:app", "SystemExit: not like this"),
        ("site_to_check:create_with()", "missing 1 required positional argument"),
        ("site_to_check:create_badly()", "LookupError: no settings"),
    ],
)
def test_what_cannot_be_imported(path: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert why in complaint(capsys, path, 2)


def test_the_error_of_a_module_is_shown_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """With its own lines, and none of ours."""
    said = complaint(capsys, "is_broken:app", 2)
    assert "return 1 / 0" in said
    assert "wsgi_asgi_bridge" not in said
    assert "importlib" not in said


# --- the command line


@pytest.mark.parametrize("arguments", [[], ["check"], ["serve", "a:b"], ["check", "a:b", "c"]])
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m wsgi_asgi_bridge" in capsys.readouterr().err


def test_as_a_command(tmp_path: Path) -> None:
    """The current folder is looked into, as the servers do."""
    ran = subprocess.run(
        [sys.executable, "-m", "wsgi_asgi_bridge", "check", "site_to_check:old"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SCRIPT_SECONDS,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert 'WSGIToASGI("site_to_check:old")' in ran.stdout

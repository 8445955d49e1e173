"""What `python -m build` has put into dist/: `.ci/run package` builds it and runs this."""

import tarfile
import zipfile
from pathlib import Path

from tests.support.processes import PROJECT_ROOT

DIST = PROJECT_ROOT / "dist"


def only(pattern: str) -> Path:
    (found,) = DIST.glob(pattern)
    return found


def tracked(folder: str) -> set[str]:
    """The files below a folder of the project, but for what running it leaves."""
    return {
        path.relative_to(PROJECT_ROOT).as_posix()
        for path in (PROJECT_ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_package_and_nothing_else() -> None:
    with zipfile.ZipFile(only("*.whl")) as wheel:
        names = set(wheel.namelist())
    about = {name for name in names if ".dist-info/" in name}
    assert names - about == tracked("wsgi_asgi_bridge")
    assert "wsgi_asgi_bridge/py.typed" in names
    assert {name.rpartition("/")[2] for name in about} == {"METADATA", "WHEEL", "RECORD", "LICENSE"}


def test_the_sdist_holds_what_its_tests_need() -> None:
    with tarfile.open(only("*.tar.gz")) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    for folder in ("wsgi_asgi_bridge", "tests", "examples", "docs", "benchmarks", ".ci", ".github"):
        assert tracked(folder) <= names, folder
    assert {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml"} <= names
    assert not [name for name in names if ".venv" in name or "__pycache__" in name]

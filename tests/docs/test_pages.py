"""README.md and docs/ say what is there: code runs; commands, names, defaults, links are right."""

import dataclasses
import inspect
import re
from typing import Any

import pytest
from prometheus_client import REGISTRY

import wsgi_asgi_bridge
from tests.support import pages
from tests.support.processes import PROJECT_ROOT
from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI

REFERENCE = [
    pytest.param(WSGIToASGI, pages.PAGES["docs/wsgi_to_asgi.md"], id="W"),
    pytest.param(ASGIToWSGI, pages.PAGES["docs/asgi_to_wsgi.md"], id="A"),
]
PACKAGE = PROJECT_ROOT / "wsgi_asgi_bridge"
PROJECT = pages.PROJECT


def needs_an_app_of_the_reader(block: pages.Block) -> bool:
    return "myapp" in block.code


@pytest.mark.parametrize(
    "path", [path for path, text in pages.PAGES.items() if "```python" in text]
)
def test_the_python_blocks(path: str) -> None:
    """The blocks of a page run one after the other, and then the tests that they define; but for
    blocks that need an app of the reader's and for files that are served (test_how_to,
    test_tutorials), which only compile.
    """
    names: dict[str, Any] = {"__name__": "page"}
    for block in pages.blocks("python", pages.PAGES[path]):
        code = compile(block.code, f"{path}:{block.line}", "exec")
        if block.file is None and not needs_an_app_of_the_reader(block):
            exec(code, names)
    for test in [names[name] for name in names if name.startswith("test_")]:
        test()
    if "collector" in names:  # of docs/monitoring.md, registered for the whole process
        REGISTRY.unregister(names["collector"])


def test_the_first_screen_has_two_commands_of_one_line() -> None:
    first = pages.first_screen()
    serve, test = pages.blocks("sh", first)
    assert serve.code.count("\n") == test.code.count("\n") == 1
    assert "examples/flask_on_uvicorn.py" in serve.code
    assert test.code.endswith("-m pytest\n")
    assert f"{pages.TEST_COMMAND_MARK}\n```sh\n{test.code}```" in first
    assert "".join(pages.PAGES.values()).count(pages.TEST_COMMAND_MARK) == 1


@pytest.mark.parametrize("command", pages.commands())
def test_what_a_command_names_exists(command: str) -> None:
    for path in re.findall(r"\b(examples/[\w/]+\.py)\b", command):
        assert (PROJECT_ROOT / path).is_file()
    for module in re.findall(r"\b(examples(?:\.\w+)+):", command):
        assert (PROJECT_ROOT / f"{module.replace('.', '/')}.py").is_file()
    for package in re.findall(r"-m (benchmarks)\b", command):
        assert (PROJECT_ROOT / package / "__main__.py").is_file()
    for extra in re.findall(r"'\.\[(\w+)\]'", command):
        assert extra in PROJECT["optional-dependencies"]


@pytest.mark.parametrize(("bridge", "text"), REFERENCE)
def test_the_parameters_are_those_of_the_class(bridge: type[Any], text: str) -> None:
    documented = {
        name.strip("`"): default.strip("`")
        for name, default, *_ in pages.rows(pages.section("Parameters", text=text))
    }
    parameters = list(inspect.signature(bridge).parameters.values())
    actual = {parameter.name: repr(parameter.default) for parameter in parameters[1:]}
    assert {name: default.replace('"', "'") for name, default in documented.items()} == actual


def test_the_errors_are_those_of_the_package() -> None:
    names = {
        name.strip("`")
        for name, *_ in pages.rows(pages.section("Errors", text=pages.PAGES["docs/errors.md"]))
    }
    assert names == set(wsgi_asgi_bridge.__all__) - {"ASGIToWSGI", "WSGIToASGI"}


@pytest.mark.parametrize(("bridge", "text"), REFERENCE)
def test_every_number_of_stats_is_explained(bridge: type[Any], text: str) -> None:
    stats = bridge(lambda *_: None).stats()
    for field in dataclasses.fields(stats):
        assert f"`{field.name}`" in text, field.name


@pytest.mark.parametrize("path", pages.PAGES)
def test_links_lead_somewhere(path: str) -> None:
    """A page of docs/ links only to pages, since the site has nothing else."""
    for target in re.findall(r"\]\(([^)\s]+)\)", pages.PAGES[path]):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        found = (PROJECT_ROOT / path).parent / file if file else PROJECT_ROOT / path
        assert found.resolve().exists(), target
        if path.startswith("docs/"):
            assert found.resolve().is_relative_to(PROJECT_ROOT / "docs"), target
        if anchor:
            assert anchor in anchors(found.read_text(encoding="utf-8")), target


def anchors(text: str) -> set[str]:
    return {
        re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in pages.headings(text)
    }


def test_the_changelog_has_the_version_of_the_project() -> None:
    changelog = (PROJECT_ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## [{PROJECT['version']}]" in changelog


def test_every_message_is_one_of_the_package() -> None:
    """docs/errors.md quotes what the source says; `...` stands for a value."""
    source = " ".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py"))
    # One string of the source may stand in several literals, and holds its values in braces.
    joined = re.sub(r'"\s*f?"', "", source)
    text = pages.PAGES["docs/errors.md"]
    messages = re.findall(
        r"^\| `([^`]*)` \|[^|]*\|[^|]*\|$", text[text.index("## By its text") :], re.M
    )
    assert len(messages) > 20
    for message in messages:
        parts = [re.escape(part) for part in message.split("...")]
        assert re.search(r"(?:\{[^}]*\}|%\w|)".join(parts), joined), message


@pytest.mark.parametrize(
    ("heading", "sources"),
    [
        ("environ, of a WSGI app on an ASGI server", ("wsgi_to_asgi", "_protocol/environ.py")),
        ("scope, of an ASGI app on a WSGI server", ("asgi_to_wsgi", "_protocol/scope.py")),
    ],
)
def test_the_keys_are_those_of_the_source(heading: str, sources: tuple[str, ...]) -> None:
    """docs/environ_and_scope.md names no key that the code does not."""
    files = [path for source in sources for path in (PACKAGE / source).rglob("*.py")]
    files += [path for source in sources if (path := PACKAGE / source).is_file()]
    files.append(PACKAGE / "_protocol/websocket_upgrade.py")
    code = "".join(path.read_text("utf-8") for path in files)
    text = pages.section(heading, text=pages.PAGES["docs/environ_and_scope.md"])
    keys = re.findall(r"`([^`]+)`", " ".join(row[0] for row in pages.rows(text)))
    assert len(keys) > 8
    for key in keys:
        name = re.sub(r'^extensions\["(.*)"\]$', r"\1", key).removesuffix("*")
        assert f'"{name}' in code, key

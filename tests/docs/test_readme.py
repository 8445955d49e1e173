"""README.md says what is there: its code runs; its commands, names, defaults, links are right."""

import dataclasses
import inspect
import re
import tomllib
from typing import Any

import pytest

import wsgi_asgi_bridge
from tests.support import readme
from tests.support.processes import PROJECT_ROOT
from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI

W_SECTION = "A WSGI app on an ASGI server"
A_SECTION = "An ASGI app on a WSGI server"
PYTHON_BLOCKS = readme.blocks("python")
PROJECT = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]


def needs_an_app_of_the_reader(block: readme.Block) -> bool:
    return "myapp" in block.code


@pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=lambda block: f"line-{block.line}")
def test_a_python_block(block: readme.Block) -> None:
    """Each block compiles; each that needs no app of the reader's runs."""
    code = compile(block.code, f"README.md:{block.line}", "exec")
    if not needs_an_app_of_the_reader(block):
        exec(code, {"__name__": "readme"})


def test_there_are_blocks_to_run() -> None:
    assert len([block for block in PYTHON_BLOCKS if not needs_an_app_of_the_reader(block)]) >= 4


def test_the_first_screen_has_two_commands_of_one_line() -> None:
    first = readme.first_screen()
    serve, test = readme.blocks("sh", first)
    assert serve.code.count("\n") == test.code.count("\n") == 1
    assert "examples/flask_on_uvicorn.py" in serve.code
    assert test.code.endswith("-m pytest\n")
    assert f"{readme.TEST_COMMAND_MARK}\n```sh\n{test.code}```" in first
    assert readme.TEXT.count(readme.TEST_COMMAND_MARK) == 1


@pytest.mark.parametrize("command", readme.commands())
def test_what_a_command_names_exists(command: str) -> None:
    for path in re.findall(r"\b(examples/[\w/]+\.py)\b", command):
        assert (PROJECT_ROOT / path).is_file()
    for module in re.findall(r"\b(examples(?:\.\w+)+):", command):
        assert (PROJECT_ROOT / f"{module.replace('.', '/')}.py").is_file()
    for package in re.findall(r"-m (benchmarks)\b", command):
        assert (PROJECT_ROOT / package / "__main__.py").is_file()
    for extra in re.findall(r"'\.\[(\w+)\]'", command):
        assert extra in PROJECT["optional-dependencies"]


@pytest.mark.parametrize(
    ("bridge", "title"), [(WSGIToASGI, W_SECTION), (ASGIToWSGI, A_SECTION)], ids=["W", "A"]
)
def test_the_parameters_are_those_of_the_class(bridge: type[Any], title: str) -> None:
    documented = {
        name.strip("`"): default.strip("`")
        for name, default, *_ in readme.rows(readme.section(title, "Parameters"))
    }
    parameters = list(inspect.signature(bridge).parameters.values())
    actual = {parameter.name: repr(parameter.default) for parameter in parameters[1:]}
    assert {name: default.replace('"', "'") for name, default in documented.items()} == actual


def test_the_errors_are_those_of_the_package() -> None:
    names = {name.strip("`") for name, *_ in readme.rows(readme.section("Errors"))}
    assert names == set(wsgi_asgi_bridge.__all__) - {"ASGIToWSGI", "WSGIToASGI"}


@pytest.mark.parametrize(
    ("bridge", "title"), [(WSGIToASGI, W_SECTION), (ASGIToWSGI, A_SECTION)], ids=["W", "A"]
)
def test_every_number_of_stats_is_explained(bridge: type[Any], title: str) -> None:
    stats = bridge(lambda *_: None).stats()
    start = readme.TEXT.index(f"## {title}")
    text = readme.TEXT[start : readme.TEXT.index("\n## ", start)]
    for field in dataclasses.fields(stats):
        assert f"`{field.name}`" in text, field.name


def test_links_lead_somewhere() -> None:
    anchors = {
        re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in readme.headings()
    }
    targets = re.findall(r"\]\(([^)]+)\)", readme.TEXT)
    assert targets
    for target in targets:
        if target.startswith("#"):
            assert target[1:] in anchors
        elif "://" not in target:
            assert (PROJECT_ROOT / target).is_file()


def test_the_changelog_has_the_version_of_the_project() -> None:
    changelog = (PROJECT_ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## [{PROJECT['version']}]" in changelog

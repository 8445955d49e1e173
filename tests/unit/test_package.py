"""The package as a whole: its names, who imports whom, and how long its parts are."""

import ast
import importlib
import inspect
import pkgutil
import re
import sys
import tomllib
import typing
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import wsgi_asgi_bridge
from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "wsgi_asgi_bridge"
NAME = "wsgi_asgi_bridge"
RUNTIME_DEPENDENCIES = {"asgiref", "anyio"}
"""What is imported wherever the package is; trio and uvloop only where somebody asks for them."""

PUBLIC_NAMES = {
    "ASGIToWSGI",
    "AppError",
    "BadRequest",
    "BodyTooLarge",
    "BridgeClosed",
    "BridgeError",
    "ClientDisconnected",
    "ClientStalled",
    "ServerError",
    "WSGIToASGI",
}


def module_names() -> list[str]:
    found = pkgutil.walk_packages([str(PACKAGE)], prefix=f"{NAME}.")
    return [NAME, *sorted(module.name for module in found)]


MODULES = module_names()


def source_of(module: str) -> ast.Module:
    path = REPOSITORY / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


# --- names


def test_the_public_names() -> None:
    assert set(wsgi_asgi_bridge.__all__) == PUBLIC_NAMES
    for name in PUBLIC_NAMES:
        assert hasattr(wsgi_asgi_bridge, name)


def test_nothing_else_of_ours_is_public() -> None:
    """What the package shows beside `__all__` is its own modules."""
    shown = {name for name, value in vars(wsgi_asgi_bridge).items() if not name.startswith("_")}
    modules = {name for name in shown if isinstance(getattr(wsgi_asgi_bridge, name), ModuleType)}
    assert shown - modules == PUBLIC_NAMES
    assert modules <= {"asgi_to_wsgi", "compat", "errors", "metrics", "typing", "wsgi_to_asgi"}


@pytest.mark.parametrize("name", MODULES)
def test_all_is_honest(name: str) -> None:
    """Every name in `__all__` is there, and is there once."""
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", None)
    if exported is None:
        assert name.rpartition(".")[2].startswith("_"), "a room has no names of its own"
        return
    assert len(exported) == len(set(exported))  # ruff keeps them in order
    assert [item for item in exported if not hasattr(module, item)] == []


def test_what_a_module_takes_from_another_is_in_its_all() -> None:
    taken = [
        (module, source, item)
        for module in MODULES
        for source, items in imported_names(module)
        for item in items
        if f"{source}.{item}" not in MODULES
        and item not in getattr(importlib.import_module(source), "__all__", ())
    ]
    # The functions of errors.py are for the package alone; its list is that of the exceptions.
    assert [row for row in taken if not (row[1] == f"{NAME}.errors" and row[2].islower())] == []


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.parametrize("adapter", [WSGIToASGI, ASGIToWSGI])
def test_annotations_of_what_is_public_can_be_read_at_run_time(adapter: type[Any]) -> None:
    """None of them is known to type checkers only: programs read them too."""
    public = [
        function
        for name, function in inspect.getmembers(adapter, inspect.isfunction)
        if not name.startswith("_") or name in ("__init__", "__call__")
    ]
    assert len(public) >= 5
    for function in public:
        hints = typing.get_type_hints(function)
        assert set(hints) == {*inspect.signature(function).parameters, "return"} - {"self"}


def test_every_module_says_what_it_is_for() -> None:
    assert [name for name in MODULES if not ast.get_docstring(source_of(name))] == []


# --- who imports whom


def imports(module: str, *, at_import_time: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """All import statements; or those alone that run as the module is imported."""
    waiting: list[ast.AST] = [source_of(module)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        if at_import_time and (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        ):
            continue
        if at_import_time and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)


def absolute(module: str, node: ast.ImportFrom) -> str:
    """The module that `from ... import` names."""
    if not node.level:
        assert node.module is not None
        return node.module
    is_package = (REPOSITORY / module.replace(".", "/")).is_dir()
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + is_package]
    return ".".join([*parts, node.module] if node.module else parts)


def imported_names(module: str) -> Iterator[tuple[str, list[str]]]:
    """What a module takes from others of the package."""
    for node in imports(module, at_import_time=False):
        if isinstance(node, ast.ImportFrom):
            source = absolute(module, node)
            if source.partition(".")[0] == NAME:
                yield source, [alias.name for alias in node.names]


def modules_used(module: str, *, at_import_time: bool) -> set[str]:
    """Every module that a module imports, ours and others'."""
    used: set[str] = set()
    for node in imports(module, at_import_time=at_import_time):
        if isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names}
            continue
        source = absolute(module, node)
        for alias in node.names:
            inner = f"{source}.{alias.name}"
            used.add(inner if inner in MODULES else source)
    return used


def ours(module: str) -> set[str]:
    return {used for used in modules_used(module, at_import_time=False) if used.startswith(NAME)}


def rooms(room: str) -> list[str]:
    return [name for name in MODULES if name.startswith(f"{NAME}.{room}.")]


@pytest.mark.parametrize("module", rooms("_protocol"))
def test_pure_room_takes_from_itself_the_errors_and_the_types(module: str) -> None:
    allowed = {f"{NAME}.errors", f"{NAME}.typing", *rooms("_protocol")}
    assert ours(module) <= allowed


@pytest.mark.parametrize("module", rooms("_crossing"))
def test_the_crossing_takes_from_itself_and_the_errors(module: str) -> None:
    allowed = {f"{NAME}.errors", *rooms("_crossing")}
    assert ours(module) <= allowed


WINGS = {
    "wsgi_to_asgi": [
        "bridge",
        "exchange",
        "websocket",
        "runtime",
        "client_watch",
        "response",
        "request_body",
        "app_call",
        "websocket_messages",
        "websocket_socket",
        "websocket_feed",
        "websocket_call",
        "early_messages",
        "settings",
        "files",
        "stats",
    ],
    "asgi_to_wsgi": [
        "bridge",
        "app_task",
        "request_end",
        "event_stream",
        "offered_websocket",
        "outer_websocket",
        "connection_handshake",
        "open_websocket",
        "websocket",
        "handshake",
        "starting",
        "runtime",
        "response",
        "extensions",
        "request_body",
        "released",
        "lifespan",
        "context_changes",
        "connection",
        "disconnects",
        "server_call",
        "settings",
        "stats",
    ],
}
"""The modules of each wing. Each may import those that follow it, and none before it."""


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_takes_nothing_from_the_other_wing(wing: str) -> None:
    shared = {f"{NAME}.{name}" for name in ("errors", "typing", "_kinds", "_options", "_pickling")}
    allowed = {*shared, *rooms("_protocol"), *rooms("_crossing"), *rooms(wing)}
    taken = {used for module in rooms(wing) for used in ours(module)}
    assert taken <= allowed


@pytest.mark.parametrize("wing", WINGS)
def test_imports_inside_a_wing_run_one_way(wing: str) -> None:
    order = [f"{NAME}.{wing}.{module}" for module in WINGS[wing]]
    assert sorted(order) == rooms(wing), "a module has no place in the order"
    backward = [
        (module, used)
        for place, module in enumerate(order)
        for used in ours(module)
        if used in order[:place] or used == f"{NAME}.{wing}"
    ]
    assert backward == []


ON_TOP = ("__main__", "_check", "compat", "metrics")
"""What stands on the bridges."""


def test_nothing_below_takes_what_stands_on_top() -> None:
    """So the import of the package loads none of it."""
    on_top = tuple(f"{NAME}.{name}" for name in ON_TOP)
    below = [module for module in MODULES if not module.startswith(on_top)]
    assert {used for module in below for used in ours(module) if used.startswith(on_top)} == set()


def test_both_rooms_were_looked_into() -> None:
    assert len(rooms("_protocol")) >= 5
    assert len(rooms("_crossing")) >= 8


NOT_PURE = {
    "asyncio",
    "concurrent",
    "queue",
    "select",
    "selectors",
    "signal",
    "socket",
    "subprocess",
    "threading",
    "time",
    "anyio",
    "asgiref",
    "trio",
    "uvloop",
}


@pytest.mark.parametrize("module", rooms("_protocol"))
def test_the_pure_room_knows_no_clock_thread_socket_or_loop(module: str) -> None:
    used = {name.partition(".")[0] for name in modules_used(module, at_import_time=False)}
    assert used & NOT_PURE == set()


@pytest.mark.parametrize("module", rooms("_crossing"))
def test_the_crossing_has_no_http_word_in_its_code(module: str) -> None:
    """It moves callbacks, bytes and endings; what they mean is known elsewhere."""
    words = re.compile(r"http|header|environ|scope_from|status|cookie|start_response", re.I)
    named = {
        getattr(node, field)
        for node in ast.walk(source_of(module))
        for field in ("id", "attr", "arg", "name")
        if isinstance(getattr(node, field, None), str)
    }
    assert {name for name in named if words.search(name)} == set()


MAX_MODULE_LINES = 460
MAX_CLASS_LINES = 300
MAX_FUNCTION_LINES = 50


@pytest.mark.parametrize("module", MODULES)
def test_modules_classes_and_functions_are_short(module: str) -> None:
    tree = source_of(module)
    too_long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1
        > (MAX_CLASS_LINES if isinstance(node, ast.ClassDef) else MAX_FUNCTION_LINES)
    }
    assert too_long == {}
    assert max((node.end_lineno or 0 for node in tree.body), default=0) <= MAX_MODULE_LINES


def test_no_import_cycle() -> None:
    graph = {module: ours(module) - {module} for module in MODULES}
    # An import of `package.module` runs `package/__init__.py` first; those of the two rooms are
    # empty.
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"modules import each other in a circle: {error.args[1]}")
    assert order.index(f"{NAME}.errors") < order.index(NAME)


@pytest.mark.parametrize("module", MODULES)
def test_only_runtime_dependencies_are_imported_at_import_time(module: str) -> None:
    roots = {name.partition(".")[0] for name in modules_used(module, at_import_time=True)}
    assert roots - set(sys.stdlib_module_names) - {NAME} <= RUNTIME_DEPENDENCIES


def test_the_declared_dependencies_are_the_imported_ones() -> None:
    with open(REPOSITORY / "pyproject.toml", "rb") as file:
        declared = tomllib.load(file)["project"]["dependencies"]
    names = {re.split(r"[^\w-]", requirement)[0] for requirement in declared}
    assert names == RUNTIME_DEPENDENCIES

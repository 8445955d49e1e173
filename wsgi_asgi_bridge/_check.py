"""What `python -m wsgi_asgi_bridge check` says of an app: its kind, and the lines that serve it."""

import inspect
import sys
import traceback
from dataclasses import dataclass
from typing import Any

from ._kinds import Kind, kind_of
from ._options import imported_app
from .asgi_to_wsgi import ASGIToWSGI
from .wsgi_to_asgi import WSGIToASGI

__all__ = ["APP", "CANNOT_IMPORT", "NO_APP", "Result", "check"]

APP, NO_APP, CANNOT_IMPORT = 0, 1, 2
"""The exit codes."""

WSGI_SERVERS = "WSGI servers (gunicorn, uWSGI, waitress, mod_wsgi, Passenger)"
ASGI_SERVERS = "ASGI servers (uvicorn, hypercorn, granian, daphne)"


@dataclass(frozen=True)
class Result:
    """What the command says, and its exit code: an answer, or what is wrong."""

    code: int
    text: str


@dataclass(frozen=True)
class _Path:
    """An import string, which may end in `()` to have a factory called."""

    module: str
    attribute: str
    called: bool

    @classmethod
    def parsed(cls, text: str) -> "_Path":
        module, _, attribute = text.partition(":")
        return cls(module, attribute.removesuffix("()"), attribute.endswith("()"))

    @property
    def name(self) -> str:
        return f"{self.module}:{self.attribute}"

    def __str__(self) -> str:
        return f"{self.name}()" if self.called else self.name

    def lines(self, bridge: str, variable: str) -> str:
        """A module that wraps the app."""
        if not self.called:
            wrapped = f'{variable} = {bridge}("{self.name}")'
            return f"    from wsgi_asgi_bridge import {bridge}\n\n    {wrapped}"
        first, dot, rest = self.attribute.partition(".")
        return (
            f"    from {self.module} import {first}\n    from wsgi_asgi_bridge import {bridge}\n\n"
            f"    {variable} = {bridge}({first}{dot}{rest}())"
        )


def check(text: str) -> Result:
    """Import what `text` names and say what it is."""
    if (mistake := _mistake_in(text)) is not None:
        return Result(CANNOT_IMPORT, mistake)
    path = _Path.parsed(text)
    try:
        found = imported_app(path.name, kind="an app")
        app = found() if path.called else found
        if inspect.iscoroutine(app):
            app.close()
            return Result(NO_APP, f"{path} is an async factory: await it, and wrap what it makes")
    except TypeError as error:
        return Result(NO_APP, str(error)) if _is_ours(error) else _broken(path, error)
    except ImportError as error:
        if _is_ours(error):
            return Result(CANNOT_IMPORT, f"{error}{_apps_there(path.module)}")
        if isinstance(error, ModuleNotFoundError) and _is_missing(path.module, error.name):
            return Result(
                CANNOT_IMPORT,
                f"there is no module {error.name!r}; it was looked for in {sys.path[0] or '.'!r} "
                "and the other folders of sys.path",
            )
        return _broken(path, error)
    except (Exception, SystemExit) as error:
        return _broken(path, error)
    return _said_of(app, path)


def _said_of(app: Any, path: _Path) -> Result:
    kind = kind_of(app)
    shown = _shown(app)
    if kind is Kind.WSGI:
        return Result(APP, _wsgi_text(app, shown, path))
    if kind in (Kind.ASGI, Kind.ASGI_2):
        return Result(APP, _asgi_text(app, shown, path, kind))
    if kind is Kind.FACTORY:
        return Result(
            NO_APP,
            f"{path} is {shown}, which takes no arguments, as a factory does. To have it called:\n"
            f"    python -m wsgi_asgi_bridge check '{path.name}()'",
        )
    return Result(
        NO_APP,
        f"{path} is {shown}; it is neither called as a WSGI app, with (environ, start_response), "
        "nor as an ASGI app, with (scope, receive, send)",
    )


def _wsgi_text(app: Any, shown: str, path: _Path) -> str:
    text = f"{path} is a WSGI app: {shown}\n\n{WSGI_SERVERS} run it as it is:\n\n"
    text += f"    gunicorn {_quoted(path)}\n\n"
    if isinstance(app, ASGIToWSGI):
        return text + f"{ASGI_SERVERS} run the app inside it as it is: {_shown(app.app)}"
    return (
        text + f"{ASGI_SERVERS} run it wrapped, from a module of yours, asgi.py for example:\n\n"
        f"{path.lines('WSGIToASGI', 'app')}\n\nThat is started so:\n\n    uvicorn asgi:app"
    )


def _asgi_text(app: Any, shown: str, path: _Path, kind: Kind) -> str:
    text = f"{path} is {kind.value}: {shown}\n\n{ASGI_SERVERS} run it as it is:\n\n"
    text += f"    uvicorn {'--factory ' + path.name if path.called else path}\n\n"
    if isinstance(app, WSGIToASGI):
        return text + f"{WSGI_SERVERS} run the app inside it as it is: {_shown(app.app)}"
    text += f"{WSGI_SERVERS} run it wrapped, from a module of yours, wsgi.py for example:\n\n"
    text += f"{path.lines('ASGIToWSGI', 'application')}\n\nThat is started so:\n\n"
    text += "    gunicorn --threads 8 wsgi:application"
    if not path.called:
        text += (
            "\n\ngunicorn needs no module for it:\n\n"
            f"    gunicorn --threads 8 'wsgi_asgi_bridge:ASGIToWSGI(\"{path}\")'"
        )
    return text


def _quoted(path: _Path) -> str:
    return f"'{path}'" if path.called else str(path)


def _shown(app: Any) -> str:
    """What the object is. A bridge is shown with the app inside it."""
    if isinstance(app, WSGIToASGI | ASGIToWSGI):
        return f"{type(app).__name__} around {_shown(app.app)}"
    if inspect.isroutine(app) or inspect.isclass(app):
        return f"{app.__module__}.{app.__qualname__}"
    return f"an object of {type(app).__module__}.{type(app).__qualname__}"


# ------------------------------------------------------------ what is wrong


def _is_ours(error: BaseException) -> bool:
    """Whether imported_app itself has raised it, and not the module that it imported."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return frames[-1][0].f_globals.get("__name__") == imported_app.__module__


def _is_missing(module: str, name: str | None) -> bool:
    """Whether the module that is not there is the one asked for, or a package that holds it."""
    return name is not None and (module == name or module.startswith(f"{name}."))


def _mistake_in(text: str) -> str | None:
    """What is wrong with an import string, and what was probably meant."""
    module, _, attribute = text.partition(":")
    if "/" in module or "\\" in module or module.endswith(".py"):
        dotted = module.removesuffix(".py").replace("\\", "/").strip("./").replace("/", ".")
        meant = f"{dotted}:{attribute or 'app'}"
        return f"{text!r} names a file; write it as a module: {meant!r}"
    if module and attribute:
        return None
    parent, _, last = module.rpartition(".")
    meant = f"; {f'{parent}:{last}'!r} perhaps, or {f'{module}:app'!r}" if parent else ""
    return f"{text!r} is no import string, expected 'package.module:attribute'{meant}"


def _apps_there(module: str) -> str:
    """The apps that a module has under other names."""
    names = [
        name
        for name, value in vars(sys.modules[module]).items()
        if not name.startswith("_") and not inspect.isclass(value) and callable(value)
        if kind_of(value) in (Kind.WSGI, Kind.ASGI, Kind.ASGI_2)
    ]
    return f"; {module} has the apps {', '.join(names)}" if names else ""


def _broken(path: _Path, error: BaseException) -> Result:
    """The module, or the factory, has raised."""
    own = {"_check", "_options"}
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "importlib" not in frame.filename
        and not any(frame.filename.endswith(f"wsgi_asgi_bridge/{name}.py") for name in own)
    ]
    lines = [*traceback.format_list(frames), *traceback.format_exception_only(error)]
    return Result(
        CANNOT_IMPORT, f"{path} raised as it was imported or called:\n{''.join(lines)}".rstrip()
    )

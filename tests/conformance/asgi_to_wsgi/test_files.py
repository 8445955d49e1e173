"""A file that the app sends by its path, and the server by its `wsgi.file_wrapper` (A-OUT-6)."""

import os
import threading
import wsgiref.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import pytest

from tests.support.fake_wsgi_server import (
    Backend,
    Environ,
    Exchange,
    Gate,
    InThread,
    ScopeCapture,
    bridged,
    environ_for,
    must_become,
    must_happen,
    on_every_backend,
    open_files,
    serve,
)
from wsgi_asgi_bridge import AppError, BridgeClosed

CONTENT = bytes(range(256)) * 1024  # four blocks
PATHSEND = "http.response.pathsend"


class Wrapper(wsgiref.util.FileWrapper):
    """A server's `wsgi.file_wrapper`."""

    made: list[Any] = []  # noqa: RUF012

    def __init__(self, filelike: Any, blksize: int = 8192) -> None:
        super().__init__(filelike, blksize)
        self.made.append(filelike)


@pytest.fixture(autouse=True)
def no_file_is_left_open() -> Iterator[None]:
    Wrapper.made = []
    yield
    assert [file for file in Wrapper.made if not file.closed] == []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "large.bin"
    file.write_bytes(CONTENT)
    return file


def environ_with_wrapper(**request: Any) -> Environ:
    return environ_for(**request) | {"wsgi.file_wrapper": Wrapper}


def sends_file(
    path: Path | str, *headers: tuple[bytes, bytes], status: int = 200, trailers: bool = False
) -> Callable[..., Any]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        start = {"type": "http.response.start", "status": status, "headers": list(headers)}
        await send(start | ({"trailers": True} if trailers else {}))
        await send({"type": PATHSEND, "path": str(path)})
        if trailers:
            await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"1")]})

    return app


def length(size: int = len(CONTENT)) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % size


@on_every_backend
def test_the_result_is_the_servers_own_wrapper(backend: Backend, path: Path) -> None:
    """A-OUT-6: the very type that the server looks for, and of a file that it can send itself."""
    with bridged(sends_file(path, length()), backend) as bridge:
        exchange = serve(bridge, environ_with_wrapper())
        assert type(exchange.result) is Wrapper
        assert exchange.body == CONTENT
        assert exchange.header_values("Content-Length") == [str(len(CONTENT))]
        stats = bridge.stats()
    assert (stats.completed, stats.failed, stats.in_flight, stats.background) == (1, 0, 0, 0)


@on_every_backend
def test_a_head_without_a_length_gets_that_of_the_file(backend: Backend, path: Path) -> None:
    """A-OUT-6: it is known, as that of a body in one message is."""
    with bridged(sends_file(path), backend) as bridge:
        exchange = serve(bridge, environ_with_wrapper())
    assert type(exchange.result) is Wrapper
    assert exchange.header_values("Content-Length") == [str(len(CONTENT))]


def test_a_file_that_has_grown_is_cut_at_content_length(path: Path) -> None:
    """A-OUT-6, A-OUT-1: servers send a file to its end, so the bridge reads this one itself."""
    with bridged(sends_file(path, length(100_000))) as bridge:
        exchange = serve(bridge, environ_with_wrapper())
    assert exchange.body == CONTENT[:100_000]
    assert Wrapper.made == []


def test_a_file_shorter_than_content_length_is_an_error(path: Path) -> None:
    """A-OUT-6, A-OUT-1: raised out of `send()`, before the head has gone out."""
    errors: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await sends_file(path, length(len(CONTENT) + 1))(scope, receive, send)
        except AppError as error:
            errors.append(error)
            raise

    with bridged(app) as bridge:
        exchange = Exchange(bridge, environ_with_wrapper()).finish()
        assert bridge.stats().failed == 1
    assert exchange.starts == []
    assert [exchange.error] == errors
    assert f"short of its Content-Length {len(CONTENT) + 1}" in str(exchange.error)


def test_a_file_that_becomes_shorter_breaks_the_response(path: Path) -> None:
    """A-OUT-6, A-OUT-4: a cut body never looks whole."""
    with bridged(sends_file(path, length(200_000))) as bridge:
        exchange = Exchange(bridge, environ_with_wrapper(), hold=True)
        assert exchange.take() == CONTENT[:65536]
        os.truncate(path, 65536)
        assert exchange.take() is None
        assert isinstance(exchange.finish().error, AppError)
    assert exchange.error_phase == "iterate"


@pytest.mark.parametrize("name", ["missing.bin", "folder", "pipe", "nul\0"])
@on_every_backend
def test_what_is_no_file_is_an_error(backend: Backend, tmp_path: Path, name: str) -> None:
    """A-OUT-6: an AppError that names it, not an OSError, which is a disconnect for the app."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with bridged(sends_file(f"{tmp_path}/{name}"), backend) as bridge:
        exchange = Exchange(bridge, environ_with_wrapper()).finish()
    assert exchange.starts == []
    assert isinstance(exchange.error, AppError)
    assert repr(f"{tmp_path}/{name}") in str(exchange.error)


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([{"type": PATHSEND, "path": b"/bytes"}], "expected a str"),
        ([{"type": PATHSEND}], "expected a str"),
        (
            [
                {"type": "http.response.body", "body": b"x", "more_body": True},
                {"type": PATHSEND, "path": __file__},
            ],
            "after a part of the body",
        ),
        (
            [{"type": PATHSEND, "path": __file__}, {"type": PATHSEND, "path": __file__}],
            "after the end of the response",
        ),
        (
            [{"type": PATHSEND, "path": __file__}, {"type": "http.response.body"}],
            "after the end of the response",
        ),
    ],
)
def test_illegal_steps_raise(messages: list[Any], complaint: str) -> None:
    """A-OUT-1, A-OUT-6: out of the app's `send()`."""
    errors: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        *legal, illegal = messages
        for message in legal:
            await send(message)
        try:
            await send(illegal)
        except AppError as error:
            errors.append(str(error))
        if not legal or legal[0]["type"] != PATHSEND:
            await send({"type": "http.response.body"})

    with bridged(app) as bridge:
        serve(bridge, environ_with_wrapper())
    assert len(errors) == 1
    assert complaint in errors[0]


def test_a_path_after_a_part_of_a_body_with_a_length_raises() -> None:
    """A-OUT-1, A-OUT-6: what was sent is not forgotten."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"5")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"abc", "more_body": True})
        with pytest.raises(AppError, match="after a part of the body"):
            await send({"type": PATHSEND, "path": __file__})
        await send({"type": "http.response.body", "body": b"de"})

    with bridged(app) as bridge:
        assert serve(bridge, environ_with_wrapper()).body == b"abcde"


def test_a_server_without_the_wrapper_is_not_offered_it() -> None:
    """A-OUT-6"""
    capture = ScopeCapture()
    with bridged(capture) as bridge:
        for more in ({}, {"wsgi.file_wrapper": None}, {"wsgi.file_wrapper": Wrapper}):
            serve(bridge, environ_for() | more)
    assert [scope["extensions"] for scope in capture.scopes] == [{}, {}, {PATHSEND: {}}]


def test_head_and_304_open_no_file(path: Path) -> None:
    """A-OUT-1, A-OUT-6: they have no body."""
    path.unlink()  # it would raise
    with bridged(sends_file(path, length())) as bridge:
        head = serve(bridge, environ_with_wrapper(method="HEAD"))
    with bridged(sends_file(path, length(), status=304)) as bridge:
        unchanged = serve(bridge, environ_with_wrapper())
    assert (head.body, head.header_values("Content-Length")) == (b"", [str(len(CONTENT))])
    assert (unchanged.body, unchanged.header_values("Content-Length")) == (b"", [])


def test_trailers_after_a_file_are_dropped(path: Path) -> None:
    """A-OUT-6"""
    with bridged(sends_file(path, trailers=True)) as bridge:
        exchange = serve(bridge, environ_with_wrapper())
    assert exchange.body == CONTENT
    assert type(exchange.result) is Wrapper


@on_every_backend
def test_a_wsgi_middleware_gets_the_bytes(backend: Backend, path: Path) -> None:
    """A-OUT-6: what checks or changes the body iterates the wrapper as any iterable."""
    with bridged(sends_file(path, length(), (b"content-type", b"a/b")), backend) as bridge:
        exchange = serve(validator(bridge), environ_with_wrapper())
    assert exchange.body == CONTENT
    assert exchange.closed


def test_the_file_is_opened_in_the_calling_thread(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A-OUT-6: a slow disk delays this request, and no other one in the loop."""
    opened: list[int] = []
    real = os.stat

    def watched(name: Any, *args: Any, **kwargs: Any) -> Any:
        if name == str(path):
            opened.append(threading.get_ident())
        return real(name, *args, **kwargs)

    with bridged(sends_file(path)) as bridge:
        monkeypatch.setattr(os, "stat", watched)
        exchange = serve(bridge, environ_with_wrapper())
    assert opened == [exchange.started.thread]


def test_an_app_that_is_cut_off_while_the_file_opens_leaves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A-OUT-6, A-OUT-3: the bridge is closed at the moment in which the file has been opened."""
    opening, go_on = threading.Event(), Gate()
    real = os.stat

    def held(name: Any, *args: Any, **kwargs: Any) -> Any:
        if name == str(path):
            opening.set()
            go_on.wait_in_thread()
        return real(name, *args, **kwargs)

    before = open_files()
    with bridged(sends_file(path), shutdown_timeout=0.05) as bridge:
        monkeypatch.setattr(os, "stat", held)
        exchange = Exchange(bridge, environ_with_wrapper())
        must_happen(opening, "the opening of the file")
        closing = InThread(bridge.close, "close()")
        must_become(lambda: bridge.stats().closed == 1 or closing.done.is_set(), "the cut")
        go_on.open()
        closing.result()
        exchange.finish()
    assert isinstance(exchange.error, BridgeClosed)
    assert exchange.starts == []
    assert open_files() == before


def test_with_background_wait_the_response_waits_for_the_apps_work(path: Path) -> None:
    """A-OUT-9, A-OUT-6: the bridge's own iterable reads the file, whose close() waits."""
    done: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await sends_file(path, length())(scope, receive, send)
        done.append("work")

    with bridged(app, background_wait=5.0) as bridge:
        exchange = serve(bridge, environ_with_wrapper())
        assert done == ["work"]
    assert exchange.body == CONTENT
    assert Wrapper.made == []


@on_every_backend
def test_an_error_after_a_5xx_file_is_raised_by_close(backend: Backend, path: Path) -> None:
    """A-OUT-8, A-OUT-6: so the iterable is the bridge's own."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await sends_file(path, length(), status=500)(scope, receive, send)
        raise ValueError("after the page")

    with bridged(app, backend) as bridge:
        exchange = Exchange(bridge, environ_with_wrapper()).finish()
    assert b"".join(exchange.chunks) == CONTENT
    assert (exchange.error_phase, str(exchange.error)) == ("close", "after the page")


def test_a_start_response_that_raises_closes_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A-OUT-6"""

    def refuses(status: str, headers: Any, exc_info: Any = None) -> Any:
        raise RuntimeError("no")

    with bridged(sends_file(path)) as bridge, pytest.raises(RuntimeError, match="no"):
        bridge(environ_with_wrapper(), refuses)


@on_every_backend
def test_a_wrapper_that_raises_closes_the_file(backend: Backend, path: Path) -> None:
    """A-OUT-6"""
    given: list[Any] = []

    def refuses(file: Any, size: int) -> Any:
        given.append(file)
        raise RuntimeError("no")

    with bridged(sends_file(path), backend) as bridge:
        exchange = Exchange(bridge, environ_for() | {"wsgi.file_wrapper": refuses}).finish()
    assert str(exchange.error) == "no"
    assert given[0].closed


def test_a_server_that_closes_early(path: Path) -> None:
    """A-OUT-6, A-OUT-5: its client has left; the file is closed, the request was completed."""
    with bridged(sends_file(path, length())) as bridge:
        exchange = Exchange(bridge, environ_with_wrapper(), hold=True)
        assert exchange.take() == CONTENT[:65536]
        exchange.hang_up()
        assert bridge.stats().completed == 1


def test_a_server_that_closes_the_bridges_own_iterable_early(path: Path) -> None:
    """A-OUT-6: as above, for a file that the bridge reads itself."""
    with bridged(sends_file(path, length(200_000))) as bridge:
        exchange = Exchange(bridge, environ_with_wrapper(), hold=True)
        assert exchange.take() == CONTENT[:65536]
        exchange.hang_up()
        assert exchange.result._task.file.raw.closed


def test_an_extension_that_a_middleware_adds_is_not_carried_out_by_surprise(path: Path) -> None:
    """A-OUT-6: the bridge then reads the file itself."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["extensions"][PATHSEND] = {}
        await sends_file(path, length())(scope, receive, send)

    with bridged(app) as bridge:
        assert serve(bridge, environ_for()).body == CONTENT

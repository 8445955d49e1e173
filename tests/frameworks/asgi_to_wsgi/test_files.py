"""`FileResponse` of Starlette with the server's `wsgi.file_wrapper` and without it (A-OUT-6)."""

from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper

import pytest
from starlette.responses import FileResponse

from tests.support.fake_wsgi_server import (
    Backend,
    Environ,
    bridged,
    environ_for,
    on_every_backend,
    serve,
)

CONTENT = bytes(range(256)) * 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "large.bin"
    file.write_bytes(CONTENT)
    return file


def environ_with_wrapper(**request: Any) -> Environ:
    return environ_for(**request) | {"wsgi.file_wrapper": FileWrapper}


@on_every_backend
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "headers", [(), (("Range", "bytes=7-99999"),), (("Range", "bytes=0-0,9-20"),)]
)
def test_starlettes_file_response(
    backend: Backend, path: Path, method: str, headers: tuple[tuple[str, str], ...]
) -> None:
    """A-OUT-6: status, headers and bytes are the same as on a server without the wrapper."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await FileResponse(path)(scope, receive, send)

    request = {"method": method, "headers": (("Host", "a"), *headers)}
    with bridged(app, backend) as bridge:
        plain = serve(bridge, environ_for(**request))
        offered = serve(bridge, environ_with_wrapper(**request))
    boundary = plain.header_values("Content-Type")[0].partition("boundary=")[2]
    assert offered.started.status == plain.started.status
    if not boundary:
        assert offered.started.headers == plain.started.headers
        assert offered.body == plain.body
    assert len(offered.body) == len(plain.body) > 0 if method == "GET" else offered.body == b""
    assert (type(offered.result) is FileWrapper) == (method == "GET" and not headers)

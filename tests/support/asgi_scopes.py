"""What an ASGI app sees in its scope, for tests that look into it."""

from typing import Any

from tests.support.fake_wsgi_server import (
    Environ,
    Message,
    ScopeCapture,
    bridged,
    serve,
)


def scope_of(environ: Environ, **options: Any) -> Message:
    """The scope that an app sees for one environ."""
    capture = ScopeCapture()
    with bridged(capture, **options) as bridge:
        assert serve(bridge, environ).body == b"captured"
    return capture.scope


def header_map(scope: Message) -> dict[bytes, bytes]:
    """The headers by name, of which none comes twice from an environ."""
    names = [name for name, _ in scope["headers"]]
    assert len(set(names)) == len(names), f"a header came twice: {names}"
    return dict(map(tuple, scope["headers"]))


def check_address(address: Any) -> None:
    if address is None:
        return
    host, port = address
    assert isinstance(address, (tuple, list))
    assert type(host) is str
    assert host
    assert port is None or type(port) is int

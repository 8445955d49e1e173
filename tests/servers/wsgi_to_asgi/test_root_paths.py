"""W-ENV-2: root paths as people type them, on a server that puts them in front of each path."""

import json
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.frameworks.serving import served_by_uvicorn
from tests.support.raw_http import Connection
from wsgi_asgi_bridge import WSGIToASGI


def paths_app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([environ["SCRIPT_NAME"], environ["PATH_INFO"]]).encode()]


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize(
    ("root_path", "script_name"),
    [("/under", "/under"), ("/under/", "/under"), ("under", "/under"), ("/", ""), ("", "")],
)
def test_a_root_path_with_one_slash_more_or_less(
    http: str, root_path: str, script_name: str
) -> None:
    with served_by_uvicorn(WSGIToASGI(paths_app), root_path=root_path, http=http) as url:
        address = urlsplit(url)
        with Connection((address.hostname, address.port)) as client:
            assert json.loads(client.get("/a/b").body) == [script_name, "/a/b"]
            assert json.loads(client.get("/").body) == [script_name, "/"]
            if http == "h11":  # httptools takes no `*`
                assert json.loads(client.request("OPTIONS", "*").body) == [script_name, "/*"]

"""`python -m tests.hosts.nginx DIRECTORY KIND UPSTREAM PORT` becomes an nginx before a server.

KIND is `proxy` for a server that speaks HTTP, `uwsgi` for one that speaks the protocol of that
name; UPSTREAM is its `host:port`. The settings are those of docs/how_to/nginx.md.
"""

import os
import sys
from pathlib import Path

from tests.support.pages import PAGES, blocks

HOST = "127.0.0.1"
CONFIGURATION = """
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {map}
    server {{
        listen {host}:{port};
        {location}
    }}
}}
"""
PAGE = "docs/how_to/nginx.md"
UPSTREAM = "127.0.0.1:8000"
"""What the page has for the server behind nginx."""
MAP, *LOCATIONS = (block.code for block in blocks("nginx", PAGES[PAGE]))
LOCATION = dict(zip(("proxy", "uwsgi"), LOCATIONS, strict=True))


def main(directory: str, kind: str, upstream: str, port: str) -> None:
    location = LOCATION[kind].replace(UPSTREAM, upstream)
    places = {"directory": directory, "host": HOST, "port": port}
    text = CONFIGURATION.format(**places, map=MAP, location=location)
    configuration = Path(directory) / "nginx.conf"
    configuration.write_text(text)
    os.execlp("nginx", "nginx", "-p", directory, "-e", "stderr", "-c", str(configuration))


if __name__ == "__main__":
    main(*sys.argv[1:])

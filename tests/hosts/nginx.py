"""`python -m tests.hosts.nginx DIRECTORY KIND UPSTREAM PORT` becomes an nginx before a server.

KIND is `proxy` for a server that speaks HTTP, `uwsgi` for one that speaks the protocol of that
name; UPSTREAM is its `host:port`.
"""

import os
import sys
from pathlib import Path

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
    map $http_upgrade $connection_upgrade {{ default upgrade; "" close; }}
    server {{
        listen {host}:{port};
        location / {{ {passing} }}
    }}
}}
"""
PASSING = {
    "proxy": """
        proxy_pass http://{upstream};
        proxy_http_version 1.1;
        proxy_buffering off;
        proxy_set_header Host $http_host;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_upgrade;
    """,
    "uwsgi": """
        uwsgi_pass {upstream};
        uwsgi_buffering off;
        uwsgi_param QUERY_STRING $query_string;
        uwsgi_param REQUEST_METHOD $request_method;
        uwsgi_param CONTENT_TYPE $content_type;
        uwsgi_param CONTENT_LENGTH $content_length;
        uwsgi_param REQUEST_URI $request_uri;
        uwsgi_param PATH_INFO $document_uri;
        uwsgi_param SERVER_PROTOCOL $server_protocol;
        uwsgi_param REQUEST_SCHEME $scheme;
        uwsgi_param REMOTE_ADDR $remote_addr;
        uwsgi_param REMOTE_PORT $remote_port;
        uwsgi_param SERVER_PORT $server_port;
        uwsgi_param SERVER_NAME $server_name;
    """,
}


def main(directory: str, kind: str, upstream: str, port: str) -> None:
    passing = PASSING[kind].format(upstream=upstream)
    text = CONFIGURATION.format(directory=directory, host=HOST, port=port, passing=passing)
    configuration = Path(directory) / "nginx.conf"
    configuration.write_text(text)
    os.execlp("nginx", "nginx", "-p", directory, "-e", "stderr", "-c", str(configuration))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A Flask app on uvicorn: a page, a form, a streamed upload, a large download, an event stream.

Run it with `python examples/flask_on_uvicorn.py [--port N]` and open the address it prints.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from typing import IO, Any

import uvicorn
from flask import Flask, Request, Response, render_template, request
from werkzeug.datastructures import FileStorage

from wsgi_asgi_bridge import WSGIToASGI

UPLOADS = tempfile.TemporaryDirectory(prefix="flask_on_uvicorn-")
BLOCK_BYTES = 64 * 1024
MAX_DOWNLOAD_MIB = 1024
PAGE = "flask_on_uvicorn.html"


class StreamedUploads(Request):
    """A request whose uploaded files are written to disk while they arrive."""

    def _get_file_stream(self, *_: Any, **__: Any) -> IO[bytes]:
        return tempfile.NamedTemporaryFile("w+b", dir=UPLOADS.name, delete=False)


app = Flask(__name__)
app.request_class = StreamedUploads


@app.get("/")
def page() -> str:
    return render_template(PAGE)


@app.post("/greet")
def greet() -> str:
    return render_template(PAGE, message=f"Hello, {request.form['name']}!")


@app.post("/upload")
def upload() -> Response:
    file = request.files["file"]
    message = f"{file.filename}: {stored_bytes(file)} bytes in {file.stream.name}"
    return Response(message, mimetype="text/plain")


def stored_bytes(file: FileStorage) -> int:
    """The size on disk of a file that has arrived."""
    file.stream.flush()
    return os.fstat(file.stream.fileno()).st_size


@app.get("/download")
def download() -> Response:
    blocks = min(request.args.get("mib", 64, type=int), MAX_DOWNLOAD_MIB) * 16
    headers = {
        "Content-Length": str(blocks * BLOCK_BYTES),
        "Content-Disposition": "attachment; filename=zeros.bin",
    }
    body = (bytes(BLOCK_BYTES) for _ in range(blocks))
    return Response(body, headers=headers, mimetype="application/octet-stream")


@app.get("/events")
def events() -> Response:
    """The time, once a second, until the client leaves: then the generator is closed."""

    def ticks() -> Iterator[str]:
        while True:
            yield f"data: {time.strftime('%H:%M:%S')}\n\n"
            time.sleep(1)

    return Response(ticks(), mimetype="text/event-stream", headers={"Cache-Control": "no-cache"})


asgi_app = WSGIToASGI(app)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    # An event stream has no end of its own, so Ctrl-C waits for open connections this long only.
    with UPLOADS:
        uvicorn.run(asgi_app, host=options.host, port=options.port, timeout_graceful_shutdown=2)


if __name__ == "__main__":
    main()

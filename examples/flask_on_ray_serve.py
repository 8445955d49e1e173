"""A Flask app on Ray Serve, in two replicas: on one machine, or on each machine of a Ray cluster.

Run it with `python examples/flask_on_ray_serve.py [--port N]` and open the address that Ray prints.
"""

import argparse
import hashlib
import os
import time
from collections.abc import Iterator

import ray
from flask import Flask, Response, request
from ray import serve

from wsgi_asgi_bridge import WSGIToASGI

app = Flask(__name__)


@app.get("/")
def page() -> str:
    return f"Hello from process {os.getpid()}. Reload to meet another one.\n"


@app.post("/upload")
def upload() -> dict[str, object]:
    """Read the body as it arrives, however large it is."""
    digest, size = hashlib.sha256(), 0
    while block := request.stream.read(64 * 1024):
        digest.update(block)
        size += len(block)
    return {"bytes": size, "sha256": digest.hexdigest()}


@app.get("/count")
def count() -> Response:
    return Response(numbers(request.args.get("to", 5, type=int)), mimetype="text/plain")


def numbers(end: int) -> Iterator[str]:
    for number in range(end):
        yield f"{number}\n"
        time.sleep(0.1)


# Ray pickles the bridge into each replica, where it starts a pool of threads of its own. The app is
# given by name, because what a script defines can be pickled by its value only, and a Flask app
# cannot.
@serve.deployment(num_replicas=2, max_ongoing_requests=40)
@serve.ingress(WSGIToASGI("flask_on_ray_serve:app", workers=40))
class Site:
    pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    port = parser.parse_args().port
    ray.init(include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Site.bind(), name="site", blocking=True)


if __name__ == "__main__":
    main()

"""A Flask app in two replicas of Ray Serve, with a way to kill one of them."""

import os
import signal
import threading

from flask import Flask
from ray import serve

from wsgi_asgi_bridge import WSGIToASGI

flask_app = Flask(__name__)


@flask_app.get("/echo/<number>")
def echo(number: str) -> dict[str, object]:
    return {"number": number, "pid": os.getpid()}


@flask_app.get("/threads")
def threads() -> dict[str, object]:
    return {"name": threading.current_thread().name}


@flask_app.post("/kill/<int:pid>")
def kill(pid: int) -> str:
    os.kill(pid, signal.SIGKILL)
    return "killed\n"


@serve.deployment(num_replicas=2, max_ongoing_requests=10)
@serve.ingress(WSGIToASGI(flask_app, workers=10))
class Site:
    pass


site = Site.bind()

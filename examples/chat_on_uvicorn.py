"""A chat in a Flask app on uvicorn: Flask-Sock's WebSockets, as under Flask's own server.

Run it with `python examples/chat_on_uvicorn.py [--port N]` and open the address it prints in two
tabs.
"""

import argparse
from contextlib import suppress
from threading import Lock

import uvicorn
from flask import Flask, render_template
from flask_sock import ConnectionClosed, Server, Sock

from wsgi_asgi_bridge import WSGIToASGI

app = Flask(__name__)
sock = Sock(app)


class Room:
    """Whoever is here hears what anybody says."""

    def __init__(self) -> None:
        self._members: set[Server] = set()
        self._lock = Lock()

    def enter(self, member: Server) -> None:
        with self._lock:
            self._members.add(member)

    def leave(self, member: Server) -> None:
        with self._lock:
            self._members.discard(member)

    def say(self, line: str) -> None:
        with self._lock:
            members = [*self._members]
        for member in members:
            with suppress(ConnectionClosed):  # it is about to leave
                member.send(line)


room = Room()


@app.get("/")
def page() -> str:
    return render_template("chat_on_uvicorn.html")


@sock.route("/chat")
def chat(member: Server) -> None:
    """Runs in a thread of its own until its client leaves: then receive() raises."""
    room.enter(member)
    try:
        while True:
            room.say(member.receive())
    finally:
        room.leave(member)


asgi_app = WSGIToASGI(app)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    uvicorn.run(asgi_app, host=options.host, port=options.port, timeout_graceful_shutdown=2)


if __name__ == "__main__":
    main()

"""An MCP server inside a Flask app: one process, one port, and both sides see the same notes.

Run it with `python examples/mcp_in_flask.py [--port N]`. The page is at `/`, the MCP server at
`/ai/mcp`.
"""

import argparse

from flask import Flask, jsonify, redirect, render_template, request
from flask.typing import ResponseReturnValue
from mcp.server.mcpserver import Context, MCPServer
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.serving import run_simple

from wsgi_asgi_bridge import ASGIToWSGI

notes: list[str] = []

mcp = MCPServer("notes")


@mcp.tool()
def list_notes() -> list[str]:
    """All notes, oldest first."""
    return notes


@mcp.tool()
async def add_notes(new: list[str], context: Context) -> int:
    """Adds notes, reports progress after each, and returns how many there are now."""
    for done, note in enumerate(new, start=1):
        notes.append(note)
        await context.report_progress(done, len(new))
    return len(notes)


app = Flask(__name__)


@app.get("/")
def page() -> str:
    return render_template("mcp_in_flask.html", notes=notes)


@app.post("/")
def add() -> ResponseReturnValue:
    notes.append(request.form["note"])
    return redirect("/", 303)


@app.get("/notes")
def show() -> ResponseReturnValue:
    return jsonify(notes)


# The bridge runs the MCP server's lifespan (its session manager needs it) before the first request.
mcp_app = ASGIToWSGI(mcp.streamable_http_app(streamable_http_path="/mcp"))
app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/ai": mcp_app})  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    run_simple("127.0.0.1", options.port, app, threaded=True)


if __name__ == "__main__":
    main()

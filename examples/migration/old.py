"""The old half: a Flask app as it was before the migration.

It still runs by itself, `flask --app examples.migration.old run`, and has the command that makes a
user: `flask --app examples.migration.old add-user NAME`.
"""

import csv
import hmac
import io
import secrets
import sqlite3
import time
from collections.abc import Iterator
from datetime import timedelta

import click
from flask import (
    Flask,
    Response,
    abort,
    flash,
    g,
    jsonify,
    redirect,
    render_template_string,
    request,
    session,
    stream_with_context,
)
from flask.typing import ResponseReturnValue

from . import settings, store

PUBLIC = {None, "page", "log_in", "static"}
"""Endpoints for everybody; None is a page that there is not."""

PAGE = """<!doctype html>
<title>Shelf</title>
<link rel="stylesheet" href="/static/style.css">
<h1>Shelf</h1>
{% for message in get_flashed_messages() %}<p class="message">{{ message }}</p>{% endfor %}
{% if user %}
<p class="try">Try this: open this page in a second tab, and upload a file in the first.</p>
<form action="/logout" method="post">
  {{ user.name }} <input type="hidden" name="csrf" value="{{ csrf }}"> <button>Log out</button>
</form>
<section>
  <form action="/upload" method="post" enctype="multipart/form-data">
    <input type="hidden" name="csrf" value="{{ csrf }}">
    <input name="file" type="file" required> <button>Upload</button>
  </form>
  <ul id="files"></ul>
</section>
<p><a href="/files.csv">All files as CSV</a></p>
<script>
  new EventSource("/events").onmessage = (event) => {
    const file = JSON.parse(event.data), item = document.createElement("li");
    item.textContent = `${file.name}: ${file.size} bytes`;
    document.getElementById("files").append(item);
  };
</script>
{% else %}
<p class="try">Try this: log in as the user that <code>add-user</code> has made.</p>
<section>
  <form action="/login" method="post">
    <input type="hidden" name="csrf" value="{{ csrf }}">
    <input name="name" placeholder="Name" required>
    <input name="password" type="password" placeholder="Password" required> <button>Log in</button>
  </form>
</section>
{% endif %}
"""

app = Flask(__name__, static_folder="../static")
app.config.update(
    SECRET_KEY=settings.secret(),
    SESSION_COOKIE_NAME="shelf_session",
    SESSION_COOKIE_SAMESITE="Lax",
    SESSION_COOKIE_SECURE=settings.HTTPS_ONLY,
    PERMANENT_SESSION_LIFETIME=timedelta(days=settings.SESSION_DAYS),
    SESSION_REFRESH_EACH_REQUEST=False,  # a login lasts as long on the half that only reads it
    MAX_CONTENT_LENGTH=settings.MAX_UPLOAD_BYTES,
)


# ---------------------------------------------------------------- around every request


def database() -> sqlite3.Connection:
    """The connection of this request."""
    if "database" not in g:
        g.database = store.connect()
    db: sqlite3.Connection = g.database
    return db


@app.teardown_appcontext
def close_database(_: BaseException | None) -> None:
    if "database" in g:
        g.pop("database").close()


@app.before_request
def let_in_who_may() -> None:
    g.user = store.user_of_login(database(), session.get("login"))
    if g.user is None and request.endpoint not in PUBLIC:
        abort(401)  # before a stranger's upload is read
    if request.endpoint and request.method == "POST" and not comes_from_our_form():
        abort(400, "This form was not made for you. Please load the page again.")


def comes_from_our_form() -> bool:
    expected = session.get("csrf")
    return expected is not None and hmac.compare_digest(
        request.form.get("csrf", "").encode(), expected.encode()
    )


@app.after_request
def name_the_half(response: Response) -> Response:
    """For as long as there are two: who has answered?"""
    response.headers["X-Served-By"] = "old"
    return response


# ---------------------------------------------------------------- pages


@app.get("/")
def page() -> str:
    csrf = session.setdefault("csrf", secrets.token_urlsafe())
    return render_template_string(PAGE, user=g.user, csrf=csrf)


@app.post("/login")
def log_in() -> ResponseReturnValue:
    token = store.begun_login(database(), request.form["name"], request.form["password"])
    if token is None:
        flash("Name and password do not belong together.")
        return page(), 403
    session.clear()  # nothing that was known before the login is of use after it
    session.permanent = True
    session["login"] = token
    return redirect("/", 303)


@app.post("/logout")
def log_out() -> ResponseReturnValue:
    store.end_login(database(), session["login"])
    session.clear()
    return redirect("/", 303)


@app.post("/upload")
def upload() -> ResponseReturnValue:
    file = request.files["file"]  # a large one has gone to a temporary file while it arrived
    name = file.filename or "unnamed"
    with store.arriving_file() as path:
        file.save(path)
        size = store.keep_file(database(), g.user["id"], name, path)
    flash(f"{name}: {size} bytes")
    return redirect("/", 303)


@app.get("/files.csv")
def export() -> Response:
    """A line for each file, made while it is sent."""

    def lines() -> Iterator[str]:
        yield "name,bytes,arrived\r\n"
        for file in store.files(database(), g.user["id"]):
            line = io.StringIO()
            csv.writer(line).writerow([file["name"], file["size"], file["arrived"]])
            yield line.getvalue()

    return Response(stream_with_context(lines()), mimetype="text/csv")


@app.get("/events")
def events() -> Response:
    """Each file of the user as a server-sent event, those that come later as well."""
    user = g.user["id"]

    def lines() -> Iterator[str]:
        last = 0
        while True:
            yield ":\n\n"  # a line that tells nothing, but finds out whether anybody listens
            for file in store.new_files(user, last):
                last = file["id"]
                yield f"data: {app.json.dumps(dict(file))}\n\n"
            time.sleep(settings.POLL_SECONDS)

    return Response(lines(), mimetype="text/event-stream", headers={"Cache-Control": "no-cache"})


@app.get("/files.json")
def list_files() -> ResponseReturnValue:
    """Moved: new.py answers first. This one stays until nobody wants it back."""
    return jsonify([dict(file) for file in store.files(database(), g.user["id"])])


# ---------------------------------------------------------------- commands


@app.cli.command("add-user")
@click.argument("name")
@click.password_option(envvar="MIGRATION_PASSWORD")
def add_user(name: str, password: str) -> None:
    """Make a user who may log in."""
    store.create()
    try:
        store.add_user(database(), name, password)
    except sqlite3.IntegrityError:
        raise click.ClickException(f"There is a user {name!r} already.") from None

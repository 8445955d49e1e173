"""Users, logins and files: one SQLite database and one folder, which both halves use.

Each request opens a connection of its own, in whichever thread it runs. With WAL, readers go on
while somebody writes, and writers wait for each other. What is written is committed before the
function returns, so that the next request sees it, on either half and in any process.
"""

import os
import secrets
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from werkzeug.security import check_password_hash, generate_password_hash

from . import settings

LOCK_WAIT_SECONDS = 10

SCHEMA = """
CREATE TABLE IF NOT EXISTS users (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    password TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS logins (
    token TEXT PRIMARY KEY,
    user INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    began TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE IF NOT EXISTS files (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    size INTEGER NOT NULL,
    user INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    arrived TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
"""

FILES_OF_USER = "SELECT id, name, size, arrived FROM files WHERE user = ? AND id > ? ORDER BY id"

UNKNOWN_PASSWORD = generate_password_hash(secrets.token_urlsafe())
"""Checked for a name that nobody has: an answer then takes as long as for one that is known."""


def create() -> None:
    """The folder and the schema, if they are not there yet."""
    settings.FILES.mkdir(parents=True, exist_ok=True)
    with closing(connect()) as db:
        db.execute("PRAGMA journal_mode = WAL")  # the file remembers it
        db.executescript(SCHEMA)


def connect() -> sqlite3.Connection:
    """A connection for one request; its caller closes it."""
    # FastAPI opens it in one thread of its pool and may use and close it in others, one after
    # the other.
    db = sqlite3.connect(settings.DATABASE, timeout=LOCK_WAIT_SECONDS, check_same_thread=False)
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA foreign_keys = ON")
    return db


# ---------------------------------------------------------------- users and logins


def add_user(db: sqlite3.Connection, name: str, password: str) -> None:
    """Raises sqlite3.IntegrityError if the name is taken."""
    with db:
        db.execute(
            "INSERT INTO users (name, password) VALUES (?, ?)",
            (name, generate_password_hash(password)),
        )


def begun_login(db: sqlite3.Connection, name: str, password: str) -> str | None:
    """The token of a new login; None if name and password do not belong together."""
    user = db.execute("SELECT id, password FROM users WHERE name = ?", (name,)).fetchone()
    if not check_password_hash(user["password"] if user else UNKNOWN_PASSWORD, password):
        return None
    token = secrets.token_urlsafe()
    with db:
        db.execute(
            "DELETE FROM logins WHERE began < datetime('now', ?)",
            (f"-{settings.SESSION_DAYS} days",),
        )
        db.execute("INSERT INTO logins (token, user) VALUES (?, ?)", (token, user["id"]))
    return token


def end_login(db: sqlite3.Connection, token: str) -> None:
    """From now on no half knows the token, not even out of a copied cookie."""
    with db:
        db.execute("DELETE FROM logins WHERE token = ?", (token,))


def user_of_login(db: sqlite3.Connection, token: str | None) -> sqlite3.Row | None:
    """`id` and `name` of whoever is logged in with this token."""
    query = "SELECT id, name FROM users WHERE id = (SELECT user FROM logins WHERE token = ?)"
    found: sqlite3.Row | None = db.execute(query, (token,)).fetchone()
    return found


# ---------------------------------------------------------------- files


def files(db: sqlite3.Connection, user: int, after: int = 0) -> sqlite3.Cursor:
    """The user's files with a number above `after`, oldest first, one by one."""
    return db.execute(FILES_OF_USER, (user, after))


def new_files(user: int, after: int) -> list[sqlite3.Row]:
    """Likewise, at once and over a connection of its own: what an event stream asks for."""
    with closing(connect()) as db:
        return files(db, user, after).fetchall()


@contextmanager
def arriving_file() -> Iterator[Path]:
    """Where an upload is written while it arrives; gone afterwards, unless it was kept."""
    number, name = tempfile.mkstemp(prefix="arriving-", dir=settings.FILES)
    os.close(number)
    path = Path(name)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def keep_file(db: sqlite3.Connection, user: int, name: str, arrived: Path) -> int:
    """Put a file that has arrived whole on the user's shelf; its size in bytes."""
    size = arrived.stat().st_size
    with db:
        added = db.execute(
            "INSERT INTO files (name, size, user) VALUES (?, ?, ?)", (name, size, user)
        )
        arrived.rename(settings.FILES / str(added.lastrowid))  # fails: the row is taken back
    return size

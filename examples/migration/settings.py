"""What both halves are told from outside: where they keep things, and what signs a session."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

FOLDER = Path(os.environ.get("MIGRATION_FOLDER", "migration-data")).absolute()
DATABASE = FOLDER / "shelf.sqlite3"
FILES = FOLDER / "files"

HTTPS_ONLY = os.environ.get("MIGRATION_HTTPS_ONLY") == "1"
"""Set it wherever TLS is spoken: the browser then never sends the session in the clear."""

SESSION_DAYS = 7
MAX_UPLOAD_BYTES = 1024 * 1024 * 1024
POLL_SECONDS = 0.25
"""How often an event stream looks for new files."""


def secret() -> str:
    """`MIGRATION_SECRET`, else one that is drawn once and kept beside the database.

    All processes that serve the same users sign with the same secret. If each drew its own, a user
    would be logged out by every answer of another process.
    """
    given = os.environ.get("MIGRATION_SECRET")
    return given or _kept_secret(FOLDER / "secret")


def _kept_secret(file: Path) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    drawn = file.with_name(f"secret.{os.getpid()}")
    drawn.touch(mode=0o600)
    try:
        drawn.write_text(secrets.token_urlsafe(32))
        with suppress(FileExistsError):  # of several processes the first one wins
            os.link(drawn, file)  # in one step, so that nobody reads half of it
    finally:
        drawn.unlink()
    return file.read_text()

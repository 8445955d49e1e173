"""The session as the old half signs it, for the new half to read.

Only one half writes the cookie: it holds the whole session, so the last writer would win.
"""

from collections.abc import Mapping
from typing import Any

from flask import Flask
from itsdangerous import BadSignature


class FlaskSession:
    """Reads the signed cookie with the Flask app's own serializer, name and lifetime.

    Whatever the app's configuration says of them, `SECRET_KEY_FALLBACKS` included, holds here too.
    """

    def __init__(self, app: Flask) -> None:
        serializer = app.session_interface.get_signing_serializer(app)  # type: ignore[attr-defined]
        if serializer is None:
            raise ValueError("the Flask app has no SECRET_KEY, so it signs no session")
        self._serializer = serializer
        self._cookie = app.session_interface.get_cookie_name(app)
        self._seconds = int(app.permanent_session_lifetime.total_seconds())

    def read(self, cookies: Mapping[str, str]) -> dict[str, Any]:
        """What the session holds; nothing if it is missing, forged or too old."""
        try:
            session: dict[str, Any] = self._serializer.loads(
                cookies.get(self._cookie, ""), max_age=self._seconds
            )
        except BadSignature:
            return {}
        return session

"""Django with its admin, as ASGI servers import it: `tests.support.admin_site:bridged`.

`python -m tests.support.admin_site` makes the database, with one superuser, in the file that
`DATABASE` names in the environment.
"""

import os
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.urls import path

from wsgi_asgi_bridge import WSGIToASGI

DATABASE = "ADMIN_SITE_DATABASE"
USER, PASSWORD = "chief", "not a secret"
POLICY = "default-src 'self'; "
"""With the space at its end that a joined policy is likely to have."""


def policy_middleware(get_response: Any) -> Any:
    def middleware(request: Any) -> Any:
        response = get_response(request)
        response["Content-Security-Policy"] = POLICY
        return response

    return middleware


settings.configure(
    SECRET_KEY="not a secret, only long enough for the checks of django",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=[
        f"django.contrib.{name}"
        for name in ("admin", "auth", "contenttypes", "sessions", "messages")
    ],
    MIDDLEWARE=[
        f"{__name__}.policy_middleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ[DATABASE],
            "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
        }
    },
    STATIC_URL="static/",
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],  # the quickest
    USE_TZ=True,
)
application = get_wsgi_application()
urlpatterns = [path("admin/", admin.site.urls)]
bridged = WSGIToASGI(application)


def make_database() -> None:
    from django.contrib.auth.models import User

    call_command("migrate", verbosity=0)
    User.objects.create_superuser(USER, password=PASSWORD)


if __name__ == "__main__":
    make_database()

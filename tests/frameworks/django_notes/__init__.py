"""A Django app with a model, sessions, CSRF, and views of both kinds."""

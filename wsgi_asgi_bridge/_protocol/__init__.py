"""WSGI and ASGI words. Data in, data out: no clock, thread, socket or loop here."""

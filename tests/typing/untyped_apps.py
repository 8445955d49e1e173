"""Apps as most are written: without a type."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# pyright: basic


def wsgi_function(environ, start_response):
    start_response("200 OK", [])
    return [b""]


class WSGIObject:
    def __call__(self, environ, start_response):
        return wsgi_function(environ, start_response)


async def asgi_function(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})


class ASGIObject:
    async def __call__(self, scope, receive, send):
        await asgi_function(scope, receive, send)


class ASGI2Class:
    def __init__(self, scope):
        self.scope = scope

    async def __call__(self, receive, send):
        await asgi_function(self.scope, receive, send)

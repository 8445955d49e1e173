"""Every exception of this package, split by who is to blame, and the messages used twice.

    BridgeError
    ├── AppError (RuntimeError)             the app broke its spec, or ended in a way no server
    │                                       survives
    ├── ServerError (ValueError)            the server's scope or environ makes no sense
    ├── BridgeClosed (RuntimeError)         the bridge, its pool or its loop is shut down
    ├── ClientDisconnected (ConnectionError) the client left before the exchange was over
    ├── ClientStalled (TimeoutError)        the client neither sent nor read for `stall_timeout`
    │                                       seconds
    ├── BodyTooLarge (OSError)              the request's body exceeds `max_body_size`
    └── BadRequest (ValueError)             the request's head contradicts itself or is malformed

`ConnectionError` and `TimeoutError` are `OSError`s, which is what file-like reads and `send()` are
expected to raise. A WebSocket raises what sockets raise: `BrokenPipeError`, which then is a
`ClientDisconnected` too, `ConnectionRefusedError` and `TimeoutError`. Beside these there are the
app's own exceptions, TypeError, ValueError and ImportError for a constructor's arguments, and
RuntimeError for a call in a thread where it may not be made. Any other exception out of this
package is a bug in it.

The functions below make the errors that are raised in several places, with one message.
"""

import errno

__all__ = [
    "AppError",
    "BadRequest",
    "BodyTooLarge",
    "BridgeClosed",
    "BridgeError",
    "ClientDisconnected",
    "ClientStalled",
    "ServerError",
]


class BridgeError(Exception):
    """The root of this package's exceptions."""


class AppError(BridgeError, RuntimeError):
    """The app broke the WSGI or ASGI spec; the message names what came and what was expected."""


class ServerError(BridgeError, ValueError):
    """The server called with a scope or environ that its spec does not allow."""


class BridgeClosed(BridgeError, RuntimeError):
    """The bridge was shut down while this exchange was in flight, or before it began."""


class ClientDisconnected(BridgeError, ConnectionError):
    """The client left before the exchange was over (W-IN-3, W-FLOW-3, A-OUT-3)."""


class ClientStalled(BridgeError, TimeoutError):
    """The client neither sent nor read anything for `stall_timeout` seconds (W-IN-7, W-FLOW-5)."""


class BodyTooLarge(BridgeError, OSError):
    """The request's body is larger than `max_body_size` (W-IN-6)."""


class BadRequest(BridgeError, ValueError):
    """The head of the request is malformed or contradicts itself; the client gets a 400."""


def presentable(error: BaseException) -> BaseException:
    """The app's exception itself, or an AppError if a loop or server would misread that.

    As KeyboardInterrupt and StopIteration are (W-CALL-3, A-OUT-4).
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration | StopAsyncIteration):
        return error
    wrapper = AppError(f"the app raised {type(error).__name__}: {error}")
    wrapper.__cause__ = error
    return wrapper


class _ConnectionClosed(ClientDisconnected, BrokenPipeError):
    """What a socket raises whose other side has gone, and as such a disconnect."""


def connection_closed() -> ClientDisconnected:
    return _ConnectionClosed(errno.EPIPE, "the WebSocket is closed")


def client_disconnected(*number: int) -> ClientDisconnected:
    return ClientDisconnected(*number, "the client disconnected before the exchange was over")


def client_reads_nothing(stall_timeout: float) -> ClientStalled:
    return ClientStalled(f"the client read nothing for stall_timeout={stall_timeout} s")


def bridge_closing() -> BridgeClosed:
    return BridgeClosed("the bridge is being closed and takes no new requests")


def loop_has_ended() -> BridgeClosed:
    return BridgeClosed("the private event loop ended while this request was in flight")


def bridge_shut_down() -> BridgeClosed:
    return BridgeClosed("the bridge was shut down while this request was in flight")


def loop_closed() -> BridgeClosed:
    return BridgeClosed("the event loop was closed while it ran this request")


# In these, `call` is what the app called: `start_response` or `http.response.start`.


def header_name_error(call: str, name: object) -> AppError:
    return AppError(f"{call}: header name {name!r} is not a token (RFC 9110 5.1)")


def control_character_error(call: str, name: object, value: object) -> AppError:
    return AppError(
        f"{call}: header {name!r} has the value {value!r:.200}, which holds a control character"
    )


def content_length_error(call: str, value: object) -> AppError:
    return AppError(
        f"{call}: Content-Length is {value!r:.200}, expected decimal digits (RFC 9110 8.6)"
    )


def content_lengths_differ(call: str, first: int, second: int) -> AppError:
    return AppError(f"{call}: Content-Length is {first} and {second} (RFC 9112 6.3)")

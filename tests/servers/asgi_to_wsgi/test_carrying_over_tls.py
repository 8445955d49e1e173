"""carrying.py with TLS: needs a certificate, which the unit tests cannot make."""

import os
import socket
import ssl
from pathlib import Path

from tests.support.certificates import made_certificate
from tests.support.interleaving import Blocking
from wsgi_asgi_bridge._crossing.carrying import carry, forget_tls

SOCKET_SECONDS = 5.0
BLOCK = bytes(range(256)) * 400


def never() -> None:
    raise AssertionError("the loop is alive")


def received(source: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size and (part := source.recv(size - len(parts))):
        parts += part
    return parts


def test_tls_ends_by_its_own_end(tmp_path: Path) -> None:
    """WS-A-2: a client sees that nothing was cut off; and its server may then write as to a plain
    socket, once that is a stand-in.
    """
    certificate = made_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    connection, clients = socket.socketpair()
    clients.settimeout(SOCKET_SECONDS)
    wrapping = Blocking(lambda: context.wrap_socket(connection, server_side=True))
    with (
        certificate.client_context().wrap_socket(
            clients, server_hostname="127.0.0.1", suppress_ragged_eofs=False
        ) as client,
        wrapping.result() as server,
    ):
        inner, loops = socket.socketpair()
        loops.settimeout(SOCKET_SECONDS)
        with loops:
            thread = Blocking(lambda: carry(server, inner, 60.0, never))
            client.sendall(BLOCK)
            assert received(loops, len(BLOCK)) == BLOCK
            loops.sendall(b"down")
            assert client.recv(10) == b"down"
            loops.shutdown(socket.SHUT_WR)
            assert client.recv(10) == b""  # raises if it is not TLS' own end
        clients.close()
        client.close()
        thread.result()
        near, far = socket.socketpair()
        with near, far:
            os.dup2(near.fileno(), server.fileno())
            forget_tls(server)
            server.settimeout(SOCKET_SECONDS)
            server.sendall(b"the head")
            assert far.recv(100) == b"the head"

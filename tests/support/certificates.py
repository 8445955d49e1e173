"""A certificate for the loopback address, made for one run of the tests."""

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.processes import HOST

VALIDITY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Certificate:
    """Its two files."""

    certificate: Path
    key: Path

    def gunicorn_options(self) -> tuple[str, ...]:
        return "--certfile", str(self.certificate), "--keyfile", str(self.key)

    def client_context(self) -> ssl.SSLContext:
        """Of a client that trusts this certificate alone."""
        return ssl.create_default_context(cafile=str(self.certificate))


def made_certificate(directory: Path) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - VALIDITY)
        .not_valid_after(now + VALIDITY)
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    files = Certificate(directory / "certificate.pem", directory / "key.pem")
    signed = builder.sign(key, hashes.SHA256())
    files.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files

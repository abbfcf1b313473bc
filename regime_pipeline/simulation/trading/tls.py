"""A certificate for 127.0.0.1, made at run time: good for a day, trusted by nobody who is not given it."""

import ssl
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

from regime_pipeline.clock import Clock

_LIFE = timedelta(days=1)


def make_certificate(folder: Path, now: Clock) -> Path:
    """Write a self-signed certificate and its key into one PEM file of a folder; clients verify with that very file.

    Parameters
    ----------
    folder : Path
        Must exist.
    now : Clock
        The machine's time: it is what clients judge a certificate by.
    """
    # ccxt needs this library too; it is slow to import and rarely wanted.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key, made = ec.generate_private_key(ec.SECP256R1()), now()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "simulated venue")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(made - _LIFE)
        .not_valid_after(made + _LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "simulated-venue.pem"
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.touch(mode=0o600)
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
    return path


def build_context(pem: Path) -> ssl.SSLContext:
    """Build a server's side from a PEM file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context

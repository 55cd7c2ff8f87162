"""Certificates for servers that tests start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme

__all__ = ["TLS", "tls"]


@dataclass(frozen=True, slots=True)
class TLS:
    """Files in PEM of a certificate authority, and certificates that it has signed."""

    ca: Path
    cert: Path
    key: Path
    client_cert: Path
    client_key: Path


def tls(folder: Path, *, client: str = "client") -> TLS:
    """A new certificate authority, a certificate for 127.0.0.1, ::1 and localhost, and one of a client of this name."""
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1", "::1", "localhost")
    user = authority.issue_cert(f"{client}.test", common_name=client)
    paths = TLS(*(folder / f"{name}.pem" for name in ("ca", "server", "server-key", "client", "client-key")))
    authority.cert_pem.write_to_path(str(paths.ca))
    for leaf, cert, key in ((server, paths.cert, paths.key), (user, paths.client_cert, paths.client_key)):
        leaf.private_key_pem.write_to_path(str(key))
        cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    return paths

"""TLS for backends: what of its options belongs together, and the context that they make."""

from __future__ import annotations

from typing import TYPE_CHECKING

from microreg.errors import ConfigError
from microreg.url import RegistryURL, TLSOptions

if TYPE_CHECKING:
    import ssl

__all__ = ["check_tls", "client_context"]

_NAMES = ("ca", "cert", "key", "server_name")


def check_tls(url: RegistryURL, options: TLSOptions, secure: str) -> bool:
    """Whether the URL is of the scheme ``secure``, which means TLS.

    Raises ConfigError where a certificate comes without its key, and where TLS options stand in any other URL.
    """
    if (options.cert is None) != (options.key is None):
        raise ConfigError(f"{url}: options cert and key belong together: give both files, or neither")
    given = [name for name in _NAMES if getattr(options, name)]
    if given and url.scheme != secure:
        raise ConfigError(f"{url}: option {given[0]} is for TLS; write {secure}://")
    return url.scheme == secure


def client_context(options: TLSOptions) -> ssl.SSLContext:
    """Whom to trust, and the certificate to show. Raises ConfigError where a file is no good."""
    import ssl  # a program without TLS does not load it

    try:
        context = ssl.create_default_context(cafile=options.ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"TLS: {options.ca}: {error}; expected certificates in PEM") from None
    if options.cert is None or options.key is None:
        return context
    try:
        context.load_cert_chain(options.cert, options.key, password="")  # or else it would ask at the terminal
    except (OSError, ssl.SSLError) as error:
        expected = "a certificate and its private key in PEM, without a pass phrase"
        raise ConfigError(f"TLS: {options.cert} and {options.key}: {error}; expected {expected}") from None
    return context

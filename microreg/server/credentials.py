"""The files that say whom a server trusts and who it is: tokens, certificate, key. They may change while it runs."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from microreg.errors import ConfigError

__all__ = ["Credentials", "Tokens"]

_SHORTEST_TOKEN = 8

Tokens = tuple[tuple[str, ...], tuple[str, ...]]
"""Those that may do everything, and those that may only read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The files, as the options of ``microreg serve`` name them. Methods block for as long as reading them takes."""

    token_file: Path | None = None
    read_token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError(
                "certificate and key belong together: give both files, --tls-cert and --tls-key, or neither"
            )

    def __bool__(self) -> bool:
        """Whether there is any file."""
        return any((self.token_file, self.read_token_file, self.tls_cert))

    def tokens(self) -> Tokens:
        """What is in the files now. Raises ConfigError that names the option, and shows no token."""
        return _tokens("--token-file", self.token_file), _tokens("--read-token-file", self.read_token_file)

    def context(self) -> ssl.SSLContext | None:
        """A new context of TLS, where there is a certificate. Raises ConfigError."""
        if self.tls_cert is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.load(context)
        return context

    def load(self, context: ssl.SSLContext) -> None:
        """Have new connections of this context see the certificate as it is now. Raises ConfigError."""
        if self.tls_cert is None:
            return
        try:
            context.load_cert_chain(self.tls_cert, self.tls_key, password="")  # or else it would ask at the terminal
        except (OSError, ssl.SSLError) as error:
            text = "expected a certificate and its private key in PEM, without a pass phrase"
            raise ConfigError(f"TLS: {self.tls_cert} and {self.tls_key}: {error}; {text}") from None


def _tokens(option: str, path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{option} {path}: {why}") from None
    tokens = tuple(line.strip() for line in lines if line.strip())
    if not tokens:
        raise ConfigError(f"{option} {path}: it is empty; expected a token on each line")
    for number, token in enumerate(tokens, 1):
        if len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError(
                f"{option} {path}: token {number} is no good; expected {_SHORTEST_TOKEN} or more ASCII characters "
                "without blanks, for example from `openssl rand -hex 32`"
            )
    return tokens

"""What both backends take in their config strings, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from microreg.errors import ConfigError
from microreg.tls import check_tls
from microreg.url import RegistryURL, TLSOptions, option

__all__ = ["DEFAULT_PORT", "NatsOptions", "check_url"]

DEFAULT_PORT = 4222

_WILD = frozenset("*> \t\r\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsOptions(TLSOptions):
    """What a connection to NATS takes, whatever it is used for."""

    token: str = option("", "token, where the server asks for one", secret=True)
    nkey_file: Path | None = option(None, "file with the seed of an nkey")
    creds_file: Path | None = option(None, "credentials file: a user's JWT and seed, as nsc writes it")
    inbox: str = option("_INBOX", "what the subjects of answers begin with, where the permissions name another")


def check_url(url: RegistryURL, options: NatsOptions) -> None:
    """Raise ConfigError where the parts of a config string do not fit together, or a file is not there."""
    if bool(url.user) != bool(url.password):
        raise ConfigError(
            f"{url}: user and password belong together, as in {url.scheme}://user:${{NATS_PASSWORD}}@host; "
            "a token is an option: token=${NATS_TOKEN}"
        )
    given = {
        "user and password": bool(url.user),
        "token": bool(options.token),
        "nkey_file": options.nkey_file is not None,
        "creds_file": options.creds_file is not None,
    }
    ways = [name for name, there in given.items() if there]
    if len(ways) > 1:
        raise ConfigError(f"{url}: {ways[0]} and {ways[1]} are two ways to say who you are; give one")
    check_tls(url, options, url.scheme if url.scheme.startswith("natss") else url.scheme.replace("nats", "natss"))
    tokens = options.inbox.split(".")
    if not options.inbox.isprintable() or not all(tokens) or _WILD & set(options.inbox):
        raise ConfigError(f"{url}: option inbox: expected the beginning of a subject, such as _INBOX or _INBOX.orders")
    url.hosts(DEFAULT_PORT)

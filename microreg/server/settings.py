"""What an operator can set."""

from __future__ import annotations

from dataclasses import dataclass, field

from microreg.errors import ConfigError
from microreg.rules import MAX_TTL, MIN_TTL

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Who may do what, and how much of everything.

    ``tokens`` may do everything and ``read_tokens`` only look; without any, everybody may do everything. ``hosts`` are
    names, beside ``localhost``, that a request without tokens may call this server by: see
    :class:`microreg.server.access.Access`. ``max_body`` is the bytes of a request's body, ``max_nodes`` and
    ``max_services`` what may be registered by way of this server, ``max_streams`` the watches open at once and
    ``max_per_client`` those from one address; ``rate`` is the requests a second that one address may make on average,
    0 for no limit. The IPv6 addresses of a /64 count as one. ``access_log`` writes one line for each request to the
    logger ``microreg.server.access``.
    ``srsr_ttl`` is the seconds that an entry of srsr's API lives without a heartbeat.
    """

    tokens: tuple[str, ...] = field(default=(), repr=False)
    read_tokens: tuple[str, ...] = field(default=(), repr=False)
    hosts: tuple[str, ...] = ()
    max_body: int = 1024 * 1024
    max_nodes: int = 200_000
    max_services: int = 50_000
    max_streams: int = 20_000
    max_per_client: int = 20_000
    rate: float = 0.0
    access_log: bool = False
    srsr_ttl: float = 30.0

    def __post_init__(self) -> None:
        if self.read_tokens and not self.tokens:
            raise ConfigError("there are tokens for reading only: nobody could register; give tokens for writing too")
        for name in ("max_body", "max_nodes", "max_services", "max_streams", "max_per_client"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: expected at least 1")
        if not self.rate >= 0:
            raise ConfigError(f"rate={self.rate:g}: expected requests a second, or 0 for no limit")
        if not MIN_TTL <= self.srsr_ttl <= MAX_TTL:
            raise ConfigError(f"srsr_ttl={self.srsr_ttl:g}: expected {MIN_TTL:g} to {MAX_TTL:g} seconds")

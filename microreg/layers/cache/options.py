"""The options of ``cache+``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from microreg.errors import ConfigError
from microreg.options import Duration, Options, option

__all__ = ["CacheOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions(Options):
    """What may stand in the config string, as ``cache.max_stale`` and so on."""

    max_stale: Duration = option(Duration(3600.0), "seconds to serve what was last known while the store is away")
    grace: Duration = option(
        Duration(15.0), "seconds for which nodes stay where a store has lost most at once; 0: none"
    )
    disk: Path | None = option(None, "file that keeps what is known over restarts; not given: nothing is kept")
    wait: Duration = option(Duration(0.2), "seconds without an answer after which what the file says is served")
    idle: Duration = option(Duration(600.0), "seconds after which a name that nobody asks for is not watched any more")
    names: int = option(10_000, "names to watch at most; further ones are looked up each time")

    def __post_init__(self) -> None:
        Options.__post_init__(self)  # no super(): a class with slots is made twice
        if not self.idle > 0:
            raise ConfigError(f"cache.idle={self.idle:g}: expected more than 0 seconds, for example cache.idle=10m")
        if self.disk is not None and not self.disk.name:
            raise ConfigError(f"cache.disk={self.disk}: expected the path of a file")
        if self.names < 1:
            raise ConfigError(f"cache.names={self.names}: expected at least 1")

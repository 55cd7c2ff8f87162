"""The doctor: examines a set-up from this machine, and says what is good, odd or wrong, each with its mend.

What is the same for every registry is here; what only a backend can know is its ``examine()``.
"""

from __future__ import annotations

from microreg import connect
from microreg.connect import config_string
from microreg.doctor import address, calls, config, system
from microreg.errors import ConfigError, RegistryError
from microreg.findings import Finding
from microreg.registry import Registry
from microreg.rules import DEFAULT_TTL
from microreg.url import RegistryURL

__all__ = ["examine"]


async def examine(
    url: str | None = None, *, write: bool = False, ttl: float = DEFAULT_TTL, timeout: float | None = None
) -> tuple[Finding, ...]:
    """Examine the registry of this config string, else ``$MICROREG_REGISTRY``, else ``mdns://``, as seen from here.

    ``ttl`` is what programs announce with, in seconds; ``timeout`` takes the place of the option. Nothing is written
    unless ``write``: then one service whose name says what it is, withdrawn at once. Raises nothing on account of the
    set-up: that is what findings are for.
    """
    findings = list(system.findings())
    try:
        with config_string(url) as found:
            parsed = RegistryURL.parse(found)
            parsed = parsed if timeout is None else parsed.with_timeout(timeout)
            registry = connect(parsed)
    except ConfigError as error:
        return (*findings, config.INVALID(f"the config string cannot be used: {error}"))
    findings += config.findings(parsed, ttl)
    try:
        findings += await _opened(registry, write, ttl)
    finally:
        await registry.close()
    return tuple(findings)


async def _opened(registry: Registry, write: bool, ttl: float) -> list[Finding]:
    try:
        await registry.open()
    except ConfigError as error:
        return [config.INVALID(f"the registry cannot be opened: {error}"), *await registry.examine()]
    except RegistryError as error:
        return [calls.AWAY(f"the registry cannot be opened: {error}"), *await registry.examine()]
    findings = await address.findings(registry)
    findings += await calls.reading(registry, ttl)
    async with calls.written(registry, ttl, wanted=write) as told:
        findings += await registry.examine()
    return findings + told

"""What ``microreg doctor`` finds about an agent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import cast

from microreg.errors import PermissionDenied, RegistryError
from microreg.findings import (
    NO_LEADER,
    SERVER_HIDDEN,
    SERVER_OLD,
    SERVER_VERSION,
    Finding,
    Kind,
    Severity,
    clock_by_date,
)
from microreg.net import interfaces
from microreg.toolkit import resolve, version_number
from microreg_consul.client import Client

__all__ = ["examine"]

_FAR_AGENT = Kind(
    "consul.far-agent",
    Severity.WARNING,
    "the agent is on another machine. What is registered lives in that agent, is renewed and withdrawn only there, and "
    "goes when it goes",
    "run an agent on this machine, and name it: consul://127.0.0.1",
)
_HIDES = Kind(
    "consul.hides",
    Severity.NOTE,
    "ACLs are on, and this Consul (before 1.11) does not say when they have left something out: a list of all names "
    "may be shorter than what there is, without a word",
    'give the token the policy service_prefix "" { policy = "read" }, or upgrade Consul',
)
_RIGHT = 'the policy agent_prefix "" { policy = "read" } lets it'
_OLDEST, _SAYS = (1, 8), (1, 11)


async def examine(
    client: Client, host: str, *, has_token: bool, now: Callable[[], float] = time.time
) -> tuple[Finding, ...]:
    """Its leader and clock, which everybody may ask; then what it says about itself, where the token may."""
    try:
        leader, date = await client.leader()
    except RegistryError:
        return ()  # the calls have said so already
    who = f"Consul at {client.where}"
    found = [] if leader else [NO_LEADER(f"{who}: its servers have no leader")]
    found += clock_by_date(who, date, now())
    if not await _is_here(host):
        found.append(_FAR_AGENT(f"{who} is not on this machine"))
    try:
        found += _of_agent(who, await client.itself(), has_token)
    except PermissionDenied:
        found.append(SERVER_HIDDEN(f"{who} does not tell its version to this token", _RIGHT))
    return tuple(found)


def _of_agent(who: str, told: Mapping[str, object], has_token: bool) -> Iterator[Finding]:
    settings, details = (cast("Mapping[str, object]", told.get(key) or {}) for key in ("Config", "DebugConfig"))
    version = str(settings.get("Version", ""))
    yield SERVER_VERSION(f"{who} is Consul {version}, datacenter {settings.get('Datacenter')}")
    number = version_number(version)
    if number < _OLDEST:
        yield SERVER_OLD(f"{who} is Consul {version}; tested are 1.8 and newer")
    if number < _SAYS and (has_token or details.get("ACLsEnabled")):
        why = "ACLs are on" if details.get("ACLsEnabled") else "a token is given"
        yield _HIDES(f"{who} is Consul {version}, and {why}")


async def _is_here(host: str) -> bool:
    """Whether a host is this machine; also where its name is not known, which the calls have said already."""
    own = {address for each in interfaces() for address in each.addresses}
    return all(each in own or each.startswith("127.") or each == "::1" for each in await resolve(host))

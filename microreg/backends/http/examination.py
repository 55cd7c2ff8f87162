"""What ``microreg doctor`` finds about a server of ``microreg serve``."""

from __future__ import annotations

import time
from collections.abc import Callable

from microreg.backends.http.client import Client
from microreg.errors import PermissionDenied, RegistryUnavailable
from microreg.findings import SERVER_HIDDEN, SERVER_VERSION, Finding, clock_by_date

__all__ = ["examine"]


async def examine(client: Client, now: Callable[[], float] = time.time) -> tuple[Finding, ...]:
    """Its version, and its clock by the Date of its answer; nothing where it is away, which the calls have said."""
    try:
        version, date = await client.about()
    except PermissionDenied as error:
        return (SERVER_HIDDEN(f"{client.where} does not tell its version: {error}"),)
    except RegistryUnavailable:
        return ()
    told = SERVER_VERSION(f"{client.where} is microreg {version or 'of a version that it does not tell'}")
    return (told, *clock_by_date(client.where, date, now()))

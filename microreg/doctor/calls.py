"""Findings about the five verbs: whether they are answered, allowed, and fast enough for renewals."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from microreg import Node, Service
from microreg.checked import patience
from microreg.errors import (
    PermissionDenied,
    RegistryError,
    RegistryTimeout,
    RegistryUnavailable,
    ServiceNotFound,
    Unsupported,
)
from microreg.findings import Finding, Kind, Severity
from microreg.options import duration_text
from microreg.registry import Registry
from microreg.toolkit import end

__all__ = [
    "ANSWERED",
    "AWAY",
    "DENIED",
    "FAILED",
    "GRANTED",
    "RENEWED",
    "SLOW",
    "WRITE_FAILED",
    "WRITE_SKIPPED",
    "WRITE_UNSUPPORTED",
    "WRITE_WORKS",
    "reading",
    "written",
]

ANSWERED = Kind("calls.answered", Severity.OK, "the registry answers, and how fast")
GRANTED = Kind("calls.granted", Severity.OK, "listing, looking up and watching are allowed")
AWAY = Kind(
    "calls.away",
    Severity.ERROR,
    "the registry does not answer: it is down, elsewhere, or the network swallows packets",
    "is it running, is the address right, is a firewall or proxy in between? What was found says which",
)
DENIED = Kind(
    "calls.denied",
    Severity.ERROR,
    "the registry refuses to list, look up, watch or write with these credentials",
    "check user, password, token or certificate, and what they may do: the backend's reference page has the rights",
)
FAILED = Kind(
    "calls.failed",
    Severity.ERROR,
    "a call fails for another reason, such as a store that lacks what the backend needs",
    "what was found says what to do",
)
RENEWED = Kind("renewals.in-time", Severity.OK, "a call is much faster than the time between two renewals")
SLOW = Kind(
    "renewals.slow",
    Severity.WARNING,
    "a call takes more than a fifth of the time between two renewals (a third of the ttl): nodes may expire under load",
    "announce with a longer ttl, or bring the registry nearer",
)
WRITE_WORKS = Kind("write.works", Severity.OK, "a record was registered, found and withdrawn")
WRITE_SKIPPED = Kind("write.skipped", Severity.NOTE, "writing was not tried", "give --write to try it")
WRITE_UNSUPPORTED = Kind("write.unsupported", Severity.NOTE, "nothing can be registered in this registry")
WRITE_FAILED = Kind(
    "write.failed",
    Severity.ERROR,
    "a record was registered and not found, or withdrawn and still there",
    "look up what stands between: a proxy with a cache, another datacenter, a replica that lags behind",
)

_NAME = "microreg-doctor-"
_CALLS = 5
"""Lookups that are timed."""
_SEEN = 5.0
"""Seconds within which everybody sees what was written."""
_STEP = 0.1
_PORT = 9  # discard (RFC 863): nobody is to call it


async def reading(registry: Registry, ttl: float) -> list[Finding]:
    """List, look up a name that is nobody's, watch it, and see how long a call takes."""
    name = _NAME + os.urandom(4).hex()
    knows = "authoritative" in registry.capabilities  # else a lookup waits for answers, and a renewal for nobody
    names: list[str] = []
    seconds: list[float] = []

    async def list_services() -> None:
        names.extend(await registry.list_services())

    async def get_service() -> None:
        seconds.extend([await _timed(lambda: _absent(registry, name)) for _ in range(_CALLS if knows else 1)])

    async def watch() -> None:
        await _watched(registry, name)

    refused: dict[str, PermissionDenied] = {}
    for call in (list_services, get_service, watch):
        try:
            await call()
        except PermissionDenied as error:
            refused[call.__name__] = error
        except RegistryError as error:
            return [_failure(error, "")]
    if refused:
        return [DENIED(f"{', '.join(refused)} refused: {next(iter(refused.values()))}")]
    return _answered(names, sorted(seconds), ttl if knows else None)


def _answered(names: Sequence[str], seconds: Sequence[float], ttl: float | None) -> list[Finding]:
    """What there is to say of calls that took so long; of their speed only where there is a ``ttl``."""
    counted = f"{len(names)} service" + "s" * (len(names) != 1)
    found = [
        ANSWERED(f"the registry answers: {counted}, a lookup takes {duration_text(seconds[len(seconds) // 2])}"),
        GRANTED("listing, looking up and watching are allowed"),
    ]
    if ttl is not None:
        between = ttl / 3
        kind = SLOW if seconds[-1] > between / 5 else RENEWED
        renewals = f"renewals come every {between:.3g} s (ttl {ttl:g} s)"
        found.append(kind(f"a call takes up to {duration_text(seconds[-1])}, {renewals}"))
    return found


@asynccontextmanager
async def written(registry: Registry, ttl: float, *, wanted: bool) -> AsyncGenerator[list[Finding], None]:
    """Register a record, with what comes in between, and withdraw it; what was found is in the list afterwards."""
    told: list[Finding] = []
    if not wanted:
        yield told
        told.append(WRITE_SKIPPED("writing was not tried"))
        return
    record = Service(_NAME + os.urandom(4).hex(), "0", nodes=[Node(f"127.0.0.1:{_PORT}")])
    try:
        await registry.register(record, ttl=ttl)
    except RegistryError as error:
        told.append(WRITE_UNSUPPORTED(str(error)) if isinstance(error, Unsupported) else _failure(error, "register: "))
        yield told
        if isinstance(error, RegistryUnavailable):  # it may have been written all the same
            with suppress(RegistryError):
                await registry.deregister(record)
        return
    try:
        yield told
        seen = await _becomes(registry, record.name, there=True)
    finally:
        await _withdrawn(registry, record, told)
    if not seen:
        told.append(WRITE_FAILED(f"{record.name} was registered, and not found within {_SEEN:g} s"))
    elif not told and await _becomes(registry, record.name, there=False):
        told.append(WRITE_WORKS(f"{record.name} was registered with a ttl of {ttl:g} s, found and withdrawn"))
    elif not told:
        told.append(WRITE_FAILED(f"{record.name} was withdrawn, and is still found {_SEEN:g} s later"))


async def _withdrawn(registry: Registry, record: Service, told: list[Finding]) -> None:
    try:
        await registry.deregister(record)
    except RegistryError as error:
        told.append(_failure(error, f"{record.name} could not be withdrawn, and goes with its ttl: "))


async def _becomes(registry: Registry, name: str, *, there: bool) -> bool:
    """Whether lookups find the name, or do not any more, within a while."""
    loop = asyncio.get_running_loop()
    end = loop.time() + _SEEN
    while loop.time() < end:
        found = False
        with suppress(RegistryError):  # that it is not there is one
            await registry.get_service(name)
            found = True
        if found is there:
            return True
        await asyncio.sleep(_STEP)
    return False


async def _absent(registry: Registry, name: str) -> None:
    with suppress(ServiceNotFound):
        await registry.get_service(name)


async def _timed(call: Callable[[], Awaitable[None]]) -> float:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await call()
    return loop.time() - began


async def _watched(registry: Registry, name: str) -> None:
    """Wait for the first event of a watch. Raises what keeps it from coming: at once where that is a refusal."""
    seconds = patience(registry)
    async with registry.watch(name) as watch:

        async def hear() -> None:
            await anext(watch)

        first = asyncio.create_task(hear(), name="microreg doctor watch")
        try:
            async with asyncio.timeout(seconds):
                while not (await asyncio.wait([first], timeout=_STEP))[0]:
                    if isinstance(watch.error, PermissionDenied):
                        raise watch.error
        except TimeoutError:
            raise watch.error or RegistryTimeout(f"a watch told nothing within {seconds:g} s") from None
        finally:
            if not first.done():
                await end(first)
        first.result()


def _failure(error: RegistryError, doing: str) -> Finding:
    if isinstance(error, PermissionDenied):
        return DENIED(f"{doing}{error}")
    if isinstance(error, RegistryUnavailable):
        return AWAY(f"{doing}{error}")
    return FAILED(f"{doing}{error}")

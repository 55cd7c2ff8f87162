"""The way to a store: whether it is on another machine, and at which address."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from microreg.net import source_address

__all__ = ["Resolve", "Route"]

_PATIENCE = 0.5
"""Seconds for which opening waits for the names of a store."""
_AGAIN = 5.0
"""Seconds after which a name that was not known is looked up again."""

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""Looks a name up: its IP addresses. Raises OSError where there are none."""


class Route:
    """Knows an address of the first of these hosts that is on another machine. Belongs to the loop that opens it.

    Names are looked up in the background: when it is opened, and now and then until one is known. An IP address is
    known at once.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        *,
        resolve: Resolve | None = None,
        source: Callable[[str], str | None] = source_address,
    ) -> None:
        elsewhere = [host for host in hosts if host != "localhost"]
        self._known: dict[str, Sequence[str]] = {host: [host] if _is_address(host) else [] for host in elsewhere}
        self._resolve = resolve or _looked_up
        self._source = source
        self._search: asyncio.Task[None] | None = None
        self._asked = float("-inf")
        self._closed = False

    async def open(self) -> None:
        """Look the names up; return when they are known, or after half a second, and go on then."""
        self._look()
        if self._search is not None:
            await asyncio.wait([self._search], timeout=_PATIENCE)

    async def close(self) -> None:
        """Stop looking. Closing twice is fine."""
        self._closed = True
        if self._search is not None:
            self._search.cancel()
            await asyncio.wait([self._search])

    def address(self) -> str | None:
        """An IP address of the store; None where it is on this machine, or cannot be reached, or is not known yet."""
        if not any(self._known.values()):
            self._look()
        found = (each for addresses in self._known.values() for each in addresses)
        return next(filter(self._is_elsewhere, found), None)

    def _is_elsewhere(self, address: str) -> bool:
        local = self._source(address)
        return local is not None and local != address and not (_is_loopback(local) or _is_loopback(address))

    def _look(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        wanted = [host for host, addresses in self._known.items() if not addresses]
        busy = self._closed or (self._search is not None and not self._search.done())
        if wanted and not busy and loop.time() >= self._asked + _AGAIN:
            self._asked = loop.time()
            self._search = loop.create_task(self._look_up(wanted), name="microreg route")

    async def _look_up(self, hosts: Sequence[str]) -> None:
        await asyncio.gather(*map(self._look_one_up, hosts))

    async def _look_one_up(self, host: str) -> None:
        with suppress(Exception):  # it is not known, or no name at all: perhaps it is later
            self._known[host] = await self._resolve(host)


async def _looked_up(host: str) -> Sequence[str]:
    """In a thread that nobody waits for: a name server that is silent would hold up the end of the program."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Sequence[str]] = loop.create_future()

    def tell(found: Sequence[str]) -> None:
        if not answer.done():
            answer.set_result(found)

    def look_up() -> None:
        found: Sequence[str] = ()
        with suppress(OSError, UnicodeError):
            found = [str(each[4][0]) for each in socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)]
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, found)

    threading.Thread(target=look_up, name=f"microreg looks up {host}", daemon=True).start()
    return await answer


def _is_loopback(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    return ip.is_loopback or (ip.version == 6 and ip.ipv4_mapped is not None and ip.ipv4_mapped.is_loopback)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True

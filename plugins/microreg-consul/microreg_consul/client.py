"""Requests to one agent: how many at once, how long, and what their errors mean."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, cast

import aiohttp
from consul.base import Response
from consul.callback import CB
from consul.exceptions import ConsulException

from microreg.codec import lenient_text
from microreg.errors import InvalidService, PermissionDenied
from microreg.net import join_address
from microreg.toolkit import Sockets
from microreg_consul.failures import Unknown, failure, filtered
from microreg_consul.health import Check, Entry, text
from microreg_consul.transport import Consul, session

__all__ = ["WAIT", "Agent", "Client"]

T = TypeVar("T")

WAIT = 10.0
"""Seconds that a blocking query may stand at most; the agent adds up to a sixteenth."""
_SILENCE = WAIT * 17 / 16 + 3.0
"""Seconds of silence after which a blocking query is given up: a black hole is noticed within 14."""
_CALLS = 16
"""Requests at once that are no blocking queries."""


@dataclass(frozen=True, slots=True)
class Agent:
    """Where an agent is, and how to speak to it."""

    host: str
    port: int
    token: str = ""
    dc: str = ""
    tls: ssl.SSLContext | None = None
    server_name: str = ""
    timeout: float = 5.0


class Client:
    """One client of an agent, in the running loop. Errors are those of the tree.

    What reads may ``wait`` so many seconds for an index other than the one given: then it is a blocking query. The
    index 0 is any, of what the servers agree on. A server that has just restarted may have elected itself before it
    has read its log again, and then says that there is less than there is, or nothing.
    """

    def __init__(self, agent: Agent) -> None:
        self.where = join_address(agent.host, agent.port)
        self._has_token = bool(agent.token)
        self._sockets = Sockets()
        self._session = session(agent.tls, self._sockets)
        make = partial(
            Consul,
            self._session,
            (agent.host, agent.port),
            tls=agent.tls is not None,
            server_name=agent.server_name,
            token=agent.token,
            dc=agent.dc,
        )
        self._calls, self._queries = make(patience=agent.timeout), make(patience=_SILENCE)
        self._agreed = make(patience=agent.timeout, consistent=True)
        self._free = asyncio.Semaphore(_CALLS)
        self.turned_away: Callable[[], None] = _nothing
        """What is done whenever the agent ends a connection without an answer: it may have too many."""

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()
        await self._sockets.close()

    # -- reading -----------------------------------------------------------------------------------

    async def entries(self, name: str, index: int | None = None, wait: float = WAIT) -> tuple[int, list[Entry]]:
        """What stands under a name, with its checks: nothing only where the servers agree on that.

        Raises PermissionDenied where ACLs hide it.
        """
        if not _can_be_asked_for(name):
            return 1, []
        found, entries = await self._read(lambda consul: partial(consul.health.service, name), index, wait)
        if not entries and index is None:
            return await self.entries(name, 0)
        if not entries:
            await self.confirm(name)
        return found, cast("list[Entry]", entries or [])

    async def checks(self, index: int = 0, wait: float = WAIT) -> tuple[int, list[Check]]:
        """Every check of every service and agent."""
        found, checks = await self._read(lambda consul: partial(consul.health.state, "any"), index, wait)
        return found, cast("list[Check]", checks or [])

    async def services(self, index: int = 0, wait: float = WAIT) -> tuple[int, dict[str, list[str]]]:
        """Every name, with the tags under it. Raises PermissionDenied where ACLs hide even Consul's own."""
        found, services = await self._read(lambda consul: consul.catalog.services, index, wait)
        if not services:
            await self.confirm("consul")
        return found, {name: tags for name, tags in (services or {}).items() if _can_be_asked_for(name)}

    async def confirm(self, name: str) -> None:
        """Raise PermissionDenied where this name may not be read: reads say so by leaving out what is there."""

        def allowed(response: Response) -> bool:
            # 403 is what counts. 404, 429 and 503 say how the service is.
            return response.code != 403

        call = partial(self._calls.http.get, allowed, f"/v1/agent/health/service/name/{name}")
        if not await self._call(lambda: call(headers=self._calls.prepare_headers())):
            raise filtered(f"service {name!r}", self.where, has_token=self._has_token)

    async def leader(self) -> tuple[str, str]:
        """Which server leads, empty where none does, and the Date of the answer. No token is needed for that."""
        ask = partial(self._calls.http.get, _body_and_date, "/v1/status/leader")
        found, date = await self._call(lambda: ask(headers=self._calls.prepare_headers()))
        return found if isinstance(found, str) else "", date

    async def itself(self) -> Mapping[str, object]:
        """What the agent says about itself. Raises PermissionDenied without the right ``agent:read``."""
        ask = partial(self._calls.http.get, CB.json(), "/v1/agent/self")
        return cast("Mapping[str, object]", await self._call(lambda: ask(headers=self._calls.prepare_headers())))

    # -- writing -----------------------------------------------------------------------------------

    async def register(self, body: Mapping[str, object], checks: Sequence[Check]) -> None:
        """Register a service with exactly these checks. A check that was there before keeps its state."""
        done = await self._call(
            lambda: self._calls.agent.service.register(
                cast(str, body["Name"]),
                cast(str, body["ID"]),
                cast(str, body["Address"]),
                cast(int, body["Port"]),
                cast("list[str]", body["Tags"]),
                checks[0],
                extra_checks=list(checks[1:]),
                meta=cast("dict[str, str]", body["Meta"]),
                weights=cast("dict[str, int] | None", body.get("Weights")),
                replace_existing_checks=True,
            )
        )
        if not done:
            raise failure(ConsulException("404 for a registration"), self.where)

    async def deregister(self, service_id: str) -> None:
        """Take a service away, if it is there."""
        try:
            await self._call(lambda: self._calls.agent.service.deregister(service_id))
        except Unknown:
            pass

    async def name_of(self, service_id: str) -> str | None:
        """The name under which the agent has a service, None where it has none that the token may know of."""
        calls = self._calls  # py-consul's service_definition sends no token
        ask = partial(calls.http.get, CB.json(), f"/v1/agent/service/{service_id}")
        try:
            found = await self._call(lambda: ask(headers=calls.prepare_headers()))
        except (PermissionDenied, Unknown):
            return None
        return None if found is None else text(found, "Service")

    async def renew(self, check_id: str, *, warning: bool = False) -> bool:
        """Let a TTL check begin anew, as passing or as warning. False where the agent does not have it."""
        check = self._calls.agent.check
        try:
            return await self._call(lambda: (check.ttl_warn if warning else check.ttl_pass)(check_id))
        except Unknown:
            return False

    # -- asking ------------------------------------------------------------------------------------

    async def _read(
        self, method: Callable[[Consul], Callable[..., Awaitable[tuple[str, T]]]], index: int | None, wait: float
    ) -> tuple[int, T]:
        """The answer and its index, which is at least 1."""
        if index:
            ask = method(self._queries)
            found, answer = await self._translated(lambda: ask(index=str(index), wait=f"{wait * 1000:.0f}ms"))
        else:
            found, answer = await self._call(method(self._calls if index is None else self._agreed))
        try:
            return max(1, int(found)), answer
        except ValueError:
            raise failure(ConsulException(f"X-Consul-Index is {found!r}; expected a number"), self.where) from None

    async def _call(self, ask: Callable[[], Awaitable[T]]) -> T:
        async with self._free:
            return await self._translated(ask)

    async def _translated(self, ask: Callable[[], Awaitable[T]]) -> T:
        try:
            return await ask()
        except (ConsulException, aiohttp.ClientError, TimeoutError, OSError) as error:
            if isinstance(error, aiohttp.ServerDisconnectedError) or getattr(error, "errno", 0) == errno.ECONNRESET:
                self.turned_away()
            found = failure(error, self.where, has_token=self._has_token)
        raise found


def _can_be_asked_for(name: str) -> bool:
    """Whether it can be the name of a record, and the path of a URL can say it; Consul takes any."""
    try:
        return all(part.strip(".") for part in lenient_text(name, "service name").split("/"))
    except InvalidService:
        return False


def _body_and_date(response: Response) -> tuple[object, str]:
    return CB.json()(response), response.headers.get("Date", "")


def _nothing() -> None:
    pass

"""Renewals of all nodes of a client in as few requests as can be."""

from __future__ import annotations

import asyncio

from microreg.backends.http.client import Client, Renewal
from microreg.errors import RegistryUnavailable
from microreg.toolkit import end

__all__ = ["Renewals"]

_WINDOW = 0.005
"""Seconds in which renewals are gathered."""
_AT_ONCE = 1000

_Waiting = tuple[Renewal, asyncio.Future[bool]]


class Renewals:
    """Gathers what is asked for within a few milliseconds, and sends it as one request."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._waiting: list[_Waiting] = []
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def renew(self, name: str, id: str, ttl: float, digest: str) -> bool:
        """Renew a node; False where the server does not have this record. Raises an error of the tree."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bool] = loop.create_future()
        self._waiting.append((Renewal(name, id, ttl, digest), answer))
        if len(self._waiting) >= _AT_ONCE:
            self._flush()
        elif self._timer is None:
            self._timer = loop.call_later(_WINDOW, self._flush)
        return await answer

    async def close(self) -> None:
        """End what is under way; those who wait get RegistryUnavailable."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        _fail(self._waiting, RegistryUnavailable("the registry was closed"))
        self._waiting = []
        await end(*self._tasks)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._waiting = self._waiting, []
        task = asyncio.get_running_loop().create_task(self._send(batch), name="microreg http renewals")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, batch: list[_Waiting]) -> None:
        wanted = [(renewal, answer) for renewal, answer in batch if not answer.done()]
        if not wanted:
            return
        try:
            unknown = await self._client.renew([renewal for renewal, _ in wanted])
        except Exception as error:
            _fail(wanted, error)
            return
        except BaseException:
            _fail(wanted, RegistryUnavailable("the registry was closed"))
            raise
        for renewal, answer in wanted:
            if not answer.done():
                answer.set_result((renewal.name, renewal.id) not in unknown)


def _fail(batch: list[_Waiting], error: Exception) -> None:
    for _, answer in batch:
        if not answer.done():
            answer.set_exception(error)
            answer.exception()  # seen, also where nobody waits any more

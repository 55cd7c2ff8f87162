"""What a registry does with an agent: ``held`` writes, ``standing`` and ``names`` read, ``feeds`` are watched."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable

from microreg_consul.client import Agent, Client
from microreg_consul.feeds import Feeds
from microreg_consul.health import Check, alive, text
from microreg_consul.holding import Holdings
from microreg_consul.layouts import Layout
from microreg_consul.records import Records
from microreg_consul.standing import Standing

__all__ = ["Store"]


class Store:
    """One client of an agent, in the running loop."""

    def __init__(self, agent: Agent, layout: Layout, records: Records) -> None:
        self._client = Client(agent)
        self._records = records
        self.held = Holdings(self._client, layout)
        self.feeds = Feeds(self._client, records)

    async def close(self) -> None:
        """End the feeds and close the connections."""
        await self.feeds.close()
        await self._client.close()

    @property
    def client(self) -> Client:
        """The requests to the agent."""
        return self._client

    async def standing(self, name: str) -> Standing:
        """What stands under a name."""
        _, entries = await self._client.entries(name)
        return Standing(name, entries, self._records)

    async def names(self) -> tuple[str, ...]:
        """The names with a node that has not expired.

        Names are read one by one only where every node that has a check has expired: others may have none.
        """
        (_, services), (_, checks) = await asyncio.gather(self._client.services(), self._client.checks())
        expired = _expired(checks)
        doubtful = [name for name in services if name in expired]
        found = await asyncio.gather(*map(self.standing, doubtful))
        gone = {standing.name for standing in found if not standing.records}
        return tuple(name for name in services if name not in gone)


def _expired(checks: Iterable[Check]) -> set[str]:
    """The names of which every node that has a check has expired."""
    agents: defaultdict[str, list[Check]] = defaultdict(list)
    nodes: defaultdict[tuple[str, str, str], list[Check]] = defaultdict(list)
    for check in checks:
        agent, name, id = (text(check, key) for key in ("Node", "ServiceName", "ServiceID"))
        if name:
            nodes[name, agent, id].append(check)
        else:
            agents[agent].append(check)
    living: dict[str, bool] = {}
    for (name, agent, _), found in nodes.items():
        living[name] = living.get(name, False) or alive([*found, *agents[agent]])
    return {name for name, lives in living.items() if not lives}

"""The contract holds through ``mirror:`` and ``fallback:``, while one part, or all of them, are away."""

from __future__ import annotations

import asyncio
from functools import partial

from microreg.connect import connect
from microreg.testing import CHECKS, Faults, Harness, contract, virtual
from microreg.testing.faults import MemoryFaults

# The wrong loop is in another thread, for which virtual time does not wait.
REAL = {"general.wrong-loop"}
VIRTUAL = [check for check in CHECKS if check.id not in REAL]
OUTAGES = [check for check in VIRTUAL if {"kill", "wipe"} & {*check.requires}]
FEW = [check for check in VIRTUAL if not check.alone]
READING = [check for check in FEW if check.id.startswith(("get.", "list.", "watch."))]
STORES = ("memory://kit-a", "memory://kit-b")


class AllAtOnce(Faults):
    """The same happens to every part."""

    def __init__(self) -> None:
        self._each = [MemoryFaults(partial(connect, url)) for url in STORES]

    async def kill(self) -> None:
        await asyncio.gather(*(each.kill() for each in self._each))

    async def restart(self, *, wipe: bool = False) -> None:
        await asyncio.gather(*(each.restart(wipe=wipe) for each in self._each))


MIRROR, FALLBACK = f"mirror:{'|'.join(STORES)}", f"fallback:{'|'.join(STORES)}"

TestMirrorWithoutItsFirst = contract(Harness(MIRROR), OUTAGES, run=virtual.run)
TestMirror = contract(Harness(MIRROR, faults=AllAtOnce()), FEW, run=virtual.run)
TestFallback = contract(Harness(FALLBACK, faults=AllAtOnce()), VIRTUAL, run=virtual.run)
TestMerged = contract(Harness(f"{FALLBACK}#merge=true", faults=AllAtOnce()), READING, run=virtual.run)
TestMirrorInRealTime = contract(Harness(MIRROR), [check for check in CHECKS if check.id in REAL])
TestFallbackInRealTime = contract(Harness(FALLBACK), [check for check in CHECKS if check.id in REAL])

"""The memory backend keeps the contract (mDNS: tests/integration). A whole module of a stranger is one such line."""

from microreg.testing import CHECKS, Harness, contract, virtual

_REAL = [check for check in CHECKS if check.id in ("general.wrong-loop", "general.leaves-nothing")]
_VIRTUAL = [check for check in CHECKS if check.id != "general.wrong-loop"]

# A store in this process needs no real time, which is as well: ttls and outages last for seconds.
TestMemory = contract(Harness("memory://kit"), _VIRTUAL, run=virtual.run)
TestMemoryInRealTime = contract(Harness("memory://kit"), _REAL)

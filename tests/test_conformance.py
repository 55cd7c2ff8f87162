"""Our own backends keep the contract. A stranger's whole module is one such line."""

from microreg.testing import CHECKS, Harness, contract, virtual
from microreg.testing.check import FAULTS

_OUTAGES = [check for check in CHECKS if check.requires & FAULTS]
_OTHERS = [check for check in CHECKS if not check.requires & FAULTS]

TestMemory = contract(Harness("memory://kit", concurrency=len(CHECKS)), _OTHERS)
# An outage lasts for seconds, and the way back from it too: virtual ones.
TestMemoryOutages = contract(Harness("memory://kit"), _OUTAGES, run=virtual.run)
TestMdns = contract(Harness("mdns://127.0.0.1", patience=10.0), _OTHERS)

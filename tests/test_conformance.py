"""Our own backends keep the contract: the module that a stranger would write, once per backend."""

from microreg.testing import Harness, contract

TestMemory = contract(Harness("memory://kit"))

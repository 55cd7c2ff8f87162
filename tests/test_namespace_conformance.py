"""The contract holds through ``namespace+``."""

from microreg.testing import CHECKS, Harness, contract, virtual

# The wrong loop is in another thread, for which virtual time does not wait.
REAL = {"general.wrong-loop"}
URL = "namespace+memory://kit?namespace.prefix=team-a"

TestNamespace = contract(Harness(URL), [check for check in CHECKS if check.id not in REAL], run=virtual.run)
TestNamespaceInRealTime = contract(Harness(URL), [check for check in CHECKS if check.id in REAL])

"""The contract holds through ``namespace+``."""

from microreg.testing import CHECKS, Harness, contract, virtual

# A name shares its 63 characters with the prefix: these two register names of 63.
FULL_NAMES = {"register.limits", "register.no-collision"}
# The wrong loop is in another thread, for which virtual time does not wait.
REAL = {"general.wrong-loop"}
URL = "namespace+memory://kit?namespace.prefix=team-a"

TestNamespace = contract(
    Harness(URL), [check for check in CHECKS if check.id not in FULL_NAMES | REAL], run=virtual.run
)
TestNamespaceInRealTime = contract(Harness(URL), [check for check in CHECKS if check.id in REAL])

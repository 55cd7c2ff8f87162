"""The contract holds through ``cache+``, but for what the cache is there to change."""

from microreg.testing import CHECKS, Harness, contract, virtual

# While the store is away the cache goes on with what it last knew: these two ask for RegistryUnavailable.
SERVES_ON = {"general.unavailable", "general.own-errors"}
# The wrong loop is in another thread, for which virtual time does not wait.
REAL = {"general.wrong-loop"}

wanted = [check for check in CHECKS if check.id not in SERVES_ON | REAL]

TestCache = contract(Harness("cache+memory://kit"), wanted, run=virtual.run)
TestCacheInRealTime = contract(Harness("cache+memory://kit"), [check for check in CHECKS if check.id in REAL])
TestCacheThatForgets = contract(
    Harness("cache+memory://kit?cache.max_stale=0s"),
    [check for check in CHECKS if check.id in SERVES_ON],
    run=virtual.run,
)
TestCacheAroundNamespace = contract(
    Harness("cache+namespace+memory://kit?namespace.prefix=team-a"),
    wanted,
    run=virtual.run,
)

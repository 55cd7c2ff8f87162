"""``mirror:`` and ``fallback:`` keep the contract over real servers.

What happens while one of them is away: test_migrations.py, and in virtual time tests/test_mirror.py and
tests/test_fallback.py.
"""

from microreg.testing import CHECKS, Harness, contract, running
from microreg.testing.needs import FAULTS
from servers import etcd, microreg_server

first, second = etcd("first"), microreg_server(name="second")
PARTS = f"etcd://127.0.0.1:{first.port}|http://127.0.0.1:{second.port}"
FEW = [check for check in CHECKS if not check.alone and not check.requires & {*FAULTS}]

# etcd grants two seconds at least.
TestMirror = contract(
    Harness(f"mirror:{PARTS}", ttl=2.0, grace=5, patience=10), FEW, around=lambda: running(first, second)
)
TestMerged = contract(
    Harness(f"fallback:{PARTS}#merge=true", ttl=2.0, grace=5, patience=10),
    [check for check in FEW if check.id.startswith(("register.", "watch."))],
    around=lambda: running(first, second),
)

"""The conformance kit: whether a registry keeps the contract, sentence by sentence.

The whole test module of a backend, for pytest or unittest::

    from microreg.testing import Harness, contract

    TestMine = contract(Harness("mine://127.0.0.1:4000"))

Or a check at a time, from any coroutine::

    report = await verify(Harness("mine://127.0.0.1:4000", ttl=2))
    print(report.text())

    result = await run_check(check, harness)        # for check in CHECKS
    result.require()                                # ConformanceError says what was expected and what was seen

A backend's ``capabilities`` widen what is asked. What can be done to its store, a subclass of :class:`Faults`
says; checks that need more than is offered are skipped, visibly. For a store that is a server of its own that is
:class:`ServerFaults`, over a :class:`ServerProcess` and a :class:`Proxy`. Nothing here needs pytest.

For tests of programs, and no backend: :class:`FakeStore`, a registry that breaks when told, and the fixtures around it
(:mod:`microreg.pytest_plugin`, ``docs/howto/test-your-code.md``).
"""

from microreg.testing.announced import Announced, SyncAnnounced
from microreg.testing.case import Case
from microreg.testing.check import Check, ConformanceError
from microreg.testing.checks import CHECKS
from microreg.testing.fake import FakeStore
from microreg.testing.faults import Faults, ServerFaults
from microreg.testing.harness import Harness
from microreg.testing.proxy import Proxy
from microreg.testing.report import Report, Result
from microreg.testing.runner import run_check, verify
from microreg.testing.sentences import SENTENCES
from microreg.testing.server import ServerProcess, running
from microreg.testing.suite import contract
from microreg.testing.switches import FaultSwitches
from microreg.testing.table import table
from microreg.testing.virtual import VirtualTime

__all__ = [
    "CHECKS",
    "SENTENCES",
    "Announced",
    "Case",
    "Check",
    "ConformanceError",
    "FakeStore",
    "FaultSwitches",
    "Faults",
    "Harness",
    "Proxy",
    "Report",
    "Result",
    "ServerFaults",
    "ServerProcess",
    "SyncAnnounced",
    "VirtualTime",
    "contract",
    "run_check",
    "running",
    "table",
    "verify",
]

"""The conformance kit itself: that it finds what is wrong, says so readably, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import unittest
from collections import Counter

import pytest

from microreg.backends.memory import MemoryRegistry
from microreg.checked import Checked
from microreg.errors import ConfigError, ServiceNotFound
from microreg.events import Change, Reason, Snapshot
from microreg.model import Endpoint, Node, Service, Status
from microreg.registry import Registry
from microreg.rules import DEFAULT_TTL
from microreg.testing import (
    CHECKS,
    SENTENCES,
    Case,
    Check,
    ConformanceError,
    Faults,
    Harness,
    Report,
    Result,
    contract,
    run_check,
    table,
    verify,
)
from microreg.testing import virtual as virtual_time
from microreg.testing.check import check
from microreg.testing.needs import CAPABILITIES, FAULTS, SEAMS
from microreg.testing.process import ClientProcess
from microreg.testing.show import show
from mutants import MUTANTS, SEEN, FaultyMemory, harness_of
from support import python, run

BY_ID = {check.id: check for check in CHECKS}
_REAL = {"general.wrong-loop", "register.expires-unattended"}
"""Checks that need a thread or a process, which virtual time does not wait for."""


def played(check: Check, harness: Harness) -> Result:
    """The result of one check, in virtual time where it can be."""
    if check.id in _REAL:
        return run(run_check(check, harness))
    return virtual_time.run(run_check(check, harness))


# -- the contract and its checks ----------------------------------------------------------------------


def test_each_sentence_has_one_check_in_its_order() -> None:
    assert [check.id for check in CHECKS] == list(SENTENCES)
    assert all(check.sentence == SENTENCES[check.id] and str(check) == check.id for check in CHECKS)


def test_each_sentence_is_one_line_that_ends() -> None:
    assert [text for text in SENTENCES.values() if "\n" in text or not text.endswith(".")] == []


def test_checks_require_only_what_can_be_had() -> None:
    assert {need for check in CHECKS for need in check.requires} <= CAPABILITIES | FAULTS | SEAMS
    assert [check.id for check in CHECKS if check.requires & FAULTS and not check.alone] == []


def test_a_check_that_requires_the_unknown_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"requires \['psychic'\]; expected .*'wipe'"):
        check([], "register.visible", requires=("psychic",))


# -- mutants ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mutant", "id"), MUTANTS, ids=[f"{mutant.__name__}-{id}" for mutant, id in MUTANTS])
def test_the_mutant_dies_by_the_check(mutant: type[Registry], id: str) -> None:
    result = played(BY_ID[id], harness_of(mutant))
    assert result.outcome == "failed"
    assert SENTENCES[id] in result.explanation


def test_every_check_kills_a_mutant() -> None:
    assert set(BY_ID) - {id for _, id in MUTANTS} == set()


def test_a_registry_over_a_line_with_every_fault_passes_every_check() -> None:
    report = virtual_time.run(verify(harness_of(FaultyMemory), [each for each in CHECKS if each.id not in _REAL]))
    assert report.ok, report.text()
    assert {result.outcome for result in report.results} == {"passed"}


# -- what a run says ----------------------------------------------------------------------------------


async def _expects_a_node(case: Case) -> None:
    client = await case.client()
    await case.shows(client, case.name(), case.service("other", "a"))


async def _hangs(_: Case) -> None:
    await asyncio.get_running_loop().create_future()


async def _raises(_: Case) -> None:
    raise ServiceNotFound("greeter")


async def _passes(case: Case) -> None:
    client = await case.client()
    await client.register(case.service(case.name(), "a"))


def made(function: object, *requires: str) -> Check:
    return Check("my.check", "It works.", function, frozenset(requires))  # type: ignore[arg-type]


def test_a_failure_says_what_was_expected_what_was_seen_and_what_happened() -> None:
    result = virtual_time.run(run_check(made(_expects_a_node), Harness("memory://kit", patience=0.3, seed=42)))
    assert result.outcome == "failed"
    lines = result.explanation.splitlines()
    assert lines[0] == "my.check: It works."
    assert lines[1].startswith("  expected: get_service('kit-") and lines[1].endswith("within 0.3 s")
    assert lines[2] == "  seen:     nothing"
    assert lines[3] == "  registry: memory://kit (seed 42)"
    assert "client 1: get_service kit-" in lines[-1] and "ServiceNotFound" in lines[-1]
    with pytest.raises(ConformanceError, match="It works"):
        result.require()


def test_a_check_that_hangs_fails_at_its_deadline() -> None:
    result = virtual_time.run(run_check(made(_hangs), Harness("memory://kit", deadline=7.0)))
    assert result.outcome == "failed" and result.seconds == pytest.approx(7.0, abs=0.01)
    assert "not done after 7 s" in result.explanation


def test_a_check_that_swallows_its_cancellation_is_left_behind_and_the_others_go_on() -> None:
    let_go = asyncio.Event()

    async def stubborn(_: Case) -> None:
        while not let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await let_go.wait()

    async def main() -> Report:
        alone = Check("my.other", "It works too.", _passes, alone=True)
        report = await verify(Harness("memory://kit", deadline=7.0), [made(stubborn), alone])
        let_go.set()
        return report

    report = virtual_time.run(main())
    first, second = report.results
    assert (first.outcome, second.outcome) == ("failed", "passed")
    assert "not done after 7 s, and it did not end when it was cancelled" in first.explanation
    assert report.left_behind == ("check my.check",)
    assert "still running, and left behind: check my.check" in report.text()
    assert json.loads(report.json())["left_behind"] == ["check my.check"]


def test_an_error_that_would_end_the_program_is_a_failed_check() -> None:
    async def leaves(_: Case) -> None:
        raise SystemExit(5)

    result = virtual_time.run(run_check(made(leaves), Harness("memory://kit")))
    assert (result.outcome, "seen:     SystemExit: 5" in result.explanation) == ("failed", True)


def test_each_result_is_told_as_it_comes() -> None:
    async def slow(_: Case) -> None:
        await asyncio.sleep(1)

    told: list[str] = []
    checks = [Check("my.slow", "It takes its time.", slow), made(_passes), BY_ID["watch.notices-silence"]]
    virtual_time.run(verify(Harness("memory://kit"), checks, tell=lambda result: told.append(result.check.id)))
    assert told == ["my.check", "my.slow", "watch.notices-silence"]


def test_an_error_of_the_registry_is_a_failure_that_names_it() -> None:
    result = virtual_time.run(run_check(made(_raises), Harness("memory://kit")))
    assert "seen:     ServiceNotFound: no node of service 'greeter' is registered" in result.explanation
    with pytest.raises(ConformanceError) as caught:
        result.require()
    assert isinstance(caught.value.__cause__, ServiceNotFound)


def test_what_is_missing_is_skipped_visibly() -> None:
    result = virtual_time.run(run_check(made(_raises, "freeze", "wipe"), Harness("memory://kit")))
    assert result.outcome == "skipped"
    assert result.explanation == "needs freeze, which memory://kit does not offer"
    with pytest.raises(unittest.SkipTest, match="needs freeze"):
        result.require()


def test_a_harness_offers_its_faults_and_the_registrys_capabilities() -> None:
    class Wiper(Faults):
        async def wipe(self) -> None:
            pass

    assert Harness("memory://kit").faults.offered == {"kill", "wipe"}
    assert Harness("memory://kit", faults=Wiper()).offers == {"wipe", *CAPABILITIES}
    assert not Harness("mirror:static://a=10.0.0.1:80|memory://kit").faults.offered  # a part is not the whole
    assert Faults().offered == frozenset()
    assert harness_of(FaultyMemory).faults.offered == FAULTS


def test_a_fault_that_lasts_is_offered_only_with_its_end() -> None:
    class Half(Faults):
        async def kill(self) -> None:
            raise AssertionError("not to be used")

        async def thaw(self) -> None:
            raise AssertionError("not to be used")

    assert Half().offered == frozenset()


def test_killing_and_restarting_without_data_is_wiping_and_every_fault_ends() -> None:
    done: list[str] = []

    class Server(Faults):
        async def kill(self) -> None:
            done.append("kill")

        async def restart(self, *, wipe: bool = False) -> None:
            done.append("restart without data" if wipe else "restart")

        async def freeze(self) -> None:
            raise OSError("no such process")

        async def thaw(self) -> None:
            done.append("thaw")

    async def main() -> None:
        faults = Server()
        assert faults.offered == {"kill", "wipe", "freeze"}
        await faults.wipe()
        with pytest.raises(KeyError):
            async with faults.down():
                raise KeyError
        with pytest.raises(OSError, match="no such process"):
            async with faults.frozen():
                raise AssertionError("frozen, although that failed")

    run(main())
    assert done == ["kill", "restart without data", "kill", "restart", "thaw"]


def test_a_client_process_comes_with_a_config_string_and_can_be_given() -> None:
    assert "process" not in Harness("memory://kit").offers
    assert "process" in Harness("static://").offers
    assert "process" in Harness("memory://kit", command=["true"]).offers


def test_a_client_process_that_does_not_register_says_what_it_printed_and_is_gone() -> None:
    async def main() -> None:
        process = ClientProcess([sys.executable, "-c", "input(); print('no')"], "", Service("s"), 1.0)
        with pytest.raises(RuntimeError, match=r"printed b'no.*expected b'registered'"):
            await process.__aenter__()
        await process.kill()

    run(main())


def test_a_report_as_text_and_json() -> None:
    checks = [BY_ID["register.visible"], BY_ID["watch.notices-silence"], made(_raises)]
    report = virtual_time.run(verify(Harness("memory://kit"), checks))
    assert not report.ok
    text = report.text()
    assert "ok    register.visible" in text and "skip  watch.notices-silence" in text and "FAIL  my.check" in text
    assert "needs black_hole" in text and "seen:     ServiceNotFound" in text
    assert text.endswith(report.summary()) and report.summary().startswith("1 passed, 1 failed, 1 skipped in ")
    data = json.loads(report.json())
    assert data["ok"] is False and data["registry"] == "memory://kit"
    assert [each["outcome"] for each in data["checks"]] == ["passed", "skipped", "failed"]
    assert report.of("my.check") is report.results[2]
    report.require(checks[0])
    with pytest.raises(LookupError, match="not run"):
        report.of("no.such")


def test_a_report_of_nothing_but_skips_is_not_ok() -> None:
    report = virtual_time.run(verify(Harness("memory://kit"), [BY_ID["watch.notices-silence"]]))
    assert not report.ok and report.summary().startswith("1 skipped")


# -- how it runs --------------------------------------------------------------------------------------


def test_no_more_checks_run_at_once_than_wanted_and_some_run_alone() -> None:
    running: Counter[str] = Counter()
    peaks: dict[str, int] = {}

    async def body(case: Case) -> None:
        running[case.check.id] += 1
        await asyncio.sleep(1)
        peaks[case.check.id] = running.total()
        running[case.check.id] -= 1

    checks = [Check(f"n.{number}", "It counts.", body, alone=number % 3 == 0) for number in range(9)]
    assert virtual_time.run(verify(Harness("memory://kit", concurrency=4), checks)).ok
    assert max(peaks.values()) == 4
    assert [peaks[each.id] for each in checks if each.alone] == [1, 1, 1]


def test_checks_leave_no_node_no_task_and_nobody_elses_nodes_disturbed() -> None:
    async def main() -> None:
        harness = Harness("memory://kit")
        harmless = [each for each in CHECKS if not each.requires & FAULTS and each.id not in _REAL]
        async with harness.connect() as registry:
            await registry.register(Service("bystander", nodes=[Node("10.0.0.1:80", id="a")]), ttl=3600)
            async with registry.watch("bystander") as events:
                assert isinstance(await anext(events), Snapshot)
                report = await verify(harness, harmless)
                assert report.ok, report.text()
                assert await registry.list_services() == ("bystander",)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(1):
                        await anext(events)

    virtual_time.run(main())


def test_a_check_that_fails_cleans_up_too() -> None:
    async def body(case: Case) -> None:
        client = await case.client()
        await client.register(case.service(case.name(), "a"), ttl=3600)
        await case.watch(client)
        case.fail("nothing", "everything")

    async def main() -> None:
        harness = Harness("memory://kit")
        async with harness.connect() as registry:
            assert (await run_check(made(body), harness)).outcome == "failed"
            assert await registry.list_services() == ()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    virtual_time.run(main())


def test_the_seed_makes_random_choices_repeatable() -> None:
    drawn: list[float] = []

    async def body(case: Case) -> None:
        drawn.append(case.rng.random())

    for seed in (1, 1, 2):
        virtual_time.run(run_check(made(body), Harness("memory://kit", seed=seed)))
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_harness_needs_a_url_or_a_factory_and_shares_what_would_be_private() -> None:
    with pytest.raises(ConfigError, match="either a config string or a factory"):
        Harness()
    harness = Harness("memory://")
    assert harness.title == "memory://kit"
    assert isinstance(harness.connect(), Checked)
    assert repr(harness) == "Harness('memory://kit')"


def test_every_client_has_the_secrets_of_the_config_string() -> None:
    harness = Harness("memory://user:hunter2@")
    assert (harness.connect().url.password, harness.title) == ("hunter2", "memory://user:***@kit")


@pytest.mark.parametrize("id", ["register.expires", "register.only-register-renews", "list.no-empty-names"])
def test_the_default_grace_is_enough_for_a_store_that_makes_two_seconds_of_one_and_is_busy(id: str) -> None:
    class Coarse(MemoryRegistry):
        async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
            await super().register(service, ttl=max(2.0, ttl) + 2.5)

    assert played(BY_ID[id], harness_of(Coarse)).outcome == "passed"


def test_what_a_factory_gives_is_put_inside_checked_once() -> None:
    bare, checked = harness_of(FaultyMemory).connect(), Harness(factory=Harness("memory://kit").connect).connect()
    assert isinstance(bare, Checked) and isinstance(bare.inner, FaultyMemory)
    assert isinstance(checked, Checked) and not isinstance(checked.inner, Checked)


# -- the test class -----------------------------------------------------------------------------------


def test_contract_is_a_test_class_for_unittest_too() -> None:
    checks = [BY_ID["get.not-found"], BY_ID["watch.notices-silence"], made(_raises), made(_passes)]
    kind = contract(Harness("memory://kit"), checks[:3])
    outcome = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(kind).run(outcome)
    assert outcome.testsRun == 3
    assert [reason for _, reason in outcome.skipped] == ["needs black_hole, which memory://kit does not offer"]
    ((failed, text),) = outcome.failures
    assert failed.id().endswith("test_my_check") and "It works." in text
    assert kind.test_get_not_found.__doc__ == SENTENCES["get.not-found"]  # type: ignore[attr-defined]


def test_the_kit_needs_no_pytest() -> None:
    assert python("import sys, microreg.testing; print('pytest' in sys.modules)").strip() == "False"


def test_the_table_lists_every_sentence() -> None:
    rows = table().splitlines()[2:]
    assert len(rows) == len(CHECKS)
    assert "| `watch.reasons` | A delete says whether the node was deregistered or expired. | `reasons` |" in rows
    assert python("import runpy; runpy.run_module('microreg.testing', run_name='__main__')") == table()


def test_the_table_can_tell_what_each_check_finds() -> None:
    rows = table([BY_ID["watch.pushes"]], {"watch.pushes": ["Slow", "Slower"]}).splitlines()
    assert rows == [
        "| check | sentence | needs | finds |",
        "|---|---|---|---|",
        "| `watch.pushes` | A store that pushes is heard at once. | `push` | `Slow`, `Slower` |",
    ]


def test_a_real_bug_says_who_has_it_and_what_it_is() -> None:
    assert {mutant for mutant, _ in MUTANTS} >= set(SEEN)
    assert [text for text in SEEN.values() if not re.fullmatch(r"[^:]+: .+[^.]", text)] == []


def test_showing_is_one_bounded_line() -> None:
    node = Node("10.0.0.1:80", id="a", status=Status.WARNING, metadata={"zone": "eu"})
    record = Service("greeter", "1", {"k": "v"}, [Endpoint("Hello")], [node])
    assert show(record).startswith("greeter@1 {'k': 'v'} endpoints [Endpoint(")
    assert show(record).endswith("[a 10.0.0.1:80 warning {'zone': 'eu'}]")
    assert show(Change.gone(record.with_nodes(node), Reason.LOST)).startswith("delete (lost) greeter@1")
    assert show(()) == "nothing" and show("a\nb\ud800") == "a\\nb\\ud800"
    assert len(show("x" * 5000)) < 700

"""The pytest plugin, as its users have it: in pytest processes of their own, with and without other plugins."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from servers import microreg_server
from support import ROOT, clean_env, python

pytest_plugins = ["pytester"]

GUIDE = (ROOT / "docs" / "howto" / "test-your-code.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
STRICT = ("-p", "no:cacheprovider", "-p", "no:schemathesis", "-p", "no:hypothesispytest", "-W", "error")
LOOPS = ("-o", "asyncio_default_fixture_loop_scope=function")


@pytest.fixture(name="user")
def _user(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder of a user, whose pytest loads what is installed and what these tests load is no part of it."""
    for name in ("PYTHONPATH", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(name, raising=False)
    return pytester


def check(user: pytest.Pytester, *arguments: str, **expected: int) -> str:
    """Run the user's tests; they end as expected. Returns what pytest printed."""
    loops = () if "no:asyncio" in arguments else LOOPS
    result = user.runpytest_subprocess(*STRICT, *loops, *arguments, timeout=40)
    outcomes = result.parseoutcomes()
    outcomes.pop("deselected", None)
    assert outcomes == expected, str(result.stdout)
    return str(result.stdout)


# -- the guide -----------------------------------------------------------------------------------------


def test_what_the_guide_shows_is_true(user: pytest.Pytester) -> None:
    shop, *tests = BLOCKS
    user.makepyfile(shop=shop, **{f"test_{number}": test for number, test in enumerate(tests)})
    with microreg_server() as server:
        check(user, "--microreg-registry", f"http://127.0.0.1:{server.port}", passed=9)


def test_what_the_guide_shows_is_typed(tmp_path: Path) -> None:
    files = []
    for number, block in enumerate(BLOCKS):
        if not re.search(r"def \w+\([^)]*\):", block):  # it says all types, or none
            files.append(tmp_path / f"guide_{number}.py")
            files[-1].write_text(block, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_env(), cwd=ROOT, timeout=60, check=False)
    assert len(files) == 3 and done.returncode == 0, done.stdout + done.stderr


# -- whoever runs the tests ----------------------------------------------------------------------------

ASYNC = """
    import asyncio
    import microreg
    import pytest

    {marks}

    async def test_nodes_faults_and_events(registry, announced, faults):
        await announced("orders", port=8080)
        async with registry.watch("orders") as events, microreg.connect() as mine:
            assert len((await anext(events)).services) == 1
            for fault, error in ((faults.down, microreg.RegistryUnavailable), (faults.freeze, TimeoutError)):
                with fault():
                    with pytest.raises(error):
                        async with asyncio.timeout(1):
                            await registry.get_service("orders")
                assert await mine.list_services() == ("orders",)
            await announced("orders", port=8081)
            assert (await anext(events)).node.port == 8081
            faults.wipe()
            with faults.slow(0.05):
                assert await registry.list_services() == ()

    async def test_it_is_the_tests_own(registry):
        assert await registry.list_services() == ()
    {more}
"""
ANYIO = "@pytest.fixture(scope='module')\n    def anyio_backend(): return 'asyncio'"
SCOPED = """
    @pytest.mark.asyncio(loop_scope="session")
    async def test_another_loop(registry, announced):
        await announced("orders", port=8080)
        assert await registry.list_services() == ("orders",)
"""
VIRTUAL = """
    async def test_virtual(registry, announced, virtual_time):
        await announced("orders", port=8080)
        await asyncio.sleep(3600)
        assert await registry.list_services() == ("orders",) and virtual_time.time() > 3599
"""


@pytest.mark.parametrize(
    ("marks", "options", "more"),
    [
        ("pytestmark = pytest.mark.asyncio", ["-p", "no:anyio"], SCOPED + VIRTUAL),
        ("", ["--asyncio-mode=auto"], SCOPED + VIRTUAL),
        ("", ["--asyncio-mode=auto", "-o", "asyncio_default_test_loop_scope=session"], ""),
        (f"pytestmark = pytest.mark.anyio\n    {ANYIO}", ["-p", "no:asyncio"], VIRTUAL),
        ("", ["--anyio-mode=auto", "-k", "asyncio or virtual"], VIRTUAL),
    ],
    ids=["strict", "auto", "session loop", "anyio", "anyio's auto mode"],
)
def test_async_tests(marks: str, options: list[str], more: str, user: pytest.Pytester) -> None:
    text = ASYNC.format(marks=marks, more=more)
    user.makepyfile(text)
    check(user, *options, passed=text.count("async def test_"))


PLAIN = """
    import asyncio
    import threading
    import time
    import microreg
    import microreg.sync
    import pytest

    def test_threads_and_loops_share_it(registry, announced, faults):
        orders = announced("orders", port=8080)
        with microreg.sync.connect() as mine, microreg.sync.Selector(mine) as selector:
            assert selector.select("orders").address == "127.0.0.1:8080"

            async def other():
                async with microreg.connect() as another:
                    return await another.list_services()

            assert asyncio.run(other()) == ("orders",)
            with faults.down(), pytest.raises(microreg.RegistryUnavailable):
                mine.list_services()
            orders.drain()
            assert mine.list_services() == ()

    def test_it_is_the_tests_own(registry):
        assert registry.list_services() == ()

    def test_a_fault_that_is_left_on(registry, announced, faults):
        announced("orders", port=8080)
        faults.slow(60)
        faults.freeze()
        faults.down()

    @pytest.fixture
    def shop(registry):
        with microreg.sync.announce(registry, "shop", port=80, drain_delay=0):
            yield
        assert registry.list_services() == ()

    def test_what_fixtures_opened_leaves_in_order(faults, shop):
        faults.down()

    def test_faults_alone(faults):
        faults.down()
        with microreg.sync.connect() as mine, pytest.raises(microreg.RegistryUnavailable):
            mine.list_services()

    @pytest.mark.real_registry
    def test_there_is_none(registry):
        pass

    def test_what_is_left_announced(registry):
        microreg.sync.announce(registry, "left", port=80).__enter__()
"""


def test_plain_tests_at_once_and_without_any_other_plugin(user: pytest.Pytester) -> None:
    user.makepyfile(PLAIN)
    check(user, "-n", "2", "-p", "no:asyncio", "-p", "no:anyio", passed=6, skipped=1)


# -- what goes wrong -----------------------------------------------------------------------------------

WRONG = """
    import asyncio
    import microreg
    import pytest

    async def test_nobody_runs_it(registry):
        pass

    @pytest.mark.real_registry
    def test_faults_of_a_real_registry(faults):
        pass

    async def test_it_would_wait_for_ever(registry, virtual_time):
        await asyncio.Event().wait()

    def test_no_port(announced):
        announced("orders")

    def test_a_registry_that_is_gone(registry):
        global url
        url = str(registry.url)

    def test_a_registry_of_another_test():
        microreg.sync.connect(url).open()

    @pytest.mark.anyio
    @pytest.mark.parametrize("anyio_backend_name", ["trio"])
    async def test_trio(anyio_backend_name, registry):
        pass
"""


def test_errors_say_what_to_do(user: pytest.Pytester) -> None:
    user.makepyfile(WRONG)
    printed = check(user, "--microreg-registry", "memory://real", passed=1, failed=3, errors=3)
    for expected in (
        "nobody who could open `registry` runs this async test: mark it @pytest.mark.asyncio",
        "the fixture `faults` is for the registry in memory, and this test is marked real_registry",
        "deadlock: 1 task waits for something that never comes",
        "announce() needs port=8080, the port the service listens on",
        "there is no such store in this process",
        "microreg is for asyncio, and this test runs on trio",
    ):
        assert expected in printed


def test_a_wrong_url_of_a_real_registry_is_told(user: pytest.Pytester) -> None:
    user.makepyfile("import pytest\n\n@pytest.mark.real_registry\ndef test_it(registry): pass\n")
    assert "no backend 'nonsense'" in check(user, "--microreg-registry", "nonsense://", errors=1)


# -- those who do not use it ---------------------------------------------------------------------------


def test_it_can_be_turned_off(user: pytest.Pytester) -> None:
    user.makepyfile("def test_it(registry): pass\n")
    assert "fixture 'registry' not found" in check(user, "-p", "no:microreg", errors=1)


def test_fixtures_of_the_user_go_first_and_nothing_is_loaded(user: pytest.Pytester) -> None:
    user.makepyfile("""
        import sys
        import pytest

        @pytest.fixture
        def registry(): return "mine"

        def test_it(registry):
            assert registry == "mine"
            loaded = {name for name in sys.modules if name.startswith("microreg.")}
            rest = {name for name in loaded if not name.startswith("microreg.pytest_plugin")}
            assert rest == {"microreg.announce", "microreg.connect"}
    """)
    check(user, passed=1)


def test_the_plugin_is_light_to_import() -> None:
    loaded = set(
        python(
            "import pytest, sys; before = {*sys.modules}; import microreg.pytest_plugin as plugin; "
            "print(*{*sys.modules} - before)"
        ).split()
    )
    rooms = {f"microreg.pytest_plugin{room}" for room in ("", ".place", ".runners")}
    assert loaded == {"microreg", "microreg.announce", "microreg.connect", *rooms}

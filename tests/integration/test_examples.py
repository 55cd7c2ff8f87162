"""examples/microreg-dir, the backend of a stranger: found, short, in keeping with the contract, and careful."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from microreg import (
    ConfigError,
    Node,
    PermissionDenied,
    Registry,
    RegistryTimeout,
    RegistryUnavailable,
    Service,
    ServiceNotFound,
    codec,
    connect,
)
from microreg.testing import CHECKS, Harness, verify
from support import ROOT, clean_env, python, run

EXAMPLE = ROOT / "examples" / "microreg-dir"
MODULE = EXAMPLE / "microreg_dir" / "__init__.py"


def service(name: str = "greeter", id: str = "a", port: int = 80) -> Service:
    return Service(name, nodes=[Node(f"10.0.0.7:{port}", id=id)])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# -- the distribution ----------------------------------------------------------------------------------


@pytest.fixture(scope="module", name="installed")
def _installed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the example installed in it, as pip does it, and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", "install", "--no-index"]
    done = subprocess.run(
        [*pip, "--no-deps", "--no-build-isolation", "--target", folder, EXAMPLE],
        capture_output=True,
        text=True,
        env=clean_env(),
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return str(folder)


def test_the_scheme_is_found_by_its_entry_point(installed: str, folder: Path, registry: Registry) -> None:
    code = """
import asyncio, sys, microreg
from microreg import plugins

async def main():
    assert "dir" in plugins.names("microreg.backends") and "microreg_dir" not in sys.modules
    async with microreg.connect(sys.argv[1]) as registry:
        await registry.register(microreg.Service("greeter", nodes=[microreg.Node("10.0.0.7:80", id="a")]))
        print(type(registry.inner).__module__, registry.options.interval)

asyncio.run(main())
"""
    printed = python(code, f"dir://{folder}?interval=50ms", env=clean_env(PYTHONPATH=installed))
    assert printed == "microreg_dir 0.05\n"

    async def main() -> None:
        async with registry:
            assert await registry.get_service("greeter") == (service(),), "written by another process"

    run(main())


def test_it_has_at_most_60_lines() -> None:
    (path,) = EXAMPLE.joinpath("microreg_dir").glob("*.py")
    assert len([line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]) <= 60


# -- what the contract does not ask --------------------------------------------------------------------


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "services"
    folder.mkdir()
    return folder


@pytest.fixture(name="connected")
def _connected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Registry]:
    """``connect``, with the example installed in this process: an entry point, as pip writes it."""
    site = folder.parent / "site"
    info = site / "microreg_dir-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: microreg-dir\nVersion: 0.1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[microreg.backends]\ndir = microreg_dir:DirRegistry\n", encoding="utf-8")
    for path in (site, EXAMPLE):
        monkeypatch.syspath_prepend(str(path))
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{EXAMPLE}")
    return connect


@pytest.fixture(name="registry")
def _registry(connected: Callable[[str], Registry], folder: Path) -> Registry:
    return connected(f"dir://{folder}?interval=20ms&timeout=5s")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("dir://", r"^dir://: expected three slashes and an absolute path, for example dir:///var/lib/services$"),
        ("dir:///", "three slashes"),
        ("dir://var/lib/services", "three slashes"),
        ("dir://user@/var/lib/services", "three slashes"),
        ("dir:///tmp?intervall=1s", "did you mean interval"),
    ],
)
def test_a_wrong_config_string_is_refused_by_connect(
    connected: Callable[[str], Registry], url: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        connected(url)


def calls(registry: Registry) -> list[Callable[[], Awaitable[object]]]:
    return [
        lambda: registry.register(service()),
        lambda: registry.deregister(service()),
        lambda: registry.get_service("greeter"),
        registry.list_services,
    ]


def test_a_directory_that_is_missing_is_unavailable_and_is_not_made(registry: Registry, folder: Path) -> None:
    async def main() -> None:
        async with registry:
            for call in calls(registry):
                with pytest.raises(RegistryUnavailable, match="No such file or directory"):
                    await call()
            os.mkdir(folder)
            await registry.register(service())
            assert await registry.list_services() == ("greeter",)

    folder.rmdir()
    run(main())


def test_a_directory_that_one_may_not_enter_or_write_to(
    registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> object:
        raise PermissionError(errno.EACCES, "Permission denied")

    def read_only(*_: object, **__: object) -> object:
        raise OSError(errno.EROFS, "Read-only file system")

    async def main() -> None:
        async with registry:
            for name in ("stat", "listdir", "utime"):
                monkeypatch.setattr(os, name, refuse)
            for call in calls(registry):
                with pytest.raises(PermissionDenied):
                    await call()
            monkeypatch.undo()
            monkeypatch.setattr(os, "utime", read_only)
            with pytest.raises(RegistryUnavailable, match="Read-only"):
                await registry.register(service())
            monkeypatch.undo()
            assert names(folder) == set(), "a write that failed leaves nothing behind"

    run(main())


def test_the_files_are_what_they_say(registry: Registry, folder: Path) -> None:
    async def main() -> None:
        async with registry:
            await registry.register(service(port=81))
            await registry.register(service(), ttl=60)
        (name,) = names(folder)
        path = folder / name
        assert name.startswith("greeter@") and codec.decode(path.read_bytes()) == service()
        assert 30 < path.stat().st_mtime - time.time() <= 60
        assert json.loads(path.read_bytes())["name"] == "greeter"

    run(main())


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "..", ".", "a b", "ü" * 127, "[a]*?"])
def test_no_name_leads_out_of_the_directory(registry: Registry, folder: Path, name: str) -> None:
    outside = folder.parent / "outside"
    outside.write_text("mine", encoding="utf-8")

    async def main() -> None:
        async with registry:
            await registry.register(service())
            await registry.deregister(service(name, name))
            with pytest.raises(ServiceNotFound):
                await registry.get_service(name)
            assert await registry.list_services() == ("greeter",)

    run(main())
    assert outside.read_text(encoding="utf-8") == "mine"


def test_garbage_and_the_files_of_others_harm_nobody(
    registry: Registry, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    future = time.time() + 60
    others = ["notes.txt", "package.json", "greeter.json", ".hidden", "greeter@x.json"]
    for name in others:
        (folder / name).write_bytes(codec.encode(service(id="foreign")))
        os.utime(folder / name, (0, time.time() - 90_000))
    for name, data in (("greeter@bad.node.json", b"{"), ("greeter@nul.node.json", b"\0"), ("other@x.node.json", b"")):
        (folder / name).write_bytes(data)
        os.utime(folder / name, (future, future))
    (folder / "greeter@folder.node.json").mkdir()
    os.utime(folder / "greeter@folder.node.json", (future, future))
    (folder / "greeter@gone.node.json").symlink_to(folder / "nowhere")

    async def main() -> None:
        async with registry:
            await registry.register(service())
            for _ in range(3):
                assert await registry.get_service("greeter") == (service(),)
                assert await registry.list_services() == ("greeter",)

    with caplog.at_level(logging.WARNING, "microreg"):
        run(main())
    told = sorted(vars(entry)["key"] for entry in caplog.records)
    assert told == ["greeter@bad.node.json", "greeter@nul.node.json", "other@x.node.json"]
    assert {*others} <= names(folder)


def test_what_the_dead_left_is_cleared_away_an_hour_later(registry: Registry, folder: Path) -> None:
    ages = {"dead@0.node.json": 3700, "dead@0.node.json.5eed": 3700, "late@0.node.json": 60, "late@0.node.json.5e": 1}
    for name, age in ages.items():
        (folder / name).write_bytes(codec.encode(service(name.partition("@")[0])))
        os.utime(folder / name, (0, time.time() - age))

    async def main() -> None:
        async with registry:
            assert await registry.list_services() == ()
            assert names(folder) == {"late@0.node.json", "late@0.node.json.5e"}

    run(main())


@pytest.mark.parametrize("seconds", [-3600.0, 3600.0])
def test_a_wrong_clock_at_whoever_registers_does_no_harm(
    registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    async def main() -> None:
        async with registry:
            began, clock = time.time(), time.time
            with monkeypatch.context() as patch:
                patch.setattr(time, "time", lambda: clock() + seconds)
                await registry.register(service(), ttl=60)
            (name,) = names(folder)
            assert 59 < os.stat(folder / name).st_mtime - began < 120

    run(main())


def test_a_write_that_comes_late_does_not_bring_a_withdrawn_node_back(
    connected: Callable[[str], Registry], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, replace = threading.Event(), os.replace

    def late(*paths: Any) -> None:
        gate.wait(60)
        replace(*paths)

    async def main() -> None:
        async with connected(f"dir://{folder}?timeout=1s") as registry:
            monkeypatch.setattr(os, "replace", late)
            with pytest.raises(RegistryTimeout):
                await registry.register(service())
            with pytest.raises(RegistryTimeout):
                await registry.deregister(service())
            gate.set()
            await registry.deregister(service())
            assert names(folder) == set()

    run(main())


# -- the contract --------------------------------------------------------------------------------------


def test_it_keeps_the_contract_while_all_goes_well(connected: Callable[[str], Registry], folder: Path) -> None:
    harness = Harness(f"dir://{folder}?interval=50ms&timeout=20s", patience=10.0)
    report = run(verify(harness, [check for check in CHECKS if not check.alone]))
    assert report.ok, report.text()


@pytest.mark.packaging
@pytest.mark.timeout(600)
def test_its_own_tests_pass_and_skip_only_what_a_directory_has_not(installed: str) -> None:
    words = ["-m", "pytest", "-c", os.devnull, "-W", "error", "-rs", "--tb=short"]
    without = ["-p", "no:cacheprovider", "-p", "no:asyncio"]
    done = subprocess.run(
        [sys.executable, *words, *without, "--import-mode=importlib", EXAMPLE / "tests"],
        capture_output=True,
        text=True,
        env=clean_env(PYTHONPATH=installed),
        cwd=installed,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    lacks = {need for line in skipped for need in re.split(", which |, ", line.partition(": needs ")[2])[:-1]}
    assert lacks == {"black_hole", "freeze", "push", "reasons", "skew", "slow"}, skipped

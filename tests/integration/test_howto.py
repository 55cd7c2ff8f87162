"""The guides: what they show is complete, short, typed, and does what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import cast

import pytest

from microreg import Change, Layer, Node, RegistryClosed, Service, Snapshot, connect
from support import ROOT, clean_env, python, run

HOWTO = ROOT / "docs" / "howto"
EXAMPLE = ROOT / "examples" / "microreg-dir"
PLUGINS = ["write-a-layer", "write-a-strategy", "write-a-hook"]


def blocks(name: str, language: str) -> list[str]:
    """The fenced blocks of a guide."""
    text = (HOWTO / f"{name}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def install(name: str, folder: Path) -> str:
    """Put the plugin of a guide into a folder, as a distribution with its entry points; returns its module's name."""
    groups = tomllib.loads(blocks(name, "toml")[0])["project"]["entry-points"]
    (group, entries), *_ = groups.items()
    module = next(iter(entries.values())).partition(":")[0]
    (folder / f"{module}.py").write_text(blocks(name, "python")[0], encoding="utf-8")
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n", encoding="utf-8")
    lines = [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    return str(module)


def test_the_guide_to_backends_shows_the_example_as_it_is() -> None:
    module, _, contract, _ = blocks("write-a-backend", "python")
    assert module == (EXAMPLE / "microreg_dir" / "__init__.py").read_text(encoding="utf-8")
    assert contract == (EXAMPLE / "tests" / "test_contract.py").read_text(encoding="utf-8")
    assert blocks("write-a-backend", "toml") == [(EXAMPLE / "pyproject.toml").read_text(encoding="utf-8")]


def test_the_guide_to_backends_starts_a_server_and_does_it_harm(tmp_path: Path) -> None:
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[microreg.backends]\nmine = mined:MineRegistry\n", encoding="utf-8")
    program = tmp_path / "mined"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "tests" / "mined.py"} "$@"\n', encoding="utf-8")
    program.chmod(0o700)
    (tmp_path / "test_mine.py").write_text(blocks("write-a-backend", "python")[3], encoding="utf-8")
    code = """
import asyncio, test_mine as guide
from microreg.testing import CHECKS, running, verify
wanted = {"register.expires-unattended", "register.restores-forgotten", "watch.resyncs", "general.bounded"}
with running(guide.server, guide.proxy):
    report = asyncio.run(verify(guide.harness, [check for check in CHECKS if check.id in wanted]))
print(report.text())
print(guide.harness.faults.offered - {"kill", "wipe", "freeze", "black_hole", "slow"}, guide.TestMine.__doc__)
"""
    path = os.pathsep.join([str(tmp_path), str(ROOT / "tests")])
    search = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    output = python(code, env=clean_env(PYTHONPATH=path, PATH=search), timeout=50.0)
    assert "4 passed in" in output and "frozenset() The contract of a registry, kept by mine://127.0.0.1:" in output


@pytest.fixture(scope="module", name="printed")
def _printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the program of each guide prints, with the plugins of all of them installed."""
    folder = tmp_path_factory.mktemp("plugins")
    for name in PLUGINS:
        install(name, folder)
    code = "import sys\nfor program in sys.argv[1:]:\n    exec(program, {'__name__': '__main__'})\n    print('----')"
    programs = (blocks(name, "python")[1] for name in PLUGINS)
    output = python(code, *programs, env=clean_env(PYTHONPATH=str(folder)))
    return dict(zip(PLUGINS, output.split("----\n"), strict=False))


@pytest.mark.parametrize("name", PLUGINS)
def test_the_plugin_of_a_guide_does_what_the_guide_says(name: str, printed: dict[str, str]) -> None:
    assert printed[name] == blocks(name, "text")[0]


def test_a_layer_may_change_what_a_watch_tells() -> None:
    space: dict[str, type[Layer]] = {}
    exec(blocks("write-a-layer", "python")[2], space)

    async def main() -> None:
        async with connect("memory://") as inner:
            registry = space["QuietLayer"](inner, inner.url, inner.options)
            async with registry.watch("greeter") as events:
                assert await anext(events) == Snapshot()
                for port in (80, 81):
                    await registry.register(Service("greeter", nodes=[Node(f"10.0.0.7:{port}", id="a")]))
                    if port == 80:
                        assert cast(Change, await anext(events)).action == "create"
                await registry.deregister(Service("greeter", nodes=[Node("", id="a")]))
                assert cast(Change, await anext(events)).action == "delete"
                await inner.close()
                with pytest.raises(RegistryClosed):
                    await anext(events)

    run(main())


def test_what_the_guides_show_is_typed(tmp_path: Path) -> None:
    quiet = tmp_path / "quiet.py"
    quiet.write_text(blocks("write-a-layer", "python")[2], encoding="utf-8")
    faults = tmp_path / "test_mine.py"
    faults.write_text(blocks("write-a-backend", "python")[3], encoding="utf-8")
    plugins = [tmp_path / f"{install(name, tmp_path)}.py" for name in PLUGINS]
    guides = [*plugins, quiet, faults]
    example = [EXAMPLE / "microreg_dir", EXAMPLE / "tests"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--cache-dir",
            ROOT / ".mypy_cache",
            *example,
            *guides,
        ],
        capture_output=True,
        text=True,
        env=clean_env(MYPYPATH=str(EXAMPLE)),
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

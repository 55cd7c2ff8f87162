"""The distributions: what is in them, and that the wheel alone is enough in an empty environment."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import EntryPoint, version
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

import microreg
from support import ROOT, clean_env, python

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PLUGINS = sorted(ROOT.glob("plugins/*/pyproject.toml"))
ENTRY_POINTS = [
    EntryPoint(name, value, group)
    for group, entries in PROJECT["entry-points"].items()
    for name, value in entries.items()
]
pytestmark = pytest.mark.timeout(180)


class Distributions(NamedTuple):
    wheel: Path
    sdist: Path


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, words)],
        capture_output=True,
        text=True,
        env=clean_env(),
        stdin=subprocess.DEVNULL,
        timeout=150,
        check=False,
    )


def succeed(*words: str | Path) -> None:
    done = command(*words)
    assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """The sdist, and the wheel that is built from the sdist and nothing else."""
    folder = tmp_path_factory.mktemp("dist")
    succeed(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Distributions(wheel, sdist)


@pytest.fixture(scope="module")
def empty_environment(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and what it declares to need; returns its bin folder."""
    home = tmp_path_factory.mktemp("empty")
    succeed(sys.executable, "-m", "venv", "--without-pip", home)
    pip = (sys.executable, "-m", "pip", "--python", home / "bin" / "python", "--no-input")
    succeed(*pip, "install", "--disable-pip-version-check", distributions.wheel)
    return home / "bin"


def names_in_wheel(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def names_in_sdist(path: Path) -> set[str]:
    with tarfile.open(path) as archive:
        return {"/".join(PurePosixPath(member.name).parts[1:]) for member in archive if member.isfile()}


def wheel_file(path: Path, name: str) -> str:
    with zipfile.ZipFile(path) as archive:
        (full,) = (entry for entry in archive.namelist() if entry.endswith(f".dist-info/{name}"))
        return archive.read(full).decode()


def test_the_wheel_holds_the_package_and_nothing_else(distributions: Distributions) -> None:
    names = names_in_wheel(distributions.wheel)
    info = f"microreg-{PROJECT['version']}.dist-info"
    assert {PurePosixPath(name).parts[0] for name in names} == {"microreg", info}
    assert {"microreg/__init__.py", "microreg/py.typed", f"{info}/licenses/LICENSE"} <= names
    package = {name for name in names if name.startswith("microreg/")}
    assert package == {name for name in names_in_sdist(distributions.sdist) if name.startswith("microreg/")}


def test_the_sdist_holds_what_a_build_needs_and_nothing_else(distributions: Distributions) -> None:
    names = names_in_sdist(distributions.sdist)
    others = {name for name in names if not name.startswith("microreg/")}
    needed = {"CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}
    assert others - {".gitignore"} == needed
    assert [name for name in names if name.endswith((".pyc", ".so"))] == []


def test_the_metadata_says_what_pyproject_says(distributions: Distributions) -> None:
    metadata: Message = Parser().parsestr(wheel_file(distributions.wheel, "METADATA"))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert set(metadata.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
    needs = map(Requirement, metadata.get_all("Requires-Dist", []))
    core = {need.name for need in needs if need.marker is None}
    assert core == {"ifaddr", "msgspec", "pluggy"}
    assert "microreg = microreg.cli:main" in wheel_file(distributions.wheel, "entry_points.txt")


def test_every_extra_installs_something() -> None:
    assert [extra for extra, needs in PROJECT["optional-dependencies"].items() if not needs] == []


@pytest.mark.parametrize("entry", ENTRY_POINTS, ids=lambda entry: f"{entry.group}-{entry.name}")
def test_every_entry_point_resolves(entry: EntryPoint) -> None:
    assert callable(entry.load())


def test_there_is_one_version_everywhere() -> None:
    assert PROJECT["version"] == version("microreg") == microreg.__version__
    major, minor, _ = map(int, PROJECT["version"].split("."))
    for path in PLUGINS:
        plugin = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        assert plugin["version"] == PROJECT["version"], path
        assert f"microreg>={major}.{minor},<{major}.{minor + 1}" in plugin["dependencies"], path


def test_every_plugin_is_in_the_development_requirements() -> None:
    lines = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()
    editable = [line.removeprefix("-e ") for line in lines if line.startswith("-e ")]
    assert editable[0].startswith(".")
    expected = [path.parent.relative_to(ROOT).as_posix() for path in PLUGINS]
    assert sorted(line.partition("[")[0] for line in editable[1:]) == expected


@pytest.mark.packaging
def test_the_wheel_alone_gives_memory_static_and_mdns(empty_environment: Path, tmp_path: Path) -> None:
    code = """
import asyncio, sys
import microreg
from microreg import Node, Service, connect

async def main():
    service = Service("orders", nodes=[Node("10.0.0.1:80", id="a")])
    for url in ("memory://", "mdns://127.0.0.1", "static://orders=10.0.0.1:80"):
        async with connect(url) as registry:
            if not url.startswith("static:"):
                await registry.register(service)
            (found,) = await registry.get_service("orders")
            print(url.partition(":")[0], *[node.address for node in found.nodes])

asyncio.run(main())
print(microreg.__version__, microreg.__file__)
"""
    output = python(code, executable=empty_environment / "python", cwd=tmp_path, timeout=30)
    *found, last = output.splitlines()
    assert found == ["memory 10.0.0.1:80", "mdns 10.0.0.1:80", "static 10.0.0.1:80"]
    number, place = last.split(maxsplit=1)
    assert number == PROJECT["version"]
    assert Path(place).is_relative_to(empty_environment.parent)


@pytest.mark.packaging
def test_without_its_extra_the_command_says_in_one_line_what_to_install(empty_environment: Path) -> None:
    done = command(empty_environment / "microreg", "list")
    assert done.returncode != 0
    assert re.search(r"pip install .?microreg\[cli\]", done.stderr), done.stderr
    assert len((done.stdout + done.stderr).strip().splitlines()) == 1

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
pytestmark = pytest.mark.timeout(600)


each_plugin = pytest.mark.parametrize("plugin", [path.parent for path in PLUGINS], ids=lambda path: path.name)


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
        timeout=500,
        check=False,
    )


def succeed(*words: str | Path) -> None:
    done = command(*words)
    assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}"


def built(project: Path, folder: Path) -> Distributions:
    """The sdist, and the wheel that is built from the sdist and nothing else."""
    succeed(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, project)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Distributions(wheel, sdist)


def environment(home: Path, *requirements: str | Path) -> Path:
    """A virtual environment with these and what they declare to need; returns its bin folder."""
    succeed(sys.executable, "-m", "venv", "--without-pip", home)
    pip = (sys.executable, "-m", "pip", "--python", home / "bin" / "python", "--no-input")
    succeed(*pip, "install", "--disable-pip-version-check", *requirements)
    return home / "bin"


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """Those of the core."""
    return built(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def empty_environment(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the core's wheel alone; returns its bin folder."""
    return environment(tmp_path_factory.mktemp("empty"), distributions.wheel)


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
    page = ROOT.glob("microreg/server/page/*.*")  # its files are no modules
    assert {path.relative_to(ROOT).as_posix() for path in page} <= names
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
    assert core == {"ifaddr", "msgspec", "packaging", "pluggy"}
    assert "microreg = microreg.cli:main" in wheel_file(distributions.wheel, "entry_points.txt")


@each_plugin
def test_a_plugin_is_built_with_all_that_it_needs_and_nothing_else(plugin: Path, tmp_path: Path) -> None:
    wheel, sdist = built(plugin, tmp_path)
    package = plugin.name.replace("-", "_")
    info = f"{package}-{PROJECT['version']}.dist-info"
    in_wheel, in_sdist = names_in_wheel(wheel), names_in_sdist(sdist)
    assert {PurePosixPath(name).parts[0] for name in in_wheel} == {package, info}
    assert {f"{package}/__init__.py", f"{package}/py.typed", f"{info}/licenses/LICENSE"} <= in_wheel
    modules = {name for name in in_sdist if name.startswith(f"{package}/")}
    assert modules == {name for name in in_wheel if name.startswith(f"{package}/")}
    needed = {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}
    assert in_sdist - modules - {".gitignore"} == needed
    metadata: Message = Parser().parsestr(wheel_file(wheel, "METADATA"))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert (plugin / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@each_plugin
def test_a_plugin_is_an_extra_of_the_core(plugin: Path) -> None:
    major, minor, _ = map(int, PROJECT["version"].split("."))
    extra = plugin.name.removeprefix("microreg-")
    assert PROJECT["optional-dependencies"][extra] == [f"{plugin.name}>={major}.{minor},<{major}.{minor + 1}"]
    [everything] = map(Requirement, PROJECT["optional-dependencies"]["all"])
    assert everything.extras == set(PROJECT["optional-dependencies"]) - {"all"}


def test_every_extra_installs_something() -> None:
    assert [extra for extra, needs in PROJECT["optional-dependencies"].items() if not needs] == []


@pytest.mark.parametrize("entry", ENTRY_POINTS, ids=lambda entry: f"{entry.group}-{entry.name}")
def test_every_entry_point_resolves(entry: EntryPoint) -> None:
    found = entry.load()
    assert callable(found) or (entry.group == "pytest11" and found.__name__ == entry.value)


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
    output = python(code, executable=empty_environment / "python", cwd=tmp_path)
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


@pytest.mark.packaging
@each_plugin
def test_without_a_plugin_connect_says_which_extra_to_install(plugin: Path, empty_environment: Path) -> None:
    code = """
import sys
import microreg

try:
    microreg.connect(sys.argv[1])
except microreg.ConfigError as error:
    print(error)
"""
    extra = plugin.name.removeprefix("microreg-")
    for scheme in schemes(plugin):
        said = python(code, f"{scheme}://127.0.0.1", executable=empty_environment / "python")
        assert f"pip install 'microreg[{extra}]'" in said, said


@pytest.mark.packaging
@each_plugin
def test_a_plugin_is_found_beside_the_core(plugin: Path, distributions: Distributions, tmp_path: Path) -> None:
    wheel = built(plugin, tmp_path / "dist").wheel
    programs = environment(tmp_path / "home", f"{distributions.wheel}[cli]", wheel)
    for scheme in schemes(plugin):
        done = command(programs / "microreg", "plugins", scheme)
        assert done.returncode == 0, done.stderr
        kind, name, distribution, version, *_, state = done.stdout.splitlines()[0].split("\t")
        found = kind, name, distribution, version, state
        assert found == ("backend", f"{scheme}://", plugin.name, PROJECT["version"], "ok")


def schemes(plugin: Path) -> list[str]:
    """What a plugin declares."""
    project = tomllib.loads((plugin / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return list(project["entry-points"]["microreg.backends"])

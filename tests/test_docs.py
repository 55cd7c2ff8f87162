"""What the documents say is so: examples run, links resolve, commands exist, generated pages are fresh."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT, clean_env, python

FRAGMENT = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\.(added|changed|fixed|removed|security)\.md")
FOLDERS = (".", "docs/**", "changelog.d", "examples", "plugins/*")
PAGES = sorted({page for folder in FOLDERS for page in ROOT.glob(f"{folder}/*.md")})
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def blocks(page: Path, info: str) -> list[str]:
    """The fenced blocks whose info string is ``info``."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{re.escape(info)}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The fragments that a renderer makes from headings: lower case, no punctuation, blanks to dashes."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@each_page
def test_python_blocks_are_python(page: Path) -> None:
    for info in ("python", "python run"):
        for block in blocks(page, info):
            compile(block, str(page), "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@each_page
def test_relative_links_resolve(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, fragment = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (fragment and fragment not in anchors(there)):
            broken.append(target)
    assert broken == []


@each_page
def test_make_targets_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    fenced = re.findall(r"^```.*?^```$", text, re.MULTILINE | re.DOTALL)
    code = "\n".join(fenced + re.findall(r"`([^`\n]+)`", prose(page)))
    assert set(re.findall(r"\bmake ([a-z]+)", code)) - make_targets() == set()


def test_the_readme_names_the_commands_to_start_with() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in text
    assert "make test" in text


# A block that begins with ```python run is a whole program, or one that may use await at its top level.
RUNNER = """
import ast, asyncio, inspect, sys
code = compile(sys.argv[1], "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
if code.co_flags & inspect.CO_COROUTINE:
    async def main():
        await eval(code, {"__name__": "__main__"})
    asyncio.run(main())
else:
    exec(code, {"__name__": "__main__"})
"""


def test_the_readmes_example_runs() -> None:
    examples = blocks(ROOT / "README.md", "python run")
    assert examples, "README.md has no example that begins with ```python run"
    env = clean_env(MICROREG_REGISTRY="mdns://127.0.0.1", MICROREG_ADVERTISE="127.0.0.1")
    outputs = [python(RUNNER, "import microreg\n" + example, env=env, timeout=20) for example in examples]
    assert "http://127.0.0.1:8080" in outputs[0]


def test_the_reference_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"],
        capture_output=True,
        text=True,
        env=clean_env(),
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_changelog_fragments_are_well_named_and_not_empty() -> None:
    found = [path for path in (ROOT / "changelog.d").iterdir() if path.name != "README.md"]
    assert [path.name for path in found if not FRAGMENT.fullmatch(path.name)] == []
    assert [path.name for path in found if not path.read_text(encoding="utf-8").strip()] == []

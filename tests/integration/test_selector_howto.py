"""The guides to the Selector: their programs run, and what they show is typed."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from microreg import Node, Service
from microreg.selector import Filter, Keyed
from selecting import greeters, members
from support import ROOT, clean_env, python


def blocks(name: str) -> list[str]:
    """The Python programs of a guide."""
    text = (ROOT / "docs" / "howto" / f"{name}.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_guide_to_selecting_runs() -> None:
    lines = python(blocks("select-nodes")[0]).splitlines()
    assert re.fullmatch(r"an answer of http://10\.0\.0\.[78]:80", lines[0]) and lines[1:] == ["True"]


def test_the_strategy_with_keys_and_the_filter_do_what_they_say() -> None:
    space: dict[str, object] = {}
    for block in blocks("write-a-strategy")[2:]:
        exec(block, space)
    pick = cast(Keyed, space["shards"]).build(members(greeters(3)), random.Random(1))
    assert [pick(key).id for key in (0, 1, 2, 3)] == ["n00000", "n00001", "n00002", "n00000"]
    (node,) = greeters(1, rack="a7")
    rack = cast("Callable[[str], Filter]", space["rack"])
    for name, expected in (("a7", True), ("b7", False)):
        given = rack(name)
        assert given(node, Service("greeter", nodes=[node])) is expected
    assert not rack("a7")(Node("10.0.0.1:80"), Service("greeter"))


@pytest.mark.parametrize("name", ["select-nodes", "write-a-strategy"])
def test_what_the_guides_show_is_typed(name: str, tmp_path: Path) -> None:
    files = list[Path]()
    for number, block in enumerate(blocks(name)):
        if "import" in block:
            files.append(tmp_path / f"guide_{number}.py")
            files[-1].write_text(block.replace("async def main():", "async def main() -> None:"), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_env(), cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

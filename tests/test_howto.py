"""The backend in docs/howto/write-a-backend.md is complete, short, and keeps the contract."""

from __future__ import annotations

import asyncio
import re
import types
from pathlib import Path

from microreg.registry import Checked, Registry
from microreg.testing import Harness, verify
from microreg.url import RegistryURL
from support import ROOT

PAGE = ROOT / "docs" / "howto" / "write-a-backend.md"


def example() -> str:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]


def test_the_backend_of_the_guide_keeps_the_contract(tmp_path: Path) -> None:
    module = types.ModuleType("microreg_sqlite")
    exec(compile(example(), str(PAGE), "exec"), vars(module))
    kind: type[Registry] = module.SqliteRegistry
    url = RegistryURL.parse(f"sqlite://{tmp_path}/services.db")
    harness = Harness(factory=lambda: Checked(kind(url, kind.Options())))
    report = asyncio.run(verify(harness))
    assert report.ok, report.text()


def test_the_backend_of_the_guide_has_at_most_60_lines() -> None:
    assert len([line for line in example().splitlines() if line.strip()]) <= 60

"""Every kind of finding is provoked by a test, documented, and unlike the others."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from support import ROOT

SOURCES = [ROOT / "microreg", *ROOT.glob("plugins/*/microreg_*")]
TESTS = [ROOT / "tests", *ROOT.glob("plugins/*/tests")]
PAGE = ROOT / "docs" / "reference" / "doctor.md"


def calls(folders: list[Path], function: str) -> Iterator[ast.Call]:
    """Every call of this name in these folders, where it is imported by that name."""
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        imported = rf"from (microreg\.findings|doctoring) import [^#]*?\b{function}\b"
        if not re.search(rf"^({imported}|class {function}\b)", source, re.MULTILINE):
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function:
                yield node


def text(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


KINDS = tuple(calls(SOURCES, "Kind"))
CODES = Counter(text(call.args[0]) for call in KINDS)


def test_there_are_findings_and_each_has_a_code_of_its_own() -> None:
    assert len(CODES) > 50
    assert [code for code, count in CODES.items() if count > 1 or "." not in code] == []


def test_every_finding_is_provoked_by_a_test() -> None:
    provoked = {text(call.args[1]) for call in calls(TESTS, "found") if len(call.args) > 1}
    assert sorted(CODES.keys() - provoked) == [], "nothing provokes these: a test has to, and to say found(…, code)"
    assert sorted(provoked - CODES.keys() - {""}) == [], "there are no such findings (any more)"


def test_every_finding_is_documented() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [code for code in CODES if f"| `{code}` |" not in page] == [], "run `make docs`"


def test_what_is_wrong_has_a_mend() -> None:
    without = [
        text(call.args[0])
        for call in KINDS
        if isinstance(call.args[1], ast.Attribute) and call.args[1].attr in ("WARNING", "ERROR") and len(call.args) < 4
    ]
    assert without == []

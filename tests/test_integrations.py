"""The integrations as files: what must stay alike."""

from __future__ import annotations

import ast
from pathlib import Path

from support import ROOT

FOLDER = ROOT / "microreg" / "integrations"


def code(path: Path) -> str:
    """Its statements, without the text on top."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return ast.unparse(ast.Module(tree.body[1:], []))


def test_httpx2_is_served_as_httpx_is() -> None:
    assert code(FOLDER / "httpx2.py") == code(FOLDER / "httpx.py").replace("httpx", "httpx2")

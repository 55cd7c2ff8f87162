"""The guides to the layers print what they say."""

from __future__ import annotations

import re

import pytest

from support import ROOT, python


@pytest.mark.parametrize("name", ["cache-lookups", "migrate", "separate-namespaces"])
def test_a_guide_prints_what_it_says(name: str) -> None:
    text = (ROOT / "docs" / "howto" / f"{name}.md").read_text(encoding="utf-8")
    found = re.search(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found is not None and python(found[1]) == found[2]

"""The page about the architecture: its picture, its floors and its rooms are those of the source."""

from __future__ import annotations

import re

from structure import FILES, FLOORS, PART_OF, imports, module, unit, within
from support import ROOT

PAGE = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
UNITS = {each for each in FLOORS.split() if each not in ("microreg", "__main__")}
Arrow = tuple[str, str]


def picture() -> tuple[dict[str, set[str]], set[Arrow]]:
    """The boxes, with the units in each, and the arrows from box to box."""
    (drawn,) = re.findall(r"^```mermaid\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    boxes = {name: set(text.split("<br>")[1].split()) for name, text in re.findall(r"(\w+)\[\"(.+?)\"\]", drawn)}
    arrows = {
        (source, target.strip())
        for source, targets in re.findall(r"^ *(\w+) --> (.+)$", drawn, re.MULTILINE)
        for target in targets.split("&")
    }
    return boxes, arrows


def imported(boxes: dict[str, set[str]]) -> set[Arrow]:
    """From which box another is imported, in any file."""
    box_of = {each: name for name, units in boxes.items() for each in units}
    named = ((path, name) for path in FILES for _, name in imports(path) if within(name, "microreg"))
    pairs = {(unit(module(path)), unit(name)) for path, name in named}
    known = {(box_of[here], box_of[there]) for here, there in pairs if here in box_of and there in box_of}
    return {(here, there) for here, there in known if here != there}


def reached(arrows: set[Arrow]) -> set[Arrow]:
    """Where one comes to by one arrow or several."""
    found = set(arrows)
    while more := {(a, d) for a, b in found for c, d in found if b == c} - found:
        found |= more
    return found


def test_every_unit_is_in_one_box_of_the_picture() -> None:
    boxes, _ = picture()
    shown = [each for units in boxes.values() for each in units]
    assert sorted(shown) == sorted(set(shown))
    assert set(shown) == UNITS


def test_the_arrows_are_the_imports() -> None:
    """Each arrow is an import, and each import goes along arrows."""
    boxes, arrows = picture()
    real = imported(boxes)
    assert arrows - real == set(), "no such import"
    assert real - reached(arrows) == set(), "not drawn"


def test_an_arrow_that_others_make_superfluous_is_not_drawn() -> None:
    _, arrows = picture()
    assert [each for each in arrows if each in reached(arrows - {each})] == []


def test_the_floors_are_those_that_are_kept() -> None:
    floors = [line.split() for line in FLOORS.split("\n") if line and line not in ("microreg", "__main__")]
    (block,) = re.findall(r"^```text\n(errors\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert [line.split() for line in block.splitlines()] == floors


def test_every_unit_has_a_row_in_the_table_of_rooms() -> None:
    (table,) = re.findall(r"^\| room \|.*?(?=\n\n)", PAGE, re.MULTILINE | re.DOTALL)
    first = " ".join(line.split("|")[1] for line in table.splitlines())
    named = {room.strip("/").split("/")[0] for room in re.findall(r"`([\w/]+)`", first)}
    assert (UNITS | set(PART_OF)) - named == set()
    assert named - UNITS - set(PART_OF) == set()

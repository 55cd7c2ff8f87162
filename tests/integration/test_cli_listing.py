"""Tables of the command line on terminals of every width: ids and addresses can always be copied."""

from __future__ import annotations

import pytest

pytest.importorskip("typer")

from rich.console import Console
from rich.text import Text

from microreg import Endpoint, Node, Service
from microreg.cli.common import print_table
from microreg.cli.get import _table
from microreg.cli.listing import Listing
from microreg.cli.watch_table import NodeTable
from microreg.events import Snapshot

NODES = [
    Node("192.168.100.100:18080", id="6102e603e7600a8c25bc096e", metadata={"zone": "eu-west-1a", "weight": "3"}),
    Node("[fe80:1234:5678:9abc:def0:1234:5678:9abc]:18080", id="orders-9f0c1d52-86f4-4a0e-9d5b-2f6b8a4c7e11"),
    Node("a-host.in-some.rather-long.domain.example.com:443", id="x" * 63),
]
ORDERS = Service(
    "orders-of-customers", "2.11.0", endpoints=[Endpoint("Orders.Create"), Endpoint("x" * 70)], nodes=NODES
)


def listing(**settings: tuple[str, ...]) -> Listing:
    made = Listing("", "id", "version", "why", title="nodes", **settings)
    made.add_row(Text("*"), Text("a" * 20), Text("1.0"), Text(""))
    made.add_row(Text("-"), Text("b" * 20), Text(""), Text("left out by a filter"))
    return made


def drawn(made: Listing, width: int) -> list[str]:
    """As a live table would be drawn, which has no line longer than the terminal."""
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(made)
    lines = capture.get().splitlines()
    assert all(len(line) <= width for line in lines)
    return [line.rstrip() for line in lines]


@pytest.mark.parametrize("width", [0, 20, 40, 60, 80, 100, 132, 250])
def test_ids_and_addresses_are_never_cut_or_folded(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(_table((ORDERS,)))
    words = capsys.readouterr().out.split()
    for node in NODES:
        assert node.id in words and node.address in words
    assert ORDERS.name in words and words.count("2.11.0") == 3


def test_what_fits_is_a_table_without_empty_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "84")
    print_table(_table((Service("orders", "1.0", nodes=NODES[:1]), Service("orders", "1.1", nodes=[Node("h:1")]))))
    title, head, _, *rows = capsys.readouterr().out.splitlines()
    assert title == "orders" and head.split() == ["version", "id", "address", "status", "metadata"]
    assert rows[0].split() == ["1.0", NODES[0].id, NODES[0].address, "passing", "weight=3"]
    assert rows[1].split() == ["zone=eu-west-1a"] and all(len(row) <= 84 for row in rows)


def test_what_is_long_may_be_folded_and_spare_columns_are_left_out_first() -> None:
    assert drawn(listing(), 60)[3:] == [f"*  {'a' * 20}  1.0", f"-  {'b' * 20}           left out by a filter"]
    folded = drawn(listing(folds=("why",)), 50)[3:]
    assert folded == [f"*  {'a' * 20}  1.0", f"-  {'b' * 20}           left out by a", f"{'filter':>40}"]
    spared = drawn(listing(folds=("why",), spare=("version",)), 42)
    assert spared[1].split() == ["id", "why"]
    assert spared[3:] == [f"*  {'a' * 20}", f"-  {'b' * 20}  left out by a", f"{'filter':>31}"]


def test_what_does_not_fit_is_a_block_of_lines_for_each_row() -> None:
    assert drawn(listing(), 32) == [
        "nodes",
        f"* id       {'a' * 20}",
        "  version  1.0",
        "",
        f"- id       {'b' * 20}",
        "  why      left out by a filter",
        "",
    ]


def test_the_live_table_of_one_service_fits_80_columns_with_ids_of_our_own() -> None:
    nodes = NodeTable(clock=lambda: 0.0, name="orders")
    nodes.apply(Snapshot([Service("orders", "1.4.2", nodes=[Node("192.168.1.7:8080", id=NODES[0].id)])]))
    lines = drawn(nodes.render(), 80)
    assert lines[0].split() == ["version", "id", "address", "status", "last", "event"]
    assert lines[2].split()[:3] == ["1.4.2", NODES[0].id, "192.168.1.7:8080"]


def test_a_table_without_rows_has_its_head() -> None:
    assert drawn(Listing("name", "nodes"), 80)[0].split() == ["name", "nodes"]

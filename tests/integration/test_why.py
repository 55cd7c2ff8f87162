"""``microreg why NAME``: for people, pipes and programs; with nodes, with none, and with the store down."""

from __future__ import annotations

import json
from functools import partial

import pytest

from commands import Cli, run_command
from microreg import Node, Service, Status, connect
from microreg.cli.why import BLIND
from microreg.testing import Proxy
from servers import microreg_server
from support import run

pytest.importorskip("typer")

STATIC = "static://greeter=10.0.0.1:80,10.0.0.2:80;greeters=10.0.0.3:80;users=10.0.0.4:80"
NODES = (
    Service("greeter", "1.4", nodes=[Node("10.0.0.1:80", id="old", metadata={"zone": "a"})]),
    Service("greeter", "2.0", nodes=[Node("10.0.0.2:80", id="new", metadata={"zone": "a", "weight": "3"})]),
    Service("greeter", "2.1", nodes=[Node("10.0.0.3:80", id="leaving", status=Status.DRAINING)]),
    Service("greeter", "2.0", nodes=[Node("10.0.0.4:80", id="far", metadata={"zone": "b"})]),
)


@pytest.fixture(name="why")
def _why(capsys: pytest.CaptureFixture[str]) -> Cli:
    return partial(run_command, capsys, "why")


def words(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_why_of_nodes_that_are_fine(why: Cli) -> None:
    result = why("greeter", "--registry", STATIC, "--strategy", "random")
    assert result.code == 0 and result.err == ""
    lines = words(result.out)
    assert lines[0].startswith("greeter: 2 of 2 nodes selected by random, 30 retries left; live")
    assert "* 10.0.0.1:80 10.0.0.1:80 passing 1 50%" in lines
    assert lines[-1] == BLIND


def test_why_of_every_node_of_a_server_and_when_that_is_gone(why: Cli) -> None:
    async def fill(url: str) -> None:
        async with connect(url) as registry:
            for service in NODES:
                await registry.register(service, ttl=60)

    with microreg_server() as server, Proxy(server.port) as proxy:
        url = f"http://127.0.0.1:{proxy.port}?timeout=2s"
        run(fill(url))
        result = why("greeter", "--registry", url, "--filter", "version:>=2", "--zone", "a", "--json")
        assert result.code == 0, result.err
        told = result.json
        assert (told["strategy"], told["filters"], told["zone"], told["selected"]) == ("p2c", ["version:>=2"], "a", 1)
        assert told["freshness"] == {"kind": "live", "age": 0.0, "error": None}
        assert told["heard"] is False and told["blind"] == BLIND and told["similar"] == []
        verdicts = {each["id"]: (each["verdict"], each["why"]) for each in told["nodes"]}
        assert verdicts == {
            "old": ("filter", "left out by the filter version:>=2"),
            "new": ("selected", ""),
            "leaving": ("status", "its status is draining"),
            "far": ("zone", "in zone 'b'; calls stay in 'a'"),
        }
        (new,) = [each for each in told["nodes"] if each["id"] == "new"]
        assert (new["weight"], new["portion"], new["metadata"]["zone"]) == (3.0, 1.0, "a")
        assert why("greeter", "--registry", url, "--filter", "version:>=9").code == 1
        proxy.black_hole = True
        result = why("greeter", "--registry", url, "--timeout", "300ms")
        assert result.code == 3 and result.err.startswith("microreg: ")
        assert result.out == "greeter: nothing is known of it, because the registry could not be asked.\n"


def test_why_a_name_that_is_nobodys(why: Cli) -> None:
    result = why("Greter", "--registry", STATIC)
    assert result.code == 1
    assert result.out.splitlines() == [
        f"Greter: no node of that name is registered in {STATIC}.",
        "Registered there: greeter, greeters, users (3 in all).",
        "Did you mean greeter or greeters?",
    ]
    result = why("billing", "--registry", STATIC, "--json")
    assert result.code == 1 and result.json["names"] == 3 and result.json["nodes"] == []
    assert why("billing", "--registry", STATIC).out.splitlines()[2].startswith("Does its program run, ")
    assert "Nothing else is registered there." in why("billing", "--registry", "memory://").out
    assert "billing: no node of that name is" in why("billing", "--registry", "mdns://127.0.0.1?settle=50ms").out


def test_why_with_the_store_down(why: Cli) -> None:
    result = why("greeter", "--registry", "http://127.0.0.1:1", "--json")
    assert result.code == 3
    assert "cannot connect" in result.json["freshness"]["error"] and result.json["names"] is None
    assert json.loads(result.err)["exit"] == 3


def test_why_refuses_what_is_wrong(why: Cli) -> None:
    assert why("", "--registry", STATIC).code == 2
    assert why("greeter", "--registry", STATIC, "--filter", "nosuch:1").code == 2
    assert why("greeter", "--registry", STATIC, "--strategy", "nosuch").code == 2


def test_why_on_a_terminal(why: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microreg.cli.why.is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    lines = words(why("greeter", "--registry", STATIC, "--filter", "version:1").out)
    assert lines[0].startswith("greeter: 0 of 2 nodes selected by p2c") and lines[1] == "version:1"
    assert "- 10.0.0.1:80 10.0.0.1:80 passing 1 left out by the filter version:1" in lines
    assert lines[-1].endswith("shows them.")


def test_why_shows_no_secret_and_steers_no_terminal(why: Cli) -> None:
    result = why("greeter", "--registry", "http://127.0.0.1:1?token=hunter2")
    assert "hunter2" not in result.out + result.err

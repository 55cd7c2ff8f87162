"""The command line: what each command prints for people, pipes and programs, and every exit code."""

from __future__ import annotations

import json
import logging
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import partial

import pluggy
import pytest

from commands import Cli, Result, run_command
from microreg import Endpoint, Node, Service, Status, codec, hookspecs, plugins
from microreg.backends.memory import MemoryRegistry
from microreg.backends.static import StaticRegistry
from microreg.checked import Checked
from microreg.cli import main
from microreg.cli.errors import WarningLines, redacted
from microreg.cli.loop import write
from microreg.cli.text import json_text, pairs, safe, services_json
from microreg.cli.watch import event_line
from microreg.cli.watch_table import NodeTable, age
from microreg.errors import PermissionDenied, RegistryClosed, RegistryTimeout, RegistryUnavailable
from microreg.events import Change, Reason, Snapshot
from microreg.hookspecs import hookimpl
from microreg.url import Options, RegistryURL
from support import clean_env

pytest.importorskip("typer")

MICROREG = (sys.executable, "-m", "microreg")
ALONE = "microreg: warning: memory:// lives in this process, and no other program finds it there\n"
STATIC = "static://orders=10.0.0.1:80,10.0.0.2:80;users=[::1]:443"

GREETER = Service(
    "greeter",
    "1.0",
    {"team": "blue & co"},
    [Endpoint("Say.Hello")],
    [
        Node("10.0.0.1:80", id="a", metadata={"zone": "x"}),
        Node("10.0.0.2:80", id="b", status=Status.CRITICAL),
    ],
)
NEWER = Service("greeter", "2.0", nodes=[Node("10.0.0.3:80", id="c", status=Status.DRAINING)])
HOSTILE = Service("[red]evil", "\x1b[31m1", nodes=[Node("10.0.0.9:80", id="z", metadata={"k": "\x1b]0;x\x07\n[/]"})])


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command in this process, in a pipe."""
    return partial(run_command, capsys)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stdout says that it is a terminal, of 200 columns."""
    monkeypatch.setattr("microreg.cli.list_.is_terminal", lambda: True)
    monkeypatch.setattr("microreg.cli.get.is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")


Fill = Callable[..., None]


@pytest.fixture
def fill(monkeypatch: pytest.MonkeyPatch) -> Fill:
    """Makes every command see a store with these services, or one whose every call raises ``error``."""

    def fill(*services: Service, error: Exception | None = None) -> None:
        class Filled(MemoryRegistry):
            async def open(self) -> None:
                await super().open()
                for service in services:
                    for record in service.records():
                        self.store.catalog.put(record)

            async def get_service(self, name: str) -> tuple[Service, ...]:
                if error is not None:
                    raise error
                return await super().get_service(name)

            async def list_services(self) -> tuple[str, ...]:
                if error is not None:
                    raise error
                return await super().list_services()

        def connect(url: RegistryURL) -> Checked:
            return Checked(Filled(url, Options()))

        monkeypatch.setenv("MICROREG_REGISTRY", "memory://")
        monkeypatch.setattr("microreg.cli.common.connect", connect)

    return fill


# -- list ----------------------------------------------------------------------------------------------


def test_list_in_a_pipe_is_one_line_for_each_name(cli: Cli, fill: Fill) -> None:
    fill(GREETER, NEWER, Service("users", nodes=[Node("h:1", id="u")]))
    assert cli("list") == Result(0, "greeter\t1.0,2.0\t3\nusers\t-\t1\n", "")


def test_list_json_is_the_codecs_form(cli: Cli, fill: Fill) -> None:
    fill(NEWER, GREETER)
    result = cli("list", "--json")
    assert result.out == f"[{codec.encode(GREETER).decode()},{codec.encode(NEWER).decode()}]\n"
    assert result.code == 0


def test_list_of_an_empty_registry_is_empty_and_no_error(cli: Cli) -> None:
    assert cli("list", "--registry", "memory://") == Result(0, "", "")
    assert cli("list", "--registry", "memory://", "--json") == Result(0, "[]\n", "")


@pytest.mark.usefixtures("terminal")
def test_list_on_a_terminal_is_a_table(cli: Cli, fill: Fill) -> None:
    fill(GREETER, NEWER)
    lines = cli("list").out.splitlines()
    assert [line.split() for line in lines if line.strip()][0] == ["name", "versions", "nodes"]
    assert ["greeter", "1.0,2.0", "3"] in [line.split() for line in lines]
    fill()
    assert cli("list").out == "no service is registered in memory://\n"


# -- get -----------------------------------------------------------------------------------------------


def test_get_in_a_pipe_is_one_line_for_each_node(cli: Cli, fill: Fill) -> None:
    fill(NEWER, GREETER)
    assert cli("get", "greeter").out.splitlines() == [
        "1.0\ta\t10.0.0.1:80\tpassing\tzone=x\tSay.Hello",
        "1.0\tb\t10.0.0.2:80\tcritical\t-\tSay.Hello",
        "2.0\tc\t10.0.0.3:80\tdraining\t-\t-",
    ]


def test_get_json_is_the_codecs_form(cli: Cli, fill: Fill) -> None:
    fill(NEWER, GREETER)
    assert cli("get", "greeter", "--json").out == (
        f"[{codec.encode(GREETER).decode()},{codec.encode(NEWER).decode()}]\n"
    )


@pytest.mark.usefixtures("terminal")
def test_get_on_a_terminal_is_a_table_with_the_services_metadata(cli: Cli, fill: Fill) -> None:
    fill(GREETER)
    out = cli("get", "greeter").out
    assert out.split()[:7] == ["greeter", "version", "id", "address", "status", "metadata", "endpoints"]
    assert "critical" in out and "zone=x" in out and "Say.Hello" in out
    assert 'metadata of greeter 1.0: team="blue & co"' in out


@pytest.mark.usefixtures("terminal")
def test_what_others_registered_is_never_markup_and_never_steers_the_terminal(cli: Cli, fill: Fill) -> None:
    fill(HOSTILE)
    for command in (["list"], ["get", "[red]evil"]):
        out = cli(*command).out
        assert "[red]evil" in out and "\\x1b[31m1" in out
        assert "\x1b" not in out and "\x07" not in out


def test_what_others_registered_stays_on_its_line_in_a_pipe(cli: Cli, fill: Fill) -> None:
    fill(HOSTILE)
    out = cli("get", "[red]evil").out
    assert out.count("\n") == 1 and out.count("\t") == 5 and "\x1b" not in out


def test_get_of_an_unknown_service_is_1(cli: Cli) -> None:
    assert cli("get", "nobody", "--registry", STATIC) == Result(
        1, "", "microreg: no node of service 'nobody' is registered\n"
    )
    result = cli("get", "nobody", "--registry", STATIC, "--json")
    assert (result.code, result.out) == (1, "")
    assert json.loads(result.err)["code"] == "service_not_found"


def test_get_tells_names_that_look_alike(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("get", "Order", "--registry", STATIC) == Result(
        1, "", "microreg: no node of service 'Order' is registered\n  did you mean orders?\n"
    )
    assert json.loads(cli("get", "Order", "--registry", STATIC, "--json").err)["exit"] == 1

    async def down(self: StaticRegistry) -> tuple[str, ...]:
        raise RegistryUnavailable("gone meanwhile")

    monkeypatch.setattr(StaticRegistry, "list_services", down)
    assert cli("get", "Order", "--registry", STATIC).err == "microreg: no node of service 'Order' is registered\n"


# -- exit codes and messages ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "--registry", "nonsense://"], "no backend 'nonsense' is installed"),
        (["list", "--registry", "memory://?bogus=1"], "has no option bogus"),
        (["list", "--registry", "not a url"], "character 4 of the registry URL"),
        (["list", "--registry", "mdns"], "expected a registry URL"),
        (["list", "--timeout", "soon"], "--timeout: expected a duration such as 500ms, 5s"),
        (["list", "--timeout", "0", "--registry", "memory://"], "--timeout: expected more than zero"),
        (["get", "", "--registry", "memory://"], "service name ''"),
        (["get"], "Missing"),
        (["list", "--bogus"], "--bogus"),
        (["bogus"], "bogus"),
        (["register", "bad name", "--port", "1", "--registry", "memory://"], "service name 'bad name'"),
        (["register", "x", "--registry", "memory://"], "register needs --port"),
        (["register", "x", "--port", "0", "--registry", "memory://"], "port 0: expected a number from 1 to 65535"),
        (["register", "x", "--port", "70000", "--registry", "memory://"], "expected a number from 1 to 65535"),
        (["register", "x", "--port", "http", "--registry", "memory://"], "--port"),
        (["register", "x", "--address", "h:1", "--ttl", "x", "--registry", "memory://"], "--ttl: expected a duration"),
        (["register", "x", "--address", "h:1", "--ttl", "100ms", "--registry", "memory://"], "ttl 0.1"),
        (["register", "x", "--address", "*:1", "--registry", "memory://"], "--address: a wildcard"),
        (["register", "x", "--address", "*", "--port", "1", "--registry", "memory://"], "wildcard"),
        (["register", "x", "--address", "h:1", "--meta", "k", "--registry", "memory://"], "expected KEY=VALUE"),
        (
            ["register", "x", "--address", "h:1", "--meta", "k=1", "--metadata", "k=2", "--registry", "memory://"],
            "twice",
        ),
        (["register", "x", "--address", "h:1", "--id", "-", "--registry", "memory://"], "node id"),
        (["register", "x", "--address", "h:1", "--check", "ftp://h", "--registry", "memory://"], "expected http://"),
        (["register", "x", "--address", "h:1", "--registry", STATIC], "nothing can be registered"),
        (["demo", "--registry", "memory://"], "several processes"),
        (["list", "--registry", ""], "the registry URL is empty"),
        (["verify", "--registry", "memory://"], "the registry is an argument here: microreg verify URL"),
        (["--registry", "memory://", "list"], "it stands after the command: microreg list --registry"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_usage_is_2_and_says_what_was_expected(cli: Cli, arguments: list[str], said: str) -> None:
    result = cli(*arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert 1 <= result.err.count("\n") <= 2
    as_json = cli(*arguments, "--json")
    assert as_json.code == 2 and as_json.out == ""
    assert json.loads(as_json.err)["code"] in ("usage", "config_error", "invalid_service", "unsupported")


@pytest.mark.parametrize(
    ("error", "code", "name"),
    [
        (RegistryUnavailable("nobody there"), 3, "registry_unavailable"),
        (RegistryTimeout("too slow"), 3, "registry_timeout"),
        (PermissionDenied("not you"), 4, "permission_denied"),
        (RegistryClosed("closed"), 3, "registry_closed"),
    ],
)
@pytest.mark.parametrize("command", [["list"], ["get", "x"]], ids=["list", "get"])
def test_what_the_registry_refuses(
    cli: Cli, fill: Fill, command: list[str], error: Exception, code: int, name: str
) -> None:
    fill(error=error)
    result = cli(*command)
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith(f"microreg: {error}\n")
    assert json.loads(cli(*command, "--json").err) == {"code": name, "message": str(error), "exit": code}


def test_a_registry_that_is_too_slow_is_3(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(self: MemoryRegistry) -> tuple[str, ...]:
        import asyncio

        await asyncio.Event().wait()
        return ()

    monkeypatch.setattr(MemoryRegistry, "list_services", never)
    result = cli("list", "--registry", "memory://", "--timeout", "20ms")
    assert result.code == 3
    assert "did not answer within 0.02 s" in result.err


def test_timeout_is_the_option_of_every_part_of_a_composite() -> None:
    url = RegistryURL.parse("mirror:memory://a|memory://b?timeout=1s").with_timeout(2.5)
    assert [part.options["timeout"] for part in url.parts] == ["2.500000", "2.500000"]
    assert url.options == {}


def test_composites_and_the_layers_around_them(cli: Cli) -> None:
    url = "cache+fallback:memory://a|static://orders=10.0.0.1:80#cache.max_stale=1h"
    assert cli("list", "--registry", url).out == "orders\t-\t1\n"
    assert cli("get", "orders", "--registry", url, "--timeout", "1s").out.split("\t")[:2] == ["-", "10.0.0.1:80"]
    assert "10.0.0.1:80" in cli("why", "orders", "--registry", url).out
    assert cli("get", "users", "--registry", url).code == 1
    assert cli("list", "--registry", "mirror:memory://a|cache+memory://b").code == 2


def test_a_bug_is_70_and_no_traceback(cli: Cli, fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microreg.cli.list_.services_json", lambda services: 1 / 0)
    result = cli("list", "--registry", "memory://", "--json")
    assert result.code == 70
    assert json.loads(result.err)["code"] == "bug"
    monkeypatch.setenv("MICROREG_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        main(["list", "--registry", "memory://", "--json"])


def test_the_registry_of_the_environment_is_used_and_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROREG_REGISTRY", STATIC)
    assert cli("list").out == "orders\t-\t2\nusers\t-\t1\n"
    assert cli("list", "--registry", "memory://").out == ""
    monkeypatch.setenv("MICROREG_REGISTRY", "bogus://")
    for arguments in (["list"], ["get", "x", "--timeout", "1s"], ["why", "x"], ["register", "x", "--port", "1"]):
        result = cli(*arguments)
        assert (result.code, result.out) == (2, "")
        assert result.err.startswith("microreg: $MICROREG_REGISTRY: no backend 'bogus' is installed")
    assert "MICROREG_REGISTRY" not in cli("list", "--registry", "bogus://").err


def test_secrets_are_never_printed(cli: Cli) -> None:
    for arguments in (
        ["list", "--registry", "nonsense://root:hunter2@h?token=hunter2"],
        ["list", "--registry", "memory://root:hunter2@h/path?token=hunter2"],
        ["list", "etcd://root:hunter2@h?token=hunter2"],
        ["list", "--registry", "memory://h?password=hunter2"],
    ):
        result = cli(*arguments)
        assert result.code == 2
        assert "hunter2" not in result.err + result.out


def test_redacted() -> None:
    assert redacted("at etcd://u:p@h:1?token=x&timeout=5s.") == "at etcd://…@h:1?token=***&timeout=5s."
    assert redacted("?token=${TOKEN}") == "?token=${TOKEN}"


def test_help_and_version(cli: Cli) -> None:
    help_text = cli("--help")
    assert help_text.code == 0
    words = re.sub(r"[\s│]+", " ", help_text.out)
    for word in ("list", "get", "watch", "register", "demo", "Exit codes: 0 ok", "4 permission denied"):
        assert word in words
    for command in ("list", "get", "watch", "register", "demo"):
        words = re.sub(r"[\s│]+", " ", cli(command, "--help").out)
        assert "--registry" in words and "--json" in words and "--timeout" in words and "Exit codes" in words
    assert "$MICROREG_REGISTRY, else mdns://" in re.sub(r"[\s│]+", " ", cli("list", "-h").out)
    assert re.fullmatch(r"microreg \d+\.\d+\.\d+\n", cli("--version").out)
    assert cli().code == 2


# -- plugins -------------------------------------------------------------------------------------------


class Hello:
    @hookimpl
    def microreg_cli(self, app: hookspecs.App) -> None:
        import typer

        group = typer.Typer()
        group.command("world")(lambda: typer.echo("hello from a plugin"))
        group.callback()(lambda: None)
        app.add_typer(group, name="hello")


class Broken:
    def __init__(self, error: BaseException) -> None:
        self._error = error

    @hookimpl
    def microreg_cli(self, app: hookspecs.App) -> None:
        app.add_typer(None, name="half")
        raise self._error


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
def test_plugins_add_commands_and_a_broken_one_is_one_warning(
    kind: type[BaseException], cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = pluggy.PluginManager("microreg")
    manager.add_hookspecs(hookspecs)
    manager.register(Broken(kind("out of order")), name="sand")
    manager.register(Hello(), name="hello")
    monkeypatch.setattr(plugins, "hooks", lambda: manager)
    result = cli("hello", "world")
    assert (result.code, result.out) == (0, "hello from a plugin\n")
    assert result.err.count("\n") == 1
    assert "broken plugin" in result.err and "sand" in result.err and "out of order" in result.err
    assert cli("list", "--registry", "memory://").code == 0


def test_warnings_of_microreg_are_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    handler = WarningLines()
    for _ in range(3):
        handler.handle(logging.makeLogRecord({"msg": "skipped", "levelno": 30, "key": "k\x1b", "name": "microreg.x"}))
    assert capsys.readouterr().err == "microreg: warning: skipped (key: k\\x1b)\n"


def test_without_typer_one_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['typer'] = None; from microreg.cli import main; sys.exit(main(['list']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean_env(), check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "pip install 'microreg[cli]'" in done.stderr


# -- text ----------------------------------------------------------------------------------------------


def test_text_helpers() -> None:
    assert safe("ok é ✓") == "ok é ✓"
    assert safe("a\tb\x1b\ud800") == "a\\tb\\x1b\\ud800"
    assert pairs({"b": 'say "x"', "a": "1", "c": ""}) == 'a=1 b="say \\"x\\"" c=""'
    assert [age(seconds) for seconds in (0.4, 59, 61, 7200, 200000)] == ["0s", "59s", "1m", "2h", "2d"]


def test_event_lines() -> None:
    (record, _) = GREETER.records()
    told = json.loads(event_line(Change.gone(record, Reason.EXPIRED)))
    assert told == {
        "event": "delete",
        "service": json.loads(codec.encode(record)),
        "node": {"id": "a", "address": "10.0.0.1:80", "metadata": {"zone": "x"}},
        "reason": "expired",
    }
    assert json.loads(event_line(Change.put(record)))["reason"] is None
    assert event_line(Snapshot([GREETER])) == f'{{"event":"snapshot","services":[{codec.encode(GREETER).decode()}]}}'


def shown(table: NodeTable) -> list[list[str]]:
    from rich.console import Console

    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        console.print(table.render())
    return [line.split() for line in capture.get().splitlines() if line.strip()][2:]


def test_the_table_of_watch_follows_every_event() -> None:
    now = 100.0
    table = NodeTable(clock=lambda: now)
    first, second = GREETER.records()
    table.apply(Snapshot([first]))
    now += 61
    table.apply(Change.put(second))
    table.apply(Change.put(first.with_nodes(Node("10.0.0.7:80", id="a", status=Status.WARNING)), first))
    assert shown(table) == [
        ["greeter", "1.0", "a", "10.0.0.7:80", "warning", "1m", "changed", "0s", "ago"],
        ["greeter", "1.0", "b", "10.0.0.2:80", "critical", "0s", "came", "0s", "ago"],
    ]
    table.apply(Change.gone(second, Reason.EXPIRED))
    now += 5
    assert shown(table)[1] == ["greeter", "1.0", "b", "10.0.0.2:80", "gone", "5s", "expired", "5s", "ago"]
    now += 60
    assert len(shown(table)) == 1
    assert table.events == 3


# -- processes: signals, pipes, terminals --------------------------------------------------------------


@contextmanager
def started(*arguments: str, stdout: int = subprocess.PIPE) -> Generator[subprocess.Popen[bytes], None, None]:
    process = subprocess.Popen(
        [*MICROREG, *arguments],
        bufsize=0,  # so that select() sees every line that was not read yet
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=clean_env(TERM="xterm", COLUMNS="120"),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line_of(process: subprocess.Popen[bytes], timeout: float = 30.0) -> dict[str, object]:
    """The next line of a process, as JSON."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], timeout)
    assert ready, "no line in time"
    told: dict[str, object] = json.loads(process.stdout.readline())
    return told


@pytest.fixture
def signal_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, signal.Signals], None]:
    """Sends this process a signal as soon as a command has written a line with this text in it."""

    def arrange(command: str, text: str, number: signal.Signals) -> None:
        async def write_then_signal(line: str) -> None:
            await write(line)
            if text in line:
                os.kill(os.getpid(), number)

        monkeypatch.setattr(f"microreg.cli.{command}.write", write_then_signal)

    return arrange


SignalAt = Callable[[str, str, signal.Signals], None]

both_signals = pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])


@both_signals
def test_register_drains_when_asked_to_stop(cli: Cli, signal_at: SignalAt, number: signal.Signals, code: int) -> None:
    signal_at("register", "live", number)
    result = cli("register", "x", "--address", "127.0.0.1:1", "--id", "me", "--registry", "memory://", "--json")
    assert (result.code, result.err) == (0, ALONE)
    live, draining, gone = map(json.loads, result.out.splitlines())
    assert (live["event"], live["state"], live["error"]) == ("state", "live", None)
    assert live["node"] == {"id": "me", "address": "127.0.0.1:1", "metadata": {}}
    assert live["service"]["nodes"] == [live["node"]]
    assert (draining["state"], draining["node"]["status"], gone["state"]) == ("draining", "draining", "gone")


def test_register_tells_when_the_check_changes_its_mind(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, new_port: Callable[[], int]
) -> None:
    port = new_port()
    with ExitStack() as stack:

        async def write_and_act(line: str) -> None:
            await write(line)
            if "live (critical)" in line:
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            elif "live" in line:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr("microreg.cli.register.write", write_and_act)
        options = ("--check", f"tcp://127.0.0.1:{port}", "--ttl", "1s", "--registry", "memory://")
        result = cli("register", "x", "--address", "127.0.0.1:1", *options)
    states = [" ".join(line.partition(" x ")[0].split()[1:]) for line in result.out.splitlines()]
    assert (result.code, states) == (0, ["live (critical)", "live", "draining", "gone"])


def test_a_second_signal_does_not_wait_for_the_end_of_draining(cli: Cli, signal_at: SignalAt) -> None:
    signal_at("register", "in memory://", signal.SIGTERM)  # with every line
    result = cli("register", "x", "--port", "1", "--address", "127.0.0.1", "--registry", "memory://")
    assert result.code == 143
    assert re.match(r"\d\d:\d\d:\d\d live +x [0-9a-f]{24} at 127\.0\.0\.1:1 in memory://\n", result.out)


@both_signals
def test_watch_ends_with_the_signals_code(cli: Cli, signal_at: SignalAt, number: signal.Signals, code: int) -> None:
    signal_at("watch", "snapshot", number)
    before = signal.getsignal(number)
    result = cli("watch", "orders", "--registry", STATIC)
    assert (result.code, result.err) == (code, "")
    assert [node["address"] for node in json.loads(result.out)["services"][0]["nodes"]] == [
        "10.0.0.1:80",
        "10.0.0.2:80",
    ]
    assert signal.getsignal(number) is before


def test_register_drains_when_nobody_reads_any_more() -> None:
    with started("register", "x", "--address", "127.0.0.1:1", "--registry", "memory://") as process:
        assert process.stdout is not None and process.stderr is not None
        assert b" live " in process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 0
        assert process.stderr.read().decode() == ALONE
        process.stdout = None


def test_watch_ends_quietly_and_at_once_when_the_pipe_breaks() -> None:
    with started("watch", "--registry", STATIC) as process:
        assert line_of(process)["event"] == "snapshot"
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.wait(30) == 141
        assert process.stderr.read() == b""
        process.stdout = None


def test_a_reader_that_stalls_does_not_keep_watch_from_its_signals() -> None:
    many = ",".join(f"10.0.0.1:{port}" for port in range(10000, 13000))
    with started("watch", "--registry", f"static://x={many}") as process:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 30)[0]  # the rest of the line does not fit into the pipe
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143


def test_watch_on_a_terminal_is_a_live_table() -> None:
    import pty

    leader, follower = pty.openpty()
    with started("watch", "--registry", STATIC, stdout=follower) as process:
        os.close(follower)
        seen = b""
        deadline = time.monotonic() + 30
        while b"there already" not in seen:
            ready, _, _ = select.select([leader], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, seen
            seen += os.read(leader, 65536)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    os.close(leader)
    text = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", seen).decode()
    assert "live" in text and "last event" in text and "passing" in text
    assert "{" not in text


def test_watch_gives_up_after_its_timeout(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(self: MemoryRegistry, name: str | None) -> object:
        raise RegistryUnavailable("nobody there")

    monkeypatch.setattr(MemoryRegistry, "_changes", down)
    result = cli("watch", "--registry", "memory://", "--timeout", "1s")
    assert (result.code, result.out) == (3, "")
    assert "nobody there" in result.err


def test_register_gives_up_after_its_timeout(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    async def down(self: MemoryRegistry, service: Service, *, ttl: float = 15.0) -> None:
        raise PermissionDenied("not you")

    monkeypatch.setattr(MemoryRegistry, "register", down)
    result = cli("register", "x", "--address", "h:1", "--registry", "memory://", "--timeout", "1s")
    assert result.code == 3
    assert "not you" in result.err


def test_register_is_seen_by_list_get_and_watch_over_mdns(cli: Cli) -> None:
    name, mdns = f"cli-{os.urandom(4).hex()}", ["--registry", "mdns://127.0.0.1"]
    arguments = ["--port", "4321", "--address", "127.0.0.1", "--metadata", "zone=a", "--meta", "team=blue"]
    arguments += ["--version", "1", "--id", "me"]
    with started("watch", name, *mdns) as watching, started("register", name, *arguments, *mdns) as registering:
        events = [line_of(watching)]
        while not events[-1].get("node") and not events[-1].get("services"):
            events.append(line_of(watching))
        node = {"id": "me", "address": "127.0.0.1:4321", "metadata": {"team": "blue", "zone": "a"}}
        assert json.dumps(node) in json.dumps(events[-1])
        assert f"{name}\t1\t1\n" in cli("list", *mdns).out
        assert cli("get", name, *mdns).out == "1\tme\t127.0.0.1:4321\tpassing\tteam=blue zone=a\t-\n"
        registering.send_signal(signal.SIGTERM)
        while events[-1]["event"] != "delete":
            events.append(line_of(watching))
        assert events[-1]["reason"] == "deregistered"
        assert registering.wait(30) == 0
    missing = cli("get", name, *mdns)
    assert missing.code == 1 and "nobody answered" in missing.err


@pytest.mark.parametrize(
    ("redirection", "code", "message"),
    [
        (">&-", 0, ""),
        (">/dev/full", 74, "microreg: the output cannot be written: No space left on device"),
        ("2>&-", 0, ""),
    ],
)
def test_output_that_is_closed_or_full_is_no_bug(redirection: str, code: int, message: str) -> None:
    command = f'"$0" -m microreg list --registry static://orders=10.0.0.1:80 {redirection}'
    result = subprocess.run(["sh", "-c", command, sys.executable], capture_output=True, text=True, timeout=30)
    assert (result.returncode, result.stderr.strip()) == (code, message)


def test_json_cannot_steer_a_terminal() -> None:
    steering = "\x9b31m\x7f\u202e\u2066\u200b\u00ad\ufeff\U000e0041"
    foreign = Service("x", nodes=[Node("10.0.0.1:80", id="a", metadata={"k": steering, "name": "é 名 🙂"})])
    text = services_json([foreign])
    assert text.isprintable() and "\\u202e" in text and "é 名 🙂" in text
    assert json.loads(text)[0]["nodes"][0]["metadata"] == {"k": steering, "name": "é 名 🙂"}
    assert safe(steering).isprintable()
    assert json_text({"k": steering}).splitlines() == ["{", f'  "k": {json.dumps(steering)}', "}"]


def test_errors_in_json_cannot_steer_a_terminal(cli: Cli, fill: Fill) -> None:
    said = "they said \u202e\x9b31m\udcff\n"
    fill(error=RegistryUnavailable(said))
    result = cli("list", "--json")
    assert result.err.strip().isprintable() and result.err.count("\n") == 1
    assert json.loads(result.err)["message"] == said

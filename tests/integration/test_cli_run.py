"""``microreg run``: the child's program, its announcement, and who goes first; with real processes and signals."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from microreg.announce import writer
from microreg.backends.memory import MemoryRegistry
from microreg.cli import main
from microreg.cli import supervise as supervising
from microreg.errors import RegistryUnavailable
from microreg.model import Service
from microreg.testing.ports import reserve_port
from support import ROOT, clean_env, wait_until

pytest.importorskip("typer")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="microreg run needs Unix signals")

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, or needs prctl")

MICROREG = (sys.executable, "-m", "microreg")
LOOPBACK = ["--address", "127.0.0.1", "--id", "me"]
MDNS = "mdns://127.0.0.1"

# Waits for signals without a gap, notes each with its time, and leaves with 5 when it is to stop.
CHILD = """
import os, signal, socket, sys, time
log, *words = sys.argv[1:]
stop, others = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}, {signal.SIGHUP, signal.SIGUSR1}
signal.pthread_sigmask(signal.SIG_BLOCK, stop | others)
def note(word):
    with open(log, "a") as file:
        file.write(f"{word} {time.monotonic()}\\n")
port = next((int(word) for word in words if word.isdigit()), int(os.environ["PORT"]))
server = None if "mute" in words else socket.create_server(("127.0.0.1", port))
note("up")
print("child", os.getpid(), flush=True)
if "read" in words:
    print("read", input(), flush=True)
if "crash" in words:
    while server.accept()[0].recv(1):
        pass
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)
while True:
    number = signal.sigwait(stop | others)
    note(number.name)
    if number in stop and "deaf" not in words:
        print("leaving", flush=True)
        sys.exit(5)
"""

Act = Callable[[], object]


def kill(number: signal.Signals, times: int = 1) -> Act:
    """Signals this process, in which the command runs."""

    def act() -> None:
        for _ in range(times):
            os.kill(os.getpid(), number)

    return act


class Stage:
    """Runs commands in this process, on a memory store whose writes are noted, and acts when a line is told."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self.script = folder / "child.py"
        self.script.write_text(CHILD)
        self.port = reserve_port(self)
        self.lines: list[str] = []
        self.writes: list[tuple[str, float]] = []
        self.on: dict[str, Act] = {}

    def say(self, text: str) -> None:
        self.lines.append(text)
        for start in [start for start in self.on if text.startswith(start)]:
            self.on.pop(start)()

    def wrote(self, word: str) -> None:
        self.writes.append((word, time.monotonic()))

    @property
    def written(self) -> list[str]:
        return [word for word, _ in self.writes]

    @property
    def noted(self) -> dict[str, float]:
        """What the child noted, and when."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return {word: float(when) for word, when in (line.split() for line in lines)}

    def kill_when_up(self, number: signal.Signals) -> Act:
        """Signals this process once the child is ready for it."""

        def act() -> None:
            deadline = time.monotonic() + 30
            while "up" not in self.noted:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            os.kill(os.getpid(), number)

        return act

    def kill_leader(self) -> None:
        """Kills the shell that wrote its process id down."""
        os.kill(int(Path(f"{self.log}.shell").read_text()), signal.SIGKILL)

    def child(self, *words: str) -> list[str]:
        return [sys.executable, "-I", "-S", str(self.script), str(self.log), *words]

    def run(self, *words: str, options: tuple[str, ...] = (), registry: str = "memory://") -> int:
        """The exit code of ``run`` with the child and these words for it."""
        return self.command(*self.child(*words), options=options, registry=registry)

    def command(self, *command: str, options: tuple[str, ...] = (), registry: str = "memory://") -> int:
        where = ["--name", "x", "--port", str(self.port), "--registry", registry]
        return main(["run", *where, *LOOPBACK, *options, "--", *command])


@pytest.fixture(name="stage")
def _stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    register, deregister = MemoryRegistry.register, MemoryRegistry.deregister

    async def noted_register(self: MemoryRegistry, service: Service, *, ttl: float = 15.0) -> None:
        await register(self, service, ttl=ttl)
        stage.wrote(str(service.nodes[0].status))

    async def noted_deregister(self: MemoryRegistry, service: Service) -> None:
        await deregister(self, service)
        stage.wrote("gone")

    monkeypatch.setattr(MemoryRegistry, "register", noted_register)
    monkeypatch.setattr(MemoryRegistry, "deregister", noted_deregister)
    monkeypatch.setattr(supervising, "say", stage.say)
    monkeypatch.setattr(supervising, "_HEARD", 0.05)
    monkeypatch.delenv("PORT", raising=False)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield stage
    assert {number: signal.getsignal(number) for number in before} == before


# -- the end: drain first, signal after ----------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_the_node_leaves_before_the_program_hears_of_it(
    stage: Stage, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "_HEARD", 0.3)
    stage.on["live"] = kill(number)
    assert stage.run() == 5
    assert stage.written == ["passing", "draining", "gone"]
    assert stage.noted[number.name] - stage.writes[-1][1] >= 0.3, "watchers had time to hear it"
    assert stage.writes[0][1] >= stage.noted["up"], "announced when the port answered, not before"
    assert [line.partition(":")[0] for line in stage.lines] == ["live", "draining", "gone"]
    assert stage.lines[0] == f"live: x me at 127.0.0.1:{stage.port} in memory://"


def test_a_second_signal_is_passed_on_at_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    deregister = MemoryRegistry.deregister

    async def slow(self: MemoryRegistry, service: Service) -> None:
        kill(signal.SIGINT)()
        await wait_until(lambda: "SIGINT" in stage.noted)
        await deregister(self, service)

    monkeypatch.setattr(MemoryRegistry, "deregister", slow)
    stage.on["live"] = kill(signal.SIGTERM)
    assert stage.run() == 5
    assert "SIGTERM" not in stage.noted, "one signal to stop is enough"
    assert stage.writes[-1][0] == "gone" and stage.writes[-1][1] > stage.noted["SIGINT"]


def test_a_program_that_does_not_listen_is_killed(stage: Stage) -> None:
    stage.on["live"] = kill(signal.SIGTERM)
    assert stage.run("deaf", options=("--kill-after", "2s")) == 128 + signal.SIGKILL
    assert "SIGTERM" in stage.noted and stage.written[-1] == "gone"


def test_other_signals_are_passed_on_and_change_nothing(stage: Stage) -> None:
    stage.on["live"] = lambda: (kill(signal.SIGHUP)(), kill(signal.SIGUSR1)(), kill(signal.SIGTERM)())
    assert stage.run() == 5
    assert list(stage.noted) == ["up", "SIGHUP", "SIGUSR1", "SIGTERM"]


# -- the end: by itself --------------------------------------------------------------------------------


def test_a_crash_is_deregistered_at_once(stage: Stage) -> None:
    began = time.monotonic()
    assert stage.run("crash") == 128 + signal.SIGKILL
    assert stage.written == ["passing", "draining", "gone"]
    assert time.monotonic() - began < 12, "its ttl, of 15 s, would take longer"


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143)])
def test_the_exit_code_is_the_programs(stage: Stage, script: str, code: int) -> None:
    assert stage.command("sh", "-c", script) == code
    assert stage.written == [] and stage.lines == []


def test_when_the_store_hangs_after_a_crash_two_signals_end_the_waiting(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def hangs(self: MemoryRegistry, service: Service) -> None:
        kill(signal.SIGTERM)()
        await asyncio.sleep(0.05)
        kill(signal.SIGTERM)()
        await asyncio.Event().wait()

    monkeypatch.setattr(MemoryRegistry, "deregister", hangs)
    assert stage.run("crash") == 128 + signal.SIGKILL
    assert "did not deregister in time" not in caplog.text, "so long it would have waited"


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("nosuch-zz", 127, "command 'nosuch-zz' was not found: it is not on the PATH"),
        ("./nosuch-zz", 127, "was not found: there is no such file"),
        ("{folder}", 126, "it is a directory"),
        ("{folder}/plain", 126, "it is not executable"),
        ("{folder}/noformat", 126, "it is no program"),
        ("{folder}/nointerpreter", 127, "its interpreter (first line of"),
    ],
)
def test_what_cannot_be_started(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, code: int, said: str
) -> None:
    for name, text, mode in (
        ("plain", "x", 0o644),
        ("noformat", "x", 0o755),
        ("nointerpreter", "#!/nosuch-zz\n", 0o755),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    assert stage.command(command.format(folder=tmp_path)) == code
    warning, error = capsys.readouterr().err.splitlines()
    assert said in error and "memory:// lives in this process" in warning
    assert stage.written == []


# -- the beginning -------------------------------------------------------------------------------------


def test_a_port_that_never_answers_is_a_warning_and_the_program_runs_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supervising, "_LATE", 0.1)
    stage.on["warning: "] = stage.kill_when_up(signal.SIGTERM)
    assert stage.run("mute") == 5
    assert stage.written == []
    assert stage.lines == [
        f"warning: port {stage.port} does not answer after 0.1 s; the program runs on, and is announced as soon as "
        "it does"
    ]
    assert "fails" not in capsys.readouterr().err


def test_with_a_check_the_check_decides(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    other = reserve_port(stage)
    stage.on["live"] = kill(signal.SIGTERM)
    assert stage.run(str(other), options=("--check", f"tcp://127.0.0.1:{other}")) == 5
    assert stage.written[0] == "passing"
    monkeypatch.setattr(supervising, "_LATE", 0.1)
    monkeypatch.setattr("microreg.cli.errors.write_error", stage.say)
    stage.on["microreg: warning: the check"] = stage.kill_when_up(signal.SIGTERM)
    assert stage.run(options=("--check", f"tcp://127.0.0.1:{other}")) == 5
    assert len(stage.written) == 3, "its port answers, but its check does not"
    assert stage.lines[-2].startswith("warning: the check tcp://127.0.0.1:"), "that it is late comes first"
    assert "fails: " in stage.lines[-1]


def test_an_announced_address_that_does_not_answer_is_a_warning(stage: Stage) -> None:
    stage.on["live"] = kill(signal.SIGTERM)
    assert stage.run(options=("--address", "127.0.0.2")) == 5
    assert stage.lines[0] == (
        f"warning: port {stage.port} answers on loopback, but not at 127.0.0.2:{stage.port}, as announced"
    )


def test_while_the_registry_is_away_the_program_runs_on(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    register, failures = MemoryRegistry.register, 2

    async def flaky(self: MemoryRegistry, service: Service, *, ttl: float = 15.0) -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise RegistryUnavailable("nobody there")
        await register(self, service, ttl=ttl)

    monkeypatch.setattr(MemoryRegistry, "register", flaky)
    monkeypatch.setattr(writer, "_BACKOFF_BASE", 0.01)
    stage.on["live"] = kill(signal.SIGTERM)
    assert stage.run() == 5
    assert stage.lines[0].startswith("registering: x me at ") and stage.lines[0].endswith("nobody there")
    assert stage.written == ["passing", "draining", "gone"]


def test_a_registry_that_can_never_take_it_ends_the_program(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert stage.run(registry="static://a=h:1") == 2
    assert "SIGTERM" in stage.noted
    assert "nothing can be registered" in capsys.readouterr().err


def test_the_port_is_told_unless_the_environment_says_otherwise(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert stage.command("sh", "-c", "echo $PORT") == 0
    monkeypatch.setenv("PORT", "99")
    assert stage.command("sh", "-c", "echo $PORT") == 0
    assert capfd.readouterr().out == f"{stage.port}\n99\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--name", "bad name", "--port", "1"], "service name 'bad name'"),
        (["--name", "x", "--port", "0"], "--port"),
        (["--name", "x"], "--port"),
        (["--port", "1"], "--name"),
        (["--name", "x", "--port", "1", "--meta", "k"], "expected KEY=VALUE"),
        (["--name", "x", "--port", "1", "--kill-after", "soon"], "--kill-after: expected a duration"),
        (["--name", "x", "--port", "1", "--check", "ftp://h"], "expected http://"),
        (["--name", "x", "--port", "1", "--registry", "memory://?bogus=1"], "no option bogus"),
    ],
)
def test_wrong_usage_is_2_and_nothing_is_started(
    stage: Stage, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    address = ["--address", "127.0.0.1", "--registry", "memory://"]
    assert main(["run", *address, *options, "--", *stage.child("--json")]) == 2
    error = capsys.readouterr().err
    assert said in error and not error.startswith("{"), "the program's --json is not ours"
    assert stage.noted == {}


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--name", "x", "--port", "1"]) == 2
    assert "COMMAND" in capsys.readouterr().err


def test_options_of_the_program_need_no_dashes_before_it(stage: Stage, capfd: pytest.CaptureFixture[str]) -> None:
    code = main(["run", "--name", "x", "--port", "1", "--address", "127.0.0.1", "--registry", "memory://", *ECHO])
    assert (code, capfd.readouterr().out) == (0, "--port --name\n")


ECHO = ("echo", "--port", "--name")

# -- processes -----------------------------------------------------------------------------------------


@contextmanager
def started(command: list[str], stdout: int) -> Generator[subprocess.Popen[bytes], None, None]:
    process = subprocess.Popen(command, bufsize=0, stdout=stdout, stderr=subprocess.PIPE, env=clean_env())
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(descriptor: int, pattern: str, seen: str = "", timeout: float = 30.0) -> str:
    """What comes from a descriptor, up to and with this pattern; to the end where the pattern is empty."""
    deadline = time.monotonic() + timeout
    while not pattern or not re.search(pattern, seen):
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"no {pattern!r} in time: {seen}"
        try:
            data = os.read(descriptor, 65536)
        except OSError:  # Linux: the other end of a terminal was closed
            data = b""
        if not data:
            assert not pattern, seen
            break
        seen += data.decode()
    return seen


@linux
def test_no_orphan_is_left_when_it_is_killed(stage: Stage) -> None:
    command = [*MICROREG, "run", "--name", "x", "--port", str(stage.port), "--registry", "memory://", *LOOPBACK]
    with started([*command, "--", *stage.child("deaf")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        read_until(process.stdout.fileno(), r"child \d+\n")
        process.kill()
        assert read_until(process.stdout.fileno(), "") == "", "the pipe ends when the child has ended"


# -- what the program started --------------------------------------------------------------------------


def test_a_script_that_runs_the_server_without_exec_ends_with_it(stage: Stage) -> None:
    stage.on["live"] = kill(signal.SIGTERM)
    server = shlex.join(stage.child())
    assert stage.command("sh", "-c", f"trap 'echo over >> {stage.log}.trap; exit 9' TERM; {server}; echo not here") == 9
    assert "SIGTERM" in stage.noted
    assert Path(f"{stage.log}.trap").read_text() == "over\n", "the shell's trap runs when the server has ended"
    assert stage.written == ["passing", "draining", "gone"]


def test_what_a_program_leaves_running_ends_when_it_has(stage: Stage) -> None:
    stage.on["live"] = stage.kill_leader
    assert stage.command("sh", "-c", f"echo $$ > {stage.log}.shell; {shlex.join(stage.child())}; exit 1") == 137
    assert stage.written == ["passing", "draining", "gone"]
    assert stage.noted["SIGTERM"] >= stage.writes[-1][1], "deregistered first"
    assert not answers(stage.port)


def test_what_a_program_leaves_running_and_does_not_listen_is_killed(stage: Stage) -> None:
    stage.on["live"] = stage.kill_leader
    command = f"echo $$ > {stage.log}.shell; {shlex.join(stage.child('deaf'))}; exit 1"
    assert stage.command("sh", "-c", command, options=("--kill-after", "2s")) == 137
    assert "SIGTERM" in stage.noted
    deadline = time.monotonic() + 30
    while answers(stage.port):  # it has its SIGKILL, which takes effect when the kernel comes to it
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stopped_program_is_continued_so_that_it_can_end(stage: Stage) -> None:
    def stopped() -> None:
        os.kill(int(Path(f"{stage.log}.shell").read_text()), signal.SIGSTOP)
        kill(signal.SIGTERM)()

    stage.on["live"] = stopped
    assert stage.command("sh", "-c", f"echo $$ > {stage.log}.shell; exec {shlex.join(stage.child())}") == 5


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


# Makes the terminal argv[1] the controlling terminal of a new session, and becomes the rest of argv.
IN_TERMINAL = (
    "import os, sys; os.setsid(); t = os.open(sys.argv[1], os.O_RDWR); [os.dup2(t, n) for n in range(3)]; "
    "os.execv(sys.argv[2], sys.argv[2:])"
)


@linux
def test_on_a_terminal_the_program_reads_and_ctrl_c_drains_first(stage: Stage) -> None:
    import pty

    leader, follower = pty.openpty()
    run = [*MICROREG, "run", "--name", "x", "--port", str(stage.port), "--registry", "memory://", *LOOPBACK]
    command = [sys.executable, "-c", IN_TERMINAL, os.ttyname(follower), *run, "--", *stage.child("read")]
    process = subprocess.Popen(command, env=clean_env())
    try:
        seen = read_until(leader, r"child \d+\r\n")
        child = int(re.findall(r"child (\d+)", seen)[0])
        os.write(leader, b"hello\n")
        seen = read_until(leader, r"(?s)(?=.*read hello)(?=.*microreg: live: )", seen)
        assert stop_and_go(process.pid, child)
        os.write(leader, b"\x03")
        seen = read_until(leader, "leaving", seen)
        assert seen.index("microreg: gone") < seen.index("leaving")
        assert process.wait(30) == 5 and "SIGINT" in stage.noted
    finally:
        process.kill()
        process.wait()
        os.close(leader)
        os.close(follower)


def stop_and_go(*processes: int) -> bool:
    """Ctrl-Z and ``fg``: all of them stop, and all of them go on."""
    for number, stopped in ((signal.SIGTSTP, True), (signal.SIGCONT, False)):
        os.kill(processes[0], number)
        deadline = time.monotonic() + 30
        while [state(process) == "T" for process in processes] != [stopped] * len(processes):
            assert time.monotonic() < deadline, list(map(state, processes))
            time.sleep(0.01)
    return True


def state(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_crash_is_told_over_mdns(stage: Stage) -> None:
    name = f"run-{os.urandom(4).hex()}"
    watch = [*MICROREG, "watch", name, "--registry", MDNS]
    run = [*MICROREG, "run", "--name", name, "--port", str(stage.port), "--registry", MDNS, *LOOPBACK]
    with started(watch, stdout=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        seen = read_until(watching.stdout.fileno(), "snapshot.*\n")
        with started([*run, "--", *stage.child("crash")], stdout=subprocess.DEVNULL) as running:
            seen = read_until(watching.stdout.fileno(), '"delete".*\n', seen)
            assert running.wait(30) == 128 + signal.SIGKILL
    last = json.loads(seen.splitlines()[-1])
    assert (last["node"]["id"], last["reason"]) == ("me", "deregistered")


# -- the guide -----------------------------------------------------------------------------------------


def test_the_commands_of_the_guide_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], new_port: Callable[[], int]
) -> None:
    page = (ROOT / "docs" / "howto" / "run-any-program.md").read_text(encoding="utf-8")
    run, get = re.findall(r"```sh\nmicroreg ([^`]+)```", page)[:2]
    assert run.count("8000") == 2
    port = str(new_port())
    program = [*MICROREG, *shlex.split(run.replace("8000", port))]
    env = clean_env(MICROREG_REGISTRY=MDNS, MICROREG_ADVERTISE="127.0.0.1")
    monkeypatch.setenv("MICROREG_REGISTRY", MDNS)
    with subprocess.Popen(program, stderr=subprocess.PIPE, bufsize=0, env=env, cwd=tmp_path) as process:
        try:
            assert process.stderr is not None
            seen = read_until(process.stderr.fileno(), "microreg: live: .*\n")
            assert main(shlex.split(get)) == 0
            assert f"127.0.0.1:{port}\tpassing" in capsys.readouterr().out
            process.send_signal(signal.SIGTERM)
            assert "microreg: gone: " in read_until(process.stderr.fileno(), "", seen)
            assert process.wait(30) == 128 + signal.SIGTERM
        finally:
            process.kill()


def test_the_guide_names_only_options_that_there_are() -> None:
    guide = (ROOT / "docs" / "howto" / "run-any-program.md").read_text(encoding="utf-8")
    reference = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    section = reference.partition("## microreg run")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(--[a-z-]+)", guide)) - {"--init"}
    assert {"--check", "--ttl", "--kill-after", "--address"} <= named
    assert [option for option in sorted(named) if f"`{option} " not in section] == []

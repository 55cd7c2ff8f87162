"""Real processes and loops: forks, pools, a preforking server, several loops, and programs that end without closing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from microreg import Change, Node, Selector, Service, ServiceNotFound, Snapshot, Watch, WrongLoop, announce, connect
from support import ROOT, clean_env, run, wait_until

MDNS = "mdns://127.0.0.1?settle=1s"  # other processes answer late on a busy machine
URLS = ["memory://shared", MDNS]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def unique() -> str:
    return f"proc-{os.urandom(5).hex()}"


@contextmanager
def program(code: str | Path, *args: str, folder: Path | None = None, **env: str) -> Generator[subprocess.Popen[str]]:
    """A process with warnings as everybody has them; at the end it is killed, with everything that it forked."""
    command = [str(code)] if isinstance(code, Path) else ["-c", code]
    running = subprocess.Popen(
        [sys.executable, *command, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_env(PYTHONUNBUFFERED="1", MICROREG_REGISTRY=MDNS, MICROREG_ADVERTISE="127.0.0.1", **env),
        cwd=folder,
        start_new_session=True,
    )
    try:
        yield running
    finally:
        try:
            os.killpg(running.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        running.communicate()


def finish(code: str | Path, *args: str, status: int = 0) -> tuple[list[str], str]:
    """Run a program to its end: what it printed, line by line, and what it said on stderr."""
    with program(code, *args) as running:
        output, errors = running.communicate(timeout=100)
        assert running.returncode == status, f"exit code {running.returncode}\n{output}\n{errors}"
    return output.splitlines(), errors


def first_line(running: subprocess.Popen[str]) -> str:
    assert running.stdout is not None
    return running.stdout.readline().strip()


def guide(heading: str, name: str) -> str:
    """The program under a heading of the guide, with another name than everybody's ``greeter``."""
    text = (ROOT / "docs" / "howto" / "processes.md").read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    return text.partition("```python\n")[2].partition("```")[0].replace("greeter", name).replace('"echo"', f'"{name}"')


@asynccontextmanager
async def observed(name: str) -> AsyncGenerator[tuple[list[str], Watch]]:
    """What a neighbour on the network hears of a name, as ``create a``, ``update a`` and ``delete a deregistered``."""
    told: list[str] = []

    async def follow(events: Watch) -> None:
        async for event in events:
            assert isinstance(event, Change)
            told.append(f"{event.action} {event.node.id} {event.reason or ''}".strip())

    async with connect(MDNS) as registry, registry.watch(name) as events:
        assert await anext(events) == Snapshot()
        task = asyncio.create_task(follow(events))
        try:
            yield told, events
        finally:
            task.cancel()
            await asyncio.wait([task])


# -- fork in a running loop ----------------------------------------------------------------------

IN_LOOP = """
import asyncio, os, sys
from microreg import Node, RegistryError, Selector, Service, ServiceNotFound, announce, connect

url, name, end = sys.argv[1:]

async def outcome(call):
    try:
        async with asyncio.timeout(20):
            return repr(await call)
    except Exception as error:
        return type(error).__name__ if "before fork()" in str(error) or "is gone" in str(error) else repr(error)

async def child(registry, cached, selector, watch, announcement):
    nodes = Service(name, nodes=[Node("127.0.0.1:2", id="parent")])
    async def watching():
        registry.watch(name)
    async def picking():
        selector.pick(name)
    for call in (registry.register(nodes), registry.deregister(nodes), registry.get_service(name), watching(),
                 registry.list_services(), registry.open(), cached.get_service(name), anext(watch), picking(),
                 selector.select(name), announcement.update(version="9"), announcement.wait_live(),
                 announcement.__aexit__(None, None, None), announcement.drain(), watch.close(), selector.close(),
                 cached.close(), registry.close(), registry.close()):
        print("child", await outcome(call))
    async with connect(url) as own:
        async with announce(own, name, address="127.0.0.1:3", id="child", ttl=1, drain_delay=0):
            found = [node.id for service in await own.get_service(name) for node in service.nodes]
            print("own", *sorted(found))

async def ended(pid):
    for _ in range(6000):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        await asyncio.sleep(0.01)
    os.kill(pid, 9)
    return "hung"

async def main():
    async with connect(url) as registry, connect("cache+" + url) as cached, \\
            announce(registry, name, address="127.0.0.1:1", id="parent", ttl=3, drain_delay=0) as announcement, \\
            Selector(registry) as selector, registry.watch(name) as watch:
        await announcement.wait_live(30)
        await selector.select(name)
        await anext(watch)
        try:
            await cached.get_service(name)
        except ServiceNotFound:
            pass
        pid = os.fork()
        if not pid:
            if end in ("run", "run-exit"):
                asyncio.run(child(registry, cached, selector, watch, announcement))
            if end in ("exit", "run-exit"):
                sys.exit(7)
            if end == "kill":
                os.kill(os.getpid(), 9)
            if end == "return":
                return
            os._exit(7)
        print("status", await ended(pid))
        await asyncio.sleep(4)  # more than a ttl
        print("parent", announcement.state)
        async with connect(url) as other, asyncio.timeout(30):
            await other.register(Service(name, nodes=[Node("127.0.0.1:4", id="other")]))
            while (event := await anext(watch)).node.id != "other":
                pass
        print("heard")

asyncio.run(main())
"""

STATUS = {"run": 7, "run-exit": 7, "exit": 7, "return": 0, "kill": -9, "_exit": 7}


@pytest.mark.parametrize("end", STATUS)
def test_a_child_of_a_running_loop_can_end_as_it_likes(end: str) -> None:
    name = unique()

    async def main() -> None:
        async with observed(name) as (told, _):
            lines, errors = await asyncio.to_thread(finish, IN_LOOP, MDNS, name, end)
            assert [line for line in lines if not line.startswith(("child", "own"))] == [
                f"status {STATUS[end]}",
                "parent live",
                "heard",
            ]
            assert errors == ""
            await wait_until(lambda: "delete parent deregistered" in told, what=lambda: str(told))
            counts = Counter(line for line in told if "parent" in line and "update" not in line)
            assert counts == {"create parent": 1, "delete parent deregistered": 1}, told

    run(main())


@pytest.mark.parametrize("url", URLS)
def test_what_belongs_to_the_parent_is_refused_in_the_child_and_its_closing_does_nothing(url: str) -> None:
    lines, errors = finish(IN_LOOP, url, unique(), "run")
    child = [line.removeprefix("child ") for line in lines if line.startswith("child")]
    assert child == ["RegistryClosed"] * 11 + ["RegistryUnavailable"] + ["None"] * 7
    assert "own child" in lines[19]
    assert errors == ""


HELD = """
import asyncio, os
from microreg import connect

def sockets():
    with open("/proc/net/udp") as table:
        inodes = {line.split()[9] for line in table if not line.startswith("  sl")}
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            pass
    return len(inodes & {link[8:-1] for link in found if link.startswith("socket:")})

async def main():
    async with connect("mdns://127.0.0.1"), connect("mdns://127.0.0.1"):
        pid = os.fork()
        if not pid:
            print(sockets())
            os._exit(0)
        os.waitpid(pid, 0)
        print(sockets())

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_child_keeps_no_socket_of_its_parents_registry() -> None:
    assert finish(HELD)[0] == ["0", "4"]


BEFORE = """
import asyncio, os, sys
from microreg import RegistryClosed, announce, connect

registry = connect("memory://")
announcement = announce(registry, "greeter", address="127.0.0.1:1")

async def main():
    async with registry:
        try:
            async with announcement:
                print("entered")
        except RegistryClosed as error:
            print(error)
        async with announce(registry, "greeter", address="127.0.0.1:1", drain_delay=0) as own:
            print(own.state)

pid = os.fork()
if not pid:
    asyncio.run(main())
    sys.exit(5)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
announcement._entered = True  # the parent only made it
"""


def test_what_was_not_open_is_opened_in_the_child_but_an_announcement_is_made_there() -> None:
    lines, errors = finish(BEFORE)
    assert lines[0].startswith("the announcement of 'greeter' was opened before fork()")
    assert lines[1:] == ["live", "5"]
    assert errors == ""


# -- fork beside the thread of the blocking side -------------------------------------------------

BLOCKING = """
import atexit, os, signal, sys, time, warnings
import microreg.sync
warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads, since Python 3.12

name, end = sys.argv[1:]
registry = microreg.sync.connect("mdns://127.0.0.1?settle=1s")
with registry, microreg.sync.announce(
    registry, name, address="127.0.0.1:1", id="parent", ttl=3, drain_delay=0
) as announcement:
    announcement.wait_live(30)
    pid = os.fork()
    if not pid:
        if end == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        if end == "atexit":
            atexit.register(registry.close)
        if end != "_exit":
            sys.exit(7)
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    time.sleep(4)  # more than a ttl
    print(announcement.state)
"""


@pytest.mark.parametrize(("end", "status"), [("_exit", 7), ("exit", 7), ("atexit", 7), ("signal", -signal.SIGTERM)])
def test_a_child_of_a_blocking_program_can_end_as_it_likes(end: str, status: int) -> None:
    name = unique()

    async def main() -> None:
        async with observed(name) as (told, _):
            lines, errors = await asyncio.to_thread(finish, BLOCKING, name, end)
            assert lines == [str(status), "live"]
            assert errors == ""
            await wait_until(lambda: "delete parent deregistered" in told, what=lambda: str(told))
            assert [line for line in told if "update" not in line] == ["create parent", "delete parent deregistered"]

    run(main())


# -- multiprocessing -----------------------------------------------------------------------------

POOL = """
import multiprocessing, sys, warnings
from concurrent.futures import ProcessPoolExecutor
import microreg, microreg.sync
warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads, since Python 3.12

registry = microreg.sync.connect("mdns://127.0.0.1?settle=1s")  # made at import, opened by the parent only

def work(name):
    try:
        inherited = str(registry.list_services())
    except microreg.RegistryClosed as error:
        inherited = next((sign for sign in ("before fork()", "not open") if sign in str(error)), str(error))
    with microreg.sync.connect("mdns://127.0.0.1?settle=1s") as own:
        with microreg.sync.announce(own, name, address="127.0.0.1:2", ttl=1, drain_delay=0):
            found = [node.id for service in own.get_service(name) for node in service.nodes]
    return inherited, "parent" in found

def process(name, results):
    results.put(work(name))

if __name__ == "__main__":
    kind, how, name = sys.argv[1:]
    context = multiprocessing.get_context(how)
    with registry, microreg.sync.announce(registry, name, address="127.0.0.1:1", id="parent", drain_delay=0):
        if kind == "process":
            results = context.Queue()
            child = context.Process(target=process, args=(name, results))
            child.start()
            print(*results.get(timeout=60))
            child.join(60)
            print(child.exitcode)
        else:
            with ProcessPoolExecutor(2, mp_context=context) as pool:
                print(*next(pool.map(work, [name])))
            print(0)
        found = [node.id for service in registry.get_service(name) for node in service.nodes]
        print("parent" in found)
"""


@pytest.mark.parametrize("kind", ["process", "pool"])
@pytest.mark.parametrize("how", ["fork", "spawn", "forkserver"])
def test_multiprocessing(tmp_path: Path, kind: str, how: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(POOL, encoding="utf-8")
    lines, errors = finish(script, kind, how, unique())
    inherited = "before fork()" if how == "fork" else "not open"
    assert lines == [f"{inherited} True", "0", "True"]
    assert errors == ""


# -- gunicorn ------------------------------------------------------------------------------------

APP = """
import os
import microreg, microreg.sync

shared = microreg.sync.connect("mdns://127.0.0.1?settle=1s")
shared.open()
announcement = microreg.sync.announce(shared, os.environ["NAME"], address="127.0.0.1:1", id="master", ttl=4)
announcement.__enter__()
master = os.getpid()

def app(environ, start_response):
    try:
        text = repr(shared.list_services())
    except microreg.RegistryClosed as error:
        text = f"{os.getpid()} {os.getpid() != master} {error}"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text.encode()]
"""

ON_EXIT = """

def on_exit(server):
    import app
    app.announcement.drain()
    app.shared.close()
"""


async def get(port: int) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer.decode().partition("\r\n\r\n")[2]


def test_a_preloaded_registry_is_the_masters_and_each_worker_announces_itself(
    tmp_path: Path, new_port: Callable[[], int]
) -> None:
    name, port = unique(), new_port()
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    (tmp_path / "gunicorn.conf.py").write_text(guide("gunicorn", name) + ON_EXIT, encoding="utf-8")
    options = ["--preload", "--workers", "4", "--bind", f"127.0.0.1:{port}", "--no-control-socket", "app:app"]

    async def main() -> None:
        async with observed(name) as (told, _):
            with program("from gunicorn.app.wsgiapp import run; run()", *options, NAME=name, folder=tmp_path) as server:
                await wait_until(lambda: len(told) >= 5, 60, what=lambda: str(told))
                answers = [await get(port) for _ in range(12)]
                assert all("True" in answer and "before fork()" in answer for answer in answers), answers
                await asyncio.sleep(6)  # more than a ttl: everybody is renewed, by nobody else
                assert len(told) == 5 and "create master" in told, told
                server.terminate()
                _, errors = await asyncio.to_thread(server.communicate, None, 60)
                assert server.returncode == 0
                assert "Traceback" not in errors and "never closed" not in errors, errors
                gone = Counter(line.split()[0] for line in told)
                assert gone["delete"] == 5 and all("deregistered" in line for line in told if "delete" in line), told

    run(main())


# -- several loops, several registries -----------------------------------------------------------


def test_every_thread_can_have_a_loop_with_a_registry_of_its_own() -> None:
    name, barrier = unique(), threading.Barrier(4, timeout=60)
    found: list[set[str]] = []
    refused: list[str] = []
    registries = [connect(MDNS) for _ in range(4)]

    async def main(number: int) -> None:
        own, other = registries[number], registries[number - 1]
        async with own, announce(own, name, address=f"127.0.0.1:{number + 1}", id=f"n{number}", drain_delay=0):
            async with own.watch(name) as events, Selector(own) as selector:
                await selector.select(name)
                seen = set[str]()
                async with asyncio.timeout(60):
                    while len(seen) < 4:
                        event = await anext(events)
                        nodes = event.services if isinstance(event, Snapshot) else [event.service]
                        seen |= {node.id for service in nodes for node in service.nodes}
                found.append(seen)
                await asyncio.get_running_loop().run_in_executor(None, barrier.wait)
                with pytest.raises(WrongLoop, match="another event loop"):
                    await other.get_service(name)
                with pytest.raises(WrongLoop, match="another event loop"):
                    await other.close()
                refused.append(name)
                await asyncio.get_running_loop().run_in_executor(None, barrier.wait)

    threads = [threading.Thread(target=run, args=(main(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(130)
    assert found == [{"n0", "n1", "n2", "n3"}] * 4
    assert len(refused) == 4


@pytest.mark.parametrize("url", ["memory://shared", MDNS])
def test_one_loop_after_another_starts_anew(url: str) -> None:
    name = unique()

    async def main() -> list[str]:
        async with connect(url) as registry:
            async with announce(registry, name, address="127.0.0.1:1", id="same", drain_delay=0) as announcement:
                await announcement.wait_live(30)
                nodes = [node.id for service in await registry.get_service(name) for node in service.nodes]
            with pytest.raises(ServiceNotFound):
                await registry.get_service(name)
        return nodes

    assert [run(main()) for _ in range(3)] == [["same"]] * 3


def test_registries_of_one_process_share_nothing_but_their_store() -> None:
    name = unique()

    async def main() -> None:
        static, memory = f"static://{name}=10.0.0.1:80", "memory://"
        async with connect(MDNS) as one, connect(MDNS) as two, connect(memory) as three, connect(memory) as four:
            record = Service(name, nodes=[Node("127.0.0.1:1", id="a")])
            for registry in (one, three):
                await registry.register(record)
            assert (await two.get_service(name))[0].nodes == record.nodes
            with pytest.raises(ServiceNotFound):
                await four.get_service(name)
            async with connect(static) as fixed:
                assert (await fixed.get_service(name))[0].nodes[0].address == "10.0.0.1:80"
            # The same id in two stores is no conflict; the end of one registry is none of another's.
            async with announce(three, name, address="127.0.0.1:2", id="b", drain_delay=0):
                async with announce(four, name, address="127.0.0.1:2", id="b", drain_delay=0):
                    await one.close()
                    with pytest.raises(ServiceNotFound):
                        await two.get_service(name)
                    assert [node.id for node in (await three.get_service(name))[0].nodes] == ["a", "b"]
                    assert [node.id for node in (await four.get_service(name))[0].nodes] == ["b"]

    run(main())


# -- the guide -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "printed"),
    [
        (
            "Fork",
            f"the child is told: {MDNS} was opened before fork(), and belongs to the parent process: "
            "connect() again in the child\nthe child finds 127.0.0.1:8080",
        ),
        ("multiprocessing and ProcessPoolExecutor", "the worker calls http://127.0.0.1:8080"),
        ("Several event loops", "both loops have ended"),
    ],
)
def test_the_programs_of_the_guide_do_what_it_says(tmp_path: Path, heading: str, printed: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(guide(heading, unique()), encoding="utf-8")
    lines, errors = finish(script)
    assert "\n".join(lines) == printed
    assert errors == "" or "DeprecationWarning" in errors


# -- the end of the interpreter ------------------------------------------------------------------

UNCLOSED = """
import asyncio, sys, threading
from microreg import Selector, announce, connect

url, end = sys.argv[1:]
kept = []

async def enter():
    registry = connect(url)
    await registry.open()
    announcement = await announce(registry, "greeter", address="127.0.0.1:1", drain_delay=0).__aenter__()
    selector = await Selector(registry).__aenter__()
    await selector.select("greeter")
    watch = await registry.watch("greeter").__aenter__()
    await anext(watch)
    if end != "dropped":
        kept.extend([registry, announcement, selector, watch])

async def inside():
    async with connect(url) as registry, Selector(registry) as selector, registry.watch("greeter") as watch:
        async with announce(registry, "greeter", address="127.0.0.1:1", drain_delay=0):
            await selector.select("greeter")
            await anext(watch)
            if end == "cancelled":
                ready.set()
            if end.startswith("daemon"):
                up.set()
            if end == "inside exit":
                sys.exit(3)
            if end == "inside error":
                raise ZeroDivisionError
            if end == "inside stop":
                loop.call_soon(loop.stop)
            if end == "inside interrupt":
                print("ready", flush=True)
            await asyncio.Event().wait()

async def main():
    await enter()
    if end == "exit":
        sys.exit(3)
    if end == "error":
        raise ZeroDivisionError
    if end == "daemon":
        up.set()
    if end == "interrupt":
        print("ready", flush=True)
    if end in ("daemon", "interrupt"):
        await asyncio.Event().wait()

async def cancelled():
    global ready
    ready = asyncio.Event()
    kept.append(asyncio.create_task(inside()))
    await ready.wait()

if end.startswith("daemon"):
    up = threading.Event()
    body = main if end == "daemon" else inside
    threading.Thread(target=lambda: asyncio.run(body()), daemon=True).start()
    up.wait(60)
elif end in ("stop", "stop and close"):
    loop = asyncio.new_event_loop()
    kept.append(loop.create_task(enter()))
    kept[0].add_done_callback(lambda task: loop.stop())
    loop.run_forever()
    if end == "stop and close":
        loop.close()
elif end == "inside stop":
    loop = asyncio.new_event_loop()
    task = loop.create_task(inside())
    loop.run_forever()
    task._log_destroy_pending = False  # this one is the program's, and asyncio would rightly tell
elif end == "cancelled":
    asyncio.run(cancelled())
else:
    asyncio.run(inside() if end.startswith("inside") else main())
"""
NEVER_CLOSED = "never closed: use `async with microreg.connect(...) as registry:`, or `await registry.close()`"
each_url = pytest.mark.parametrize("url", URLS)


@each_url
@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("dropped", 0),
        ("returned", 0),
        ("exit", 3),
        ("error", 1),
        ("stop", 0),
        ("stop and close", 0),
        ("inside stop", 0),
        ("daemon", 0),
        ("daemon inside", 0),
    ],
)
def test_a_program_that_ends_without_closing_is_told_once(url: str, end: str, status: int) -> None:
    _, errors = finish(UNCLOSED, url, end, status=status)
    told = [line for line in errors.splitlines() if NEVER_CLOSED in line]
    assert len(told) == 1 and f"{url} was" in told[0], errors
    rest = errors.replace(told[0], "")
    assert rest.startswith("Traceback") and "microreg" not in rest if end == "error" else rest.strip() == "", errors


@each_url
@pytest.mark.parametrize(("end", "status"), [("cancelled", 0), ("inside exit", 3), ("inside error", 1)])
def test_a_program_that_leaves_in_order_however_suddenly_is_told_nothing(url: str, end: str, status: int) -> None:
    _, errors = finish(UNCLOSED, url, end, status=status)
    assert "microreg" not in errors and "never closed" not in errors
    assert errors == "" or (end == "inside error" and errors.endswith("ZeroDivisionError\n"))


@each_url
@pytest.mark.parametrize("end", ["interrupt", "inside interrupt"])
def test_ctrl_c(url: str, end: str) -> None:
    with program(UNCLOSED, url, end) as running:
        assert first_line(running) == "ready"
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=10)
        assert running.returncode == -signal.SIGINT
    assert errors.count("never closed") == (1 if end == "interrupt" else 0)
    assert errors.count("\nKeyboardInterrupt\n") == 1, errors
    assert "Exception ignored" not in errors and "destroyed" not in errors and "microreg/" not in errors, errors

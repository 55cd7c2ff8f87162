"""The pages about ``etcd://``: their programs, commands and config strings are run against real servers."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import servers
from microreg import Node, PermissionDenied, Service, connect
from microreg.testing import ServerProcess
from needs import need
from servers.etcd import etcd_program
from support import ROOT, clean_env, python, run, wait_until

REFERENCE = (ROOT / "docs" / "reference" / "etcd.md").read_text(encoding="utf-8")
README = (ROOT / "plugins" / "microreg-etcd" / "README.md").read_text(encoding="utf-8")
PASSWORD = "s3cret"


def sections(page: str) -> dict[str, str]:
    """The text under each heading of the second level."""
    parts = re.split(r"^## (.+)\n", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


SECTIONS = sections(REFERENCE)
PROGRAM = blocks(SECTIONS["What is stored where"], "python")[0]
STRINGS = [line.split("   ")[0] for line in blocks(SECTIONS["The config string"], "text")[0].splitlines()]
LOOKING = blocks(SECTIONS["Looking at it with etcdctl"], "sh")


def environment(server: ServerProcess) -> dict[str, str]:
    """Where etcdctl is found, and what it finds."""
    folder = etcd_program().parent
    if not (folder / "etcdctl").exists():
        need("etcd", f"there is no etcdctl beside it, in {folder}")
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    return clean_env(PATH=path, ETCDCTL_ENDPOINTS=f"127.0.0.1:{server.port}", ETCD_PASSWORD=PASSWORD)


def shell(script: str, server: ServerProcess) -> str:
    command, env = ["sh", "-euc", script], environment(server)
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=20, check=False)
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def here(text: str, *running: ServerProcess) -> str:
    """The same with these servers in place of those that the page names."""
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in running)
    return re.sub(r"(etcds?://(?:[^@/\s]+@)?)[\w.:,]+", rf"\g<1>{hosts}", text)


@pytest.fixture(scope="module", name="server")
def _server() -> Iterator[ServerProcess]:
    with servers.etcd() as server:
        yield server


@pytest.fixture(scope="module", name="guarded")
def _guarded() -> Iterator[ServerProcess]:
    """A server with the users and roles that the page makes."""
    with servers.etcd() as server:
        for script in blocks(SECTIONS["A user of its own"], "sh"):
            shell(script, server)
        yield server


async def verbs(url: str) -> None:
    """Everything that a registry can do, once."""
    service = Service("docs", nodes=[Node("10.0.0.1:80", id="a")])
    async with connect(url) as registry:
        await registry.register(service)
        assert await registry.get_service("docs") == (service,)
        assert "docs" in await registry.list_services()
        async with registry.watch("docs") as events:
            await anext(events)
        await registry.deregister(service)


@pytest.mark.parametrize("url", STRINGS)
def test_every_config_string_works(
    url: str, server: ServerProcess, guarded: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETCD_PASSWORD", PASSWORD)
    if url.startswith("etcds:"):
        with servers.etcd(tls=servers.tls(tmp_path), client_certs="cert=" in url) as secure:
            run(verbs(here(url, secure).replace("/etc/etcd", str(tmp_path))))
    elif "," in url:
        with servers.etcd_cluster(url.count(",") + 1) as members:
            run(verbs(here(url, *members)))
    else:
        run(verbs(here(url, guarded if "@" in url else server)))


def test_the_programs_run_and_leave_what_the_page_shows(server: ServerProcess) -> None:
    python(here(PROGRAM, server))
    shown = blocks(SECTIONS["What is stored where"], "text")
    commands = blocks(SECTIONS["What is stored where"], "sh")
    assert [shell(command, server) for command in commands] == shown


def test_the_readmes_example_runs(server: ServerProcess) -> None:
    [example] = blocks(README, "python")
    expected = re.findall(r"print\(.*?\) +# (.+)", example)
    assert python(here(example, server)).splitlines() == expected == ["http://10.0.0.7:8080"]


def test_the_command_that_shows_the_plugin() -> None:
    [install] = [script for script in blocks(REFERENCE, "sh") if "pip install" in script]
    (pip, show) = (shlex.split(line, comments=True) for line in install.splitlines())
    assert pip == ["pip", "install", ".[cli]", "./plugins/microreg-etcd"]
    code = "import sys; from microreg.cli import main; sys.exit(main(sys.argv[1:]))"
    assert "microreg_etcd:EtcdRegistry\tok\n" in python(code, *show[1:])


def test_looking_at_it(server: ServerProcess) -> None:
    python(here(PROGRAM, server))
    keys, _, lease, delete = LOOKING
    assert shell(keys, server).split() == ["/microreg/orders/orders-1"]
    assert re.search(r"granted with TTL\(60s\).*attached keys\(\[/microreg/orders/orders-1\]\)", shell(lease, server))
    assert shell(delete, server) == "1\n"
    assert shell(keys, server) == ""


def test_watching_it(server: ServerProcess, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with output.open("wb") as file:
        watch = subprocess.Popen(["sh", "-c", f"exec {LOOKING[1]}"], stdout=file, env=environment(server))
    shown = b"PUT\n/microreg/orders/orders-1\n{"
    service = Service("orders", nodes=[Node("10.0.0.7:8080", id="orders-1")])

    async def change() -> None:
        async with connect(here("etcd://127.0.0.1", server)) as registry:
            while shown not in output.read_bytes():
                await registry.register(service)
                await registry.deregister(service)

    try:
        run(change())
        assert watch.poll() is None
    finally:
        watch.kill()
        watch.wait()
    assert shown in output.read_bytes()


def test_the_roles_allow_what_is_needed_and_nothing_else(guarded: ServerProcess) -> None:
    orders, billing = (Service(name, nodes=[Node("10.0.0.1:80", id="a")]) for name in ("orders", "billing"))

    def url(user: str, path: str = "") -> str:
        return f"etcd://{user}:{PASSWORD}@127.0.0.1:{guarded.port}{path}"

    async def main() -> None:
        await verbs(url("orders"))
        async with connect(url("orders", "/elsewhere")) as registry:
            with pytest.raises(PermissionDenied):
                await registry.register(orders)
        async with connect(url("billing")) as registry, connect(url("dashboard")) as reader:
            await registry.register(billing)
            assert await reader.get_service("billing") == await registry.get_service("billing") == (billing,)
            assert await reader.list_services() == await registry.list_services() == ("billing",)
            for refused, service in ((registry, orders), (reader, orders), (reader, billing)):
                with pytest.raises(PermissionDenied):
                    await refused.register(service)
            with pytest.raises(PermissionDenied):
                await reader.deregister(billing)
        async with connect(url("dashboard", "/elsewhere")) as registry:
            with pytest.raises(PermissionDenied):
                await registry.get_service("orders")
            async with registry.watch("orders") as watch:
                await wait_until(lambda: isinstance(watch.error, PermissionDenied), 40)
                assert watch.state == "resyncing"

    run(main())

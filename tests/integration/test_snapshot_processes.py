"""Several processes share one snapshot file of cache+, and some of them are killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from microreg.layers.cache.snapshot import SnapshotFile
from support import run, wait_until

WRITER = """
import sys
from pathlib import Path
from microreg import Node, Service
from microreg.layers.cache.snapshot import SnapshotFile

path, name, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
file = SnapshotFile(path, "etcd://10.0.0.1")
print("ready", flush=True)
sys.stdin.readline()
for number in range(rounds):
    nodes = [Node(f"10.0.0.1:{port}", id=f"n{port}") for port in range(80, 81 + number % 20)]
    records = tuple(Service(name, nodes=[node]) for node in nodes)
    while True:
        try:
            file.save({name: records}, 1000.0 + number, 1e9)
            break
        except BlockingIOError:
            pass
print("done", flush=True)
"""


def writer(path: Path, name: str, rounds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(rounds)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_nobody_destroys_what_the_others_wrote(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    stays = [writer(path, f"stays-{number}", 40) for number in range(3)]
    dies = [writer(path, f"dies-{number}", 1_000_000) for number in range(2)]

    def names() -> set[str]:
        entries, problem = SnapshotFile(path, "etcd://10.0.0.1").load()
        assert problem == "", "readers see whole files only"
        return set(entries)

    async def main() -> None:
        await wait_until(lambda: len(names()) == 5, timeout=30)
        for process in dies:
            process.kill()
            process.wait()
        await wait_until(lambda: names() and all(process.poll() is not None for process in stays), timeout=30)

    try:
        for process in stays + dies:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        run(main())
        assert [process.returncode for process in stays] == [0, 0, 0]
        entries, _ = SnapshotFile(path, "etcd://10.0.0.1").load()
        assert {name: len(entry.records) for name, entry in entries.items() if "stays" in name} == {
            f"stays-{number}": 20 for number in range(3)
        }
    finally:
        for process in stays + dies:
            process.kill()
            process.communicate()

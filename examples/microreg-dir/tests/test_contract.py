"""``dir://`` keeps the contract of a registry."""

import atexit
import os
import shutil
import time
from pathlib import Path
from tempfile import mkdtemp

from microreg_dir import file_name

from microreg import Node, Service
from microreg.testing import Faults, Harness, contract

HOME = Path(mkdtemp(prefix="microreg-dir-"))
atexit.register(shutil.rmtree, HOME)
FOLDER, AWAY = HOME / "services", HOME / "away"
FOLDER.mkdir()


class DirFaults(Faults):
    """A directory can be away, or emptied, and other programs may write to it."""

    async def kill(self) -> None:
        FOLDER.rename(AWAY)

    async def restart(self, *, wipe: bool = False) -> None:
        AWAY.rename(FOLDER)
        for path in FOLDER.iterdir() if wipe else ():
            path.unlink()

    async def write_raw(self, name: str, id: str, data: bytes | None) -> None:
        path = FOLDER / file_name(Service(name, nodes=[Node("", id=id)]))
        path.unlink(missing_ok=True)
        if data is not None:
            path.write_bytes(data)
            os.utime(path, (0, time.time() + 60))


TestDir = contract(Harness(f"dir://{FOLDER}?interval=50ms&timeout=20s", faults=DirFaults()))

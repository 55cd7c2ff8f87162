"""Starts the fleet, kills one of it, and shows what everybody says: ``python examples/fleet --for 10s``."""

import argparse
import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, STDOUT, Process
from collections import defaultdict
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from microreg import RegistryError, Selector, connect
from microreg.url import parse_duration

HERE = Path(__file__).parent
SERVICES = {"stock-1": "stock_service.py", "stock-2": "stock_service.py", "orders": "order_service.py"}
CLIENTS = {"worker": "worker.py", "desk": "desk.py"}
VICTIM = "stock-1"
FIND, STOP = 60.0, 8.0  # seconds: to find the services, and for a program to end


class Fleet:
    """Programs that find each other in one registry."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.wrong: list[str] = []
        self._running: dict[str, Process] = {}  # those that nobody has told to end
        self._processes: list[Process] = []
        self._reading: list[asyncio.Task[None]] = []
        self._heard = defaultdict[str, asyncio.Event](asyncio.Event)
        self._broken = asyncio.Event()
        self._began = time.monotonic()
        self.found = False

    def say(self, name: str, text: str) -> None:
        print(f"{time.monotonic() - self._began:5.1f} s  {name:8} {text}", flush=True)

    async def run(self, seconds: float | None) -> None:
        """Start all; when the clients have found what they call, time begins. One is killed after a third of it."""
        async with connect(self.url) as registry, Selector(registry) as selector:
            for name, program in SERVICES.items():
                await self.start(name, program)
            self.say("fleet", f"looks for stock and orders in {registry.url}, for {FIND:g} s at most")
            for service in ("stock", "orders"):
                node = await selector.select(service, timeout=FIND)
                self.say("fleet", f"{service} is there, at {node.address}")
        self.found = True
        for name, program in CLIENTS.items():
            await self.start(name, program)
        async with asyncio.timeout(FIND):
            await asyncio.gather(*(self._heard[name].wait() for name in CLIENTS))
        if not await self.broken(5.0 if seconds is None else seconds / 3):
            self.say(VICTIM, "is killed now, without a warning")
            self._running.pop(VICTIM).kill()
            await self.broken(None if seconds is None else seconds * 2 / 3)

    async def start(self, name: str, program: str) -> None:
        """In a session of its own, so that Ctrl-C ends this program, which ends the others in their order."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(HERE / "attended.py"),
            str(HERE / program),
            env=os.environ | {"MICROREG_REGISTRY": self.url, "MICROREG_ADVERTISE": "127.0.0.1"},  # all on this machine
            stdin=PIPE,
            stdout=PIPE,
            stderr=STDOUT,
            start_new_session=True,
        )
        self._running[name] = process
        self._processes.append(process)
        self._reading.append(asyncio.create_task(self._read(name, process)))
        self.say(name, f"started, process {process.pid}")

    async def broken(self, seconds: float | None) -> bool:
        """Whether a program has ended by itself within so many seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._broken.wait(), seconds)
        return self._broken.is_set()

    async def stop(self) -> None:
        """End the clients, then the services, so that no call fails; print what each client says at last."""
        for names in (CLIENTS, SERVICES):
            await asyncio.gather(*(self._stop(name) for name in names if name in self._running))
        await asyncio.gather(*self._reading)

    def kill(self) -> None:
        """End all at once."""
        self._running.clear()
        for process in self._processes:
            with suppress(ProcessLookupError):
                process.kill()

    async def _stop(self, name: str) -> None:
        process = self._running.pop(name)
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            code = await asyncio.wait_for(process.wait(), STOP)
        except TimeoutError:
            process.kill()
            code = await process.wait()
            self.wrong.append(f"{name} did not end")
        if name in CLIENTS and code not in (0, -signal.SIGTERM):  # the signal strikes one that has hardly begun
            self.wrong.append(f"{name} ended with exit code {code}")

    async def _read(self, name: str, process: Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.say(name, line.decode(errors="replace").rstrip())
            self._heard[name].set()
        code = await process.wait()
        if self._running.get(name) is process:  # nobody has told it to
            del self._running[name]
            self.wrong.append(f"{name} ended by itself, with exit code {code}")
            self._heard[name].set()
            self._broken.set()


async def main(url: str, seconds: float | None) -> int:
    fleet = Fleet(url)
    running = asyncio.create_task(fleet.run(seconds))

    def interrupted() -> None:
        """Ends all in order, the second time at once."""
        if running.done() or running.cancelling():
            fleet.kill()
        running.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, interrupted)
    try:
        await running
    except asyncio.CancelledError:
        fleet.say("fleet", "ends, as it was told")
    except RegistryError as error:
        fleet.wrong.append(str(error))
    except TimeoutError:
        fleet.wrong.append(f"the clients said nothing within {FIND:g} s")
    finally:
        await fleet.stop()
    good = "ended, and no call failed" if fleet.found else "ended before anything was found"
    fleet.say("fleet", "; ".join(fleet.wrong) or good)
    return 1 if fleet.wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python examples/fleet", description=__doc__)
    default = os.environ.get("MICROREG_REGISTRY") or "mdns://127.0.0.1"
    parser.add_argument("--registry", metavar="URL", default=default, help="where all find each other: %(default)s")
    parser.add_argument("--for", metavar="10s", dest="seconds", type=parse_duration, help="how long, once all is found")
    arguments = parser.parse_args()
    if missing := [each for each in ("fastapi", "httpx", "uvicorn") if find_spec(each) is None]:
        parser.error(f"the programs of the fleet need what is not installed: pip install {' '.join(missing)}")
    sys.exit(asyncio.run(main(arguments.registry, arguments.seconds)))

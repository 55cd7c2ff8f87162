"""A real server as a process of its own, which a test can kill, freeze, wipe and start again.

::

    server = ServerProcess("mine", lambda server: ["mined", "--port", str(server.port), "--data", str(server.data)])
    with server:                # started and ready; gone at the end, with its data
        server.kill()           # kill -9
        server.restart()        # on the same port, with what it keeps over a restart

Nothing here belongs to an event loop: a server that was started before the loop can be killed from inside any.
Methods block for as long as the kernel or the server takes; in a coroutine, wrap :meth:`ServerProcess.start` and
its like in ``microreg.toolkit.in_thread``, as :class:`microreg.testing.ServerFaults` does.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from microreg.testing.ports import reserve_port

__all__ = ["ServerProcess", "running"]

_STEP = 0.02
_TAIL_BYTES, _TAIL_LINES = 8192, 20
_GUARD = 'read _; kill -9 -- "-$1"; rm -rf -- "$2"'


class ServerProcess:
    """A server in a process of its own, on loopback ports that stay the same over restarts.

    ``command`` is given this object, at every start, and returns the program and its arguments: it finds
    ``port`` (or ``ports``, as many as wanted) and ``data`` (a folder for what the server stores) there. The
    environment is ``PATH`` and ``env``, nothing else. What the process prints goes to ``log``, whose end is shown
    in errors. ``ready`` is asked again and again at a start until it says True; OSError counts as "not yet".
    Without it a server is ready when its first port accepts connections. ``deadline`` is the seconds it has
    for that, and ``patience`` those that it has to end after SIGTERM.

    The process leads a process group of its own, and signals go to the group: a wrapper script is killed with
    what it started. Neither it nor its folder survives the process that started it, however that ends. Methods
    may be called from any thread. Needs POSIX.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[ServerProcess], Sequence[str | os.PathLike[str]]],
        *,
        ports: int = 1,
        ready: Callable[[ServerProcess], bool] | None = None,
        env: Mapping[str, str] | None = None,
        deadline: float = 20.0,
        patience: float = 5.0,
    ) -> None:
        self.name = name
        self.ports = tuple(reserve_port(self) for _ in range(ports))
        self._command = command
        self._ready = ready or _accepts
        self._env = {"PATH": os.environ.get("PATH", os.defpath)} | dict(env or {})
        self._deadline = deadline
        self._patience = patience
        self._lock = threading.RLock()
        self._home: TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._frozen = False

    # -- where it is -------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The first of its ports."""
        return self.ports[0]

    @property
    def folder(self) -> Path:
        """A temporary folder of its own, made when it is first asked for and removed by :meth:`close`."""
        with self._lock:
            if self._home is None:
                self._home = TemporaryDirectory(prefix=f"microreg-{self.name}-", ignore_cleanup_errors=True)
            return Path(self._home.name)

    @property
    def data(self) -> Path:
        """The folder inside ``folder`` for what the server stores: it survives a restart, and wiping empties it."""
        path = self.folder / "data"
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    @property
    def log(self) -> Path:
        """The file inside ``folder`` with everything that the server has printed, over all starts."""
        return self.folder / "log"

    @property
    def pid(self) -> int:
        """The id of the running process. Raises RuntimeError where there is none."""
        return self._alive().pid

    @property
    def is_running(self) -> bool:
        """Whether its process is there; a frozen one is."""
        return self._process is not None and _ending(self._process.pid) is None

    def tail(self) -> str:
        """The last lines of the log."""
        with suppress(FileNotFoundError), self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
            return "\n".join(lines[-_TAIL_LINES:])
        return ""

    def cpu_seconds(self) -> float:
        """The processor time that the running process has used, without its children. Needs Linux's /proc."""
        text = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8", errors="replace")
        user, system = text.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    # -- what can be done to it --------------------------------------------------------------------

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until it is ready, unless ``wait`` is False (then see :meth:`wait_ready`).

        Raises RuntimeError when it runs already or ends at once, TimeoutError when it is not ready in time (it
        is killed then), and OSError when there is no such program.
        """
        with self._lock:
            if self.is_running:
                raise RuntimeError(f"{self._title()} runs already: stop or kill it first")
            self.kill()
            try:
                self._spawn()
                if wait:
                    self._become_ready()
            except BaseException:
                self.kill()
                raise

    def wait_ready(self) -> None:
        """Wait until it is ready. Raises as :meth:`start` does."""
        try:
            self._become_ready()
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End it at once (SIGKILL), frozen or not, and wait until it is gone. Nothing where it does not run."""
        with self._lock:
            self._signal(signal.SIGKILL)
            self._reap()

    def stop(self) -> None:
        """End it orderly (SIGTERM), or else by force after ``patience`` seconds. Its data stays."""
        with self._lock:
            self.thaw()
            self._signal(signal.SIGTERM)
            until = time.monotonic() + self._patience
            while self.is_running and time.monotonic() < until:
                time.sleep(_STEP)
            self.kill()

    def restart(self, *, wipe: bool = False) -> None:
        """Kill it if it runs, empty its data folder if wanted, and start it on the same ports."""
        with self._lock:
            self.kill()
            if wipe:
                shutil.rmtree(self.data)
            self.start()

    def freeze(self) -> None:
        """Stop its clock (SIGSTOP): connections stay open, nothing answers. Returns when it stands still.

        Raises RuntimeError where it does not run.
        """
        with self._lock:
            process = self._alive()
            self._frozen = True
            self._signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            self._alive()

    def thaw(self) -> None:
        """Let it go on after :meth:`freeze` (SIGCONT). Nothing where it is not frozen."""
        with self._lock:
            if self._frozen:
                self._signal(signal.SIGCONT)
                self._frozen = False

    def close(self) -> None:
        """Stop it and remove its folder. It may be started again, on the same ports and without data."""
        with self._lock:
            self.stop()
            if self._home is not None:
                self._home.cleanup()
                self._home = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ServerProcess {self._title()}>"

    # -- inside ------------------------------------------------------------------------------------

    def _spawn(self) -> None:
        command = [os.fspath(part) for part in self._command(self)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self._env,
                process_group=0,
            )
        # Its input ends when this process does. PR_SET_PDEATHSIG would strike when the starting thread ends.
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "guard", str(self._process.pid), self.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )

    def _become_ready(self) -> None:
        until = time.monotonic() + self._deadline
        last = "its probe said no"
        while time.monotonic() < until:
            self._alive()
            try:
                if self._ready(self):
                    return
            except OSError as error:
                last = f"{type(error).__name__}: {error}"
            time.sleep(_STEP)
        raise TimeoutError(f"{self._title()} was not ready after {self._deadline:g} s ({last}); {self._last_words()}")

    def _alive(self) -> subprocess.Popen[bytes]:
        """The process. Raises RuntimeError, with the end of its log, where it does not run."""
        process = self._process
        if process is None:
            raise RuntimeError(f"{self._title()} does not run: start it first")
        how = _ending(process.pid)
        if how is not None:
            raise RuntimeError(f"{self._title()} ended by itself ({how}); {self._last_words()}")
        return process

    def _signal(self, number: signal.Signals) -> None:
        """To the whole group, also when its leader is dead: until it is reaped, nobody else can have its id."""
        if self._process is not None:
            os.killpg(self._process.pid, number)

    def _reap(self) -> None:
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
        if self._process is not None:
            self._process.wait()
        self._process = self._guard = None
        self._frozen = False

    def _last_words(self) -> str:
        tail = self.tail()
        return f"the end of its log:\n{tail}" if tail else "it printed nothing"

    def _title(self) -> str:
        return f"{self.name} on 127.0.0.1:{','.join(map(str, self.ports))}"


def _accepts(server: ServerProcess) -> bool:
    with socket.create_connection(("127.0.0.1", server.port), timeout=1.0):
        return True


def _ending(pid: int) -> str | None:
    """How this child ended, None while it runs. It is not reaped: only then can its id be of another process."""
    state = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if state is None:
        return None
    if state.si_code == os.CLD_EXITED:
        return f"exit code {state.si_status}"
    return f"killed by {signal.Signals(state.si_status).name}"


@contextmanager
def running(*parts: AbstractContextManager[object]) -> Generator[None]:
    """Enter servers, proxies and whatever else, in this order, and leave them in the reverse order at the end."""
    with ExitStack() as stack:
        for part in parts:
            stack.enter_context(part)
        yield

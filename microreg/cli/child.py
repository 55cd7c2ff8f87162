"""One child process of ``microreg run``: started in a session of its own, signalled, and waited for."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

__all__ = ["CannotStart", "Child"]

_NOT_EXECUTABLE = 126
_NOT_FOUND = 127
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class CannotStart(Exception):
    """The command could not be started. ``code`` is what a shell would return: 126 or 127."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


_LOOK = 0.02
"""Seconds between two looks at what the command left running; nothing tells of the end of a grandchild."""


class Child:
    """A running command, and what it started. ``kill_after`` seconds after :meth:`stop` they are killed."""

    def __init__(self, process: asyncio.subprocess.Process, kill_after: float) -> None:
        self._process = process
        self._kill_after = kill_after
        self._killer: asyncio.TimerHandle | None = None
        self._empty = False  # nobody is left in its process group, whose number may be another's by now

    @classmethod
    async def start(cls, command: Sequence[str], env: Mapping[str, str], kill_after: float) -> Child:
        """Start the command; it inherits stdin, stdout and stderr. Raises CannotStart.

        The new session keeps the terminal's Ctrl-C away from it: that signal is ours, and the command gets it
        from us when others have stopped calling. Reading from and writing to the terminal works as ever.
        On Linux the kernel kills it when we are killed.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *command, env=env, start_new_session=True, preexec_fn=_bound_to_parent()
            )
        except OSError as error:
            raise _explained(command[0], error, env.get("PATH")) from None
        return cls(process, kill_after)

    @property
    def pid(self) -> int:
        """Its process id, and that of its process group."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet, as far as we know."""
        return self._process.returncode is None

    @property
    def stopping(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._killer is not None

    async def wait(self) -> int:
        """Its exit code once it has ended; 128 + n where signal n ended it."""
        code = await self._process.wait()
        if self._killer is not None:
            self._killer.cancel()
        return 128 - code if code < 0 else code

    def send(self, number: int) -> None:
        """Send it a signal; nothing where it has ended."""
        if self.running:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)  # Popen.send_signal may reap it behind asyncio's back

    def send_group(self, number: int) -> None:
        """Send a signal to it and to what it started, except what has made a group of its own."""
        if not self._empty:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def stop(self, number: int) -> None:
        """Send its group a signal that is to end it, and SIGKILL where it is still there ``kill_after`` later.

        To the group, as Ctrl-C on a terminal and systemd do: a shell script that runs the server without ``exec``
        would end alone, or not before the server. What is stopped is continued, or it could not end.
        """
        self.send_group(number)
        self.send_group(signal.SIGCONT)
        if self._killer is None:
            loop = asyncio.get_running_loop()
            self._killer = loop.call_later(self._kill_after, self.send_group, signal.SIGKILL)

    async def end_rest(self) -> None:
        """After :meth:`wait`: end what is left of its group, with SIGTERM, and SIGKILL ``kill_after`` later."""
        if self._group_ended():
            return
        if not self.stopping:  # else they have the signal already
            self.send_group(signal.SIGTERM)
            self.send_group(signal.SIGCONT)
        loop = asyncio.get_running_loop()
        late = loop.time() + self._kill_after
        while loop.time() < late:
            await asyncio.sleep(_LOOK)
            if self._group_ended():
                return
        self.send_group(signal.SIGKILL)
        self._empty = True

    def _group_ended(self) -> bool:
        """Whether nobody is left. As process 1 of a container we inherit orphans, and have to reap them."""
        try:
            with suppress(ChildProcessError):
                while os.waitpid(-self.pid, os.WNOHANG)[0]:
                    pass
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            self._empty = True
        except PermissionError:
            return False
        return self._empty


def _bound_to_parent() -> Callable[[], None] | None:
    """What the child calls before it becomes the command, so that it dies with us (prctl(2); Linux only)."""
    if sys.platform != "linux":
        return None
    try:
        import ctypes

        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return None
    parent = os.getpid()

    def bind() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # we were killed in between
            os.kill(os.getpid(), signal.SIGKILL)

    return bind


def _explained(program: str, error: OSError, path: str | None) -> CannotStart:
    found = shutil.which(program, os.F_OK, path)
    if isinstance(error, FileNotFoundError):
        if found is None:
            where = "there is no such file" if "/" in program else "it is not on the PATH"
            return CannotStart(f"command {program!r} was not found: {where}", _NOT_FOUND)
        return CannotStart(f"command {program!r}: its interpreter (first line of {found}) was not found", _NOT_FOUND)
    why = os.strerror(error.errno) if error.errno else str(error)
    if error.errno == errno.EACCES:
        why = "it is a directory" if os.path.isdir(program) else "it is not executable (chmod +x?)"
    if error.errno == errno.ENOEXEC:
        why = "it is no program; a script needs a first line such as #!/bin/sh"
    return CannotStart(f"command {program!r} cannot be run: {why}", _NOT_EXECUTABLE)

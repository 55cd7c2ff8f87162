"""A TCP proxy in front of a server, for what happens to a network: delay, silence, resets, refusal, little bandwidth.

::

    with Proxy(server.port) as proxy:
        ...                                 # clients connect to 127.0.0.1, proxy.port
        proxy.delay = 0.2                   # seconds, each way
        proxy.black_hole = True             # nothing gets through, no connection is reset
        proxy.cut()                         # every open connection is reset
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Self

from microreg.testing.pipe import Connection, Line
from microreg.testing.ports import reserve_port

__all__ = ["Proxy"]

_PATIENCE = 10.0
_GOODBYE = 2.0


class Proxy:
    """Carries bytes between clients of its ``port`` on 127.0.0.1 and the server at ``upstream`` there.

    It runs in a thread with an event loop of its own, so that it goes on whatever the loop under test does; what
    is switched has taken effect when the call returns, a millisecond or so later. Switches may be set before the
    start and keep their value over :meth:`close`. What the server does to a connection, its client sees: an end
    as an end, a reset as a reset, and a server that refuses as a reset just after the connection was made.

    - ``delay``: seconds that bytes are on their way, each way. Those that are on their way keep theirs when it
      changes, and what follows on the same connection stays behind them.
    - ``throttle``: bytes per second, each way, that all connections share; 0 for no limit.
    - ``black_hole``: nothing gets through in either direction, and nothing is reset. New connections are accepted,
      as by a kernel, and then nothing answers. When it ends, TCP has sent everything again: what was held back
      is delivered, in order, except for a connection whose client has gone before it was really made.
    - ``refuse``: new connections are refused, open ones stay.

    ``connections`` counts those that are open now, ``accepted`` all there were; ``sent`` and ``received`` are the
    bytes delivered to the server and to its clients.
    """

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.port = reserve_port(self)
        self.accepted = 0
        self._line = Line()
        self._refuse = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._listener: socket.socket | None = None
        self._open: dict[asyncio.Task[None], Connection] = {}

    # -- switches ----------------------------------------------------------------------------------

    @property
    def delay(self) -> float:
        """Seconds that bytes are on their way, each way."""
        return self._line.delay

    @delay.setter
    def delay(self, seconds: float) -> None:
        self._line.delay = seconds

    @property
    def throttle(self) -> float:
        """Bytes per second, each way, that all connections share; 0 for no limit."""
        return self._line.rate

    @throttle.setter
    def throttle(self, rate: float) -> None:
        self._line.rate = rate

    @property
    def black_hole(self) -> bool:
        """Whether nothing gets through, without a reset."""
        return not self._line.whole.is_set()

    @black_hole.setter
    def black_hole(self, wanted: bool) -> None:
        switch = self._line.whole.clear if wanted else self._line.whole.set
        if self._loop is None:
            switch()
        else:
            self._do(_called(switch))

    @property
    def refuse(self) -> bool:
        """Whether new connections are refused."""
        return self._refuse

    @refuse.setter
    def refuse(self, wanted: bool) -> None:
        self._refuse = wanted
        self._do(self._deafen() if wanted else self._listen())

    def cut(self) -> None:
        """Reset every open connection, on both sides; what is on its way is lost."""
        self._do(self._cut())

    def hang_up(self) -> None:
        """End every open connection towards its client (FIN), and wait until the client has closed it too.

        A client that does not within 2 seconds gets a reset. What was on its way to the server arrives there in
        its time, and after that the end; what the server answers is lost.
        """
        self._do(self._hang_up())

    # -- statistics --------------------------------------------------------------------------------

    @property
    def connections(self) -> int:
        """Connections of clients that are open now."""
        return len(self._open)

    @property
    def sent(self) -> int:
        """Bytes that were delivered to the server."""
        return self._line.up.carried

    @property
    def received(self) -> int:
        """Bytes that were delivered to clients."""
        return self._line.down.carried

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to listen. Raises RuntimeError when it does already, OSError when the port has been taken."""
        if self._loop is not None:
            raise RuntimeError(f"the proxy on 127.0.0.1:{self.port} runs already")
        self._line.renew()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy {self.port}", daemon=True)
        self._thread.start()
        try:
            if not self._refuse:
                self._do(self._listen())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Refuse new connections, reset those that are open, and end the thread. It may be started again."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        try:
            self._do(self._deafen())
            self._do(self._cut())
        finally:
            self._loop = self._thread = None
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_PATIENCE)
            loop.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Proxy 127.0.0.1:{self.port} to {self.upstream}>"

    # -- in its own loop ---------------------------------------------------------------------------

    def _do(self, change: Coroutine[object, object, None]) -> None:
        """Run this in the thread of the proxy, and return when it is done."""
        if self._loop is None:
            change.close()
        else:
            asyncio.run_coroutine_threadsafe(change, self._loop).result(_PATIENCE)

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
            self._listener.setblocking(False)
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    async def _deafen(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        try:
            accepted, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        connection = Connection(self._line, accepted)
        task = asyncio.get_running_loop().create_task(connection.run(self.upstream))
        self.accepted += 1
        self._open[task] = connection
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._open.pop(task).drop()

    async def _cut(self) -> None:
        for task, connection in self._open.items():
            connection.reset()
            task.cancel()
        if self._open:
            await asyncio.wait(list(self._open))

    async def _hang_up(self) -> None:
        async with asyncio.TaskGroup() as group:
            for connection in self._open.values():
                group.create_task(connection.hang_up(_GOODBYE))


async def _called(function: Callable[[], None]) -> None:
    function()

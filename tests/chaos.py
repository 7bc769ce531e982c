"""A network that can be broken: a TCP proxy between a process and its server.

A test hands the proxy's port to a worker instead of the server's, and breaks the line while
both ends go on. What is in force holds for all connections, those that are there and new ones, when
the call returns.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from typing_extensions import Self

from tests.processes import free_port

__all__ = ["ChaosProxy"]

T = TypeVar("T")

CHUNK = 65_536


class ChaosProxy:
    """A proxy on a port of 127.0.0.1, served by a thread of its own. Use it as a context manager.

    Args:
        target: the server's port.
        rng: where chance comes from, for jitter.

    Attributes:
        port: where to connect instead.
        swallowed: how many replies were swallowed.
        connections: how many connections there have been.
    """

    def __init__(self, target: int, rng: random.Random | None = None) -> None:
        self.target = target
        self.port = free_port()
        self.swallowed = 0
        self.connections = 0
        self._rng = rng or random.Random(0)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos", daemon=True)
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self._reset()

    def _reset(self) -> None:
        """Let everything pass."""
        self._swallows = False
        self._delay: Callable[[], float] | None = None
        self._budget: Callable[[], int] | None = None
        self._wanted = (b"", 0)
        self._flows = asyncio.Event()
        self._flows.set()
        self._ends = asyncio.Event()  # whether the end of a connection gets through
        self._ends.set()

    def url(self, db: int = 0) -> str:
        """Return the URL of a Redis database behind it."""
        return f"redis://127.0.0.1:{self.port}/{db}"

    # -- what is in force: one of these at a time --------------------------------------------------

    def mend(self) -> None:
        """Let everything pass again. A connection that has lost something is reset."""
        self._do(self._enter())

    def cut(self) -> None:
        """Reset all connections, and refuse new ones."""
        self._do(self._cut())

    def blackhole(self) -> None:
        """Lose everything, in both directions; new connections are accepted."""
        self._do(self._enter(swallows=True, ends=False))

    def hold(self) -> None:
        """Keep everything back, and deliver it when mended: late, not lost."""
        self._do(self._enter(flows=False, ends=False))

    def delay(self, seconds: float, jitter: float = 0.0) -> None:
        """Delay everything, in either direction, by a time from ``seconds`` to that plus jitter."""
        self._do(self._enter(delay=lambda: seconds + jitter * self._rng.random()))

    def reset_after(self, count: int | Callable[[], int]) -> None:
        """Reset each connection after so many bytes from now on, wherever they end."""
        self._do(self._enter(budget=count if callable(count) else lambda: count))

    def swallow_replies(self, pattern: bytes, times: int = 1) -> None:
        """Deliver the next requests that contain a text, lose their replies, and reset.

        So the server has done what it was asked to, and who asked does not know.
        """
        self._do(self._enter(wanted=(pattern, times)))

    async def _enter(
        self,
        *,
        swallows: bool = False,
        flows: bool = True,
        ends: bool = True,
        delay: Callable[[], float] | None = None,
        budget: Callable[[], int] | None = None,
        wanted: tuple[bytes, int] = (b"", 0),
    ) -> None:
        waiting = (self._flows, self._ends)
        self._reset()
        self._swallows, self._delay, self._budget, self._wanted = swallows, delay, budget, wanted
        if not flows:
            self._flows.clear()
        if not ends:
            self._ends.clear()
        for link in list(self._links):
            link.budget = self.budget
            if link.lossy and not swallows:
                link.reset()
        for event in waiting:
            event.set()  # who waits looks again at what is in force
        if self._server is None:
            await self._listen()

    async def _cut(self) -> None:
        await self._enter()
        assert self._server is not None
        self._server.close()
        self._server = None
        for link in list(self._links):
            link.reset()
        while self._links:
            await asyncio.wait([link.task for link in self._links])

    # -- its life ---------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._cut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(timeout=30)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        link = _Link(self, reader, writer)
        self._links.add(link)
        try:
            await link.serve()
        finally:
            link.close()
            self._links.discard(link)

    # -- for the links ----------------------------------------------------------------------------

    async def pass_on(self, link: _Link, data: bytes, *, request: bool) -> bytes:
        """Return what is to be passed on of some bytes, when it is time."""
        if self._delay is not None:
            await asyncio.sleep(self._delay())
        while not self._flows.is_set():
            await self._flows.wait()
        if link.closed:
            return b""
        if self._swallows:
            link.lossy = True
            return b""
        if not request and link.deaf:
            self.swallowed += 1
            link.reset()
            return b""
        if request and self._wanted[1] and link.contains(self._wanted[0], data):
            self._wanted = (self._wanted[0], self._wanted[1] - 1)
            link.deaf = True
        return data

    @property
    def budget(self) -> int | None:
        """How many bytes a new connection may carry."""
        return None if self._budget is None else self._budget()

    async def until_it_ends(self) -> None:
        """Wait while the end of a connection cannot get through."""
        while not self._ends.is_set():
            await self._ends.wait()


class _Link:
    """A connection to the proxy, and the one from there to the server."""

    def __init__(
        self, proxy: ChaosProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writers = [writer]
        self._tail = b""
        self.task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
        self.budget = proxy.budget
        self.lossy = False  # something was lost, so that it cannot go on
        self.deaf = False  # the next reply is to be lost
        self.closed = False

    async def serve(self) -> None:
        """Pass on what comes until one side ends."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._proxy.target)
        except OSError:
            return
        self._writers.append(writer)
        if self.closed:  # meanwhile
            self.reset()
            return
        await asyncio.gather(
            self._pump(self._reader, writer, request=True),
            self._pump(reader, self._writers[0], request=False),
        )

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, request: bool
    ) -> None:
        try:
            while data := await source.read(CHUNK):
                data = await self._proxy.pass_on(self, data, request=request)
                if self.budget is not None and len(data) >= self.budget:
                    sink.write(data[: self.budget])
                    await sink.drain()
                    self.reset()
                if self.closed:
                    return
                if self.budget is not None:
                    self.budget -= len(data)
                sink.write(data)
                await sink.drain()
            await self._proxy.until_it_ends()
            if not self.closed:
                sink.write_eof()  # the other direction goes on: it may have something to say yet
        except OSError:
            self.reset()

    def contains(self, pattern: bytes, data: bytes) -> bool:
        """Whether a text is in a request, of which this is the next part."""
        seen = self._tail + data
        self._tail = seen[-len(pattern) + 1 :] if len(pattern) > 1 else b""
        return pattern in seen

    def close(self) -> None:
        """End it."""
        for writer in self._writers:
            writer.close()

    def reset(self) -> None:
        """End it with a RST in both directions, at once."""
        self.closed = True
        for writer in self._writers:
            sock: socket.socket | None = writer.get_extra_info("socket")
            if sock is not None and sock.fileno() != -1:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

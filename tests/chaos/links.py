"""Links between the nodes and the coordinator that are cut, slowed and stalled: a proxy with a port for each node.

It passes bytes on and knows nothing of them: TLS goes through.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Literal

How = Literal["reset", "end"]
Way = Literal["up", "down"]
_PIECE = 1 << 14


class Links:
    """All links of one federation, served by a thread; leaving the `with` block cuts them for good."""

    def __init__(self, target: Callable[[], int]) -> None:
        """`target`: the coordinator's port, now."""
        self._roads: dict[str, _Road] = {}
        self._target = target

    def __enter__(self) -> "Links":
        ready: Future[None] = Future()

        async def serve() -> None:
            self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
            ready.set_result(None)
            await self._over.wait()
            for road in self._roads.values():
                await road.close()

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()), name="links", daemon=True)
        self._thread.start()
        ready.result(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def add(self, node: str) -> int:
        """A link for this node; returns the port on which it reaches the coordinator."""
        road = self._roads[node] = _Road(self._target)
        return asyncio.run_coroutine_threadsafe(road.open(), self._loop).result(60)

    def cut(self, node: str, how: How) -> None:
        """Break all connections of the node; new ones can be made."""
        self._do(lambda: self._roads[node].cut(how))

    def cut_after(self, node: str, way: Way, count: int, how: How) -> None:
        """The same, when so many more bytes have gone one way: in the middle of whatever they belong to."""
        self._do(lambda: self._roads[node].cut_after(way, count, how))

    def stall(self, node: str, *, on: bool) -> None:
        """Let nothing through, and lose nothing; or let it go on."""
        self._do(lambda: self._roads[node].stall(on=on))

    def slow(self, node: str, bytes_per_s: float, delay_s: float) -> None:
        """Let so much through in a second, each piece so late; no limit and no delay: infinity and zero."""
        self._do(lambda: self._roads[node].slow(bytes_per_s, delay_s))

    def _do(self, change: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(change)


class _Road:
    """The way of one node, with all connections on it."""

    def __init__(self, target: Callable[[], int]) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._callers: set[asyncio.Task[None]] = set()
        self._clear = asyncio.Event()
        self._clear.set()
        self._bytes_per_s, self._delay_s = float("inf"), 0.0
        self._left: dict[Way, tuple[int, How]] = {}

    async def open(self) -> int:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=_PIECE)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        self._server.close()
        self.cut("reset")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._callers, return_exceptions=True)

    def cut(self, how: How) -> None:
        for writer in list(self._writers):
            if how == "reset":
                sock = writer.get_extra_info("socket")
                with suppress(OSError):  # it is closed already
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            else:
                writer.close()

    def cut_after(self, way: Way, count: int, how: How) -> None:
        self._left[way] = (count, how)

    def stall(self, *, on: bool) -> None:
        if on:
            self._clear.clear()
        else:
            self._clear.set()

    def slow(self, bytes_per_s: float, delay_s: float) -> None:
        self._bytes_per_s, self._delay_s = bytes_per_s, delay_s

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine = asyncio.current_task()
        assert mine is not None
        self._callers.add(mine)
        mine.add_done_callback(self._callers.discard)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target(), limit=_PIECE)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, far_writer}
        pumps: list[tuple[Way, Any, Any]] = [("up", reader, far_writer), ("down", far_reader, writer)]
        tasks = {asyncio.ensure_future(self._pump(way, source, sink)) for way, source, sink in pumps}
        self._tasks |= tasks
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            self._tasks -= tasks
            for end in (writer, far_writer):
                self._writers.discard(end)
                end.close()

    async def _pump(self, way: Way, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError, RuntimeError):  # cut, or closed at the other end
            while piece := await source.read(_PIECE):
                await self._clear.wait()
                if self._delay_s or self._bytes_per_s < float("inf"):
                    await asyncio.sleep(self._delay_s + len(piece) / self._bytes_per_s)
                if way in self._left:
                    left, how = self._left[way]
                    if left <= len(piece):
                        del self._left[way]
                        sink.write(piece[:left])
                        self.cut(how)
                        return
                    self._left[way] = (left - len(piece), how)
                sink.write(piece)
                await sink.drain()

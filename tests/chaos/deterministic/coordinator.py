"""The real coordinator as a simulated process: its service, doors and loop, over a simulated disk and network."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

from lycia.core.keys import Key
from lycia.deployment.coordinator.http import Doors
from lycia.deployment.coordinator.service import Service
from lycia.storage.blobs import BlobFolder
from lycia.storage.spool import Spool
from tests.chaos.deterministic.database import Disk, SimulatedDatabase
from tests.chaos.deterministic.network import Answered, Call, Network
from tests.chaos.deterministic.promises import Promises
from tests.chaos.deterministic.world import Loop, Process, World

SECRET = bytes(32)


class Coordinator:
    """One life of a coordinator."""

    def __init__(
        self, world: World, home: Path, disk: Disk, network: Network, promises: Promises, *, silence_s: float,
        fuse: int | None, skew_s: float, life: int,
    ) -> None:  # fmt: skip
        self.process = Process(world, f"coordinator {life}", fuse)
        self.process.skew_s = skew_s
        self.loop = Loop(self.process)
        self._world, self._home, self._disk, self._network = world, home, disk, network
        self._promises, self._silence_s, self._life = promises, silence_s, life
        self.service: Service | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self.loop.call_soon(lambda: self.loop.create_task(self._begin()))

    async def _begin(self) -> None:
        self._world.say(self.process.name, "starts")
        shutil.rmtree(self._home / "outgoing", ignore_errors=True)
        blobs, outgoing = BlobFolder(self._home / "blobs"), BlobFolder(self._home / "outgoing", fsync=False)
        database = SimulatedDatabase(self._disk, self.loop)
        self.service = Service(
            database, blobs, outgoing, Spool(self._home / "spool"), "https://simulated", "0" * 64, SECRET,
            silence_s=self._silence_s, entropy=self._entropy,
        )  # fmt: skip
        self._promises.coordinator_begins()
        await self.service.begin()
        self._app = Doors(self.service, blobs, outgoing).app()
        self._network.begin_to_listen(self)
        self._world.say(self.process.name, "listens")

    def _entropy(self, number: int, attempt: int) -> bytes:
        return Key(self._life).at("secret", number, attempt).digest()

    def accept(self, call: Call, pieces: list[tuple[float, bytes]], answer: Callable[[Answered], None]) -> None:
        """Serve a call."""
        self.loop.call_soon(self._spawn, call, pieces, answer)

    def _spawn(self, call: Call, pieces: list[tuple[float, bytes]], answer: Callable[[Answered], None]) -> None:
        task = self.loop.create_task(self._serve(call, list(pieces), answer))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _serve(self, call: Call, pieces: list[tuple[float, bytes]], answer: Callable[[Answered], None]) -> None:
        gone = self.loop.create_future()
        call.hangs_up.append(lambda: self.loop.call_soon(lambda: gone.done() or gone.set_result(None)))
        if call.gone:
            gone.set_result(None)
        path, _, query = call.path.partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
            "method": call.method, "scheme": "https", "root_path": "",
            "path": path, "raw_path": path.encode(), "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in call.headers.items()],
            "client": ("127.0.0.1", 1), "server": ("simulated", 443), "state": {},
        }  # fmt: skip
        status, headers, body = 0, {}, bytearray()
        left = len(call.body)

        async def receive() -> dict[str, object]:
            nonlocal left
            if pieces:
                delay_s, piece = pieces.pop(0)
                if delay_s:
                    await asyncio.sleep(delay_s)
                left -= len(piece)
                return {"type": "http.request", "body": piece, "more_body": left > 0}
            await gone
            return {"type": "http.disconnect"}

        async def send(message: dict) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = {name.decode(): value.decode() for name, value in message.get("headers", ())}
                return
            body.extend(message.get("body", b""))
            if not message.get("more_body"):
                self._promises.answered(call, path, status, bytes(body))
                answer(Answered(status, headers, bytes(body)))

        try:
            await self._app(scope, receive, send)
        except Exception as error:  # noqa: BLE001  # a bug of the coordinator's, which would be a traceback in its log
            self._world.breaks(f"{call} raised {error!r}")

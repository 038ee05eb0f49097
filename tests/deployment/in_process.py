"""A coordinator in a thread of the tests' own process: real TLS, HTTP and SQLite, and a hand on what it stands on."""

import asyncio
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

import structlog

from lycia.deployment.coordinator import server
from lycia.deployment.coordinator.server import Settings
from lycia.deployment.identity import Invitation
from lycia.deployment.operator import OperatorAccess
from lycia.deployment.wire import InviteMessage


class Coordinator:
    """Serves from `start` to `stop`, again and again from the same folder and on the same port."""

    def __init__(self, home: Path, silence_s: float = 5.0, database: str = "", port: int = 0) -> None:
        self.home, self._silence_s, self._database, self._port = home, silence_s, database, port
        self._thread: threading.Thread | None = None

    def start(self) -> "Coordinator":
        """Serve; returns when nodes can connect. Its log goes where no command that a test runs writes its answer."""
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.__stderr__))
        listener = server._listen("127.0.0.1", self._port)
        self._port = listener.getsockname()[1]
        self.home.mkdir(parents=True, exist_ok=True)
        settings = Settings(self.home, port=self._port, silence_s=self._silence_s, database=self._database)
        ready: Future[str] = Future()

        async def serve() -> None:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
            try:
                await server._serve(settings, listener, ready.set_result, server.system_entropy)
            except Exception as error:  # noqa: BLE001  # whoever waits for it is told
                listener.close()
                ready.set_exception(error)
            except asyncio.CancelledError:
                await self._hang_up()

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        self._thread.start()
        self.url = ready.result(20)
        self.client = OperatorAccess.at(self.home).client()
        return self

    def stop(self) -> None:
        """Stop serving; what is durable stays."""
        if self._thread is not None and self._thread.is_alive():
            self.client.close()
            self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join(20)
            assert not self._thread.is_alive()

    async def _hang_up(self) -> None:
        """Drop the connections that callers have kept open, as the end of a process does."""
        for transport in list(self._loop._transports.values()):
            transport.abort()
        for _ in range(5):
            await asyncio.sleep(0)

    def invite(self, name: str, **more: object) -> Invitation:
        """A new invitation."""
        said = self.client.post("/v1/invitations", InviteMessage(name=name, **more))
        return Invitation.from_text(said["invitation"])

    def __enter__(self) -> "Coordinator":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

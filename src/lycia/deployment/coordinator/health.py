"""Whether a coordinator is alive, and whether it is ready: what a supervisor or a load balancer asks."""

import asyncio
import shutil
import time
from pathlib import Path
from typing import Literal

from lycia.storage.database import Database, set_setting

Reason = Literal["starting", "draining", "database", "disk"]
"""Why it is not ready. These words are all that anybody is told, since anybody may ask."""

_LEAST_FREE_BYTES = 256 << 20  # below, the next model may not fit
_GOOD_FOR_S = 1.0  # so often something is written to see that it can be, however many ask
_PATIENCE_S = 2.0


class Health:
    """How one coordinator is. It begins as starting."""

    def __init__(self, database: Database, folder: Path, least_free_bytes: int = _LEAST_FREE_BYTES) -> None:
        self._database, self._folder, self._least_free_bytes = database, folder, least_free_bytes
        self.is_starting, self.is_draining = True, False
        self._asking = asyncio.Lock()
        self._writable, self._asked_s = True, float("-inf")
        self._writing: asyncio.Task[None] | None = None

    async def reasons(self) -> list[Reason]:
        """Why it is not ready; empty if it is."""
        found: list[Reason] = []
        if self.is_starting:
            found.append("starting")
        if self.is_draining:
            found.append("draining")
        if not await self._is_writable():
            found.append("database")
        if self.free_bytes() < self._least_free_bytes:
            found.append("disk")
        return found

    def free_bytes(self) -> int:
        """How much room there is on the disk that everything is kept on."""
        try:
            return shutil.disk_usage(self._folder).free
        except OSError:
            return 0

    async def _is_writable(self) -> bool:
        async with self._asking:
            if time.monotonic() - self._asked_s >= _GOOD_FOR_S:
                if self._writing is None or self._writing.done():
                    self._writing = asyncio.create_task(self._write())
                done, _ = await asyncio.wait({self._writing}, timeout=_PATIENCE_S)
                self._writable = bool(done) and self._writing.exception() is None
                self._asked_s = time.monotonic()
            return self._writable

    async def _write(self) -> None:
        at_s = f"{time.time():.0f}"
        await self._database.write(lambda connection: set_setting(connection, "checked_s", at_s))

"""Files on their way in: announced, received by parts, and acknowledged part by part when each is on the disk.

A sender goes on from what was acknowledged, whichever end was killed meanwhile. Bytes that come are a sign of life, so
a slow sender is never cut off; one that goes silent in the middle of a body is.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field

from lycia.deployment.pace import Pace
from lycia.errors import LyciaError, NotFound, StorageError
from lycia.storage import parts, uploads
from lycia.storage.database import Database
from lycia.storage.spool import Spool
from lycia.storage.uploads import Upload

_PIECE_BYTES = 1 << 20
_MOST_BODIES = 16  # more make nothing faster, and what is on its way when a connection breaks is sent again
_MOST_KNOWN = 4096


class Silent(Exception):
    """A body went silent in its middle, or its sender hung up."""


class Busy(Exception):
    """So many bodies are arriving that another one must wait."""


class TooLarge(LyciaError):
    """A body is larger than anything that belongs there."""


@dataclass(frozen=True)
class Limits:
    """What senders may do.

    Attributes:
      silence_s: how long a body may stand still.
      bodies: how many may arrive at once; others wait, and are told to come back if that takes as long as a silence.
      node_bytes_s: how fast one node may send, and be sent to; None for no cap.
    """

    silence_s: float = 30.0
    bodies: int = _MOST_BODIES
    node_bytes_s: float | None = None


NO_CAPS = Limits()


@dataclass
class _Arriving:
    """An upload as this process knows it: what is in the database, and who writes which part at this moment."""

    upload: Upload
    have: set[int]
    writers: dict[int, "_Writer"] = field(default_factory=dict)


@dataclass
class _Writer:
    """Somebody who sends a part. One who comes later takes over; nobody writes where another one does."""

    is_current: bool = True
    gone: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class _Turn:
    """Who announces or delivers an update for one task of one node does so alone; `wanted`: how many do, or wait."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    wanted: int = 0


class Transfers:
    """All files that are on their way into one coordinator."""

    def __init__(
        self, database: Database, spool: Spool, now_s: Callable[[], float], heard: Callable[[str, int], None],
        limits: Limits = NO_CAPS,
    ) -> None:  # fmt: skip
        """`heard`: is told that so many bytes came from a sender."""
        self.spool, self._db, self._now_s, self._heard, self._limits = spool, database, now_s, heard, limits
        self._known: dict[str, _Arriving] = {}
        self._paces: dict[str, Pace] = {}
        self._places = asyncio.Semaphore(limits.bodies)
        self._forgetting: set[asyncio.Task[None]] = set()
        self._alone: dict[tuple[str, int, str], _Turn] = {}

    # ---------------------------------------------------------------------------------------------------- what arrives

    async def announce(self, upload: Upload) -> list[int]:
        """Expect an upload; returns which of its parts are here already.

        Raises: StorageError, if there is no room for it.
        """
        if not await asyncio.to_thread(self.spool.has, upload.id, upload.size_bytes):
            await self._db.write(lambda connection: uploads.forget(connection, [upload.id]))
            self._disown(upload.id)
            await asyncio.to_thread(self.spool.begin, upload.id, upload.size_bytes)
        have, replaced = await self._db.write(lambda connection: uploads.announce(connection, upload))
        await self._let_go(replaced)
        known = self._known.get(upload.id)
        if known is None:
            self._remember(_Arriving(upload, set(have)))
        return sorted(have)

    async def part(self, sender: str, id: str, number: int, digest: str, body: AsyncIterator[bytes]) -> bool:
        """Receive a part; returns whether it came as announced. It is on the disk then, and written down.

        Raises: NotFound, if the sender has not announced it; Silent; Busy; StorageError.
        """
        arriving = await self.find(sender, id)
        wanted = arriving.upload.parts[number : number + 1]
        if wanted != (digest,):
            raise NotFound(
                f"part {number} of this upload is not {digest[:12]}….",
                why=f"it was announced with {len(arriving.upload.parts)} parts, each with its digest.",
                do="announce the upload again: it goes on with the parts that are here.",
            )
        async with self._writing(arriving, number) as writer:
            if number in arriving.have:
                return True
            place = parts.place(arriving.upload.size_bytes, number)
            if not await asyncio.to_thread(self.spool.has, id, arriving.upload.size_bytes):
                raise _unknown(sender, id)
            part = await asyncio.to_thread(self.spool.part, id, place.start)
            try:
                size = 0
                async with aclosing(self.received(sender, body, place.stop - place.start)) as pieces:
                    async for gathered in pieces:
                        if not writer.is_current:
                            raise Silent
                        await asyncio.to_thread(part.write, *gathered)
                        size += sum(map(len, gathered))
                if size != place.stop - place.start or part.digest != digest:
                    return False
                await asyncio.to_thread(part.sync)
            finally:
                part.close()
            await self._db.write(lambda connection: uploads.note_part(connection, id, number))
            arriving.have.add(number)
        return True

    async def find(self, sender: str, id: str) -> _Arriving:
        """An upload of this sender's.

        Raises: NotFound, if it has announced none of this name: it is nobody else's to see.
        """
        arriving = self._known.get(id)
        if arriving is None:
            found = await self._db.read(lambda connection: uploads.get_upload(connection, id))
            if found is not None:
                arriving = self._known.get(id) or _Arriving(found[0], set(found[1]))
                self._remember(arriving)
        if arriving is None or arriving.upload.node != sender:
            raise _unknown(sender, id)
        return arriving

    @asynccontextmanager
    async def alone(self, run: str, task: int, node: str) -> AsyncIterator[None]:
        """Announce or deliver an update while nobody else does so for the same task of the same node."""
        turn = self._alone.setdefault((run, task, node), _Turn())
        turn.wanted += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._alone[run, task, node]

    async def received(self, sender: str, body: AsyncIterator[bytes], limit: int) -> AsyncGenerator[list[bytes]]:
        """The body as it comes, about a megabyte at a time, at the sender's pace.

        Raises: TooLarge; Silent; Busy.
        """
        async with self._place():
            gathered: list[bytes] = []
            ready = total = 0
            pieces = aiter(body)
            while True:
                try:
                    async with asyncio.timeout(self._limits.silence_s):
                        piece = await anext(pieces, None)
                except TimeoutError:
                    raise Silent from None
                if piece is None:
                    break
                total += len(piece)
                if total > limit:
                    raise too_large(limit)
                gathered.append(piece)
                ready += len(piece)
                if ready >= _PIECE_BYTES:
                    await self._moved(sender, ready)
                    yield gathered
                    gathered, ready = [], 0
                elif piece:
                    self._heard(sender, 0)
            if ready:
                await self._moved(sender, ready)
                yield gathered

    async def small(self, sender: str, body: AsyncIterator[bytes], limit: int) -> bytes:
        """A body in one piece.

        Raises: TooLarge; Silent; Busy.
        """
        async with aclosing(self.received(sender, body, limit)) as pieces:
            return b"".join([piece async for gathered in pieces for piece in gathered])

    async def paced(self, receiver: str, moved: int) -> None:
        """Wait as long as the receiver's pace wants after so many bytes."""
        wait_s = self._pace(receiver).wait_s(moved)
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    def parallel(self) -> int:
        """How many parts of one upload may be on their way at once, as busy as it is here now."""
        unfinished = sum(len(known.have) < len(known.upload.parts) for known in self._known.values())
        return max(1, self._limits.bodies // max(unfinished, 1))

    # ------------------------------------------------------------------------------------------------ what is let go of

    def forget(self, ids: Collection[str]) -> None:
        """These are part of a model now, or of none. They are removed as soon as there is time."""
        if ids:
            task = asyncio.get_running_loop().create_task(self._forget(ids))
            self._forgetting.add(task)
            task.add_done_callback(self._forgetting.discard)

    async def drop(self, run: str, tasks: Collection[int] | None, keep: Collection[str]) -> None:
        """Nobody needs what was sent for these tasks of a run, or for any, but `keep`."""
        found = await self._db.read(lambda connection: uploads.uploads_of_run(connection, run, tasks))
        await self._forget([id for id in found if id not in keep])

    async def sweep(self, held: Collection[str], runs: Collection[str]) -> None:
        """Remove what a crash left behind: all but `held`, and what is on its way for one of `runs`."""
        known = await self._db.read(uploads.all_uploads)
        needed = {*held, *(id for id, run in known if run in runs)}
        await self._db.write(lambda connection: uploads.forget(connection, [id for id, _ in known if id not in needed]))
        await asyncio.to_thread(self.spool.sweep, needed)

    async def end(self) -> None:
        """Wait until what was to be removed is."""
        await asyncio.gather(*self._forgetting, return_exceptions=True)

    async def _forget(self, ids: Collection[str]) -> None:
        with suppress(StorageError):  # what cannot be removed now lies there until the coordinator starts again
            for id in ids:
                self._disown(id)
            # Before their files: a part that is noted is always there.
            await self._db.write(lambda connection: uploads.forget(connection, ids))
            await self._let_go(ids)

    async def _let_go(self, ids: Iterable[str]) -> None:
        for id in ids:
            self._disown(id)
        await asyncio.to_thread(self.spool.remove, ids)

    # ------------------------------------------------------------------------------------------------------------------

    def _disown(self, id: str) -> None:
        """Forget what is known of an upload here; whoever writes to it at this moment stops."""
        arriving = self._known.pop(id, None)
        for writer in arriving.writers.values() if arriving else ():
            writer.is_current = False

    def _remember(self, arriving: _Arriving) -> None:
        while len(self._known) >= _MOST_KNOWN:  # the database knows them all
            idle = next((id for id, known in self._known.items() if not known.writers), None)
            if idle is None:
                break
            del self._known[idle]
        self._known[arriving.upload.id] = arriving

    @asynccontextmanager
    async def _writing(self, arriving: _Arriving, number: int) -> AsyncIterator[_Writer]:
        mine = _Writer()
        before = arriving.writers.get(number)
        arriving.writers[number] = mine
        try:
            if before is not None:
                before.is_current = False
                await before.gone.wait()
            yield mine
        finally:
            mine.gone.set()
            if arriving.writers.get(number) is mine:
                del arriving.writers[number]

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._limits.silence_s / 2):
                await self._places.acquire()
        except TimeoutError:
            raise Busy from None
        try:
            yield
        finally:
            self._places.release()

    async def _moved(self, sender: str, size: int) -> None:
        self._heard(sender, size)
        await self.paced(sender, size)

    def _pace(self, name: str) -> Pace:
        if name not in self._paces:
            self._paces[name] = Pace(self._limits.node_bytes_s, self._now_s)
        return self._paces[name]


def _unknown(sender: str, id: str) -> NotFound:
    return NotFound(
        f"{sender!r} has announced no upload {id[:12]}….",
        why="it was announced by nobody, by somebody else, or is not needed any more.",
        do="announce it again; what is still of use goes on from what is here.",
    )


def too_large(limit: int) -> LyciaError:
    """The error for a body that is larger than what belongs there."""
    return TooLarge(
        f"the body is larger than {limit} bytes.",
        why="nothing that belongs here is that large, so it is not taken in.",
        do="send what the run's layout describes, and no more.",
    )

"""A fleet behind a network: asks wait here until nodes fetch them, replies until the loop has written them down."""

import asyncio
from base64 import b64encode
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from lycia.core import folding
from lycia.core.admission import extras
from lycia.core.events import Event, Heard
from lycia.core.hearing import senders
from lycia.core.layout import Layout, Model
from lycia.core.messages import BASELINE, Ask, Late, Reply, Summed, Updates, Vanished
from lycia.core.needs import Needs
from lycia.core.parts import Extra, Roster
from lycia.core.round import Run
from lycia.deployment import wire
from lycia.deployment.coordinator.presence import Presence
from lycia.deployment.coordinator.promises import Promises
from lycia.deployment.coordinator.transfers import Transfers
from lycia.deployment.wire import AskMessage, Shared
from lycia.storage import parts
from lycia.storage.blobs import BlobFolder

_INLINE = 1 << 16  # bytes; what is smaller goes along with the ask, and saves a call
_MOST_FOLDED = 256  # small updates that become one sum, and are written down together


class Stopping(Exception):
    """The coordinator stops before it can say what became of a reply."""


@dataclass(frozen=True)
class _Open:
    """One ask that one node has not answered yet."""

    ask: Ask
    shared: Shared
    since_s: float


class Mailbox:
    """The `Fleet` of one run in deployment.

    Nodes pull: `task_for` is what a poll returns, `deliver` what an upload calls. A reply is acknowledged to its node
    only after the loop has written down what it means, so a node may let go of it then and not before.
    """

    def __init__(
        self, run: Run, presence: Presence, transfers: Transfers, blobs: BlobFolder, outgoing: BlobFolder,
        now_s: Callable[[], float], wake: Callable[[], None], held: Collection[str] = (),
        blob_of: Callable[[Model], str | None] = lambda _: None, promises: Promises | None = None,
    ) -> None:  # fmt: skip
        """What a box needs of its coordinator.

        Args:
          transfers: brings updates in, and keeps them; `held` are those that the open round has heard.
          outgoing: what is sent and can be made again, so that it need not be durable.
          blob_of: the blob in which a model is kept just as nodes get it, so that it is not written again.
          promises: what all runs on these disks have been promised.
        """
        self.run, self._presence, self._transfers = run, presence, transfers
        self._blobs, self._outgoing, self._blob_of = blobs, outgoing, blob_of
        self._now_s, self._wake, self._held = now_s, wake, set(held)
        self._small: dict[str, bytes] = {}
        self._promises, self._announced = promises or Promises(), dict[str, int]()
        self._open: dict[str, dict[int, _Open]] = {}
        self._gone: set[tuple[int, str]] = set()
        self._replies: asyncio.Queue[Reply] = asyncio.Queue()
        self._waiting: dict[tuple[int, str], list[asyncio.Future[str | None]]] = {}
        self._made: dict[str, dict[str, str]] = {}
        self._listening = asyncio.Event()
        self.bytes_up = self.bytes_down = 0

    # ------------------------------------------------------------------------------------------ what the loop calls

    async def roster(self, at_least: int) -> Roster:
        """Everyone who is there, once there are enough."""
        return await self._presence.wait_roster(at_least)

    async def check_space(self, needs: Needs) -> None:
        """Do nothing if the disks have room for the next round beside what other runs have been promised.

        Raises: StorageError.
        """
        announced = self._announced = dict[str, int]()
        self._promises.promise(
            self.run.id,
            [
                (self._transfers.spool.root, needs.updates_bytes),
                (self._blobs.root, needs.kept_bytes + needs.scratch_bytes),
                (self._outgoing.root, needs.sent_bytes),
            ],
            arrived_bytes=lambda: sum(announced.values()),
        )

    async def send(self, ask: Ask) -> None:
        """Put the ask into the box of each of its nodes, and wake those that wait at the door."""
        shared = await asyncio.to_thread(self._share, ask)
        since_s = self._presence.now_s()  # of all runs the same, while a run's own clock may have stood still
        for node in ask.nodes:
            self._open.setdefault(node, {})[ask.task] = _Open(ask, shared, since_s)
        self._wake()

    async def receive(self, until_s: float) -> Reply | None:
        """The next reply, or the news that a node has vanished."""
        self._listening.set()
        while True:
            vanished = self._vanished()
            if vanished is not None:
                return vanished
            if not self._replies.empty():
                return self._gather(self._replies.get_nowait())
            left_s = until_s - self._now_s()
            if left_s <= 0:
                return None
            with suppress(TimeoutError):  # not `wait_for`: before Python 3.12 a cancellation may get lost in it
                async with asyncio.timeout(min(left_s, self._presence.silence_s / 4)):
                    return self._gather(await self._replies.get())

    async def secure(self, reply: Reply, events: Sequence[Event]) -> Sequence[Event]:
        """Put small updates on the disk, as their sum where that is all that is needed of them.

        What came by parts is there already. A sum has a handle of its own, and the event names all whose updates are
        in it: both count, or neither does.
        """
        if not isinstance(reply, Updates):
            return events
        secured: list[Event] = []
        for event in events:
            if isinstance(event, Heard) and any(handle in self._small for handle in event.handles):
                secured.append(await asyncio.to_thread(self._secure, reply, event))
            else:
                secured.append(event)
        return secured

    def _secure(self, reply: Updates, event: Heard) -> Heard:
        ask = next((box[reply.task].ask for box in self._open.values() if reply.task in box), None)
        if len(event.nodes) > 1 and ask is not None and ask.grid is not None and not self.run.plan.needs_rows:
            rows = [reply.nodes.index(node) for node in event.nodes]
            summed = folding.fold(self.run.plan, ask.grid, reply, rows, [norm or 0.0 for norm in event.norms])
            pieces = list(wire.sum_file(summed, self.run.id))
            handle = parts.digest_of_pieces(pieces)
            self._transfers.spool.put(handle, pieces)
            return replace(event, handles=(handle,) * len(event.nodes))
        for handle in event.handles:
            self._transfers.spool.put(handle, [self._small[handle]])
        return event

    async def acknowledge(self, reply: Reply, refusals: Mapping[str, str]) -> None:
        """Let the node's call return."""
        for node in senders(reply):
            refusal = refusals.get(node)
            if not isinstance(reply, (Vanished, Late)):  # these leave the ask open: the node may yet answer it
                self._open.get(node, {}).pop(reply.task, None)
            for waiting in self._waiting.pop((reply.task, node), []):
                if not waiting.done():
                    waiting.set_result(refusal)
        if isinstance(reply, Updates):
            by_parts = {
                handle: node
                for node, handle in zip(reply.nodes, reply.handles, strict=True)
                if self._small.pop(handle, None) is None
            }
            self._held.update(handle for handle, node in by_parts.items() if node not in refusals)
            self.forget(handle for handle, node in by_parts.items() if node in refusals)

    async def withdraw(self, tasks: Iterable[int]) -> None:
        """Take the asks out of all boxes; who works on one already will be told when it delivers."""
        gone = list(tasks)
        for task in gone:
            for box in self._open.values():
                box.pop(task, None)
        if gone:
            await self._transfers.drop(self.run.id, gone, self._held)

    def announced(self, handle: str, size_bytes: int) -> None:
        """An update is on its way: the room that it needs has been taken."""
        self._announced[handle] = size_bytes

    def hold(self, handle: str, content: bytes) -> None:
        """A small update has come: it stays in memory until it is known whether it counts."""
        self._small[handle] = content

    def kept(self, handle: str) -> Updates | Summed:
        """The update, or the sum, under `handle`: mapped into memory and not read."""
        return wire.reread(self.run.layout, self._transfers.spool.open(handle), handle)

    def forget(self, handles: Iterable[str]) -> None:
        """Remove updates that are part of a model, or of none."""
        gone = [handle for handle in handles if handle]
        self._held.difference_update(gone)
        for handle in gone:
            self._small.pop(handle, None)
        self._transfers.forget(gone)

    def traffic(self) -> tuple[int, int]:
        """Bytes of bodies up and down in this run since the coordinator started."""
        return self.bytes_up, self.bytes_down

    # ----------------------------------------------------------------------------------------- what the doors call

    def task_for(self, node: str) -> AskMessage | None:
        """The oldest ask that waits for the node; the same one until it is answered."""
        for task in sorted(self._open.get(node, {})):
            self._gone.discard((task, node))
            item = self._open[node][task]
            self.bytes_down += sum(map(len, item.shared.inline.values())) * 3 // 4
            return wire.encode_ask(item.ask, self.run.layout, item.shared, node)
        return None

    def waiting_since(self, node: str) -> float | None:
        """Since when the oldest ask waits for the node, on the clock that all runs share; None if none does."""
        box = self._open.get(node)
        return box[min(box)].since_s if box else None

    async def expects(self, task: int, node: str) -> bool:
        """Whether this task waits for this node; after a restart, once the loop has put the open asks back."""
        await self._listening.wait()
        return task in self._open.get(node, {})

    def extras(self) -> tuple[Extra, ...]:
        """What an update of this run carries beside its delta."""
        return extras(self.run.layout, self.run.plan)

    def names(self, node: str, digest: str) -> bool:
        """Whether an ask that waits for the node tells it to fetch this blob."""
        for item in self._open.get(node, {}).values():
            if digest in (item.shared.model, item.shared.base, item.shared.told, item.ask.plan, self.run.layout.digest):
                return True
        return False

    async def deliver(self, reply: Reply, node: str) -> str | None:
        """Hand a reply to the loop; returns why it was not taken, or None, once that is written down."""
        waiting: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault((reply.task, node), []).append(waiting)
        self._replies.put_nowait(reply)
        return await waiting

    def dismiss(self, why: str = "the run is over", taken: Collection[tuple[int, str]] = ()) -> None:
        """The run is over, or pauses: nobody waits here any more, and what was sent is not needed.

        Args:
          why: what those are told who wait for an answer.
          taken: (task, node) of what was written down, though its node could not be told any more.
        """
        self._open.clear()
        self._promises.end(self.run.id)
        self._listening.set()
        for kind in ("model", "told"):
            for digest in self._made.pop(kind, {}).values():
                self._outgoing.remove(digest)
        for place, waits in self._waiting.items():
            for waiting in waits:
                if not waiting.done():
                    waiting.set_result(None if place in taken else why)

    def interrupt(self) -> None:
        """The coordinator stops: who waits here for an answer shall call again when it is back."""
        self._open.clear()
        self._listening.set()
        for waiting in self._unanswered():
            waiting.set_exception(Stopping())

    def _gather(self, reply: Reply) -> Reply:
        """A block of all small updates that have come for one task, where the first reply is one of them."""
        if not isinstance(reply, Updates) or reply.handles[0] not in self._small:
            return reply
        rows: list[Updates] = [reply]
        others: list[Reply] = []
        while not self._replies.empty() and len(rows) < _MOST_FOLDED:
            other = self._replies.get_nowait()
            is_small = isinstance(other, Updates) and other.handles[0] in self._small
            if isinstance(other, Updates) and is_small and folding.is_alike(reply, other):
                rows.append(other)
            else:
                others.append(other)
        for other in others:
            self._replies.put_nowait(other)
        return folding.block(rows)

    def _unanswered(self) -> list[asyncio.Future[str | None]]:
        return [waiting for waits in self._waiting.values() for waiting in waits if not waiting.done()]

    def _vanished(self) -> Vanished | None:
        for node, box in self._open.items():
            if box and self._presence.is_lost(node):
                for task in box:
                    if (task, node) not in self._gone:
                        self._gone.add((task, node))
                        return Vanished(task, node, f"nothing was heard of it for {self._presence.silence_s:g} s")
        return None

    def _share(self, ask: Ask) -> Shared:
        layout: Layout = self.run.layout
        model = base = None
        if ask.model is not None:
            pieces = wire.base_file(layout, ask.model)
            # Nothing in it changes, but that each attempt at a first round may scale features anew.
            scaled = f"{ask.attempt}" if self.run.plan.normalisation and ask.round == 0 else ""
            base = self._made_once("base", scaled, pieces) if pieces else None
            # The baseline begins with the first model, whatever the round.
            version = f"{ask.round}, {ask.exchange == BASELINE}"
            model = self._blob_of(ask.model) or self._made_once(
                "model", version, wire.model_file(layout, ask.model, ask.run)
            )
        told = self._made_once("told", str(ask.task), wire.told_file(ask.told, ask.run)) if ask.told else None
        inline = {}
        for digest in filter(None, (model, told)):
            folder = self._outgoing if self._outgoing.has(digest) else self._blobs
            if folder.size(digest) <= _INLINE:
                inline[digest] = b64encode(folder.open(digest)).decode()
        return Shared(model, base, told, inline)

    def _made_once(self, kind: str, version: str, pieces: Iterable[bytes | memoryview]) -> str:
        """The digest of what is sent, made when it is first needed; of each kind, the last two are kept."""
        made = self._made.setdefault(kind, {})
        if version not in made:
            made[version] = self._outgoing.put(pieces)
            for old in list(made)[:-2]:
                digest = made.pop(old)
                if digest not in made.values():
                    self._outgoing.remove(digest)
        return made[version]

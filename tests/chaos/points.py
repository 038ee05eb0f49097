"""The named points of the product at which its processes are killed: before and after each write, and each step.

The product knows nothing of them: a test program wraps its functions, and dies at the n-th passing of one of them.
"""

import asyncio
import functools
import importlib
import inspect
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tests.chaos.telling import Program, me

Moment = Literal["before", "after"]
MOMENTS: tuple[Moment, ...] = ("before", "after")


@dataclass(frozen=True)
class Point:
    """A function of the product with a name.

    Attributes:
      place: "module:path of attributes", where it is looked up when it is called.
      once: passed only at the beginning or the end of a federation's life.
      small: passed only where updates are small enough to come in one piece.
      of: of a journal's entry, the kind of event that must be in it.
    """

    program: Program
    name: str
    place: str
    once: bool = False
    small: bool = False
    of: str = ""


POINTS: tuple[Point, ...] = (
    Point("coordinator", "member", "lycia.storage.nodes:add_node", once=True),
    Point("coordinator", "model adopted", "lycia.storage.blobs:BlobFolder.adopt", once=True),
    Point("coordinator", "run listed", "lycia.storage.runs:create_run", once=True),
    Point("coordinator", "run begun", "lycia.storage.run_store:RunStore.begin", once=True),
    Point("coordinator", "transaction", "lycia.storage.database:Database._commit"),
    Point("coordinator", "change", "lycia.storage.database:_apply"),
    Point("coordinator", "blob", "lycia.storage.blobs:Incoming.commit"),
    Point("coordinator", "blob removed", "lycia.storage.blobs:BlobFolder.remove"),
    Point("coordinator", "run resumed", "lycia.storage.run_store:RunStore.resume"),
    Point("coordinator", "asks written", "lycia.storage.run_store:RunStore.append", of="Asked"),
    Point("coordinator", "replies written", "lycia.storage.run_store:RunStore.append", of="Heard"),
    Point("coordinator", "survivors written", "lycia.storage.run_store:RunStore.append", of="Settled"),
    Point("coordinator", "model", "lycia.storage.run_store:RunStore.advance"),
    Point("coordinator", "round", "lycia.storage.run_store:RunStore.end_round"),
    Point("coordinator", "asks", "lycia.deployment.coordinator.mailbox:Mailbox.send"),
    Point("coordinator", "asks withdrawn", "lycia.deployment.coordinator.mailbox:Mailbox.withdraw"),
    Point("coordinator", "reply", "lycia.deployment.coordinator.mailbox:Mailbox.deliver"),
    Point("coordinator", "acknowledgement", "lycia.deployment.coordinator.mailbox:Mailbox.acknowledge"),
    Point("coordinator", "upload announced", "lycia.storage.uploads:announce"),
    Point("coordinator", "upload begun", "lycia.storage.spool:Spool.begin"),
    Point("coordinator", "part", "lycia.storage.spool:ArrivingPart.write"),
    Point("coordinator", "part synced", "lycia.storage.spool:ArrivingPart.sync"),
    Point("coordinator", "part noted", "lycia.storage.uploads:note_part"),
    Point("coordinator", "update in one piece", "lycia.storage.spool:Spool.put", small=True),
    Point("coordinator", "updates folded", "lycia.core.folding:fold", small=True),
    Point("coordinator", "updates secured", "lycia.deployment.coordinator.mailbox:Mailbox.secure"),
    Point("coordinator", "spool swept", "lycia.storage.spool:Spool.sweep"),
    Point("coordinator", "updates removed", "lycia.storage.spool:Spool.remove"),
    Point("coordinator", "uploads forgotten", "lycia.storage.uploads:forget"),
    Point("coordinator", "updates forgotten", "lycia.deployment.coordinator.mailbox:Mailbox.forget"),
    Point("coordinator", "write", "os:write"),
    Point("coordinator", "write in a part", "os:pwrite"),
    Point("coordinator", "sync", "os:fsync"),
    Point("coordinator", "rename", "os:replace"),
    Point("coordinator", "unlink", "os:unlink"),
    Point("coordinator", "run state", "lycia.storage.runs:set_run_state", once=True),
    Point("agent", "enrolment", "lycia.deployment.node.client:Client.enrol", once=True),
    Point("agent", "membership", "lycia.deployment.node.agent:Membership.keep", once=True),
    Point("agent", "ask", "lycia.deployment.node.client:Client.poll"),
    Point("agent", "private file", "lycia.deployment.node.agent:write_private"),
    Point("agent", "download", "lycia.deployment.node.client:Client.download"),
    Point("agent", "download in parts", "lycia.deployment.node.fetching:fetch"),
    Point("agent", "piece", "os:pwrite"),
    Point("agent", "job", "lycia.deployment.node.agent:TrainerProcess.do"),
    Point("agent", "work finished", "lycia.storage.node_journal:NodeJournal.finished"),
    Point("agent", "delivery", "lycia.deployment.node.agent:Agent.deliver"),
    Point("agent", "upload", "lycia.deployment.node.client:Client.upload_update"),
    Point("agent", "parts sent", "lycia.deployment.node.client:Client._send_parts"),
    Point("agent", "work delivered", "lycia.storage.node_journal:NodeJournal.delivered"),
    Point("agent", "reply sent", "lycia.deployment.node.client:Client.reply"),
    Point("agent", "write", "os:write"),
    Point("agent", "sync", "os:fsync"),
    Point("agent", "rename", "os:replace"),
    Point("agent", "unlink", "os:unlink"),
    Point("trainer", "job", "lycia.deployment.node.trainer:Worker.do"),
    Point("trainer", "work", "lycia.deployment.node.trainer:work"),
    Point("trainer", "memory", "lycia.storage.node_state:NodeState.keep"),
    Point("trainer", "write", "os:write"),
    Point("trainer", "rename", "os:replace"),
    Point("trainer", "update", "lycia.deployment.node.trainer:replace_file"),
    Point("trainer", "answer", "lycia.deployment.node.trainer:_say"),
)


@dataclass(frozen=True)
class Charge:
    """Where a process kills itself.

    Attributes:
      nth: at which passing of the point, counted from 1 in each life.
      whole: with its whole group: agent and trainer, as a machine that loses its power.
      lag_s: how long it stays there before it dies, while all else in it goes on: what is said too early gets out.
    """

    program: Program
    point: str
    moment: Moment
    nth: int = 1
    whole: bool = False
    lag_s: float = 0.0


class Fuse:
    """Counts what this process passes, and kills it where its charge says."""

    def __init__(self) -> None:
        self.charge: Charge | None = None
        self._passed: Counter[tuple[str, Moment]] = Counter()
        self._lock = threading.Lock()

    def burns(self, point: Point, moment: Moment) -> Charge | None:
        """The charge, if this passing is the one at which the process dies."""
        charge = self.charge
        if charge is None or (charge.program, charge.point, charge.moment) != (point.program, point.name, moment):
            return None
        if me.program != point.program:  # a trainer that was forked from its agent
            return None
        with self._lock:
            self._passed[point.name, moment] += 1
            return charge if self._passed[point.name, moment] == charge.nth else None

    def pass_by(self, point: Point, moment: Moment) -> None:
        """One passing."""
        charge = self.burns(point, moment)
        if charge is not None:
            time.sleep(charge.lag_s)
            die(charge)

    async def pass_by_in_loop(self, point: Point, moment: Moment) -> None:
        """The same, where others in the event loop go on meanwhile."""
        charge = self.burns(point, moment)
        if charge is not None:
            await asyncio.sleep(charge.lag_s)
            die(charge)


fuse = Fuse()


def die(charge: Charge) -> None:
    """SIGKILL to this process, or to its whole group."""
    me.tell("dies", **asdict(charge))
    if charge.whole:
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def install(*programs: Program) -> None:
    """Wrap every point of these programs."""
    for point in POINTS:
        if point.program in programs:
            wrap(point.place, functools.partial(_around, point))


def wrap(place: str, around: Callable[[Any], Any]) -> None:
    """Put `around(what stands there)` in the place "module:path"."""
    owner, name = find(place)
    setattr(owner, name, around(getattr(owner, name)))


def find(place: str) -> tuple[Any, str]:
    """The owner of what stands in a place, and its name there.

    Raises: AttributeError, if there is nothing of that name: the product has changed.
    """
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    getattr(owner, name)
    return owner, name


def _around(point: Point, real: Any) -> Any:
    if inspect.iscoroutinefunction(real):

        @functools.wraps(real)
        async def later(*args: Any, **more: Any) -> Any:
            if point.of and all(type(event).__name__ != point.of for event in args[1]):
                return await real(*args, **more)
            await fuse.pass_by_in_loop(point, "before")
            result = await real(*args, **more)
            await fuse.pass_by_in_loop(point, "after")
            return result

        return later

    @functools.wraps(real)
    def now(*args: Any, **more: Any) -> Any:
        fuse.pass_by(point, "before")
        result = real(*args, **more)
        fuse.pass_by(point, "after")
        return result

    return now

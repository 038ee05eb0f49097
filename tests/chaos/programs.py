"""The coordinator and the node of the suite: the real ones, in a forked process, with what a seed does to them."""

import functools
import gc
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NoReturn

from lycia.deployment.coordinator.server import Settings, serve
from lycia.deployment.identity import Invitation
from lycia.deployment.node import agent, trainer
from lycia.storage.node_journal import Finished
from tests.chaos import calls, disks, points
from tests.chaos.points import Charge, fuse
from tests.chaos.telling import Program, me

HEARTBEAT_S = 0.25


@dataclass(frozen=True)
class Clock:
    """A wall clock that is wrong.

    Attributes:
      offset_s: how wrong from the beginning.
      jumps: (seconds after the process's start, by how much it jumps then).
      each_life_s: by how much it is set each time that the process starts again.
    """

    offset_s: float = 0.0
    jumps: tuple[tuple[float, float], ...] = ()
    each_life_s: float = 0.0

    def in_life(self, number: int) -> "Clock":
        """As it is in the process's life of that number, counted from 0."""
        return replace(self, offset_s=self.offset_s + number * self.each_life_s)

    def install(self) -> None:
        """From here on, `time.time` is that clock."""
        real, began_s = time.time, time.monotonic()

        def wrong() -> float:
            up_s = time.monotonic() - began_s
            return real() + self.offset_s + sum(by_s for at_s, by_s in self.jumps if up_s >= at_s)

        time.time = wrong


@dataclass(frozen=True)
class Order:
    """What a process is started for.

    Attributes:
      name: what the harness calls it; a node's is its own.
      arguments: of the program, by name.
      charge: where it kills itself, if it does.
      repeats: the chances that a call is made twice, and that it is made again after a later one; by the seed.
      full: a file; while it is there, the disk is full.
    """

    program: Program
    name: str
    log: str
    arguments: Mapping[str, Any]
    charge: Charge | None = None
    clock: Clock | None = None
    repeats: tuple[int, float, float] | None = None
    full: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def for_life(self, number: int, charge: Charge | None) -> "Order":
        """The same, for one life, and where that ends."""
        return replace(self, charge=charge, clock=self.clock and self.clock.in_life(number))

    def to_data(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Order":
        """Back from JSON."""
        charge, clock, repeats = data["charge"], data["clock"], data["repeats"]
        jumps = tuple((at_s, by_s) for at_s, by_s in clock["jumps"]) if clock else ()
        return cls(
            **{
                **data,
                "charge": Charge(**charge) if charge else None,
                "clock": Clock(clock["offset_s"], jumps, clock["each_life_s"]) if clock else None,
                "repeats": tuple(repeats) if repeats else None,
            }
        )


def begin(order: Order) -> NoReturn:
    """Be the process that was ordered, in a process that was forked for it; its life ends here."""
    status = 1
    try:
        me.name, me.program = order.name, order.program
        os.environ.update(order.environment)
        random.seed()
        fuse.charge = order.charge
        if order.clock is not None:
            order.clock.install()
        if order.full is not None:
            disks.install(Path(order.full))
        _coordinate(order) if order.program == "coordinator" else _join(order)
        status = 0
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:  # noqa: BLE001  # nothing may return into the process that this one was forked from
        traceback.print_exc()
    finally:
        _leave(status)


def _leave(status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _coordinate(order: Order) -> None:
    _speak_of_rounds()
    points.install("coordinator")
    asked = order.arguments
    settings = Settings(Path(asked["home"]), port=asked["port"], silence_s=asked["silence_s"])
    serve(settings, lambda url: me.tell("serves", url=url))


def _join(order: Order) -> None:
    _speak_of_training()  # first, and so within the points: who dies after one has said what it did
    points.install("agent", "trainer")
    if order.repeats is not None:
        calls.install(*order.repeats)
    agent._HEARTBEAT_S = HEARTBEAT_S
    agent.subprocess = SimpleNamespace(  # type: ignore[assignment]
        Popen=_Forked, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired
    )
    asked = order.arguments

    def note(said: str) -> None:
        sys.stderr.write(f"{order.name}: {said}\n")

    invitation = Invitation.from_text(asked["invitation"])
    agent.join(invitation, Path(asked["app"]), order.name, Path(asked["home"]), {}, note)


def _speak_of_rounds() -> None:
    """Say when a round has ended."""

    def around(real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        async def end_round(store: Any, carried: Any, record: Mapping[str, Any]) -> None:
            await real(store, carried, record)
            me.tell("ends round", run=store.run_id, round=record["round"], missed=record["missed"])

        return end_round

    points.wrap("lycia.storage.run_store:RunStore.end_round", around)


def _speak_of_training() -> None:
    """Say when a training begins, and when its update is finished, and written down, on the node's disk."""

    def around_work(real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def do(worker: trainer.Worker, job: trainer.Job) -> dict[str, Any]:
            if job.ask.exchange == "train":
                me.tell("trains", **_place(job.ask.model_dump()))
            said: dict[str, Any] = real(worker, job)
            return said

        return do

    def around_journal(real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def finished(journal: Any, run: str, task: int, work: Finished) -> None:
            real(journal, run, task, work)
            me.tell("has trained", **_place(work.ask))

        return finished

    points.wrap("lycia.deployment.node.trainer:Worker.do", around_work)
    points.wrap("lycia.storage.node_journal:NodeJournal.finished", around_journal)


def _place(ask: Mapping[str, Any]) -> dict[str, Any]:
    return {name: ask[name] for name in ("run", "round", "attempt", "task")}


class _Forked:
    """What `subprocess.Popen` is for the agent: its trainer, forked from itself and not from a new interpreter.

    A fork of a process with threads may find a lock taken for good. Those that the trainer uses are its own: it takes
    streams of its own, and none of the agent's connections. Of an agent's trainers the first one has the charge.
    """

    _others: ClassVar[int] = 0

    def __init__(self, command: list[str], **_: Any) -> None:
        down_read, down_write = os.pipe()
        up_read, up_write = os.pipe()
        self.pid, self.returncode = os.fork(), None
        if not self.pid:
            fuse.charge = None if self._others else fuse.charge
            _be_trainer(command[3:], down_read, up_write)
        _Forked._others += 1
        os.close(down_read)
        os.close(up_write)
        self.stdin, self.stdout = os.fdopen(down_write, "w", buffering=1), os.fdopen(up_read, "r")
        me.tell("has trainer", trainer=self.pid)

    def poll(self) -> int | None:
        """Its exit status, once it has ended."""
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def wait(self, within_s: float | None = None) -> int:
        """Its exit status, when it has ended."""
        until_s = None if within_s is None else time.monotonic() + within_s
        while self.poll() is None:
            if until_s is not None and time.monotonic() > until_s:
                raise subprocess.TimeoutExpired("trainer", within_s or 0.0)
            time.sleep(0.002)
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        """SIGKILL."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _be_trainer(arguments: list[str], source: int, sink: int) -> NoReturn:
    status = 1
    try:
        gc.freeze()  # what the agent had is left alone: to collect it would close files under numbers used anew
        me.program = "trainer"
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.dup2(source, 0)
        os.dup2(sink, 1)
        _close_all_but(me.descriptor)
        sys.stdin, sys.stdout = os.fdopen(0, "r", closefd=False), os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        status = trainer.main(arguments)
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:  # noqa: BLE001  # nothing may return into the agent's code
        traceback.print_exc()
    finally:
        _leave(status)


def _close_all_but(kept: int) -> None:
    # As the real trainer: neither the agent's connections nor its hold on the folder outlive it here.
    os.closerange(3, kept)
    os.closerange(max(kept + 1, 3), 4096)

"""One seed, one story: a federation, what befalls it, and whether it kept its promises."""

import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lycia.core.keys import Key
from lycia.core.layout import Layout, Model
from lycia.core.plan import Plan
from lycia.deployment.coordinator import mailbox
from lycia.deployment.identity import Identity
from lycia.deployment.node import client, fetching
from lycia.deployment.node.fetching import in_parallel
from lycia.storage import nodes as members
from lycia.storage import parts
from lycia.storage import runs as kept_runs
from lycia.storage.blobs import BlobFolder
from lycia.storage.facts import StoredRun
from lycia.storage.tables import Node as Member
from tests.chaos.deterministic.app import NAMES, PLANS, app_of
from tests.chaos.deterministic.coordinator import Coordinator
from tests.chaos.deterministic.database import Disk, fresh_image
from tests.chaos.deterministic.disk import Durable, killing_disk
from tests.chaos.deterministic.network import CALM, Network, Weather
from tests.chaos.deterministic.node import AGENT, Node
from tests.chaos.deterministic.promises import RUN, Promises
from tests.chaos.deterministic.world import EPOCH_S, SimulatedThreading, SimulatedTime, World, current_process

_CHAOS_S = 90.0
"""Until then things go wrong; afterwards nothing does, so that the run can end."""

_LONGEST_S = 5000.0
_SETTLES_S = 10.0
"""After the end, when every node asks for more work again: what is still on its way arrives."""

_MOMENTS = (
    "before a commit", "after a commit", "before a thread's work", "before fsync", "after fsync", "before replace",
    "after replace", "before unlink", "after unlink", "in the middle of a write", "before ftruncate", "before PUT",
    "after PUT", "before POST /v1/runs", "after POST /v1/runs", "before GET", "after GET", "after POST /v1/poll",
)  # fmt: skip
_PART_BYTES, _INLINE_BYTES = 2048, 1024  # so that an update of this small model is three parts; no plan is as large

Plant = Callable[[], Any]


@dataclass(frozen=True)
class Story:
    """What came of a seed.

    Attributes:
      broken: why it failed; None if all promises were kept.
      digests: the digest of the model after each round.
      state: how the run stood in the end.
    """

    seed: int
    kind: str
    trace: list[str]
    broken: BaseException | None = None
    digests: dict[int, str] = field(default_factory=dict)
    state: str = ""
    lasted_s: float = 0.0
    moments: int = 0

    def told(self, last: int = 120) -> str:
        """The story for people who have to find out what happened."""
        lines = self.trace if len(self.trace) <= last else ["…", *self.trace[-last:]]
        again = f"LYCIA_SEEDS={self.seed} python -m pytest -n0 tests/chaos/test_fault_simulation.py -k '{self.kind}'"
        return "\n".join([f"seed {self.seed} ({self.kind}): {self.broken}", *lines, f"again: {again}"])


@cache
def quiet(kind: str, plan_name: str, by_parts: bool) -> dict[int, str]:
    """The digests of a run in which nothing goes wrong."""
    story = _tell(-1, kind, plan_name, by_parts, None, nullcontext)
    if story.broken is not None:
        raise AssertionError(story.told()) from story.broken
    return story.digests


def tell(seed: int, kind: str, *, plant: Plant = nullcontext) -> Story:
    """Live through a seed.

    Args:
      kind: "fixed" (everyone must be heard, so the models are known beforehand) or "default" (the usual rules).
      plant: a context in which the product has a bug.
    """
    names = list(PLANS[kind])
    plan_name, by_parts = names[seed % len(names)], seed // len(names) % 2 == 1
    expected = quiet(kind, plan_name, by_parts) if kind == "fixed" else None
    return _tell(seed, kind, plan_name, by_parts, expected, plant)


def _tell(
    seed: int, kind: str, plan_name: str, by_parts: bool, expected: dict[int, str] | None, plant: Plant
) -> Story:  # fmt: skip
    world, durable = World(f"{kind}/{seed}"), Durable()
    home = Path(tempfile.mkdtemp(prefix="simulated-", dir=_fastest_folder()))
    broken: BaseException | None = None
    federation: Federation | None = None
    with ExitStack() as stack:
        stack.enter_context(simulated(world, durable, by_parts))
        stack.enter_context(plant())
        try:
            federation = Federation(world, durable, home, PLANS[kind][plan_name], kind, is_quiet=seed < 0)
            federation.live(expected)
        except Exception as error:  # noqa: BLE001  # whatever it is, the story is told with it
            broken = error
        digests = federation.promises.models() if federation else {}
        state = federation.state() if federation else ""
        world.bury()
    shutil.rmtree(home, ignore_errors=True)
    return Story(seed, kind, world.trace, broken, digests, state, world.now_s, world.moments)


class Federation:
    """A coordinator and four nodes, and what befalls them."""

    def __init__(
        self, world: World, durable: Durable, home: Path, plan: Plan, kind: str, *, is_quiet: bool
    ) -> None:  # fmt: skip
        self.world, self.durable, self.home, self.plan = world, durable, home, plan
        self._silence_s = 1e5 if kind == "fixed" else 10.0
        self._chaos_s = 0.0 if is_quiet else _CHAOS_S
        image, first = _image(plan)
        self._layout, self._first = _first_model(plan)
        (home / "coordinator").mkdir()
        BlobFolder(home / "coordinator" / "blobs", fsync=False).put([first])
        durable.all_under(home)
        self.disk, self.network = Disk(world, image), Network(world)
        self.promises = Promises(world, self.disk, plan, self._layout, home)
        durable.renamed.append(self.promises.file_is_there)
        self._lives, self._skew_s, self.coordinator = 0, 0.0, None
        self._looked_at, self._ended, self._is_calm = -1, False, False
        self._choose_faults()
        self.nodes = [
            Node(
                world, home / name, self.network, self.promises, plan, name, _identity(name),
                dies=lambda: self._fuse(self._agents_die, 150), trainer_dies=self._trainer_dies, died=self._agent_died,
            )
            for name in NAMES
        ]  # fmt: skip

    # ------------------------------------------------------------------------------------------------ what may go wrong

    def _choose_faults(self) -> None:
        """A seed has a few kinds of trouble, and not a little of each: rare things need a lot of the same."""
        chance, is_chaos = self.world.random, self._chaos_s > 0

        def some(*values: float) -> float:
            return chance.choice(values) if is_chaos else 0.0

        self._coordinator_dies, self._agents_die = some(0, 0, 0.5, 1), some(0, 0, 0.3, 0.6)
        self._trainers_die, self._power_goes = some(0, 0, 0.2), some(0, 0, 0.5, 1)
        self.weather = Weather(
            lost=some(0, 0, 0.05, 0.2), unanswered=some(0, 0, 0.05, 0.25), cut=some(0, 0, 0.1),
            answer_cut=some(0, 0, 0.1), repeated=some(0, 0.1, 0.3), slow=some(0, 0, 0.1), silence=some(0, 0.3),
        )  # fmt: skip
        self.world.deadly, self.world.deaths_left = tuple(chance.sample(_MOMENTS, 2)), int(some(0, 4, 8))
        for _ in range(int(some(0, 0, 1, 2))):
            self.world.at(chance.uniform(1, self._chaos_s), None, self._kill_coordinator)
        for _ in range(int(some(0, 0, 2))):
            self.world.at(chance.uniform(1, self._chaos_s), None, self._kill_some_agent)
        for _ in range(int(some(0, 0, 1, 3))):
            self.world.at(chance.uniform(1, self._chaos_s), None, self._partition_some)
        for _ in range(int(some(0, 0, 1))):
            self.world.at(chance.uniform(1, self._chaos_s), None, self._set_clock)

    def _fuse(self, likely: float, most: int) -> int | None:
        """After how many moments a new process dies; None if it lives."""
        chance = self.world.random
        if self._is_calm or chance.random() >= likely:
            return None
        return chance.randrange(most)

    def _trainer_dies(self) -> int | None:
        return self._fuse(self._trainers_die, 8)

    def _kill_coordinator(self) -> None:
        if self.coordinator is not None and not self._is_calm:
            self.coordinator.process.kill("from outside")

    def _kill_some_agent(self) -> None:
        node = self.world.random.choice(self.nodes)
        if not self._is_calm:
            node.process.kill("from outside")

    def _partition_some(self) -> None:
        chance = self.world.random
        if self._is_calm:
            return
        self.network.partition(chance.choice(self.nodes).name, chance.choice((1.0, 12.0, 45.0)))

    def _set_clock(self) -> None:
        self._skew_s += self.world.random.choice((-3600.0, -5.0, 5.0, 20.0))
        self.world.say("world", f"the coordinator's clock is set, by {self._skew_s:+.0f} s in all")
        if self.coordinator is not None:
            self.coordinator.process.skew_s = self._skew_s

    # ------------------------------------------------------------------------------------------------ how it goes on

    def _start_coordinator(self) -> None:
        self._lives += 1
        fuse = self._fuse(self._coordinator_dies, 600)
        self.coordinator = Coordinator(
            self.world, self.home / "coordinator", self.disk, self.network, self.promises,
            silence_s=self._silence_s, fuse=fuse, skew_s=self._skew_s, life=self._lives,
        )  # fmt: skip
        self.coordinator.process.on_death.append(self._coordinator_died)

    def _coordinator_died(self) -> None:
        self.coordinator = None
        if self.world.random.random() < self._power_goes:
            self.world.say("world", "the coordinator's power is cut")
            for folder in ("blobs", "spool"):
                self.durable.cut_power(self.home / "coordinator" / folder, self.world)
        self.world.after(self.world.random.choice((0.5, 3.0, 25.0)), None, self._start_coordinator)

    def _agent_died(self, node: Node) -> None:
        self.world.after(self.world.random.choice((0.5, 2.0, 20.0)), None, node.start)

    def state(self) -> str:
        """How the run stands in the database."""
        return str(self.disk.rows("SELECT state FROM runs WHERE id = ?", RUN)[0][0])

    def live(self, expected: dict[int, str] | None) -> None:
        """Live through it, and look whether all promises were kept.

        Raises: Broken; Stuck.
        """
        world = self.world
        self.network.weather = self.weather
        world.at(self._chaos_s, None, self._calm_down)
        self._start_coordinator()
        for node in self.nodes:
            node.skew_s = world.random.choice((0.0, 0.0, -7200.0, 7200.0))
            world.after(world.random.uniform(0, 0.5), None, node.start)
        world.run(self._is_over, _LONGEST_S)
        state, reason = self.disk.rows("SELECT state, reason FROM runs WHERE id = ?", RUN)[0]
        world.say("world", f"the run is {state}: {reason}")
        self._calm_down()
        ended_s = world.now_s
        world.run(lambda: all(self.network.polled.get(name, 0.0) > ended_s for name in NAMES), ended_s + _LONGEST_S)
        settled_s = world.now_s + _SETTLES_S
        world.run(lambda: world.now_s > settled_s, settled_s + _LONGEST_S)
        if state not in ("finished", "paused") or not reason:
            world.breaks(f"the run ended as {state!r}, for {reason!r}")
        if "failed over it" in reason:
            world.breaks(f"a bug: {reason}")
        if expected is not None and (state != "finished" or self.promises.models() != expected):
            world.breaks(f"it ends {state} ({reason}) with {self.promises.models()}, and the quiet run with {expected}")
        self.promises.check_records(self._first)
        if state == "finished":
            self.promises.check_nothing_is_left()
        world.run(lambda: True, _LONGEST_S * 2)
        if world._broken is not None:
            raise world._broken

    def _is_over(self) -> bool:
        if self.disk.commits != self._looked_at:
            self._looked_at, self._ended = self.disk.commits, self.state() != "running"
        return self._ended

    def _calm_down(self) -> None:
        if self._is_calm:
            return
        self.world.say("world", "nothing goes wrong any more")
        self.network.weather, self._is_calm, self.world.deaths_left = CALM, True, 0
        for process in self.world.processes:
            process.fuse = None


# -------------------------------------------------------------------------------------------------- what it begins with


@cache
def _identity(name: str) -> Identity:
    seed = Key(0).at("identity", name).digest()[:32]
    return Identity(Ed25519PrivateKey.from_private_bytes(seed))


_IMAGES: dict[tuple[int, int], tuple[bytes, bytes]] = {}


def _first_model(plan: Plan) -> tuple[Layout, Model]:
    return app_of(plan).trainer.first_model(None, Key(plan.seed).at("first model"))


def _image(plan: Plan) -> tuple[bytes, bytes]:
    """A database with the nodes and the run, and the file of the run's first model."""
    key = id(plan), parts.PART_BYTES
    if key not in _IMAGES:
        layout, model = _first_model(plan)
        file = b"".join(bytes(piece) for piece in layout.file(model))
        with tempfile.TemporaryDirectory() as folder:
            digest = BlobFolder(Path(folder), fsync=False).put([file])

        def fill(connection: Any) -> None:
            for name in NAMES:
                public = bytes.fromhex(_identity(name).public)
                members.add_node(connection, Member(name, public, "node", "active", EPOCH_S, EPOCH_S))
            row = StoredRun(RUN, "simulated", plan.to_json(), plan.digest, layout.to_json(), EPOCH_S, {},
                            first_model=digest)  # fmt: skip
            kept_runs.create_run(connection, row)

        _IMAGES[key] = fresh_image(fill), file
    return _IMAGES[key]


@cache
def _fastest_folder() -> str | None:
    shared = Path("/dev/shm")
    return str(shared) if shared.is_dir() and os.access(shared, os.W_OK) else None


# ------------------------------------------------------------------------------------------ what stands in for what


@contextmanager
def simulated(world: World, durable: Durable, by_parts: bool) -> Iterator[None]:
    """Inside, what the product's modules know as time, threads and the disk are this world's."""
    times, threads, log = SimulatedTime(world), SimulatedThreading(world), _Log(world)
    with ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if not name.startswith(("lycia.deployment.", "lycia.runtime.")):
                continue
            if getattr(module, "time", None) is time:
                stack.enter_context(mock.patch.object(module, "time", times))
            if name.startswith("lycia.deployment.node.") and getattr(module, "threading", None) is threading:
                stack.enter_context(mock.patch.object(module, "threading", threads))
            if hasattr(module, "log"):
                stack.enter_context(mock.patch.object(module, "log", log))
            if hasattr(module, "one_thread"):
                stack.enter_context(mock.patch.object(module, "one_thread", nullcontext))
        if by_parts:
            stack.enter_context(mock.patch.object(parts, "PART_BYTES", _PART_BYTES))
            stack.enter_context(mock.patch.object(client, "INLINE_BYTES", _INLINE_BYTES))
            stack.enter_context(mock.patch.object(mailbox, "_INLINE", _INLINE_BYTES))
        stack.enter_context(mock.patch.object(fetching, "in_parallel", _one_by_one))
        stack.enter_context(mock.patch.object(parts, "ThreadPoolExecutor", _NoThreads))
        stack.enter_context(mock.patch.object(os, "getppid", _parent))
        stack.enter_context(mock.patch.object(os, "urandom", world.random.randbytes))
        stack.enter_context(killing_disk(world, durable))
        yield


def _one_by_one(work: Callable[[Any], Any], jobs: Any, _threads: int, stop: Any = None) -> Iterator[Any]:
    return in_parallel(work, jobs, 1, stop)


class _NoThreads:
    """Stands where a module has `ThreadPoolExecutor`."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.map = map

    def __enter__(self) -> "_NoThreads":
        return self

    def __exit__(self, *_: object) -> None:
        """No thread has to end."""


def _parent() -> int:
    process = current_process()
    agent = getattr(process, "agent", process)
    return 1 if agent is not None and agent.is_dead else AGENT


class _Log:
    """What the product says to its log becomes part of the story."""

    def __init__(self, world: World) -> None:
        self._world = world

    def bind(self, **_: Any) -> "_Log":
        return self

    def info(self, *_: Any, **__: Any) -> None:
        """Not worth a line."""

    debug = info

    def warning(self, said: str, **more: Any) -> None:
        self._world.say("log", f"{said} {more}")

    error = warning

    def exception(self, said: str, **more: Any) -> None:
        kind, error, _ = sys.exc_info()
        self._world.breaks(f"the coordinator's log has a traceback: {said} {more} {kind} {error}")

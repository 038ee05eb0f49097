"""A node as simulated processes: the real agent and client, and a real worker in a trainer that may die."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lycia.core.plan import Plan
from lycia.deployment.identity import Identity
from lycia.deployment.link import Body, Into, LinkFailed, Response
from lycia.deployment.node.agent import Agent, TrainerProcess
from lycia.deployment.node.client import Client
from lycia.deployment.node.trainer import Job, Worker
from lycia.errors import LyciaError
from tests.chaos.deterministic.app import app_of, data_of
from tests.chaos.deterministic.network import Lost, Network
from tests.chaos.deterministic.promises import Promises
from tests.chaos.deterministic.world import Pause, Process, World

AGENT = 1001
"""What an agent's process has for its number: a trainer whose agent has died finds another one."""


class SimulatedTrainer(TrainerProcess):
    """The trainer process, in this world: started anew when it has died, as the real one is."""

    def __init__(
        self, agent: Process, name: str, plan: Plan, promises: Promises, dies: Callable[[], int | None]
    ) -> None:
        self._agent, self._world, self._name, self._plan = agent, agent.world, name, plan
        self._promises, self._dies = promises, dies
        self._process: Any = None
        self._note = lambda said: self._world.say(name, said)
        self.examples: float | None = None

    def start(self) -> None:
        """Start it."""
        self._process = _Running(self._agent, self._name)
        self.examples = 10.0
        self._worker = Worker(self._name, app_of(self._plan, self._takes_time), data_of(self._name))

    def stop(self) -> None:
        """End it."""

    def _takes_time(self) -> None:
        self._world.sleep(self._world.random.uniform(0.2, 3.0))

    def _hear(self) -> dict[str, Any] | None:
        running = self._process
        job = Job.from_line(running.stdin.line)
        running.process.fuse = self._dies()
        pause = Pause(self._world)
        running.process.on_death = [lambda: self._agent.is_dead or pause.end(None)]
        self._promises.trains(self._name, job.ask)

        def work() -> None:
            try:
                said = self._worker.do(job)
            except LyciaError as error:
                said = {"failed": error}
            except SystemExit:
                running.process.kill("for its agent is gone")
                return
            if "update" in said:
                self._promises.made(self._name, job.ask, Path(said["update"]).read_bytes())
            running.process.fuse = None
            if not self._agent.is_dead:
                pause.end(said)

        running.process.start(work)
        said = pause.wait()
        if said is not None and "failed" in said:
            raise said["failed"]
        return said


class _Running:
    """Stands for the Popen of a trainer."""

    def __init__(self, agent: Process, name: str) -> None:
        self.process = Process(agent.world, f"{name}'s trainer")
        self.process.agent = agent
        self.stdin, self.stdout = _Pipe(), _Pipe()

    def poll(self) -> int | None:
        return -9 if self.process.is_dead else None

    def wait(self, timeout: float | None = None) -> int:
        return -9


class _Pipe:
    line = ""

    def write(self, line: str) -> None:
        self.line = line

    def flush(self) -> None:
        """It has arrived."""

    def close(self) -> None:
        """Nobody reads it."""


class SimulatedLink:
    """A `Link` through this world's network."""

    def __init__(self, network: Network, name: str) -> None:
        self._network, self._name = network, name

    def call(
        self, method: str, path: str, *, headers: Mapping[str, str], body: Body = b"", into: Into | None = None,
        silence_s: float = 30.0,
    ) -> Response:  # fmt: skip
        """As `Link.call`."""
        whole = bytes(body) if isinstance(body, (bytes, memoryview)) else b"".join(bytes(piece) for piece in body)
        outcome = self._network.call(self._name, method, path, headers, whole, silence_s)
        is_good = outcome.status < 300
        if into is not None and is_good and outcome.body:
            cut = self._network.world.random.randrange(len(outcome.body) + 1)
            for piece in filter(None, (outcome.body[:cut], outcome.body[cut:])):
                into(memoryview(piece))
        if isinstance(outcome, Lost):
            raise LinkFailed(outcome.why)
        return Response(outcome.status, outcome.headers, b"" if into is not None and is_good else outcome.body)

    def close(self) -> None:
        """There is nothing to hang up."""


class Node:
    """One node, through all its lives."""

    def __init__(
        self, world: World, home: Path, network: Network, promises: Promises, plan: Plan, name: str, identity: Identity,
        *, dies: Callable[[], int | None], trainer_dies: Callable[[], int | None], died: Callable[["Node"], None],
    ) -> None:  # fmt: skip
        self.world, self.home, self.name, self.network = world, home, name, network
        self._promises, self._plan, self._identity = promises, plan, identity
        self._dies, self._trainer_dies, self._died = dies, trainer_dies, died
        self.skew_s = 0.0
        self.process: Process | None = None

    def start(self) -> None:
        """A new life."""
        self.process = Process(self.world, self.name, self._dies())
        self.process.skew_s = self.skew_s
        self.process.on_death = [lambda: self.network.node_is_gone(self.process), lambda: self._died(self)]
        self.process.start(self._serve)

    def _serve(self) -> None:
        self.world.say(self.name, "starts")
        client = Client(
            "https://simulated", "", self.name, self._identity, give_up_s=None, note=self._note, parallel=1,
            link=SimulatedLink(self.network, self.name), now_s=self.process.monotonic, sleep=self._sleep,
        )  # fmt: skip
        trainer = SimulatedTrainer(self.process, self.name, self._plan, self._promises, self._trainer_dies)
        trainer.start()
        try:
            Agent(self.home, client, trainer, self.name, self._note).serve()
        except Exception as error:  # noqa: BLE001  # an agent serves until it is told to stop
            self.world.breaks(f"{self.name} ended: {error!r}")

    def _sleep(self, seconds: float) -> None:
        self.world.moment("before it sleeps")
        self.world.sleep(seconds)

    def _note(self, said: str) -> None:
        self.world.say(self.name, said.splitlines()[0])

"""The apps of the chaos suite: tiny models whose updates depend on all that a kill could lose."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from lycia import Adam, App, Evaluation, Everyone, ExampleWeightedMean, FedAvg, NodeData, Plan, RoundRules, Uniform
from lycia.core.keys import Key
from lycia.core.layout import Layout, Model
from lycia.core.training import LocalResult, LocalTask, Schema
from lycia.deployment.node import client
from lycia.storage import parts

Kind = Literal["strict", "default", "lossy"]
KINDS: tuple[Kind, ...] = ("strict", "default", "lossy")
LARGE, SMALL = 24_000, 1_500  # floats: an update of several parts, once parts are small, and one that goes inline
PART_BYTES = 16 << 10  # of a model and of an update; the real parts are larger than anything here
INLINE_BYTES = 32 << 10  # an update up to here comes in one piece
NODES = {"strict": 4, "default": 5, "lossy": 10}
_DEADLINE_S = 300.0  # longer than any outage, on a machine however busy
_HABITS = 16


@dataclass(frozen=True)
class Home:
    """A node's data: where it pulls the model, and how much that counts."""

    optimum: np.ndarray
    examples: int

    def __len__(self) -> int:
        return self.examples


@dataclass(frozen=True)
class Puller:
    """Pulls the model a part of the way home, with noise from the task's key.

    Where it is `personal`, each node also has habits that change with each training and tell in the next one: whoever
    trains twice, or loses what it remembers, or remembers what did not count, sends another update from then on.

    Attributes:
      pause_s: how long a training takes, so that there is a middle of it to be killed in.
    """

    size: int
    personal: bool = False
    pause_s: float = 0.0
    takes_terms: ClassVar[bool] = False

    def first_model(self, schema: Schema | None, key: Key) -> tuple[Layout, Model]:
        """Zeros, in two leaves; and the habits, where there are some."""
        half = self.size // 2
        arrays = {"w": np.zeros(half, np.float32), "v": np.zeros(self.size - half, np.float32)}
        habits = {"habits": np.zeros(_HABITS, np.float32)} if self.personal else {}
        layout = Layout.of({**arrays, **habits}, local=tuple(habits))
        local = np.zeros(layout.size("local"), np.float32)
        return layout, Model(np.zeros(self.size, np.float32), np.zeros(0), local)

    def train(self, task: LocalTask) -> LocalResult:
        """A third of the way home, a little noise, and what the habits add."""
        time.sleep(self.pause_s)
        home, before, habits = task.data, task.model.trained, task.model.local
        noise = task.key.generator().standard_normal(self.size).astype(np.float32)
        after = before + (home.optimum - before) / np.float32(3) + np.float32(0.01) * noise
        if self.personal:
            after[:_HABITS] += np.float32(0.1) * habits
            habits = np.float32(0.5) * habits + after[:_HABITS]
        loss = float(np.square(home.optimum - before, dtype=np.float64).mean())
        return LocalResult(
            replace(task.model, trained=after, local=habits), float(home.examples), 1, 0.3, {"loss": loss}
        )

    def evaluate(self, layout: Layout, model: Model, data: Any) -> tuple[float, Mapping[str, float]]:
        """How far it is from home."""
        return float(data.examples), {"loss": float(np.square(data.optimum - model.trained, dtype=np.float64).mean())}


def home_of(number: int, size: int) -> Home:
    """Another place and another size for each node."""
    places = Key(11).at("home", number).generator().standard_normal(size).astype(np.float32)
    return Home(places, 20 + 13 * number)


def made(kind: Kind, size: int = LARGE, rounds: int = 5, pause_s: float = 0.0) -> App:
    """An app of the suite.

    strict: everybody in every round, nobody replaced, and personal state; whatever happens, its models are the same.
    default: the default rules, of which only the deadline is another; who survives depends on what happens.
    lossy: seven of ten are enough.
    """
    evaluation = Evaluation(every=2, evaluators=False)
    if kind == "strict":
        selector: Any = Everyone()
        rules = RoundRules(
            quorum=1.0, least_nodes=NODES[kind], over_selection=1.0, replacement=False, deadline_s=_DEADLINE_S
        )
    else:
        selector = Uniform(cohort_size=3 if kind == "default" else 7)
        rules = RoundRules(least_nodes=3 if kind == "default" else NODES[kind], deadline_s=_DEADLINE_S)
    plan = Plan(
        rounds=rounds, seed=3, selector=selector, client=FedAvg(), aggregator=ExampleWeightedMean(),
        server=Adam(learning_rate=0.1), rules=rules, evaluation=evaluation,
    )  # fmt: skip
    homes = {f"node-{number}": home_of(number, size) for number in range(NODES[kind])}
    population = {name: NodeData(home, home) for name, home in homes.items()}
    return App(name=kind, trainer=Puller(size, kind == "strict", pause_s), plan=plan, population=population)


def cut_small(put: Callable[[Any, str, Any], None] = setattr) -> None:
    """Cut files into small parts, in this process. Digests depend on that, so all processes do it."""
    put(parts, "PART_BYTES", PART_BYTES)
    put(client, "INLINE_BYTES", INLINE_BYTES)


def write_app(folder: Path, kind: Kind, size: int, pause_s: float) -> Path:
    """The file of an app, as nodes join with it. The plan, and with it the number of rounds, comes with the run."""
    path = folder / "app.py"
    path.write_text(
        f"from tests.chaos.apps import made\n\napp = made({kind!r}, {size}, pause_s={pause_s})\n", encoding="utf-8"
    )
    return path

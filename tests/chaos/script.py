"""What happens to a run: drawn from a seed, the same every time."""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from tests.chaos.apps import LARGE, NODES, SMALL, Kind
from tests.chaos.points import MOMENTS, POINTS, Charge
from tests.chaos.programs import Clock

Trouble = Literal["kill", "kill agent", "kill trainer", "cut", "cut in a body", "stall", "slow", "full disk"]
TROUBLES: tuple[Trouble, ...] = (
    "kill", "kill agent", "kill trainer", "cut", "cut in a body", "stall", "slow", "full disk",
)  # fmt: skip
_WEIGHTS = (5, 2, 2, 2, 4, 2, 2, 1)
_DAY_S = 86_400.0


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, from outside of the processes.

    Attributes:
      after_s: after the one before it, or after the run's start.
      whom: "coordinator", or a node.
      lasts_s: for how long: a killed process is down, a link stalled or slow, a disk full.
      how: of a cut, "reset" or "end"; way, count: of a cut in a body, after so many bytes up or down.
    """

    trouble: Trouble
    whom: str
    after_s: float
    lasts_s: float
    how: Literal["reset", "end"] = "reset"
    way: Literal["up", "down"] = "up"
    count: int = 0


@dataclass(frozen=True)
class Script:
    """All that is done to one run.

    Attributes:
      charges: name → where its lives kill themselves, one life after the other.
      clocks: name → how wrong its wall clock is.
      repeats: node → seed, and the chances of a call made twice and of one made again after a later one.
    """

    kind: Kind
    seed: int
    size: int
    faults: Sequence[Fault] = ()
    charges: dict[str, list[Charge]] = field(default_factory=dict)
    clocks: dict[str, Clock] = field(default_factory=dict)
    repeats: dict[str, tuple[int, float, float]] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """As plain data, for the line of a campaign."""
        return {
            "faults": [fault.trouble for fault in self.faults],
            "charges": [
                f"{name}: {charge.moment} {charge.program}'s {charge.point} #{charge.nth}"
                for name, charges in self.charges.items()
                for charge in charges
            ],
            "clocks": {name: asdict(clock) for name, clock in self.clocks.items()},
            "repeats": sorted(self.repeats),
        }


def script(kind: Kind, seed: int) -> Script:
    """The script of a seed."""
    chance = random.Random(f"{kind} {seed}")
    nodes = [f"node-{number}" for number in range(NODES[kind])]
    everyone = ["coordinator", *nodes]
    drawn = Script(kind, seed, chance.choice((LARGE, LARGE, SMALL)))
    faults = [_fault(chance, kind, nodes) for _ in range(chance.randrange(1, 6))]
    charges: dict[str, list[Charge]] = {}
    for _ in range(chance.randrange(5)):
        charge = _charge(chance)
        whom = "coordinator" if charge.program == "coordinator" else chance.choice(nodes)
        charges.setdefault(whom, []).append(charge)
    clocks = {name: _clock(chance, name) for name in everyone} if chance.random() < 0.3 else {}
    repeats = {}
    if chance.random() < 0.3:
        repeats = {node: (chance.randrange(1 << 30), 0.3, 0.3) for node in chance.sample(nodes, 2)}
    return replace(drawn, faults=faults, charges=charges, clocks=clocks, repeats=repeats)


def _fault(chance: random.Random, kind: Kind, nodes: Sequence[str]) -> Fault:
    trouble = chance.choices(TROUBLES, _WEIGHTS)[0]
    whom = chance.choice(nodes)
    if trouble == "full disk" or (trouble == "kill" and chance.random() < 0.5):
        whom = "coordinator"
    # Where nodes may be lost, some are away for longer than the coordinator waits for a sign of life.
    is_long = kind != "strict" and chance.random() < 0.3
    return Fault(
        trouble, whom, chance.uniform(0.0, 0.3), chance.uniform(1.0, 2.5) if is_long else chance.uniform(0.0, 0.4),
        chance.choice(("reset", "end")), chance.choice(("up", "down")), int(10 ** chance.uniform(1.0, 5.3)),
    )  # fmt: skip


def _charge(chance: random.Random) -> Charge:
    point = chance.choice(POINTS)
    nth = 1 if point.once else 1 + int(chance.expovariate(0.5))
    return Charge(
        point.program, point.name, chance.choice(MOMENTS), nth, chance.random() < 0.5, chance.choice((0.0, 0.03))
    )


def _clock(chance: random.Random, name: str) -> Clock:
    if name == "coordinator":  # set while it is down it is like an outage as long, so that must be within the deadline
        jumps = ((chance.uniform(0.0, 2.0), chance.uniform(-_DAY_S, _DAY_S)),)
        return Clock(chance.uniform(-_DAY_S, _DAY_S), jumps, chance.uniform(-30.0, 30.0))
    return Clock(chance.uniform(-400 * _DAY_S, 400 * _DAY_S), ((chance.uniform(0.0, 2.0), chance.uniform(-1e6, 1e6)),))

"""What goes wrong in a simulation: by chance, seeded, or as a script says."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from lycia.core.keys import Key
from lycia.core.messages import TRAIN
from lycia.errors import PlanError

Mishap = Literal["vanish", "late", "decline"]


@dataclass(frozen=True)
class Faults:
    """Which nodes fail while they train.

    Attributes:
      dropout: the chance that a node vanishes after it was asked, in any round.
      stragglers: the share of nodes that are slow, always the same ones.
      straggler_factor: how many times longer these take.
      script: (round, node) → what happens there for certain: it vanishes, declines, or answers after the deadline.
    """

    dropout: float = 0.0
    stragglers: float = 0.0
    straggler_factor: float = 10.0
    script: Mapping[tuple[int, str], Mishap] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (0 <= self.dropout <= 1 and 0 <= self.stragglers <= 1 and 1 <= self.straggler_factor < math.inf):
            shares = f"dropout={self.dropout}, stragglers={self.stragglers}"
            raise PlanError(
                f"Faults({shares}, straggler_factor={self.straggler_factor}) is not possible.",
                why="the first two are shares from 0 to 1, and a straggler takes at least as long as others.",
                do="use, for example, Faults(dropout=0.1, stragglers=0.2, straggler_factor=5).",
            )
        unknown = [mishap for mishap in self.script.values() if mishap not in get_args(Mishap)]
        if unknown:
            raise PlanError(
                f"the script of Faults says {unknown[0]!r}.",
                why=f"what can happen to a node is: {', '.join(get_args(Mishap))}.",
                do="use, for example, Faults(script={(0, 'node-1'): 'vanish'}); rounds count from 0 there.",
            )

    def mishap(self, seed: int, round_number: int, attempt: int, exchange: str, node: str) -> Mishap | None:
        """What happens to `node` in this exchange, or None; scripts speak of training."""
        if exchange == TRAIN and attempt == 0 and (round_number, node) in self.script:
            return self.script[round_number, node]
        if (
            self.dropout
            and Key(seed).at(round_number, attempt, exchange, node, "dropout").generator().random() < self.dropout
        ):
            return "vanish"
        return None

    def slowdown(self, seed: int, node: str) -> float:
        """How many times longer `node` takes than its speed says."""
        slow = self.stragglers and Key(seed).at(node, "straggler").generator().random() < self.stragglers
        return self.straggler_factor if slow else 1.0

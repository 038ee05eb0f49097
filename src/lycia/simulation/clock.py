"""A clock that jumps, and how long things take on it."""

import math
from dataclasses import dataclass

from lycia.core.keys import Key
from lycia.errors import PlanError


class VirtualClock:
    """Seconds that pass only when somebody says so: a simulated hour takes no time."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def now_s(self) -> float:
        """Seconds since the run began."""
        return self._now_s

    def move_to(self, at_s: float) -> None:
        """Jump to `at_s`; a moment that is past already changes nothing."""
        self._now_s = max(self._now_s, at_s)


@dataclass(frozen=True)
class Pace:
    """How fast simulated nodes are.

    Attributes:
      example_s: seconds of training for one example on a node of speed 1.
      link_bytes_s: bytes a second, down and up alike.
      spread: how uneven nodes are; the standard deviation of the logarithm of their speed. 0: all alike.
    """

    example_s: float = 1e-3
    link_bytes_s: float = 10e6
    spread: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.example_s < math.inf and self.link_bytes_s > 0 and 0 <= self.spread < math.inf):
            raise PlanError(
                f"Pace(example_s={self.example_s}, link_bytes_s={self.link_bytes_s}, spread={self.spread}) "
                "is not possible.",
                why="examples take no negative time, a link carries something, and a spread is a standard deviation.",
                do="use, for example, Pace(example_s=1e-3, link_bytes_s=10e6, spread=0.5).",
            )

    def seconds(self, seed: int, node: str, examples: float, payload_bytes: int) -> float:
        """How long `node` takes from being asked to having answered."""
        speed = (
            math.exp(self.spread * float(Key(seed).at(node, "speed").generator().standard_normal()))
            if self.spread
            else 1.0
        )
        return (examples * self.example_s + payload_bytes / self.link_bytes_s) / speed

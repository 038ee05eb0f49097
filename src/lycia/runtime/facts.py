"""What an observer of a run is told, in this process or across a network."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class RunBegan:
    """A run begins, or goes on after a stop.

    Attributes:
      rounds: how many there are to be; round: how many are done.
      metric: what the plan stops by; "" if it only counts rounds.
    """

    run: str
    rounds: int
    round: int
    population: int
    metric: str


@dataclass(frozen=True)
class RoundMoved:
    """Something happened inside a round: so many of the nodes asked in this exchange were heard."""

    round: int
    attempt: int
    exchange: str
    heard: int
    asked: int


@dataclass(frozen=True)
class RoundEnded:
    """A round is over. `record` is what `round_record` says, with phases_s, wall_s, bytes_up, bytes_down, verdict."""

    record: Mapping[str, Any]


@dataclass(frozen=True)
class RunEnded:
    """The run is over, pauses, or was stopped."""

    state: str
    reason: str
    rounds: int


Fact = RunBegan | RoundMoved | RoundEnded | RunEnded
_KINDS: Mapping[str, type[Any]] = {kind.__name__: kind for kind in (RunBegan, RoundMoved, RoundEnded, RunEnded)}


def fact_to_json(fact: Fact) -> str:
    """The fact as one line of JSON."""
    return json.dumps({"fact": type(fact).__name__, **asdict(fact)})


def fact_from_json(line: str) -> Fact:
    """The fact that `fact_to_json` wrote."""
    said = json.loads(line)
    fact: Fact = _KINDS[said.pop("fact")](**said)
    return fact

"""Which name in a plan means which part: ours, and those that installed packages bring.

A plan travels as data. A stranger's part is named `module:Class`, and is found only if an installed package has
declared it under the entry point group `lycia.parts`: bytes from a wire never choose what is imported.
"""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from lycia.core.plan import Plan, describe
from lycia.errors import PlanError

_ROOMS: Mapping[str, tuple[str, ...]] = {
    "lycia.core.plan": ("Plan", "RoundRules", "Evaluation", "Stop", "Synchronous", "Buffered"),
    "lycia.selection": ("Everyone", "Uniform", "Poisson", "SizeWeighted"),
    "lycia.algorithms": ("FedAvg", "FedProx", "SGD", "Momentum", "Adagrad", "Adam", "Yogi"),
    "lycia.aggregators": ("ExampleWeightedMean", "UniformMean"),
}
_OURS = {name: room for room, names in _ROOMS.items() for name in names}
_GROUP = "lycia.parts"


def names() -> tuple[str, ...]:
    """The names of all parts that a plan can be written with here."""
    return (*_OURS, *sorted(point.value for point in entry_points(group=_GROUP)))


def part(name: str) -> type[Any]:
    """The class that a plan means by `name`.

    Raises: PlanError, if there is no such part here.
    """
    if name in _OURS:
        found: type[Any] = getattr(import_module(_OURS[name]), name)
        return found
    for point in entry_points(group=_GROUP):
        if point.value == name:
            loaded: type[Any] = point.load()
            return loaded
    raise PlanError(
        f"the plan names the part {name!r}, which is not installed here.",
        why="plans are data: both ends must have the parts that a plan names.",
        do="install the package that declares it under the entry point group 'lycia.parts', on the coordinator and at "
        "every node; or try it in simulation, where any object may stand in a plan.",
    )


def plan_from_json(text: str) -> Plan:
    """The plan that `Plan.to_json` wrote.

    Raises: PlanError, if it names unknown parts or values, or if its parts do not fit together.
    """
    try:
        plan = _restore(json.loads(text))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _unreadable(str(error)) from None
    if not isinstance(plan, Plan):
        raise _unreadable(f"it describes a {type(plan).__name__}")
    return plan


def check_sendable(plan: Plan) -> None:
    """Do nothing if the plan comes out the same at the other end of a wire.

    Raises: PlanError, naming what is not installed or is not plain data.
    """
    if describe(plan_from_json(plan.to_json())) != describe(plan):
        raise _unreadable("some of its values are not plain data")


def _restore(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_restore(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "part" not in value:
        return {key: _restore(item) for key, item in value.items()}
    kind = part(value["part"])
    if not is_dataclass(kind):
        raise TypeError(f"{value['part']} is not a dataclass")
    given = {name: _restore(item) for name, item in value.items() if name != "part"}
    unknown = given.keys() - {field.name for field in fields(kind)}
    if unknown:
        raise TypeError(f"{value['part']} has no {', '.join(sorted(unknown))}")
    return kind(**given)


def _unreadable(reason: str) -> PlanError:
    return PlanError(
        f"the plan cannot be read: {reason}.",
        why="it must be the JSON that this version's Plan.to_json writes.",
        do="make the plan with the same version of lycia, from parts that are dataclasses of plain values.",
    )

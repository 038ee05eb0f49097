"""Which name in a plan means which part: ours, and those that installed packages bring.

A plan travels as data. A stranger's part is named `module:Class`, and is found only if an installed package has
declared it under the entry point group `lycia.parts`: bytes from a wire never choose what is imported.
"""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, get_args

from lycia.core.plan import Plan, describe
from lycia.errors import PlanError

_ROOMS: Mapping[str, tuple[str, ...]] = {
    "lycia.core.plan": ("Plan", "RoundRules", "Evaluation", "Stop", "Synchronous", "Buffered", "Normalisation"),
    "lycia.selection": ("Everyone", "Uniform", "Poisson", "SizeWeighted"),
    "lycia.algorithms": ("FedAvg", "FedProx", "SGD", "Adagrad", "Adam", "Yogi"),
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
            return _loaded(point)
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
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
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
    types = {field.name: field.type for field in fields(kind)}
    unknown = given.keys() - types.keys()
    if unknown:
        raise TypeError(f"{value['part']} has no {', '.join(sorted(unknown))}")
    return kind(**{name: _number_again(item, types[name]) for name, item in given.items()})


def _number_again(value: Any, kind: Any) -> Any:
    """A plan's JSON spells infinities as text; where a number belongs, such a text is one."""
    belongs = float in (kind, *get_args(kind))
    return float(value) if belongs and value in ("inf", "-inf", "nan") else value


def _loaded(point: EntryPoint) -> type[Any]:
    try:
        found: type[Any] = point.load()
    except (ImportError, AttributeError) as error:
        raise PlanError(
            f"the part {point.value!r} cannot be imported: {error}.",
            why=f"the installed package that declares it under the entry point group {_GROUP!r} is broken.",
            do="install that package again, and what it depends on.",
        ) from None
    return found


def _unreadable(reason: str) -> PlanError:
    return PlanError(
        f"the plan cannot be read: {reason}.",
        why="it must be the JSON that this version's Plan.to_json writes.",
        do="make the plan with the same version of lycia, from parts that are dataclasses of plain values.",
    )

"""Where the names of `import lycia` live. Each is taken from its room when it is first used.

So `import lycia` is quick, and needs no framework but those of the names that a program uses.
"""

import sys
from importlib import import_module
from typing import Any

ROOMS: dict[str, tuple[str, ...]] = {
    "lycia.aggregators": ("ExampleWeightedMean", "UniformMean"),
    "lycia.algorithms": ("SGD", "Adagrad", "Adam", "FedAvg", "FedProx", "Yogi"),
    "lycia.core.keys": ("Key",),
    "lycia.core.plan": ("App", "Buffered", "Evaluation", "Normalisation", "Plan", "RoundRules", "Stop", "Synchronous"),
    "lycia.core.training": ("NodeData",),
    "lycia.data": ("Column", "Examples", "Population", "Schema"),
    "lycia.errors": ("LyciaError",),
    "lycia.selection": ("Everyone", "Poisson", "SizeWeighted", "Uniform"),
    "lycia.simulation": ("Faults", "Pace", "Result", "simulate"),
    "lycia.trainers": ("NumpyTrainer", "SklearnTrainer", "load_model"),
    "lycia.reports.holdings": ("Holdings",),
    "lycia.trainers.local": ("CosineDecay", "ExponentialDecay", "LinearDecay", "LocalAdam", "StepDecay"),
    "lycia.trainers.torch": ("LightningTrainer", "TorchTrainer"),
}
_ROOM_OF = {name: room for room, names in ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    """What `lycia.NAME` is; a name that is not of the face raises AttributeError."""
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'lycia' has no attribute {name!r}")
    value = getattr(import_module(_ROOM_OF[name]), name)
    setattr(sys.modules["lycia"], name, value)
    return value


def __dir__() -> list[str]:
    return sorted(_ROOM_OF)

"""The app of `lycia demo --hospitals`: four real hospitals, whose patients differ, and one model of heart disease."""

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np

from lycia.aggregators import ExampleWeightedMean
from lycia.algorithms import SGD, FedAvg
from lycia.core.keys import Key
from lycia.core.plan import App, Evaluation, Plan
from lycia.core.training import NodeData
from lycia.data import Examples, Population, hold_out
from lycia.data.datasets import HEART_DISEASE, HOSPITALS, heart_disease
from lycia.data.schema import Column, Schema
from lycia.selection import Everyone
from lycia.trainers import NumpyTrainer

PATIENTS = Schema(
    columns=(*HEART_DISEASE.columns, *(Column(f"at_{name}", "category", categories=(0, 1)) for name in HOSPITALS)),
    labels=HEART_DISEASE.labels,
)
"""What was measured, and where: the hospitals see 38 to 98 patients with the disease in a hundred."""


def hospitals_app(
    patients: Callable[[], Mapping[str, Examples]] = heart_disease, rounds: int = 25, seed: int = 0
) -> App:
    """Logistic regression over `HOSPITALS`, each of which keeps half of its patients to measure with.

    Measured on these halves, seeds 0 to 2: 0.81 to 0.83 of all held-out patients together, 0.77 to 0.80 alone. Over ten
    other choices of halves it is 0.79 and 0.78: Budapest and Long Beach gain two points, and Switzerland loses two, for
    nearly all of its patients have the disease, and a model that always says so is hard to beat there.

    Nothing is loaded before a node's data is asked for.

    Args:
      patients: gives each hospital's patients, which fit `HEART_DISEASE`.
    """

    @cache
    def shares() -> dict[str, NodeData]:
        known = patients()
        key = Key(0).at("hospitals", "held out")  # the same patients, whatever the seed
        return {name: hold_out(_with_place(known[name], name), 0.5, key.at(name)) for name in HOSPITALS}

    return App(
        name="hospitals",
        trainer=NumpyTrainer(learning_rate=0.2, batch_size=8, epochs=2, scaled=True),  # by the bounds in the schema
        plan=Plan(
            rounds=rounds,
            seed=seed,
            selector=Everyone(),
            client=FedAvg(),
            aggregator=ExampleWeightedMean(),
            server=SGD(momentum=0.7),
            evaluation=Evaluation(baseline_rounds=rounds),
        ),
        population=Population(HOSPITALS, lambda name: shares()[name]),
        schema=PATIENTS,
    )


def _with_place(examples: Examples, name: str) -> Examples:
    places = np.tile([float(name == other) for other in HOSPITALS], (len(examples), 1)).astype(np.float32)
    columns = tuple(column.name for column in PATIENTS.columns)
    return Examples(np.hstack([examples.features, places]), examples.labels, columns)

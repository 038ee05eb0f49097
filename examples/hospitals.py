"""Four hospitals that must not share their patients' records, and a model of scikit-learn.

    lycia simulate examples/hospitals.py

Where the environment variable LYCIA_DATA names a folder with heart_disease/processed.*.data (from UCI's archive), the
nodes are the four hospitals of that study: Cleveland, Budapest, Zurich and Long Beach. Otherwise the patients are those
of the breast cancer data that scikit-learn ships, and each hospital sees tumours of another size.
"""

import os

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import SGDClassifier

from lycia import (
    SGD,
    App,
    Evaluation,
    Everyone,
    Examples,
    ExampleWeightedMean,
    FedAvg,
    Key,
    NodeData,
    Plan,
    Schema,
    SklearnTrainer,
)
from lycia.data import HEART_DISEASE, Column, heart_disease, hold_out

HAS_HEART_DISEASE = bool(os.environ.get("LYCIA_DATA"))
TUMOURS = load_breast_cancer()
LARGEST = (40, 50, 260, 4300, 0.25, 1.1, 1.3, 0.3, 0.7, 0.25)  # of radius, texture, perimeter, area, …
LARGEST_SPREAD = (3, 5, 22, 550, 0.04, 0.14, 0.4, 0.06, 0.08, 0.03)
BOUNDS = zip(TUMOURS.feature_names, (*LARGEST, *LARGEST_SPREAD, *LARGEST), strict=True)
TUMOUR_SIZES = Schema(columns=tuple(Column(str(name), bounds=(0, most)) for name, most in BOUNDS), labels=(0, 1))


def hospitals() -> dict[str, NodeData]:
    patients = heart_disease() if HAS_HEART_DISEASE else tumours()
    return {name: hold_out(examples, 0.3, Key(0).at(name)) for name, examples in patients.items()}


def tumours() -> dict[str, Examples]:
    patients = Examples(TUMOURS.data, TUMOURS.target, TUMOURS.feature_names)
    by_radius = np.array_split(np.argsort(patients.features[:, 0]), 4)
    return {f"hospital-{place}": patients[own] for place, own in enumerate(by_radius, start=1)}


app = App(
    name="hospitals",
    trainer=SklearnTrainer(
        estimator=SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.5, alpha=1e-4),
        epochs=2,
        scaled=True,  # by the bounds in the schema, so that no hospital tells its own averages
    ),
    plan=Plan(
        rounds=25,
        selector=Everyone(),
        client=FedAvg(),
        aggregator=ExampleWeightedMean(),
        server=SGD(learning_rate=1.0),
        evaluation=Evaluation(baseline_rounds=25),
    ),
    population=hospitals,
    schema=HEART_DISEASE if HAS_HEART_DISEASE else TUMOUR_SIZES,
)

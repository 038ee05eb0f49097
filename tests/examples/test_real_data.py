"""The examples on real data reach what the docs say of them. They need the folder that LYCIA_DATA names."""

import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from statistics import mean
from types import ModuleType

import pytest

from lycia import Evaluation, simulate

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("LYCIA_DATA"), reason="needs the data sets that LYCIA_DATA names"),
]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_federated_averaging_reaches_what_flamby_published():
    module = load("flamby_heart_disease")
    found = [module.hospital_mean(simulate(module.app, seed=seed).records[-1]) for seed in range(5)]
    assert mean(found) == pytest.approx(module.PUBLISHED[0], abs=0.02)


def test_writers_learn_digits_that_others_wrote():
    app = load("mnist_writers").app
    short = replace(app, plan=replace(app.plan, rounds=2, evaluation=Evaluation(every=2, nodes=20)))
    result = simulate(short)
    assert result.metrics()[-1][1]["accuracy"] > 0.7
    assert result.metrics("evaluate by evaluator")[-1][1]["accuracy"] > 0.7

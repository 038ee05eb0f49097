"""Every example runs as its docstring says, and does what it claims."""

from dataclasses import replace
from pathlib import Path

import pytest

from lycia import ExampleWeightedMean, Result, simulate
from lycia.core.plan import App
from lycia.data import as_population, check_data, load_node_data
from lycia.runtime.apps import load_app

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str) -> App:
    return load_app(EXAMPLES / f"{name}.py")


def accuracy(result: Result) -> float:
    return result.metrics()[-1][1]["accuracy"]


@pytest.mark.parametrize("name", ["digits", "hospitals", "own_data", "custom_aggregator"])
def test_the_data_of_an_example_fits_its_schema(name: str):
    app = load(name)
    population = as_population(app.population)
    for node in population:
        check_data(app.schema, population[node])


def test_digits_are_learned_together_and_not_alone():
    result = simulate(load("digits"))
    assert accuracy(result) > 0.95
    assert result.records[-1]["evaluation"]["baseline"]["pooled"]["accuracy"] < 0.75


@pytest.mark.parametrize("real", [True, False])
def test_hospitals_learn_with_scikit_learn(real: bool, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    if not real:
        monkeypatch.delenv("LYCIA_DATA", raising=False)
    app = load("hospitals")
    if real and len(app.schema.columns) != 10:
        pytest.skip("needs the heart disease files that LYCIA_DATA names")
    assert accuracy(simulate(app)) > (0.74 if real else 0.93)


def test_own_data_runs_in_simulation_and_takes_what_a_node_brings():
    app = load("own_data")
    result = simulate(app)
    assert accuracy(result) > 0.8
    data = load_node_data(f"{EXAMPLES / 'own_data_node.py'}:load", app)
    check_data(app.schema, data)
    examples, metrics = app.trainer.evaluate(result.layout, result.model, data.held_out)
    assert examples == 75
    assert metrics["accuracy"] > 0.8


def test_the_median_withstands_a_node_that_the_mean_does_not():
    app = load("custom_aggregator")
    assert accuracy(simulate(app)) > 0.9
    mean = replace(app, plan=replace(app.plan, aggregator=ExampleWeightedMean()))
    assert accuracy(simulate(mean)) < 0.7

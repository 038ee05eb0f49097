"""What the demo claims: together the nodes recognise the digits, and no node does alone."""

from pathlib import Path

import numpy as np
import pytest

from lycia import simulate
from lycia.core.keys import Key
from lycia.core.plan import App
from lycia.core.training import LocalTask
from lycia.data import Examples, check_data
from lycia.demo_app import app, demo_app
from lycia.errors import AppError
from lycia.runtime.apps import load_app


def all_held_out(app: App) -> Examples:
    parts = [app.population[name].held_out for name in app.population]
    return Examples(np.concatenate([p.features for p in parts]), np.concatenate([p.labels for p in parts]))


@pytest.mark.parametrize("seed", [0, 1])
def test_together_the_nodes_learn_what_none_learns_alone(seed: int):
    app = demo_app(seed=seed)
    trainer, held_out = app.trainer, all_held_out(app)
    result = simulate(app)
    assert result.metrics()[-1][1]["accuracy"] == trainer.evaluate(result.layout, result.model, held_out)[1]["accuracy"]
    assert result.metrics()[-1][1]["accuracy"] > 0.93
    for name in app.population:
        layout, model = trainer.first_model(app.schema, Key(seed))
        for number in range(app.plan.rounds):
            task = LocalTask(layout, model, app.population[name].train, Key(seed).at("alone", number, name))
            model = trainer.train(task).model
        assert trainer.evaluate(layout, model, held_out)[1]["accuracy"] < 0.85


def test_no_update_of_the_demo_is_quarantined():
    assert [drop for record in simulate(demo_app()).records for drop in record["dropped"]] == []


def test_few_digits_dominate_what_a_node_trains_on():
    for name in app.population:
        data = app.population[name]
        check_data(app.schema, data)
        counts = np.sort(np.bincount(data.train.labels, minlength=10))[::-1]
        assert counts[:4].sum() > 0.8 * counts.sum()
        assert len(np.unique(data.held_out.labels)) == 10


@pytest.mark.parametrize("nodes", [2, 7])
def test_the_demo_runs_with_other_numbers_of_nodes(nodes: int):
    app = demo_app(nodes, rounds=2)
    assert len(app.population) == nodes
    assert simulate(app).rounds == 2


def test_a_demo_of_one_node_is_refused():
    with pytest.raises(AppError, match="1 nodes"):
        demo_app(1)


def test_the_example_of_the_digits_is_the_demos_plan():
    example = load_app(Path(__file__).parents[2] / "examples" / "digits.py")
    assert example.plan == app.plan
    assert example.trainer == app.trainer
    assert example.schema == app.schema

"""`lycia.simulate`, from the first model to the last record."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from lycia import (
    SGD,
    App,
    Evaluation,
    Everyone,
    Faults,
    FedAvg,
    NodeData,
    Pace,
    Plan,
    RoundRules,
    Uniform,
    UniformMean,
    load_model,
    simulate,
)  # fmt: skip
from lycia.core.training import LocalResult, LocalTask
from lycia.errors import AppError, LayoutError, NotFound, SelectionError, StorageError
from lycia.runtime.facts import Fact, RoundMoved
from lycia.testing import Quadratic, QuadraticTrainer

OPTIMA = {f"node {number}": Quadratic.at(np.full(4, float(number), np.float32)) for number in range(12)}


@dataclass(frozen=True)
class Counting(QuadraticTrainer):
    """Counts how often somebody trains."""

    trained: list[int] = field(default_factory=list)

    def train(self, task: LocalTask) -> LocalResult:
        self.trained.append(1)
        return super().train(task)


def app(trainer: QuadraticTrainer | None = None, **changes: object) -> App:
    parts = {
        "rounds": 4, "selector": Everyone(), "client": FedAvg(), "aggregator": UniformMean(), "server": SGD(),
        "evaluation": Evaluation(nodes=12), "rules": RoundRules(deadline_s=10.0),
    }  # fmt: skip
    return App(trainer=trainer or QuadraticTrainer(4), plan=Plan(**{**parts, **changes}), population=OPTIMA)


class StopAt:
    """An observer that ends the process's part in a run, as a crash does."""

    def __init__(self, round_number: int, exchange: str) -> None:
        self.round, self.exchange = round_number, exchange

    def notice(self, fact: Fact) -> None:
        """Raise in the middle of the round."""
        if (
            isinstance(fact, RoundMoved)
            and (fact.round, fact.exchange) == (self.round, self.exchange)
            and fact.heard > 3
        ):
            raise KeyboardInterrupt


@pytest.mark.parametrize("exchange", ["train", "evaluate"])
def test_a_run_that_ends_inside_a_round_goes_on_to_the_same_bits(tmp_path: Path, exchange: str):
    whole = simulate(app())
    with pytest.raises(KeyboardInterrupt):
        simulate(app(), directory=tmp_path, observers=(StopAt(2, exchange),))
    resumed = simulate(app(), directory=tmp_path)
    assert resumed.digest == whole.digest
    assert [record["model"] for record in resumed.records] == [record["model"] for record in whole.records]


def test_the_same_seed_gives_the_same_run_and_another_one_another():
    drawn = app(selector=Uniform(cohort_size=4))
    assert simulate(drawn, seed=3).digest == simulate(drawn, seed=3).digest
    assert simulate(drawn, seed=3).digest != simulate(drawn, seed=4).digest


def test_over_selected_nodes_that_are_not_needed_never_train():
    trainer = Counting(4)
    result = simulate(app(trainer, selector=Uniform(cohort_size=5), rules=RoundRules(over_selection=2.0)))
    assert all(len(record["asked"]["train"]) == 10 for record in result.records)
    assert len(trainer.trained) == 5 * 4


def test_a_straggler_beyond_the_deadline_is_late_by_name():
    # Node 0 to 11 have one example each; a slow one takes a thousand times the deadline.
    result = simulate(
        app(rules=RoundRules(deadline_s=1.0, quorum=0.1)), faults=Faults(stragglers=0.3, straggler_factor=1e6)
    )
    slow = {node for node in OPTIMA if Faults(stragglers=0.3, straggler_factor=2).slowdown(0, node) == 2}
    assert 0 < len(slow) < 12
    assert set(result.records[0]["survivors"]) == OPTIMA.keys() - slow


def test_a_dropout_is_replaced_where_there_is_somebody_to_ask():
    result = simulate(
        app(selector=Uniform(cohort_size=5), rules=RoundRules(over_selection=1.0)), faults=Faults(dropout=0.4)
    )
    lost = [drop for record in result.records for drop in record["dropped"] if drop["kind"] == "vanished"]
    assert lost
    assert all(len(record["survivors"]) == 5 for record in result.records if not record["missed"])


def test_a_round_that_keeps_missing_its_quorum_pauses_the_run():
    result = simulate(app(rules=RoundRules(quorum=1.0, retries=2, replacement=False)), faults=Faults(dropout=1.0))
    assert result.state == "paused"
    assert len(result.records) == 3
    assert "quorum" in result.reason


def test_an_evaluator_measures_on_the_operators_own_data():
    lab = NodeData(None, Quadratic.at([0, 0, 0, 0]).held_out)
    result = simulate(replace(app(), evaluator=lab))
    assert list(result.records[0]["evaluation"]["evaluate by evaluator"]["nodes"]) == ["evaluator"]


def test_it_works_where_a_loop_runs_already_as_in_a_notebook():
    async def cell() -> str:
        return simulate(app()).digest

    assert asyncio.run(cell()) == simulate(app()).digest


def test_a_model_can_be_saved_and_begun_with(tmp_path: Path):
    first = simulate(app())
    path = first.save(tmp_path / "model.safetensors")
    assert load_model(path).keys() == first.arrays().keys()
    again = simulate(app(), start=path, rounds=1)
    np.testing.assert_allclose(again.model.trained, first.model.trained, atol=2.0)
    assert again.facts["first_model"] == first.digest


def test_what_cannot_be_simulated_says_why(tmp_path: Path):
    with pytest.raises(AppError, match="has no population"):
        simulate(replace(app(), population=None))
    with pytest.raises(SelectionError, match="12 nodes"):
        simulate(app(rules=RoundRules(least_nodes=13)))
    with pytest.raises(NotFound, match="no checkpoint"):
        simulate(app(), start=tmp_path / "nothing")
    other = simulate(replace(app(), population={"one": Quadratic.at([0, 0, 0])}, trainer=_of_three()))
    with pytest.raises(LayoutError, match="is not a model of this app"):
        simulate(app(), start=other.save(tmp_path / "other.safetensors"))
    simulate(app(), directory=tmp_path / "run", until_round=1)
    with pytest.raises(StorageError):
        simulate(app(rounds=9), directory=tmp_path / "run")


def _of_three() -> QuadraticTrainer:
    return QuadraticTrainer(3)


def test_pace_moves_the_runs_clock_and_nothing_else():
    slow, fast = simulate(app(), pace=Pace(example_s=5.0)), simulate(app(), pace=Pace(example_s=0.001))
    assert slow.digest == fast.digest
    assert slow.records[-1]["ended_s"] > fast.records[-1]["ended_s"]


def test_ctrl_c_leaves_a_run_that_can_be_resumed(tmp_path: Path):
    example = Path(__file__).parents[2] / "examples" / "digits.py"
    command = [
        sys.executable,
        "-m",
        "lycia.cli",
        "simulate",
        str(example),
        "--directory",
        str(tmp_path / "run"),
        "--json",
    ]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert running.stderr is not None
    for line in running.stderr:
        if line.startswith("round   3"):
            running.send_signal(signal.SIGINT)
            break
    running.communicate()
    assert running.returncode != 0
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["rounds"] == 20
    assert said["final"]["accuracy"] > 0.9
    assert Path(said["report"]).is_file()
    assert Path(said["model"]).is_file()

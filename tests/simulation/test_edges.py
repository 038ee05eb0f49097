"""What a stranger gives `lycia.simulate`: impossible numbers, clashing names, interrupts, and nodes that remember."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import SGDClassifier

from lycia import (
    SGD,
    App,
    Buffered,
    Evaluation,
    Everyone,
    Examples,
    ExampleWeightedMean,
    Faults,
    FedAvg,
    NodeData,
    Pace,
    Plan,
    Population,
    RoundRules,
    Schema,
    SklearnTrainer,
    Uniform,
    simulate,
)
from lycia.errors import AppError, PlanError
from lycia.runtime.facts import Fact, RoundEnded, RoundMoved

DECAYING = SGDClassifier(loss="log_loss", learning_rate="invscaling", eta0=0.5)


def some(seed: int, size: int = 24) -> NodeData:
    random = np.random.default_rng(seed)
    features = random.normal(size=(size + 8, 5)).astype(np.float32)
    examples = Examples(features, (features[:, 0] > 0).astype(np.int64))
    return NodeData(examples[:size], examples[size:])


def app(**changes: object) -> App:
    """Nodes that remember how many examples they have seen, by which their learning rate decays."""
    parts = {
        "rounds": 4, "selector": Everyone(), "client": FedAvg(), "aggregator": ExampleWeightedMean(), "server": SGD(),
        "rules": RoundRules(deadline_s=10.0),
    }  # fmt: skip
    return App(
        name="edges", trainer=SklearnTrainer(estimator=DECAYING), plan=Plan(**parts | changes),
        population={f"node-{number}": some(number) for number in range(4)}, schema=Schema(shape=(5,), labels=(0, 1)),
    )  # fmt: skip


def test_a_file_is_not_an_app():
    with pytest.raises(AppError, match=r"'app\.py' is not an App") as refused:
        simulate("app.py")  # type: ignore[arg-type]
    assert "lycia simulate" in refused.value.do


class StopAfter:
    """An observer that ends the process's part in a run after so many moves, as a crash does."""

    def __init__(self, moves: int) -> None:
        self.moves = moves

    def notice(self, fact: Fact) -> None:
        """Count down."""
        self.moves -= isinstance(fact, RoundMoved)
        if self.moves < 0:
            raise KeyboardInterrupt


def models(result: Any) -> list[str]:
    return [record["model"] for record in result.records]


@pytest.mark.parametrize("moves", [0, 3, 5, 8, 12, 17, 21])
def test_a_run_goes_on_to_the_same_bits_wherever_it_ended_though_its_nodes_remember(moves: int, tmp_path: Path):
    whole = simulate(app())
    with pytest.raises(KeyboardInterrupt):
        simulate(app(), directory=tmp_path, observers=(StopAfter(moves),))
    assert models(simulate(app(), directory=tmp_path)) == models(whole)


def test_what_a_node_remembers_of_an_attempt_that_missed_its_quorum_does_not_count():
    rules = RoundRules(deadline_s=10.0, quorum=1.0, replacement=False)
    faults = Faults(script={(1, "node-0"): "vanish"})
    missed = simulate(app(rules=rules), faults=faults)
    assert [record["attempt"] for record in missed.records] == [0, 0, 1, 0, 0]
    assert models(missed)[-1] == models(simulate(app(rules=rules)))[-1]


def test_what_a_node_remembers_of_an_update_that_was_refused_does_not_count():
    # Given a bound that some nodes' first updates are above, and a run in which these nodes never made them
    rules = RoundRules(deadline_s=10.0, norm_bound=1.2, quorum=0.0, replacement=False)
    refused = simulate(app(rules=rules, rounds=2)).records
    gone = {drop["node"] for drop in refused[0]["dropped"]}
    assert 0 < len(gone) < 4
    declined = simulate(
        app(rules=rules, rounds=2), faults=Faults(script={(0, node): "decline" for node in gone})
    ).records
    # Then their second updates are the same in both: they remember nothing of the first ones
    for what in ("norms", "dropped", "model"):
        assert refused[1][what] == declined[1][what]


def test_an_epilogue_after_a_restart_begins_with_the_model_that_the_run_began_with(tmp_path: Path):
    with_baseline = app(evaluation=Evaluation(baseline_rounds=2), rounds=2)
    checkpoint = simulate(app(rounds=3)).save(tmp_path / "checkpoint")
    whole = simulate(with_baseline, start=checkpoint)
    simulate(with_baseline, start=checkpoint, directory=tmp_path / "run", until_round=1)
    resumed = simulate(with_baseline, directory=tmp_path / "run")  # without naming the checkpoint again
    assert resumed.records[-1]["evaluation"] == whole.records[-1]["evaluation"]
    assert models(resumed) == models(whole)


@pytest.mark.parametrize("moves", [2, 9, 20])
def test_a_buffered_run_that_ended_anywhere_can_be_resumed(moves: int, tmp_path: Path):
    buffered = app(schedule=Buffered(size=2, concurrency=3))
    with pytest.raises(KeyboardInterrupt):
        simulate(buffered, directory=tmp_path, observers=(StopAfter(moves),))
    resumed = simulate(buffered, directory=tmp_path)
    assert (resumed.state, resumed.rounds) == ("finished", 4)


def test_a_finished_run_is_told_again_and_not_held_again(tmp_path: Path):
    first = simulate(app(), directory=tmp_path)
    seen: list[Fact] = []

    class Seen:
        def notice(self, fact: Fact) -> None:
            seen.append(fact)

    again = simulate(app(), directory=tmp_path, observers=(Seen(),))
    assert again.digest == first.digest
    assert not [fact for fact in seen if isinstance(fact, RoundEnded)]


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Pace(link_bytes_s=0), "link_bytes_s=0"),
        (lambda: Pace(example_s=-1), "example_s=-1"),
        (lambda: Pace(spread=float("nan")), "spread=nan"),
        (lambda: Faults(dropout=float("nan")), "dropout=nan"),
        (lambda: Faults(straggler_factor=float("inf")), "straggler_factor=inf"),
        (lambda: Faults(script={(0, "node-0"): "vanishes"}), "'vanishes'"),
        (lambda: simulate(app(), rounds=0), "rounds=0"),
        (lambda: simulate(app(), faults=Faults(script={(0, "nod-0"): "vanish"})), "nod-0"),
    ],
)
def test_what_cannot_be_simulated_is_told_in_words(make: Callable[[], object], complaint: str):
    with pytest.raises(PlanError, match=complaint) as refused:
        make()
    assert refused.value.why
    assert refused.value.do


def test_a_node_that_is_called_as_the_evaluator_is_not_taken_for_it():
    clash = replace(app(), population={"evaluator": some(0), "other": some(1)})
    assert simulate(clash).state == "finished"
    with pytest.raises(AppError, match="is called 'evaluator'"):
        simulate(replace(clash, evaluator=some(2)))


def test_an_evaluator_never_trains_whoever_drops_out():
    with_lab = replace(app(selector=Uniform(cohort_size=2)), evaluator=some(9))
    result = simulate(with_lab, faults=Faults(dropout=0.3))
    asked = {node for record in result.records for node in record["asked"]["train"]}
    assert "evaluator" not in asked


def test_a_population_is_asked_for_no_data_of_nodes_that_are_not_asked():
    loaded: list[str] = []

    def load(name: str) -> NodeData:
        loaded.append(name)
        return some(int(name))

    many = replace(
        app(selector=Uniform(cohort_size=2), rounds=1, evaluation=Evaluation(nodes=0)),
        population=Population([str(number) for number in range(1000)], load),
    )
    simulate(many)
    assert len(set(loaded)) <= 3


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_an_interrupt_in_a_notebook_ends_the_run_soon(tmp_path: Path):
    # Given a cell whose run would take for ever
    endless, begun = app(rounds=10**6), threading.Event()

    class Begun:
        def notice(self, fact: Fact) -> None:
            begun.set()

    async def cell() -> None:
        # When it is interrupted while it waits for the run
        threading.Thread(target=lambda: begun.wait(20) and os.kill(os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            simulate(endless, directory=tmp_path, observers=(Begun(),))

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a notebook
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(cell())
    finally:
        loop.close()
        signal.signal(signal.SIGINT, before)
    # Then it has ended, and what was done can be resumed
    assert simulate(endless, directory=tmp_path, until_round=1).rounds >= 1

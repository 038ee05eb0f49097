"""BatchNorm fits the types: running statistics are averaged over the survivors or stay at home, never optimized."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from lycia.aggregators import ExampleWeightedMean, UniformMean
from lycia.algorithms import SGD, Adam, FedAvg
from lycia.core.keys import Key
from lycia.core.layout import Layout, Model
from lycia.core.messages import EVALUATE, Ask, Reply, Updates
from lycia.core.plan import Evaluation, Plan
from lycia.core.training import LocalResult, LocalTask, NodeData, Schema
from lycia.selection import Everyone
from lycia.testing import Fault, Federation

ARRAYS = {
    "weight": np.zeros(2, np.float32),
    "running_mean": np.zeros(2, np.float32),
    "seen": np.array(0, np.int64),
    "version": np.array(7, np.int32),
}


@dataclass(frozen=True)
class Batch:
    """What a node sees: a mean, in so many batches."""

    mean: float
    batches: int
    examples: float = 1.0


@dataclass(frozen=True)
class NormalizedTrainer:
    """Moves its weights by the mean, and keeps running statistics as BatchNorm does."""

    takes_terms: bool = False

    def first_model(self, schema: Schema | None, key: Key) -> tuple[Layout, Model]:
        layout = Layout.of(ARRAYS, statistics=("running_mean", "seen", "version"), rules={"version": "keep"})
        return layout, layout.model(ARRAYS)

    def train(self, task: LocalTask) -> LocalResult:
        batch: Batch = task.data
        mean, seen = task.model.statistics[:2], task.model.statistics[2]
        moved = np.concatenate([mean + 0.5 * (batch.mean - mean), [seen + batch.batches, 99.0]])
        weights = task.model.trained + np.float32(batch.mean)
        return LocalResult(replace(task.model, trained=weights, statistics=moved), batch.examples)

    def evaluate(self, layout: Layout, model: Model, data: Any) -> tuple[float, Mapping[str, float]]:
        return data.examples, {"mean": float(model.statistics[0]), "seen": float(model.statistics[2])}


def node(mean: float, batches: int, examples: float = 1.0) -> NodeData:
    return NodeData(Batch(mean, batches, examples), Batch(mean, batches, examples))


UNIFORM, AVERAGING = UniformMean(), SGD()
NODES = {"athens": node(1.0, 10), "delphi": node(2.0, 11), "patara": node(6.0, 12)}


def federation(
    statistics: str = "average", rounds: int = 1, *, nodes=NODES, aggregator=UNIFORM, server=AVERAGING, **fleet
) -> Federation:
    plan = Plan(
        rounds=rounds, selector=Everyone(), client=FedAvg(), aggregator=aggregator, server=server,
        statistics=statistics, evaluation=Evaluation(evaluators=False),
    )  # fmt: skip
    held = Federation(plan, NormalizedTrainer(), nodes, **fleet)
    held.hold()
    return held


def arrays_of(held: Federation) -> dict[str, np.ndarray]:
    return held.run.layout.arrays(held.model)


def test_running_means_are_averaged_over_the_survivors():
    assert arrays_of(federation())["running_mean"].tolist() == [1.5, 1.5]  # half of the mean of 1, 2 and 6


@pytest.mark.parametrize("does", ["silence", "decline", "garble", "late"])
def test_whoever_drops_out_is_in_neither_mean(does: str):
    left = arrays_of(federation(faults=[Fault("patara", does)]))
    assert left["running_mean"].tolist() == [0.75, 0.75]
    assert left["weight"].tolist() == [1.5, 1.5]


def test_statistics_are_weighted_as_the_aggregator_weights():
    nodes = {"athens": node(1.0, 10, examples=3.0), "delphi": node(5.0, 10, examples=1.0)}
    held = federation(nodes=nodes, aggregator=ExampleWeightedMean())
    assert arrays_of(held)["running_mean"].tolist() == [1.0, 1.0]


def test_a_fixed_divisor_is_for_the_update_and_not_for_statistics():
    held = federation(aggregator=UniformMean(expected_cohort=30))
    assert arrays_of(held)["running_mean"].tolist() == [1.5, 1.5]
    np.testing.assert_allclose(arrays_of(held)["weight"], 0.3, rtol=1e-6)


def test_a_server_optimizer_never_touches_statistics():
    averaged, adapted = federation(rounds=3), federation(rounds=3, server=Adam(learning_rate=0.1))
    assert arrays_of(averaged)["running_mean"].tolist() == arrays_of(adapted)["running_mean"].tolist()
    assert arrays_of(averaged)["weight"].tolist() != arrays_of(adapted)["weight"].tolist()
    assert adapted.store.carried.slots["server/v"].shape == (2,)


def test_a_counter_becomes_the_nearest_whole_number_and_stays_an_integer():
    held = federation(nodes={"athens": node(0.0, 10), "delphi": node(0.0, 12), "patara": node(0.0, 12)})
    assert arrays_of(held)["seen"].dtype == np.int64
    assert int(arrays_of(held)["seen"]) == 11  # of 34 / 3


def test_a_counter_that_the_server_keeps_stays_as_it_was():
    assert int(arrays_of(federation(rounds=2))["version"]) == 7


def test_large_counters_stay_exact():
    many = 2**52 + 1
    held = federation(nodes={name: node(0.0, many) for name in NODES})
    assert int(arrays_of(held)["seen"]) == many


def test_local_statistics_stay_at_their_node_and_are_used_there():
    held = federation("local", rounds=3)
    assert arrays_of(held)["running_mean"].tolist() == [0.0, 0.0]
    assert all(update.extra == {} for update in held.fleet.received if isinstance(update, Updates))
    measured = held.records[-1]["evaluation"][EVALUATE]["nodes"]
    assert {name: figures["seen"] for name, figures in measured.items()} == {
        "athens": 30.0,
        "delphi": 33.0,
        "patara": 36.0,
    }
    assert measured["patara"]["mean"] == pytest.approx(6.0 * (1 - 0.5**3))


def test_a_statistic_that_is_not_finite_is_quarantined_with_its_update():
    def poison(ask: Ask, reply: Reply) -> Reply:
        if isinstance(reply, Updates) and reply.nodes == ("patara",):
            return replace(reply, extra={"statistics": np.full_like(reply.extra["statistics"], np.nan)})
        return reply

    held = federation(tamper=poison)
    assert arrays_of(held)["weight"].tolist() == [1.5, 1.5]
    assert [drop["kind"] for drop in held.records[0]["dropped"]] == ["quarantined"]


@pytest.mark.parametrize("value", [1e308, 1.7e308, 3.5e38])
def test_a_statistic_too_large_to_add_up_does_not_end_the_run(value: float):
    def inflate(ask: Ask, reply: Reply) -> Reply:
        if isinstance(reply, Updates) and reply.nodes == ("patara",):
            return replace(reply, extra={"statistics": np.full_like(reply.extra["statistics"], value)})
        return reply

    assert arrays_of(federation(tamper=inflate))["running_mean"].tolist() == [0.75, 0.75]

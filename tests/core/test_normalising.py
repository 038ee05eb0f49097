"""Features are described by the nodes before the first round, and scaled by what they say together."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lycia import (
    SGD,
    App,
    Evaluation,
    Everyone,
    Examples,
    ExampleWeightedMean,
    FedAvg,
    NodeData,
    Normalisation,
    NumpyTrainer,
    Plan,
    Result,
    Schema,
    SklearnTrainer,
    load_model,
    simulate,
)
from lycia.core import normalising
from lycia.core.layout import Layout, Leaf
from lycia.core.messages import DESCRIBE
from lycia.core.normalising import Moments, described, pooled
from lycia.core.training import LocalResult, LocalTask
from lycia.errors import LayoutError, PlanError, TrainingError

LAYOUT = Layout((Leaf("weight", (3, 2)), Leaf("scaling", (3, 3), segment="frozen")))
MODEL = LAYOUT.model({"weight": np.zeros((3, 2), np.float32), "scaling": np.float32([[0] * 3, [1] * 3, [0] * 3])})


def in_units() -> dict[str, NodeData]:
    """Three hospitals, one of which measures patients of another kind; features in very different units."""
    random = np.random.default_rng(3)

    def hospital(size: int, shift: float) -> NodeData:
        plain = random.normal(shift, 1.0, (size, 3))
        labels = (plain @ [1.0, -2.0, 0.5] > 0).astype(np.int64)
        examples = Examples(plain * [1.0, 1000.0, 1e-3] + [0.0, 5e4, 7.0], labels)
        return NodeData(examples[: size // 2], examples[size // 2 :])

    return {"north": hospital(200, 0.0), "south": hospital(120, 1.0), "west": hospital(60, -1.0)}


def app(**changes: object) -> App:
    settings = {
        "rounds": 5, "selector": Everyone(), "client": FedAvg(), "aggregator": ExampleWeightedMean(), "server": SGD(),
        "normalisation": Normalisation(), "evaluation": Evaluation(baseline_rounds=10),
    }  # fmt: skip
    return App(
        trainer=NumpyTrainer(learning_rate=0.3, batch_size=20, scaled=True), plan=Plan(**settings | changes),
        population=in_units(), schema=Schema(shape=(3,), labels=(0, 1)),
    )  # fmt: skip


def scaling_of(result: Result) -> np.ndarray:
    return result.model.frozen["scaling"]


def all_features(nodes: dict[str, NodeData]) -> np.ndarray:
    return np.concatenate([data.train.features for data in nodes.values()])


def test_the_model_scales_by_the_mean_and_deviation_of_everybody_together():
    result = simulate(app())
    together = all_features(in_units())
    assert scaling_of(result)[0] == pytest.approx(together.mean(axis=0), rel=1e-6)
    assert scaling_of(result)[1] == pytest.approx(together.std(axis=0), rel=1e-6)
    assert scaling_of(result)[2].tolist() == [190.0] * 3
    assert result.metrics()[-1][1]["accuracy"] > 0.9


def test_without_it_features_in_wild_units_are_not_learned():
    unscaled = replace(app().plan, normalisation=None)
    assert simulate(replace(app(), plan=unscaled)).metrics()[-1][1]["accuracy"] < 0.8


def test_the_first_round_alone_asks_for_a_description():
    records = simulate(app()).records
    assert [sorted(record["asked"]).count(DESCRIBE) for record in records] == [1, 0, 0, 0, 0, 0]


def test_nodes_alone_are_measured_with_the_same_scale():
    alone = simulate(app()).records[-1]["evaluation"]["baseline"]["nodes"]
    assert min(figures["accuracy"] for figures in alone.values()) > 0.8


def test_a_predictor_takes_features_in_their_own_units(tmp_path):
    path = simulate(app()).save(tmp_path / "model.safetensors")
    held_out = in_units()["north"].held_out
    predicted = load_model(path, into=NumpyTrainer(scaled=True)).predict(held_out.features)
    assert np.mean(predicted == held_out.labels) > 0.9


def test_an_estimator_of_scikit_learn_is_normalised_the_same_way():
    from sklearn.linear_model import SGDClassifier

    estimator = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.1)
    result = simulate(replace(app(), trainer=SklearnTrainer(estimator=estimator, scaled=True)))
    assert scaling_of(result).tolist() == scaling_of(simulate(app())).tolist()
    assert result.metrics()[-1][1]["accuracy"] > 0.9


def test_a_node_without_data_declines_and_is_not_part_of_the_scale():
    nodes = in_units()
    nodes["empty"] = NodeData(None, nodes["south"].held_out)
    result = simulate(replace(app(), population=nodes))
    declined = [(drop["node"], drop["kind"]) for drop in result.records[0]["dropped"] if drop["exchange"] == DESCRIBE]
    assert declined == [("empty", "declined")]
    assert scaling_of(result).tolist() == scaling_of(simulate(app())).tolist()


def test_where_nobody_can_describe_anything_the_run_pauses():
    nodes = {name: NodeData(None, data.held_out) for name, data in in_units().items()}
    result = simulate(replace(app(), population=nodes))
    assert result.state == "paused"
    assert "no node described its features" in result.reason


def test_no_more_nodes_are_asked_than_the_plan_says():
    record = simulate(app(normalisation=Normalisation(nodes=2))).records[0]
    assert len(record["asked"][DESCRIBE]) == 2


def test_a_run_resumed_in_its_first_round_or_later_has_the_same_bits(tmp_path):
    whole = simulate(app())
    simulate(app(), directory=tmp_path, until_round=1)
    assert simulate(app(), directory=tmp_path).digest == whole.digest


def test_another_attempt_at_the_first_round_asks_again_and_scales_by_what_it_is_told():
    asked: list[int] = []

    class Hesitant(NumpyTrainer):
        def moments(self, data: Examples) -> Moments:
            asked.append(len(data))
            if len(asked) == 1:
                raise TrainingError("not now.", why="it is the first time.", do="ask again.")
            return super().moments(data)

        def train(self, task: LocalTask) -> LocalResult:
            if len(asked) == 3:
                raise TrainingError("not now.", why="it is the first time.", do="ask again.")
            return super().train(task)

    result = simulate(replace(app(), trainer=Hesitant(learning_rate=0.3, batch_size=20, scaled=True)))
    assert [bool(record["missed"]) for record in result.records[:2]] == [True, False]
    assert len(asked) == 6
    assert result.digest == simulate(app()).digest


def test_a_run_that_broke_off_in_its_first_round_goes_on_to_the_same_bits(tmp_path):
    class Broken(NumpyTrainer):
        def train(self, task: LocalTask) -> LocalResult:
            raise MemoryError

    broken = replace(app(), trainer=Broken(learning_rate=0.3, batch_size=20, scaled=True))
    with pytest.raises(MemoryError):
        simulate(broken, directory=tmp_path)
    assert simulate(app(), directory=tmp_path).digest == simulate(app()).digest


def test_a_run_that_starts_from_a_normalised_model_keeps_its_scale(tmp_path):
    first = simulate(app())
    path = first.save(tmp_path / "model.safetensors")
    again = simulate(app(), start=path)
    assert scaling_of(again).tolist() == scaling_of(first).tolist()
    assert DESCRIBE not in again.records[0]["asked"]


def test_a_checkpoint_that_was_scaled_by_bounds_is_refused(tmp_path):
    plain = replace(app(), plan=replace(app().plan, normalisation=None))
    path = simulate(plain).save(tmp_path / "model.safetensors")
    with pytest.raises(LayoutError, match="bounds in a schema"):
        simulate(app(), start=path)


def test_a_trainer_that_does_not_scale_is_refused():
    with pytest.raises(PlanError, match="scaled=True"):
        replace(app(), trainer=NumpyTrainer())


@pytest.mark.parametrize(
    ("moments", "reason"),
    [
        (Moments(*np.full((3, 2), 1.0)), "3,"),
        (Moments(np.ones(3), np.array([0.0, np.nan, 0.0]), np.ones(3)), "NaN"),
        (Moments(np.ones(3), np.array([0.0, 1e38, 0.0]), np.ones(3)), "beyond all measure"),
        (Moments(np.ones(3), np.zeros(3), np.array([0.0, 1e75, 0.0])), "beyond all measure"),
        (Moments(np.array([1.0, 0.0, 1.0]), np.zeros(3), np.ones(3)), "beyond all measure"),
        (Moments.of(np.array([[0.0, np.inf, 0.0]])), "infinity"),
        (Moments.of(np.array([[0.0, 1e300, 0.0], [0.0, -1e300, 0.0]])), "infinity"),
        (Moments(np.ones(3), np.zeros(3), -np.ones(3)), "negative"),
        (Moments(np.full(3, 1e9), np.zeros(3), np.ones(3)), "above the cap"),
    ],
)
def test_a_bad_description_is_refused_with_its_reason(moments: Moments, reason: str):
    said = normalising.objection(LAYOUT, 1e7, moments.to_bytes())
    assert said is not None
    assert reason in said


@given(
    st.lists(
        st.tuples(st.floats(0, 1e7), st.floats(-1e300, 1e300), st.floats(0, 1e300)), min_size=1, max_size=5
    )
)  # fmt: skip
def test_whatever_nodes_describe_the_scale_can_be_computed_with(said: list[tuple[float, float, float]]):
    moments = [Moments(*(np.full(3, number) for number in numbers)) for numbers in said]
    bodies = {str(node): own.to_bytes() for node, own in enumerate(moments)}
    admitted = {node: body for node, body in bodies.items() if normalising.objection(LAYOUT, 1e7, body) is None}
    offset, width, _ = described(MODEL, admitted).frozen["scaling"]
    assert np.isfinite(offset).all()
    assert np.isfinite(width).all()
    assert (width > 0).all()


@pytest.mark.parametrize("value", [0.1, -3e7, 0.0, 1e-50])
def test_a_feature_that_does_not_vary_is_only_shifted(value: float):
    bodies = {str(count): Moments.of(np.full((count, 3), value)).to_bytes() for count in (1, 7, 10_000)}
    scaling = described(MODEL, bodies).frozen["scaling"]
    assert scaling[0].tolist() == [np.float32(value)] * 3
    assert scaling[1].tolist() == [1.0] * 3


def test_a_feature_that_varies_little_on_a_high_level_is_scaled():
    seconds = 1.7e9 + np.arange(100.0).repeat(3).reshape(100, 3)
    scaling = described(MODEL, {"clock": Moments.of(seconds).to_bytes()}).frozen["scaling"]
    assert scaling[1] == pytest.approx(seconds.std(axis=0))


@pytest.mark.parametrize(
    "features", [np.array([[0, 255], [128, 7]], np.uint8), np.array([[True, False]]), np.ones((1, 2))]
)
def test_features_of_every_kind_and_a_single_example_can_be_described(features: np.ndarray):
    moments = Moments.of(features)
    assert moments.count.tolist() == [len(features)] * 2
    assert moments.mean == pytest.approx(features.astype(float).mean(axis=0))
    assert moments.squares == pytest.approx(features.astype(float).var(axis=0) * len(features))


def test_what_is_no_description_at_all_is_refused():
    assert "cannot be read" in (normalising.objection(LAYOUT, 1e7, b"garbage") or "")


@given(
    st.lists(
        st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e-3, 1e-3)), min_size=1, max_size=9),
        min_size=1, max_size=6,
    )
)  # fmt: skip
def test_pooled_moments_are_those_of_all_values_together(parts: list[list[tuple[float, float]]]):
    arrays = [np.array(part) for part in parts]
    together = np.concatenate(arrays)
    moments = pooled([Moments.of(array) for array in arrays], 2)
    assert moments.count.tolist() == [len(together)] * 2
    assert moments.mean == pytest.approx(together.mean(axis=0), abs=1e-9)
    assert moments.squares / moments.count == pytest.approx(together.var(axis=0), abs=1e-7)

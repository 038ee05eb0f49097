"""NumpyTrainer: its gradients, its randomness, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lycia.algorithms import FedProx
from lycia.core.keys import Key
from lycia.core.layout import Layout, Model
from lycia.core.training import LocalTask
from lycia.data import Examples, Schema
from lycia.errors import AppError, TrainingError
from lycia.trainers import NumpyTrainer

SCHEMA = Schema(shape=(5,), labels=(0, 1, 2))
TRAINERS = [NumpyTrainer(), NumpyTrainer(hidden=(7,)), NumpyTrainer(hidden=(6, 4), batch_size=8)]


def examples(count: int = 40, seed: int = 0) -> Examples:
    random = Key(seed).generator()
    labels = random.integers(0, 3, count)
    features = random.standard_normal((count, 5))
    features[:, 0] += 4 * labels
    return Examples(features, labels)


def begin(trainer: NumpyTrainer, seed: int = 0, schema: Schema = SCHEMA) -> tuple[Layout, Model]:
    """A model away from zero, where no gradient vanishes and no unit is at its kink."""
    layout, model = trainer.first_model(schema, Key(seed))
    moved = model.trained + Key(seed).at("moved").generator().normal(0, 0.3, model.trained.shape).astype(np.float32)
    return layout, replace(model, trained=moved.astype(np.float32))


def one_step(trainer: NumpyTrainer, task: LocalTask) -> np.ndarray:
    """The gradient that a single full-batch step followed."""
    stepped = replace(trainer, steps=1, batch_size=len(task.data)).train(task).model.trained
    return (task.model.trained - stepped) / np.float32(trainer.learning_rate)


# ------------------------------------------------------------------------------------------------------------- numerics


def reference_loss(layout: Layout, params: np.ndarray, data: Examples) -> float:
    """The mean cross-entropy in float64, written down once more."""
    out = data.features
    leaves = [params[place].reshape(leaf.shape) for leaf, place in layout.places("trained")]
    for layer in range(0, len(leaves), 2):
        out = (np.maximum(out, 0) if layer else out) @ leaves[layer] + leaves[layer + 1]
    return float(np.mean(np.log(np.exp(out).sum(axis=1)) - out[np.arange(len(data)), data.labels]))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_gradient_is_that_of_the_loss(trainer: NumpyTrainer):
    layout, model = begin(trainer)
    data, params = examples(), model.trained.astype(np.float64)
    gradient = one_step(replace(trainer, learning_rate=1.0), LocalTask(layout, model, data, Key(0)))
    for place in range(len(gradient)):
        nudge = np.zeros_like(params)
        nudge[place] = 1e-6
        rise = reference_loss(layout, params + nudge, data) - reference_loss(layout, params - nudge, data)
        assert gradient[place] == pytest.approx(rise / 2e-6, abs=2e-6)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_loss_is_the_mean_cross_entropy(trainer: NumpyTrainer):
    layout, model = begin(trainer)
    reported = trainer.evaluate(layout, model, examples())[1]["loss"]
    assert reported == pytest.approx(reference_loss(layout, model.trained, examples()), rel=1e-5)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_weight_decay_and_terms_are_added_to_the_gradient(trainer: NumpyTrainer):
    layout, model = begin(trainer)
    task = LocalTask(layout, model, examples(), Key(0))
    plain = one_step(trainer, task)
    decayed = one_step(replace(trainer, weight_decay=0.5), task)
    np.testing.assert_allclose(decayed - plain, 0.5 * model.trained, atol=1e-4)
    anchor = np.zeros_like(model.trained)
    pulled = one_step(trainer, replace(task, term=FedProx(mu=2.0).term(anchor, {}, {})))
    np.testing.assert_allclose(pulled - plain, 2 * model.trained, atol=1e-4)


def test_a_term_sees_the_gradient_and_the_parameters_of_every_step():
    trainer = NumpyTrainer(batch_size=8, epochs=2)
    layout, model = begin(trainer)
    seen = []

    def still(gradient: np.ndarray, params: np.ndarray) -> np.ndarray:
        seen.append((gradient.shape, params.copy()))
        return np.zeros_like(gradient)

    result = trainer.train(LocalTask(layout, model, examples(20), Key(0), still))
    assert len(seen) == result.steps == 6
    assert all(shape == model.trained.shape and (params == model.trained).all() for shape, params in seen)
    assert (result.model.trained == model.trained).all()


def test_a_proximal_term_keeps_local_training_closer():
    trainer = NumpyTrainer(epochs=20)
    layout, model = begin(trainer)
    task = LocalTask(layout, model, examples(), Key(0))
    free = trainer.train(task).model.trained
    held = trainer.train(replace(task, term=FedProx(mu=1.0).term(model.trained, {}, {}))).model.trained
    assert np.linalg.norm(held - model.trained) < 0.5 * np.linalg.norm(free - model.trained)


def test_momentum_adds_up_steps_and_starts_at_rest():
    trainer = NumpyTrainer(steps=2, batch_size=40, momentum=0.5, learning_rate=0.01)
    layout, model = begin(trainer)
    task = LocalTask(layout, model, examples(), Key(0), lambda gradient, _: np.ones_like(gradient))
    moved = model.trained - trainer.train(task).model.trained
    np.testing.assert_allclose(moved, 0.01 * (1 + 1.5), rtol=1e-3)


def test_logistic_regression_starts_at_zero_and_a_network_does_not():
    assert not begin_of(NumpyTrainer()).any()
    first = NumpyTrainer(hidden=(400,)).first_model(Schema(shape=(100,), labels=(0, 1)), Key(0))
    weight = first[0].arrays(first[1])["layer0.weight"]
    assert weight.std() == pytest.approx(np.sqrt(2 / 100), rel=0.02)
    assert not first[0].arrays(first[1])["layer0.bias"].any()


def begin_of(trainer: NumpyTrainer) -> np.ndarray:
    return trainer.first_model(SCHEMA, Key(0))[1].trained


def test_the_leaves_are_named_by_layer():
    layout, _ = NumpyTrainer(hidden=(7,)).first_model(SCHEMA, Key(0))
    assert [(leaf.name, leaf.shape) for leaf, _ in layout.places("trained")] == [
        ("layer0.weight", (5, 7)), ("layer0.bias", (7,)), ("layer1.weight", (7, 3)), ("layer1.bias", (3,)),
    ]  # fmt: skip


@pytest.mark.parametrize("trainer", TRAINERS)
def test_training_learns(trainer: NumpyTrainer):
    layout, model = trainer.first_model(SCHEMA, Key(0))
    data = examples(200)
    trained = replace(trainer, epochs=30).train(LocalTask(layout, model, data, Key(0))).model
    count, metrics = trainer.evaluate(layout, trained, data)
    assert count == 200
    assert metrics["accuracy"] > 0.8
    assert metrics["loss"] < trainer.evaluate(layout, model, data)[1]["loss"]


def test_a_loss_of_huge_logits_is_computed_stably():
    trainer = NumpyTrainer()
    layout, model = trainer.first_model(SCHEMA, Key(0))
    data = Examples(np.full((1, 5), 1e4), np.array([0]))
    right = layout.model({**layout.arrays(model), "layer0.bias": np.array([1e6, 0, 0], np.float32)})
    wrong = layout.model({**layout.arrays(model), "layer0.bias": np.array([0, 1e6, 0], np.float32)})
    assert trainer.evaluate(layout, right, data)[1] == {"accuracy": 1.0, "loss": 0.0}
    assert trainer.evaluate(layout, wrong, data)[1] == {"accuracy": 0.0, "loss": 1e6}


def test_the_mean_loss_of_training_counts_every_example_once_an_epoch():
    trainer = NumpyTrainer(learning_rate=1e-12, batch_size=16)
    layout, model = begin(trainer)
    data = examples(37)  # the last batch has five
    result = trainer.train(LocalTask(layout, model, data, Key(0)))
    assert result.metrics["loss"] == pytest.approx(trainer.evaluate(layout, model, data)[1]["loss"], rel=1e-5)
    assert (result.weight, result.steps) == (37, 3)


@pytest.mark.parametrize(("steps", "count"), [(1, 10), (3, 10), (5, 10), (7, 100)])
def test_steps_are_as_many_as_asked_for_whatever_the_size(steps: int, count: int):
    trainer = NumpyTrainer(steps=steps, batch_size=4)
    layout, model = begin(trainer)
    assert trainer.train(LocalTask(layout, model, examples(count), Key(0))).steps == steps


# ----------------------------------------------------------------------------------------------------------- randomness


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_key_names_one_result_bit_for_bit(trainer: NumpyTrainer):
    layout, model = trainer.first_model(SCHEMA, Key(3))
    assert (model.trained == trainer.first_model(SCHEMA, Key(3))[1].trained).all()
    task = LocalTask(layout, model, examples(), Key(4))
    first, again, other = (trainer.train(replace(task, key=Key(seed))).model.trained for seed in (4, 4, 5))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_training_changes_nothing_that_it_was_given():
    trainer = NumpyTrainer(hidden=(7,), momentum=0.9, weight_decay=0.1)
    layout, model = begin(trainer)
    data = examples()
    before = model.trained.copy(), data.features.copy()
    trainer.train(LocalTask(layout, model, data, Key(0)))
    assert (model.trained == before[0]).all()
    assert (data.features == before[1]).all()


@given(seed=st.integers(0, 10_000), batch=st.integers(1, 50), count=st.integers(1, 50), epochs=st.integers(1, 3))
def test_an_epoch_sees_every_example_once(seed: int, batch: int, count: int, epochs: int):
    order = list(NumpyTrainer(batch_size=batch, epochs=epochs)._batches(count, Key(seed).generator()))
    per_epoch = -(-count // batch)
    assert len(order) == epochs * per_epoch
    for epoch in range(epochs):
        seen = np.concatenate(order[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert sorted(seen.tolist()) == list(range(count))


# --------------------------------------------------------------------------------------------------- labels and schemas


def test_labels_may_be_any_text_or_numbers_in_any_order():
    data = examples()
    named = Examples(data.features, np.array(["low", "mid", "top"])[data.labels])
    numbers = Examples(data.features.reshape(-1, 5, 1), np.array([30, -1, 7])[data.labels])
    results = []
    for schema, own in (
        (SCHEMA, data),
        (Schema(shape=(5,), labels=("low", "mid", "top")), named),
        (Schema(shape=(5, 1), labels=(30, -1, 7)), numbers),
    ):
        layout, model = NumpyTrainer().first_model(schema, Key(0))
        results.append(NumpyTrainer().train(LocalTask(layout, model, own, Key(0))).model.trained.tobytes())
    assert results[0] == results[1] == results[2]


def test_a_scaled_model_takes_what_was_measured():
    schema = Schema(shape=(5,), bounds=(-10, 30), labels=(0, 1, 2))
    data = examples()
    by_hand = Examples((data.features.astype(np.float32) + 10) / np.float32(40), data.labels)
    plain, scaled = (NumpyTrainer(hidden=(4,), scaled=flag) for flag in (False, True))
    expected = plain.train(LocalTask(*plain.first_model(schema, Key(0)), by_hand, Key(0)))
    result = scaled.train(LocalTask(*scaled.first_model(schema, Key(0)), data, Key(0)))
    assert result.model.trained.tobytes() == expected.model.trained.tobytes()


def test_a_node_without_examples_cannot_train():
    trainer = NumpyTrainer()
    layout, model = begin(trainer)
    with pytest.raises(TrainingError, match="there are no examples"):
        trainer.train(LocalTask(layout, model, examples()[:0], Key(0)))
    with pytest.raises(TrainingError, match="there are no examples"):
        trainer.evaluate(layout, model, examples()[:0])


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (Examples(np.ones((3, 5)), np.array([0, 5, 6])), "2 of 3 examples have a label that is not in the label set"),
        (Examples(np.ones((3, 4)), np.array([0, 1, 2])), "features of shape (3, 4)"),
        (Examples(np.ones((3, 5)), np.array([0, 1])), "labels of shape (2,)"),
        (Examples(np.full((3, 5), "1"), np.array([0, 1, 2])), "type <U1"),
        ([1, 2, 3], "the data is a list"),
    ],
)
def test_data_that_does_not_fit_is_declined_without_telling_a_value(data: object, told: str):
    trainer = NumpyTrainer()
    layout, model = begin(trainer)
    for refuse in (
        lambda: trainer.train(LocalTask(layout, model, data, Key(0))),
        lambda: trainer.evaluate(layout, model, data),
    ):
        with pytest.raises(TrainingError) as failure:
            refuse()
        assert told in failure.value.what
        assert "5, 6" not in failure.value.what


def test_a_loss_that_is_not_finite_is_no_error_of_the_node():
    trainer = NumpyTrainer(hidden=(4,), learning_rate=1e30, epochs=3)
    layout, model = begin(trainer)
    result = trainer.train(LocalTask(layout, model, examples(), Key(0)))
    assert not np.isfinite(result.model.trained).all()
    assert not np.isfinite(result.metrics["loss"])
    assert not np.isfinite(trainer.evaluate(layout, result.model, examples())[1]["loss"])


@pytest.mark.parametrize(
    ("schema", "told"),
    [(None, "schema is missing"), (object(), "schema is a object"), (Schema(shape=(5,)), "label set")],
)
def test_without_shape_and_labels_there_is_no_first_model(schema, told: str):
    with pytest.raises(TrainingError, match=told):
        NumpyTrainer().first_model(schema, Key(0))


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden": (0,)}, {"learning_rate": 0.0}, {"batch_size": 0}, {"epochs": 0}, {"steps": 0},
        {"weight_decay": -1.0}, {"momentum": 1.0}, {"hidden": 64}, {"hidden": (8.5,)}, {"batch_size": "3"},
        {"epochs": 1.5},
    ],
)  # fmt: skip
def test_settings_that_cannot_train_are_refused(settings: dict):
    with pytest.raises(AppError, match=next(iter(settings))):
        NumpyTrainer(**settings)

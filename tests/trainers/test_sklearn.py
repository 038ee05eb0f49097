"""SklearnTrainer: estimators of every kind that it knows, at nodes of every kind."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from sklearn.cluster import MiniBatchKMeans
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import (
    ElasticNet,
    LinearRegression,
    LogisticRegression,
    Perceptron,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lycia import UniformMean, simulate
from lycia.algorithms import SGD, FedAvg, FedProx
from lycia.core.keys import Key
from lycia.core.plan import App, Plan
from lycia.core.training import LocalTask, NodeData
from lycia.data import Examples, Schema
from lycia.errors import AppError, PlanError, TrainingError
from lycia.selection import Everyone
from lycia.trainers import SklearnTrainer

NAMES = ("low", "mid", "top")
THREE, TWO, NUMBERS = Schema(shape=(4,), labels=NAMES), Schema(shape=(4,), labels=(1, 0)), Schema(shape=(4,))
CLASSIFIERS = [
    SGDClassifier(loss="log_loss"),
    SGDClassifier(),
    Perceptron(),
    LogisticRegression(max_iter=5),
    LogisticRegression(max_iter=5, solver="saga"),
    MLPClassifier((6,), learning_rate_init=0.03, batch_size=16),
    MLPClassifier((6,), solver="lbfgs", max_iter=5),
]
REGRESSORS = [
    SGDRegressor(),
    ElasticNet(alpha=0.01, max_iter=20),
    MLPRegressor(hidden_layer_sizes=(6,), learning_rate_init=0.03, batch_size=16),
]


def examples(schema: Schema, count: int = 120) -> Examples:
    random = Key(0).generator()
    features = random.standard_normal((count, 4))
    score = features @ np.array([2.0, -1.0, 0.5, 0.0])
    if schema is THREE:
        return Examples(features, np.array(NAMES)[np.digitize(score, [-1, 1])])
    return Examples(features, (score > 0).astype(int) if schema is TWO else score)


CASES = [
    *((item, schema) for item in CLASSIFIERS for schema in (THREE, TWO)),
    *((item, NUMBERS) for item in REGRESSORS),
]


@pytest.mark.parametrize(("estimator", "schema"), CASES, ids=str)
def test_an_estimator_learns_from_round_to_round(estimator, schema: Schema):
    trainer, data = SklearnTrainer(estimator=estimator, epochs=3), examples(schema)
    layout, model = trainer.first_model(schema, Key(0))
    start = model
    for number in range(5):
        result = trainer.train(LocalTask(layout, model, data, Key(1).at(number)))
        layout.check_model(result.model)
        model = layout.as_sent(result.model)
    (count, before), (_, after) = (trainer.evaluate(layout, own, data) for own in (start, model))
    assert count == result.weight == len(data)
    assert result.steps >= 1
    if schema is NUMBERS:
        assert after["mse"] < 0.5 * before["mse"]
        assert after["r2"] > 0.5
    else:
        assert after["accuracy"] > 0.8
        assert ("loss" in after) == hasattr(estimator, "predict_proba")


@pytest.mark.parametrize(("estimator", "schema"), CASES, ids=str)
def test_a_key_names_one_result_bit_for_bit(estimator, schema: Schema):
    trainer, data = SklearnTrainer(estimator=estimator), examples(schema)
    layout, model = trainer.first_model(schema, Key(0))
    assert model.trained.tobytes() == trainer.first_model(schema, Key(0))[1].trained.tobytes()
    task = LocalTask(layout, model, data, Key(4))
    first, again = (trainer.train(task).model.trained.tobytes() for _ in range(2))
    assert first == again
    if "shuffle" in estimator.get_params() and estimator.get_params().get("solver") != "lbfgs":
        assert first != trainer.train(replace(task, key=Key(5))).model.trained.tobytes()


@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=str)
@pytest.mark.parametrize("kept", [("low", "mid"), ("top",)])
def test_a_node_that_lacks_a_label_has_the_whole_shape(estimator, kept: tuple[str, ...]):
    trainer, data = SklearnTrainer(estimator=estimator), examples(THREE)
    layout, model = trainer.first_model(THREE, Key(0))
    few = data[np.isin(data.labels, kept)]
    result = trainer.train(LocalTask(layout, model, few, Key(0)))
    layout.check_model(result.model)
    assert trainer.evaluate(layout, result.model, data)[0] == len(data)


def test_training_goes_on_from_the_parameters_given_and_not_from_scratch():
    for estimator in (LogisticRegression(max_iter=1), SGDClassifier(loss="log_loss"), MLPClassifier((6,))):
        trainer, data = SklearnTrainer(estimator=estimator), examples(THREE)
        layout, model = trainer.first_model(THREE, Key(0))
        moved = replace(model, trained=model.trained + np.float32(0.5))
        results = [trainer.train(LocalTask(layout, own, data, Key(0))).model.trained for own in (model, moved)]
        assert not np.allclose(*results)


def test_rows_that_stand_in_for_absent_labels_weigh_nothing():
    few = examples(THREE)
    few = few[few.labels != "top"]
    trainer = SklearnTrainer(estimator=LogisticRegression(max_iter=200, C=1e6, tol=1e-8))
    layout, model = trainer.first_model(THREE, Key(0))
    trained = trainer.train(LocalTask(layout, model, few, Key(0))).model
    estimator = trainer.predictor(layout, trained)
    assert "top" not in estimator.predict(few.features)
    assert estimator.predict_proba(few.features)[:, 2].max() < 1e-2


def test_a_decaying_learning_rate_goes_on_from_round_to_round():
    trainer, data = SklearnTrainer(estimator=SGDClassifier(loss="log_loss")), examples(THREE)
    layout, model = trainer.first_model(THREE, Key(0))
    seen = []
    for number in range(3):
        model = trainer.train(LocalTask(layout, model, data, Key(number))).model
        seen.append(layout.arrays(model)["t_"].item())
    assert seen == [121, 241, 361]


def test_the_estimator_that_was_given_is_not_touched():
    estimator = SGDClassifier()
    trainer = SklearnTrainer(estimator=estimator)
    layout, model = trainer.first_model(THREE, Key(0))
    trainer.train(LocalTask(layout, model, examples(THREE), Key(0)))
    assert not hasattr(estimator, "coef_")
    assert estimator.random_state is None


def test_a_scaled_model_trains_as_one_on_scaled_data():
    schema = Schema(shape=(4,), bounds=(-8, 8), labels=NAMES)
    data = examples(THREE)
    plain, scaled = (SklearnTrainer(estimator=LogisticRegression(max_iter=5), scaled=flag) for flag in (False, True))
    by_hand = Examples((data.features + 8) / 16, data.labels)
    expected = plain.train(LocalTask(*plain.first_model(schema, Key(0)), by_hand, Key(0)))
    result = scaled.train(LocalTask(*scaled.first_model(schema, Key(0)), data, Key(0)))
    np.testing.assert_array_equal(result.model.trained, expected.model.trained)


def test_other_arrays_can_be_named():
    trainer = SklearnTrainer(estimator=GaussianNB(), parameters=("theta_", "var_"))
    layout, model = trainer.first_model(THREE, Key(0))
    assert [leaf.name for leaf, _ in layout.places("trained")] == ["theta_", "var_"]
    layout.check_model(trainer.train(LocalTask(layout, model, examples(THREE), Key(0))).model)


def test_a_whole_federation_runs_on_an_estimator():
    data = examples(THREE, 200)
    order = np.argsort(data.labels)  # each node has one or two labels
    population = {f"node-{n}": NodeData(data[part], data) for n, part in enumerate(np.array_split(order, 3))}
    app = App(
        trainer=SklearnTrainer(estimator=SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.05)),
        plan=Plan(rounds=15, selector=Everyone(), client=FedAvg(), aggregator=UniformMean(), server=SGD()),
        population=population,
        schema=THREE,
    )
    result = simulate(app)
    assert result.metrics()[-1][1]["accuracy"] > 0.8
    assert result.digest == simulate(app).digest


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("estimator", "schema", "why"),
    [
        (LinearRegression(), NUMBERS, "always fits from scratch"),
        (make_pipeline(StandardScaler(), SGDClassifier()), THREE, "always fits from scratch"),
        (LogisticRegression(solver="liblinear"), TWO, "does not look at the parameters"),
        (SGDClassifier(average=True), THREE, "a mean of its parameters"),
        (RandomForestClassifier(2), THREE, "this one's are not known"),
        (GaussianNB(), THREE, "this one's are not known"),
        (MiniBatchKMeans(), NUMBERS, "features with labels"),
        (SGDClassifier(class_weight="balanced"), THREE, "is not supported for partial_fit"),
        (SGDClassifier(), NUMBERS, "one output for each label"),
        (SGDClassifier(), None, "the shapes of a model"),
    ],
    ids=str,
)
def test_an_estimator_that_cannot_go_on_is_refused(estimator, schema: Schema | None, why: str):
    with pytest.raises(TrainingError) as failure:
        SklearnTrainer(estimator=estimator).first_model(schema, Key(0))
    assert why in failure.value.why
    assert failure.value.do


@pytest.mark.parametrize(
    "settings", [{"estimator": SGDClassifier}, {"estimator": 3}, {"estimator": SGDClassifier(), "epochs": 0}]
)
def test_what_is_no_estimator_is_refused(settings: dict):
    with pytest.raises(AppError, match="SklearnTrainer"):
        SklearnTrainer(**settings)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (examples(THREE)[:0], "there are no examples"),
        (Examples(np.ones((2, 4)), np.array(["low", "gone"])), "a label that is not in the label set"),
        (Examples(np.ones((2, 3)), np.array(["low", "mid"])), "3 features, which do not fit"),
        (Examples(np.full((2, 4), np.nan), np.array(["low", "mid"])), "cannot work with this data"),
        ("data", "the data is a str"),
    ],
)
def test_data_that_does_not_fit_is_declined(data: object, told: str):
    trainer = SklearnTrainer(estimator=SGDClassifier())
    layout, model = trainer.first_model(THREE, Key(0))
    with pytest.raises(TrainingError) as failure:
        trainer.train(LocalTask(layout, model, data, Key(0)))
    assert told in failure.value.what
    with pytest.raises(TrainingError):
        trainer.evaluate(layout, model, data)


def test_targets_that_are_not_numbers_are_declined():
    trainer = SklearnTrainer(estimator=SGDRegressor())
    layout, model = trainer.first_model(NUMBERS, Key(0))
    with pytest.raises(TrainingError, match="targets have type"):
        trainer.train(LocalTask(layout, model, examples(THREE), Key(0)))


def test_a_client_rule_that_needs_gradients_is_refused_with_an_estimator():
    plan = Plan(rounds=1, selector=Everyone(), client=FedProx(mu=0.1), aggregator=UniformMean(), server=SGD())
    with pytest.raises(PlanError, match="FedProx cannot be used with SklearnTrainer"):
        App(trainer=SklearnTrainer(estimator=SGDClassifier()), plan=plan)


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    trainer = SklearnTrainer(estimator=SGDClassifier())
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(TrainingError, match=r"pip install 'lycia\[sklearn\]'"):
        trainer.first_model(THREE, Key(0))

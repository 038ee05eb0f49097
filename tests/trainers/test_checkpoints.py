"""A model goes into a file, and comes out as what one asks for."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier, SGDRegressor
from sklearn.neural_network import MLPClassifier
from sklearn.svm import LinearSVC

from lycia.core import tensorfile
from lycia.core.keys import Key
from lycia.core.layout import Layout, Model, read_checkpoint
from lycia.core.training import LocalTask
from lycia.data import Examples, Schema
from lycia.errors import LayoutError, NotFound, TensorFileError
from lycia.trainers import NumpyTrainer, SklearnTrainer, load_model

SCHEMA = Schema(shape=(4,), bounds=(-5, 5), labels=("top", "low", "mid"))  # not in the order of the alphabet
NUMBERS = Schema(shape=(4,))


def examples(schema: Schema) -> Examples:
    features = Key(0).generator().standard_normal((90, 4))
    score = features @ np.array([2.0, -1.0, 0.5, 0.0])
    return Examples(
        features, score if schema is NUMBERS else np.array(["low", "mid", "top"])[np.digitize(score, [-1, 1])]
    )


def trained(trainer: NumpyTrainer | SklearnTrainer, schema: Schema = SCHEMA) -> tuple[Layout, Model]:
    layout, model = trainer.first_model(schema, Key(0))
    return layout, trainer.train(LocalTask(layout, model, examples(schema), Key(0))).model


def save(folder: Path, trainer: NumpyTrainer | SklearnTrainer, schema: Schema = SCHEMA) -> tuple[Path, Layout, Model]:
    layout, model = trained(trainer, schema)
    path = folder / "model.safetensors"
    path.write_bytes(b"".join(layout.file(model)))
    return path, layout, model


@pytest.mark.parametrize("trainer", [NumpyTrainer(scaled=True), NumpyTrainer(hidden=(6,), epochs=9)])
def test_a_numpy_model_comes_back_as_a_predictor(tmp_path: Path, trainer: NumpyTrainer):
    path, layout, model = save(tmp_path, trainer)
    predictor = load_model(path, into=trainer)
    data = examples(SCHEMA)
    predicted, probabilities = predictor.predict(data.features), predictor.predict_proba(data.features)
    metrics = trainer.evaluate(layout, model, data)[1]
    assert (predicted == data.labels).mean() == metrics["accuracy"]
    assert probabilities.shape == (90, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    places = [SCHEMA.labels.index(label) for label in data.labels]
    assert -np.log(probabilities[np.arange(90), places]).mean() == pytest.approx(metrics["loss"], rel=1e-4)


def test_a_predictor_wants_rows_of_features(tmp_path: Path):
    path, *_ = save(tmp_path, NumpyTrainer())
    predictor = load_model(path, into=NumpyTrainer())
    assert predictor.predict(np.zeros((0, 4))).shape == (0,)
    for features in (np.zeros(4), np.zeros((2, 5))):
        with pytest.raises(LayoutError, match="features have shape"):
            predictor.predict(features)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(
    "estimator",
    [
        SGDClassifier(loss="log_loss"),
        LogisticRegression(max_iter=9),
        MLPClassifier((5,), learning_rate_init=0.05, batch_size=10),
    ],
    ids=str,
)
def test_a_model_comes_back_into_an_estimator_that_predicts(tmp_path: Path, estimator, scaled: bool):
    trainer = SklearnTrainer(estimator=estimator, epochs=5, scaled=scaled)
    path, layout, model = save(tmp_path, trainer)
    fresh = type(estimator)(**estimator.get_params())
    loaded = load_model(path, into=fresh)
    assert loaded is fresh
    data = examples(SCHEMA)
    metrics = trainer.evaluate(layout, model, data)[1]
    assert loaded.score(data.features, data.labels) == metrics["accuracy"] > 0.5
    places = np.searchsorted(loaded.classes_, data.labels)
    likely = loaded.predict_proba(data.features)[np.arange(90), places]
    assert -np.log(likely).mean() == pytest.approx(metrics["loss"], rel=1e-5)


def test_a_model_comes_back_into_a_copy_of_a_trainers_estimator(tmp_path: Path):
    trainer = SklearnTrainer(estimator=SGDClassifier())
    path, layout, model = save(tmp_path, trainer)
    loaded = load_model(path, into=trainer)
    assert loaded is not trainer.estimator
    data = examples(SCHEMA)
    assert loaded.score(data.features, data.labels) == trainer.evaluate(layout, model, data)[1]["accuracy"]


def test_a_linear_model_comes_back_into_any_linear_estimator(tmp_path: Path):
    path, *_ = save(tmp_path, SklearnTrainer(estimator=SGDClassifier()))
    data = examples(SCHEMA)
    assert (
        load_model(path, into=LinearSVC()).predict(data.features).tolist()
        == load_model(path, into=SGDClassifier()).predict(data.features).tolist()
    )
    path, layout, model = save(tmp_path, SklearnTrainer(estimator=SGDRegressor()), NUMBERS)
    line = load_model(path, into=LinearRegression())
    arrays = layout.arrays(model)
    np.testing.assert_allclose(line.predict(np.eye(4)), arrays["coef_"] + arrays["intercept_"], rtol=1e-6)


def test_without_anything_to_put_it_into_a_model_is_its_arrays(tmp_path: Path):
    path, layout, model = save(tmp_path, NumpyTrainer())
    arrays = load_model(path)
    assert arrays["labels"].tolist() == ["top", "low", "mid"]
    assert arrays["layer0.weight"].shape == (4, 3)
    np.testing.assert_array_equal(arrays["layer0.bias"], layout.arrays(model)["layer0.bias"])
    path, *_ = save(tmp_path, SklearnTrainer(estimator=SGDRegressor()), NUMBERS)
    assert sorted(load_model(path)) == ["coef_", "intercept_", "t_"]


def test_a_round_trip_through_a_file_keeps_every_bit(tmp_path: Path):
    for trainer in (NumpyTrainer(hidden=(6,), scaled=True), SklearnTrainer(estimator=MLPClassifier((5,)), scaled=True)):
        path, layout, model = save(tmp_path, trainer)
        found, read, _ = read_checkpoint(path.read_bytes())
        assert found == layout
        assert layout.arrays(read).keys() == layout.arrays(model).keys()
        assert all((layout.arrays(read)[name] == array).all() for name, array in layout.arrays(model).items())


@pytest.mark.parametrize(
    ("trainer", "into"),
    [
        (NumpyTrainer(), NumpyTrainer(hidden=(6,))),
        (NumpyTrainer(hidden=(6,)), NumpyTrainer(hidden=(7,))),
        (NumpyTrainer(hidden=(6,)), NumpyTrainer()),
        (NumpyTrainer(), SGDClassifier()),
        (SklearnTrainer(estimator=SGDClassifier()), NumpyTrainer()),
        (SklearnTrainer(estimator=SGDClassifier()), MLPClassifier((5,))),
        (SklearnTrainer(estimator=SGDClassifier()), LinearRegression()),
        (SklearnTrainer(estimator=MLPClassifier((5,))), MLPClassifier((6,))),
        (SklearnTrainer(estimator=MLPClassifier((5,))), SGDClassifier()),
        (NumpyTrainer(), SGDClassifier),
        (NumpyTrainer(), 3),
    ],
    ids=str,
)
def test_a_model_of_another_kind_is_refused_with_what_it_is(tmp_path: Path, trainer, into):
    path, *_ = save(tmp_path, trainer)
    with pytest.raises(LayoutError) as failure:
        load_model(path, into=into)
    assert failure.value.why
    assert failure.value.do


def test_a_regressors_model_is_no_classifier(tmp_path: Path):
    path, *_ = save(tmp_path, SklearnTrainer(estimator=SGDRegressor()), NUMBERS)
    with pytest.raises(LayoutError, match="no label set"):
        load_model(path, into=SGDClassifier())


def test_a_refused_estimator_is_left_as_it_was(tmp_path: Path):
    path, *_ = save(tmp_path, SklearnTrainer(estimator=SGDClassifier()))
    other = MLPClassifier((5,))
    with pytest.raises(LayoutError):
        load_model(path, into=other)
    assert not hasattr(other, "coefs_")


def test_files_that_are_no_checkpoints_are_told_apart(tmp_path: Path):
    with pytest.raises(NotFound, match="there is no model"):
        load_model(tmp_path / "nothing")
    (tmp_path / "bytes").write_bytes(b"not a model")
    with pytest.raises(TensorFileError):
        load_model(tmp_path / "bytes")
    strangers = tensorfile.to_bytes({"weight": tensorfile.Tensor.of(np.zeros(3))}, {})
    (tmp_path / "stranger").write_bytes(strangers)
    with pytest.raises(LayoutError, match="no layout in its header"):
        load_model(tmp_path / "stranger")


def test_no_framework_is_imported_before_it_is_used():
    program = "import sys, lycia, lycia.trainers, lycia.data, lycia.demo_app; print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"

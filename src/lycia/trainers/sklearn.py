"""Estimators of scikit-learn as federated models: any whose parameters are arrays and that can go on from given ones.

An estimator is primed before use: fitted to rows of zeros, one for each label, so that its arrays exist and have the
shapes of the whole label set, also at a node that lacks a label. Then the model's numbers are put into it.
"""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, ClassVar, TypeVar

import numpy as np

from lycia.core import training
from lycia.core.keys import Key
from lycia.core.layout import Layout, Leaf, Model
from lycia.core.normalising import SCALING, Moments
from lycia.core.training import LocalResult, LocalTask
from lycia.errors import AppError, LayoutError, TrainingError
from lycia.trainers import examples

Estimator = TypeVar("Estimator")

_PARAMETERS = (("coef_", "intercept_"), ("coefs_", "intercepts_"))  # linear models; multilayer perceptrons
_SEEN = "t_"  # where scikit-learn counts the examples that a learning rate decays with
_NOT_FITTED = (examples.LABELS, SCALING, _SEEN)
_SEEDS = 2**32


@dataclass(frozen=True, kw_only=True)
class SklearnTrainer:
    """Trains a scikit-learn estimator from the round's parameters: by `partial_fit`, or else by `fit` with warm_start.

    Tried with SGDClassifier, SGDRegressor, Perceptron, LogisticRegression, ElasticNet, MLPClassifier and MLPRegressor.
    An estimator that always fits from scratch cannot be federated this way, and is refused.

    Attributes:
      estimator: not fitted; it is copied, never changed.
      epochs: calls of `partial_fit` a round, one pass each; or of `fit`, each with the estimator's own max_iter.
      parameters: names of the fitted arrays, or lists of arrays, that are the model; () for those of linear models and
        multilayer perceptrons.
      scaled: brings features to 0..1 by the bounds in the schema (or to mean 0 and variance 1, where the plan has a
        normalisation), as a part of the model: nodes hold, and an estimator that is loaded takes, what was measured,
        in its own units.
    Guarantees:
      - Equal tasks give equal results, for the same version of scikit-learn.
      - A learning rate that decays with the examples seen goes on from round to round, at each node by its own count.
    Raises: AppError, if `estimator` is no estimator.
    """

    estimator: Any
    epochs: int = 1
    parameters: tuple[str, ...] = ()
    scaled: bool = False
    takes_terms: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.estimator, type) or not all(hasattr(self.estimator, name) for name in ("fit", "get_params")):
            shown = self.estimator.__name__ if isinstance(self.estimator, type) else type(self.estimator).__name__
            raise AppError(
                f"SklearnTrainer is given {'the class ' if isinstance(self.estimator, type) else 'a '}{shown}.",
                why="it trains an instance of a scikit-learn estimator.",
                do="pass, for example, SklearnTrainer(estimator=SGDClassifier(loss='log_loss')).",
            )
        if self.epochs < 1:
            raise AppError(
                f"SklearnTrainer(epochs={self.epochs}) does not train.",
                why="local work is at least one pass over the data.",
                do="give a positive number of epochs.",
            )

    def first_model(self, schema: training.Schema | None, key: Key) -> tuple[Layout, Model]:
        """Zeros for a linear model; for a multilayer perceptron, weights as scikit-learn draws them, and zero biases.

        Raises: TrainingError, if the schema gives no shape, or no label set where one is needed, or if the estimator
          cannot go on from given parameters.
        Source: Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks".
        """
        known = examples.known_schema(schema)
        labels = examples.label_set_of(known) if _classifies(self.estimator) else None
        _check_goes_on(self.estimator)
        primed = _primed(self.estimator, math.prod(known.shape), labels)
        arrays = _arrays(primed, _names(primed, self.parameters))
        for name, array in arrays.items():
            if name.startswith("coefs_"):
                bound = np.sqrt((2 if getattr(primed, "activation", "") == "logistic" else 6) / sum(array.shape))
                arrays[name] = key.at(name).generator().uniform(-bound, bound, array.shape).astype(np.float32)
            elif not self.parameters:
                arrays[name] = np.zeros_like(array)
        leaves = [Leaf(name, array.shape) for name, array in arrays.items()]
        beside = [examples.labels_leaf(labels)] if labels is not None else []
        if self.scaled:
            beside.append(examples.scaling_leaf(known))
        if hasattr(primed, _SEEN):
            beside.append((Leaf(_SEEN, (), "float64", "statistics"), np.array(primed.t_, np.float64)))
        layout = Layout((*leaves, *(leaf for leaf, _ in beside)))
        return layout, layout.model({**arrays, **{leaf.name: content for leaf, content in beside}})

    def moments(self, data: Any) -> Moments:
        """Count, mean and variance of each feature.

        Raises: TrainingError, if there are no examples.
        """
        return examples.moments_of(data)

    def train(self, task: LocalTask) -> LocalResult:
        """The parameters after local fitting from the task's model. Its metrics are those of `evaluate`, on this data.

        Raises: TrainingError, if there are no examples, if they do not fit the model or its label set, or if the
          estimator cannot fit them.
        """
        _check_goes_on(self.estimator)
        estimator, features, targets = self._ready(task.layout, task.model, task.data)
        random = task.key.generator()
        with _fitting(estimator):
            for _ in range(self.epochs):
                if "random_state" in estimator.get_params(deep=False):
                    estimator.set_params(random_state=int(random.integers(_SEEDS)))
                _fit_on(estimator, features, targets)
            metrics = _measured(estimator, features, targets)
        arrays = _arrays(estimator, _names(estimator, self.parameters))
        trained = np.concatenate([arrays[leaf.name].reshape(-1) for leaf, _ in task.layout.places("trained")])
        statistics = [estimator.t_] if task.layout.size("statistics") else []
        steps = self.epochs * _steps_of_a_pass(estimator, len(features))
        model = replace(task.model, trained=trained, statistics=np.array(statistics, dtype=np.float64))
        return LocalResult(model, float(len(features)), steps, 0.0, metrics)

    def evaluate(self, layout: Layout, model: Model, data: Any) -> tuple[float, dict[str, float]]:
        """How many examples there are, and the metrics.

        Of a classifier the accuracy, and where it gives probabilities the loss (mean cross-entropy); of a regressor
        the mean squared error (mse), and R² (r2) where the targets differ at all.

        Raises: TrainingError, if there are no examples, or if they do not fit the model or its label set.
        """
        estimator, features, targets = self._ready(layout, model, data)
        with _fitting(estimator):
            return float(len(features)), _measured(estimator, features, targets)

    def predictor(self, layout: Layout, model: Model) -> Any:
        """A copy of the estimator with the model in it, which predicts.

        Raises: LayoutError, if it is not a model of this trainer.
        """
        fresh = _base().clone(self.estimator)
        return load_into(fresh, layout, model, parameters=self.parameters)

    def _ready(self, layout: Layout, model: Model, data: Any) -> tuple[Any, np.ndarray, np.ndarray]:
        """The estimator with the model in it, and the data as it takes it: float64, targets as its classes."""
        known, labels = examples.fitting(data), examples.labels_of(model)
        inputs = math.prod(known.features.shape[1:])
        estimator = _primed(self.estimator, inputs, labels)
        misfit = _put(estimator, _names(estimator, self.parameters), layout.arrays(model))
        if misfit:
            raise TrainingError(
                f"the data has {inputs} features, which do not fit the model.",
                why=misfit,
                do="give the app a schema and check the data against it: it names each difference.",
            )
        features = examples.rows_of(known.features, model, np.float64)
        if labels is None:
            return estimator, features, _as_numbers(known.labels)
        return estimator, features, np.array(labels)[examples.codes_of(labels, known)]


def load_into(
    estimator: Estimator,
    layout: Layout,
    model: Model,
    *,
    parameters: tuple[str, ...] = (),
) -> Estimator:
    """Put a trained model into `estimator`, which then predicts; returns the same object.

    Args:
      parameters: as `SklearnTrainer` was given them.
    Raises: LayoutError, if the model is not one of this kind of estimator.
    """
    labels, arrays = examples.labels_of(model), layout.arrays(model)
    inputs = _inputs(arrays)
    try:
        if labels is None and _classifies(estimator):
            raise _misfit(estimator, layout, "it has no label set, and a classifier needs one")
        if inputs is None:
            raise _misfit(estimator, layout, "nothing in it tells how many features an example has")
        primed = _primed(estimator, inputs, labels)
        misfit = _put(primed, _names(primed, parameters), arrays)
    except TrainingError as error:
        raise _misfit(estimator, layout, error.why) from None
    if misfit:
        raise _misfit(estimator, layout, misfit)
    scaling = examples.scaling_of(model)
    if scaling is not None and not _take_in_units(primed, *scaling):
        raise _misfit(estimator, layout, "its features are scaled, and only known arrays can take the scaling in")
    vars(estimator).update(vars(primed))
    return estimator


def _base() -> ModuleType:
    try:
        import sklearn.base
    except ImportError:
        raise TrainingError(
            "scikit-learn is not installed.",
            why="SklearnTrainer trains its estimators.",
            do="pip install 'lycia[sklearn]'",
        ) from None
    base: ModuleType = sklearn.base
    return base


def _classifies(estimator: Any) -> bool:
    base = _base()
    if base.is_classifier(estimator) or base.is_regressor(estimator):
        return bool(base.is_classifier(estimator))
    raise TrainingError(
        f"{type(estimator).__name__} is neither a classifier nor a regressor.",
        why="only these learn from features with labels.",
        do="use an estimator such as SGDClassifier or SGDRegressor.",
    )


def _check_goes_on(estimator: Any) -> None:
    settings = estimator.get_params(deep=False)
    if not hasattr(estimator, "partial_fit") and "warm_start" not in settings:
        reason = "it always fits from scratch, so the parameters of the federation would be lost in every round."
    elif settings.get("solver") == "liblinear":
        reason = "its solver 'liblinear' does not look at the parameters that it is given."
    elif settings.get("average"):
        reason = "with average=True it predicts with a mean of its parameters that it keeps elsewhere."
    else:
        return
    raise TrainingError(
        f"{type(estimator).__name__} cannot train further from given parameters.",
        why=reason,
        do="use SGDClassifier, LogisticRegression(solver='lbfgs'), SGDRegressor, ElasticNet or an MLPClassifier.",
    )


def _primed(estimator: Any, inputs: int, labels: examples.LabelSet | None) -> Any:
    """A copy whose arrays exist, in the shapes of the whole label set; what it learned does not matter."""
    primed = _base().clone(estimator)
    targets = np.zeros(2) if labels is None else np.unique(np.array(labels))
    rows = np.zeros((len(targets), inputs))
    settings = primed.get_params(deep=False)
    if "random_state" in settings:
        primed.set_params(random_state=0)
    if "warm_start" in settings and not hasattr(primed, "partial_fit"):
        primed.set_params(warm_start=True)
    with _fitting(primed):
        if hasattr(primed, "partial_fit"):
            primed.partial_fit(rows, targets, **({} if labels is None else {"classes": targets}))
        else:
            primed.fit(rows, targets)
    # What it remembers of these rows beside its parameters: counted examples, and moments of the local optimizer.
    vars(primed).pop("_optimizer", None)
    if hasattr(primed, "t_"):
        primed.t_ -= len(rows)
    return primed


def _fit_on(estimator: Any, features: np.ndarray, targets: np.ndarray) -> None:
    if hasattr(estimator, "partial_fit"):
        estimator.partial_fit(features, targets)
        return
    lacking = np.setdiff1d(getattr(estimator, "classes_", targets), targets)
    if not len(lacking):
        estimator.fit(features, targets)
        return
    # `fit` looks for the classes in its targets, so those that are not here come with rows that weigh nothing.
    estimator.fit(
        np.concatenate([features, np.zeros((len(lacking), features.shape[1]))]),
        np.concatenate([targets, lacking]),
        sample_weight=np.concatenate([np.ones(len(features)), np.zeros(len(lacking))]),
    )


def _measured(estimator: Any, features: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    predicted = estimator.predict(features)
    if not _classifies(estimator):
        squares = np.square(targets - predicted.reshape(-1))
        spread = np.square(targets - targets.mean()).sum()
        return {"mse": float(squares.mean()), **({"r2": float(1 - squares.sum() / spread)} if spread > 0 else {})}
    metrics = {"accuracy": float((predicted == targets).mean())}
    if hasattr(estimator, "predict_proba"):
        places = np.searchsorted(estimator.classes_, targets)
        likely = estimator.predict_proba(features)[np.arange(len(targets)), places].astype(np.float64)
        metrics["loss"] = float(-np.log(np.maximum(likely, np.finfo(np.float64).tiny)).mean())
    return metrics


def _names(estimator: Any, parameters: tuple[str, ...]) -> tuple[str, ...]:
    choices = (parameters,) if parameters else _PARAMETERS
    for names in choices:
        if all(hasattr(estimator, name) for name in names):
            return names
    raise TrainingError(
        f"{type(estimator).__name__} has no {' or '.join(map(', '.join, choices))}.",
        why="a federated model is the arrays of a fitted estimator, and this one's are not known.",
        do="name them, SklearnTrainer(estimator=…, parameters=(…)), or use a linear model or a multilayer perceptron.",
    )


def _arrays(estimator: Any, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    arrays = {}
    for name in names:
        value = getattr(estimator, name)
        if isinstance(value, (list, tuple)):
            arrays.update({f"{name}.{place}": np.asarray(item, np.float32) for place, item in enumerate(value)})
        else:
            arrays[name] = np.asarray(value, np.float32)
    return arrays


def _put(estimator: Any, names: tuple[str, ...], arrays: Mapping[str, np.ndarray]) -> str:
    """Give the estimator these arrays; returns why they do not fit, or ""."""
    # A lone number stands as () in some estimators, and as (1,) in others that mean the same.
    wanted = {name: array.shape or (1,) for name, array in _arrays(estimator, names).items()}
    found = {name: array.shape or (1,) for name, array in arrays.items() if name not in _NOT_FITTED}
    if found != wanted:
        return f"{type(estimator).__name__} has the arrays {_shown(wanted)}, and the model {_shown(found)}."
    for name in names:
        value = getattr(estimator, name)
        if isinstance(value, (list, tuple)):
            parts = [arrays[f"{name}.{place}"].astype(np.float64) for place in range(len(value))]
            setattr(estimator, name, parts)
        else:
            given = arrays[name].astype(np.float64)
            setattr(estimator, name, given.reshape(np.shape(value)) if isinstance(value, np.ndarray) else given.item())
    if _SEEN in arrays and hasattr(estimator, _SEEN):
        estimator.t_ = type(estimator.t_)(arrays[_SEEN])
    return ""


def _take_in_units(estimator: Any, low: np.ndarray, span: np.ndarray) -> bool:
    """Let it take features in their own units: w · (x − low) / span + b is (w / span) · x + (b − (w / span) · low)."""
    if hasattr(estimator, "coef_"):
        estimator.coef_ = estimator.coef_ / span
        estimator.intercept_ = estimator.intercept_ - estimator.coef_ @ low
    elif hasattr(estimator, "coefs_"):
        estimator.coefs_[0] = estimator.coefs_[0] / span[:, np.newaxis]
        estimator.intercepts_[0] = estimator.intercepts_[0] - low @ estimator.coefs_[0]
    else:
        return False
    return True


def _inputs(arrays: Mapping[str, np.ndarray]) -> int | None:
    if "coef_" in arrays:
        return int(arrays["coef_"].shape[-1])
    return int(arrays["coefs_.0"].shape[0]) if "coefs_.0" in arrays else None


def _as_numbers(labels: np.ndarray) -> np.ndarray:
    try:
        return labels.astype(np.float64)
    except (ValueError, TypeError):
        raise TrainingError(
            f"the targets have type {labels.dtype}.",
            why="a regressor predicts numbers.",
            do="give numbers as labels, or use a classifier with a label set in the schema.",
        ) from None


def _steps_of_a_pass(estimator: Any, count: int) -> int:
    if not hasattr(estimator, "partial_fit"):
        return 1
    batch = getattr(estimator, "batch_size", 1)
    size = min(200, count) if batch == "auto" else int(batch)  # as scikit-learn reads "auto"
    return -(-count // size)


@contextmanager
def _fitting(estimator: Any) -> Iterator[None]:
    # A round stops before an estimator has converged, and it says so every time; that is no news here.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            yield
        except (ValueError, TypeError, ArithmeticError, AttributeError) as error:
            raise TrainingError(
                f"{type(estimator).__name__} cannot work with this data or these settings.",
                why=f"scikit-learn says: {error}",
                do="mend the data or the estimator's settings; check the data against the app's schema.",
            ) from error


def _misfit(estimator: Any, layout: Layout, reason: str) -> LayoutError:
    return LayoutError(
        f"the model cannot be put into {type(estimator).__name__}.",
        why=f"{reason.rstrip('.')}; its leaves are {_shown({leaf.name: leaf.shape for leaf in layout.leaves})}.",
        do="use the kind of estimator that the run trained, with its settings, or read the arrays: load_model(path).",
    )


def _shown(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())

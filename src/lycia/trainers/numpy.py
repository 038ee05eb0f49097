"""Logistic regression and multilayer perceptrons in NumPy: no framework, and bit for bit the same from the same key."""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from lycia.core import training
from lycia.core.keys import Key
from lycia.core.layout import Layout, Leaf, Model
from lycia.core.normalising import Moments
from lycia.core.training import LocalResult, LocalTask
from lycia.errors import AppError, LayoutError
from lycia.trainers.examples import (
    LabelSet,
    codes_of,
    fitting,
    known_schema,
    label_set_of,
    labels_leaf,
    labels_of,
    moments_of,
    rows_of,
    scaling_leaf,
)
from lycia.trainers.local import is_count

_ROWS = 4096  # examples measured at a time, so that large sets need little memory


@dataclass(frozen=True, kw_only=True)
class NumpyTrainer:
    """Classifies by softmax regression, or with `hidden` by ReLU layers before it; trained by mini-batch SGD.

    The model's leaves are layer0.weight (inputs, outputs), layer0.bias (outputs,), and so on.

    Attributes:
      hidden: the width of each hidden layer; () is multinomial logistic regression.
      learning_rate: of the local steps.
      batch_size: examples in a step; the last batch of an epoch may be smaller.
      epochs: passes over the node's data; not used where `steps` is given.
      steps: steps of local work instead, whatever the node's size.
      weight_decay: times the parameters, biases too, is added to each gradient.
      momentum: of the local steps; it starts at rest in every round.
      scaled: brings features to 0..1 by the bounds in the schema (or to mean 0 and variance 1, where the plan has a
        normalisation), as a part of the model: nodes hold, and a `Predictor` takes, what was measured, in its
        own units.
    Guarantees: equal tasks give equal results, bit for bit, on the same kind of machine with as many threads.
    Raises: AppError, if a setting cannot train.
    """

    hidden: tuple[int, ...] = ()
    learning_rate: float = 0.1
    batch_size: int = 32
    epochs: int = 1
    steps: int | None = None
    weight_decay: float = 0.0
    momentum: float = 0.0
    scaled: bool = False
    takes_terms: ClassVar[bool] = True

    def __post_init__(self) -> None:
        widths: Any = self.hidden  # which may come as a list, or as a mere number
        object.__setattr__(self, "hidden", tuple(widths) if isinstance(widths, Iterable) else widths)
        settings = {
            "hidden": isinstance(widths, Iterable) and all(map(is_count, self.hidden)),
            "learning_rate": self.learning_rate > 0,
            "batch_size": is_count(self.batch_size),
            "epochs": is_count(self.epochs),
            "steps": self.steps is None or is_count(self.steps),
            "weight_decay": self.weight_decay >= 0,
            "momentum": 0 <= self.momentum < 1,
        }
        for name, fits in settings.items():
            if not fits:
                raise AppError(
                    f"NumpyTrainer({name}={getattr(self, name)!r}) cannot train.",
                    why="rates are positive, counts are whole numbers from one on, hidden is a tuple of such, and "
                    "momentum lies in [0, 1).",
                    do="see the attributes in its docstring; most apps need only hidden, learning_rate and batch_size.",
                )

    def first_model(self, schema: training.Schema | None, key: Key) -> tuple[Layout, Model]:
        """Zeros for logistic regression; He's normal weights and zero biases with hidden layers.

        Raises: TrainingError, if the schema gives no shape or no label set.
        Source: He et al. 2015, "Delving deep into rectifiers", arXiv:1502.01852, section 2.2.
        """
        known = known_schema(schema)
        labels = label_set_of(known)
        frozen = (labels_leaf(labels), scaling_leaf(known)) if self.scaled else (labels_leaf(labels),)
        sizes = (math.prod(known.shape), *self.hidden, len(labels))
        arrays: dict[str, np.ndarray] = {}
        for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            spread = np.sqrt(2 / inputs) if self.hidden else 0.0
            draw = key.at(f"layer{layer}").generator().standard_normal((inputs, outputs))
            arrays[f"layer{layer}.weight"] = (spread * draw).astype(np.float32)
            arrays[f"layer{layer}.bias"] = np.zeros(outputs, np.float32)
        layout = Layout((*(Leaf(name, array.shape) for name, array in arrays.items()), *(leaf for leaf, _ in frozen)))
        return layout, layout.model({**arrays, **{leaf.name: content for leaf, content in frozen}})

    def moments(self, data: Any) -> Moments:
        """Count, mean and variance of each feature.

        Raises: TrainingError, if there are no examples.
        """
        return moments_of(data)

    def train(self, task: LocalTask) -> LocalResult:
        """The parameters after local SGD from the task's model. Its metric is the mean loss over all steps.

        A loss that stops being finite is no error here: the server finds such an update, and names the node.

        Raises: TrainingError, if there are no examples, or if they do not fit the model or its label set.
        """
        params = np.array(task.model.trained, dtype=np.float32)
        gradient, velocity = np.zeros_like(params), np.zeros_like(params)
        network, slopes = _Network(task.layout, params), _Network(task.layout, gradient)
        features, codes = _prepared(network, task.model, task.data)
        rate, decay, momentum = np.float32(self.learning_rate), np.float32(self.weight_decay), np.float32(self.momentum)
        total, seen, steps = 0.0, 0, 0
        with np.errstate(all="ignore"):
            for batch in self._batches(len(features), task.key.generator()):
                total += network.add_up_loss(features[batch], codes[batch], slopes)
                step = gradient
                if self.weight_decay:
                    step += decay * params
                if task.term is not None:
                    step = task.term(step, params)
                if self.momentum:
                    velocity *= momentum
                    velocity += step
                    step = velocity
                params -= rate * step
                seen, steps = seen + len(batch), steps + 1
        return LocalResult(
            replace(task.model, trained=params), float(len(features)), steps, self.learning_rate, {"loss": total / seen}
        )

    def evaluate(self, layout: Layout, model: Model, data: Any) -> tuple[float, dict[str, float]]:
        """How many examples there are, the accuracy, and the loss: the mean cross-entropy.

        Raises: TrainingError, if there are no examples, or if they do not fit the model or its label set.
        """
        network = _Network(layout, model.trained)
        features, codes = _prepared(network, model, data)
        right, loss = 0, 0.0
        with np.errstate(all="ignore"):
            for start in range(0, len(features), _ROWS):
                logits = network.logits(features[start : start + _ROWS])
                known = codes[start : start + _ROWS]
                right += int(np.count_nonzero(logits.argmax(axis=1) == known))
                loss += float(_cross_entropy(logits.astype(np.float64), known)[0])
        return float(len(features)), {"accuracy": right / len(features), "loss": loss / len(features)}

    def predictor(self, layout: Layout, model: Model) -> "Predictor":
        """The model as something that predicts.

        Raises: LayoutError, if it is not a model of this trainer.
        """
        shapes = [leaf.shape for leaf, _ in layout.places("trained")]
        names = [leaf.name for leaf, _ in layout.places("trained")]
        wanted = [f"layer{layer}.{part}" for layer in range(len(self.hidden) + 1) for part in ("weight", "bias")]
        widths = tuple(shape[-1] for shape in shapes[1:-1:2]) if names == wanted else None
        labels = labels_of(model)
        if widths != self.hidden or labels is None:
            raise LayoutError(
                f"the model has the leaves {', '.join(f'{n} {s}' for n, s in zip(names, shapes, strict=True))}.",
                why=f"NumpyTrainer(hidden={self.hidden}) has {', '.join(wanted)}, with these widths, and a label set.",
                do="give the hidden=… that the model was trained with, or read its arrays with load_model(path).",
            )
        return Predictor(layout, model, labels)

    def _batches(self, examples: int, random: np.random.Generator) -> Iterator[np.ndarray]:
        steps = self.steps or self.epochs * -(-examples // self.batch_size)
        while steps > 0:
            order = random.permutation(examples)
            for start in range(0, min(examples, steps * self.batch_size), self.batch_size):
                yield order[start : start + self.batch_size]
                steps -= 1


@dataclass(frozen=True, eq=False)
class Predictor:
    """A trained model with its label set."""

    layout: Layout
    model: Model
    labels: LabelSet

    def predict(self, features: np.ndarray) -> np.ndarray:
        """(n,) the likeliest label of each example.

        Raises: LayoutError, if the features are not of the model's shape.
        """
        return np.asarray(np.array(self.labels)[self.predict_proba(features).argmax(axis=1)])

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """(n, labels) float32: the probability of each label, in the order of the label set.

        Raises: LayoutError, if the features are not of the model's shape.
        """
        network = _Network(self.layout, self.model.trained)
        given = np.asarray(features)
        if given.ndim < 2 or math.prod(given.shape[1:]) != network.inputs:
            raise LayoutError(
                f"the features have shape {given.shape}.",
                why=f"the model takes a row of {network.inputs} features for each example.",
                do="pass an array of shape (examples, features); for a single example, features[None].",
            )
        return _softmax(network.logits(rows_of(given, self.model, np.float32)))


class _Network:
    """The layers of a model, as views into one vector in layout order."""

    def __init__(self, layout: Layout, vector: np.ndarray) -> None:
        views = [vector[place].reshape(leaf.shape) for leaf, place in layout.places("trained")]
        self.weights, self.biases = views[0::2], views[1::2]

    @property
    def inputs(self) -> int:
        return int(self.weights[0].shape[0])

    def logits(self, rows: np.ndarray) -> np.ndarray:
        return self._activations(rows)[-1]

    def add_up_loss(self, rows: np.ndarray, codes: np.ndarray, slopes: "_Network") -> float:
        """The sum of the losses; the gradient of their mean is written into `slopes`."""
        activations = self._activations(rows)
        loss, error = _cross_entropy(activations.pop(), codes)
        error /= np.float32(len(rows))
        for layer in reversed(range(len(self.weights))):
            below = activations[layer]
            np.matmul(below.T, error, out=slopes.weights[layer])
            error.sum(axis=0, out=slopes.biases[layer])
            if layer:
                error = error @ self.weights[layer].T
                error *= below > 0
        return loss

    def _activations(self, rows: np.ndarray) -> list[np.ndarray]:
        activations = [rows]
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True), start=1):
            out = activations[-1] @ weight
            out += bias
            activations.append(np.maximum(out, 0, out=out) if layer < len(self.weights) else out)
        return activations


def _prepared(network: _Network, model: Model, data: Any) -> tuple[np.ndarray, np.ndarray]:
    examples = fitting(data, network.inputs)
    codes = codes_of(labels_of(model) or (), examples)
    return rows_of(examples.features, model, np.float32), codes


def _cross_entropy(logits: np.ndarray, codes: np.ndarray) -> tuple[float, np.ndarray]:
    """The sum of the losses, and their gradient by the logits, which takes the place of the logits."""
    rows = np.arange(len(codes))
    logits -= logits.max(axis=1, keepdims=True)
    picked = logits[rows, codes].copy()
    np.exp(logits, out=logits)
    totals = logits.sum(axis=1, keepdims=True)
    loss = float((np.log(totals[:, 0]) - picked).sum(dtype=np.float64))
    logits /= totals
    logits[rows, codes] -= 1
    return loss, logits


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))

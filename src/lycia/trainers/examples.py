"""What the trainers of this package take, `Examples` that fit the model, and how a model remembers its label set.

A trainer sees the schema only when it makes the first model. So what it needs of it later, the label set and the ranges
of the features, are frozen leaves of that model: they are the same at every node, and whoever opens a checkpoint knows
what goes into the model and what its outputs mean.
"""

import json
import math
from typing import Any

import numpy as np

from lycia.core import training
from lycia.core.layout import Leaf, Model
from lycia.core.normalising import SCALING, Moments
from lycia.data.population import Examples
from lycia.data.schema import Schema, label_codes
from lycia.errors import TrainingError

LabelSet = tuple[int, ...] | tuple[str, ...]
LABELS = "labels"  # the name of that leaf


def known_schema(schema: training.Schema | None) -> Schema:
    """The schema, as one that says what a model's shapes depend on.

    Raises: TrainingError, if there is none, or if it is of another kind.
    """
    if isinstance(schema, Schema):
        return schema
    raise TrainingError(
        f"the app's schema is {'missing' if schema is None else f'a {type(schema).__name__}'}.",
        why="the shapes of a model follow from the features and the label set.",
        do="pass App(schema=Schema(shape=(64,), labels=tuple(range(10))), …), with your own shape and labels.",
    )


def label_set_of(schema: Schema) -> LabelSet:
    """The label set of a schema.

    Raises: TrainingError, if it has none.
    """
    if schema.labels is not None:
        return schema.labels
    raise TrainingError(
        "the app's schema has no label set.",
        why="a classifier has one output for each label, and all nodes must agree on which is which.",
        do="pass Schema(labels=…) with every label that may occur, or use a trainer that predicts numbers.",
    )


def labels_leaf(labels: LabelSet) -> tuple[Leaf, np.ndarray]:
    """The frozen leaf that holds a label set, and its content: the bytes of a JSON list."""
    content = np.frombuffer(json.dumps(list(labels)).encode(), np.uint8)
    return Leaf(LABELS, content.shape, "uint8", "frozen"), content


def scaling_leaf(schema: Schema) -> tuple[Leaf, np.ndarray]:
    """The frozen leaf that scales features: to 0..1 by the bounds in the schema, until nodes have described them."""
    low, high = schema.ranges()
    scaling = np.stack([low, high - low, np.zeros_like(low)])
    return Leaf(SCALING, scaling.shape, "float32", "frozen"), scaling


def scaling_of(model: Model) -> tuple[np.ndarray, np.ndarray] | None:
    """(features,) what is taken off each, and what the rest is divided by; None where they are taken as they are."""
    scaling = model.frozen.get(SCALING)
    return None if scaling is None else (scaling[0], scaling[1])


def moments_of(data: Any) -> Moments:
    """What a node says of its features before the first round.

    Raises: TrainingError, if the data is not examples of numbers.
    """
    return Moments.of(fitting(data).features)


def rows_of(features: np.ndarray, model: Model, dtype: type[np.floating[Any]]) -> np.ndarray:
    """The features as the model takes them: a row for each example, scaled where the model was made so.

    Shapes: features (n, …); returns (n, inputs), contiguous.
    """
    rows = np.ascontiguousarray(features.reshape(len(features), math.prod(features.shape[1:])), dtype=dtype)
    scaling = scaling_of(model)
    return rows if scaling is None else (rows - scaling[0]) / scaling[1]


def labels_of(model: Model) -> LabelSet | None:
    """The label set of a model, in the order of its outputs; None for one that predicts numbers."""
    content = model.frozen.get(LABELS)
    return None if content is None else tuple(json.loads(content.tobytes()))


def fitting(data: Any, inputs: int | None = None) -> Examples:
    """The data, once it is known to be examples of numbers, with so many features each where that is known.

    Raises: TrainingError, if it is not, or if there is no example in it.
    """
    if not isinstance(data, Examples):
        raise TrainingError(
            f"the data is a {type(data).__name__}.",
            why="this trainer takes features with their labels.",
            do="return NodeData(train=Examples(features, labels)) from the function that loads the data.",
        )
    if len(data) == 0:
        raise TrainingError(
            "there are no examples.",
            why="nothing can be learned from, or measured on, an empty set.",
            do="check the function that loads this node's data, or leave that part of NodeData as None.",
        )
    found = math.prod(data.features.shape[1:])
    if inputs not in (None, found) or data.features.dtype.kind not in "biuf" or data.labels.shape != (len(data),):
        raise TrainingError(
            f"the data has features of shape {data.features.shape} and type {data.features.dtype}, "
            f"and labels of shape {data.labels.shape}.",
            why=f"the model takes {found if inputs is None else inputs} numbers for each example, and one label.",
            do="give the app a schema and check the data against it: it names each difference.",
        )
    return data


def codes_of(labels: LabelSet, data: Examples) -> np.ndarray:
    """(n,) int64: the place of each example's label in the label set.

    Raises: TrainingError, if a label is not in it.
    """
    codes = label_codes(labels, data.labels)
    strange = codes < 0
    if strange.any():
        seen = sorted({str(label) for label in data.labels[strange][:1000]})
        raise TrainingError(
            f"{np.count_nonzero(strange)} of {len(data)} examples have a label that is not in the label set.",
            why=f"the model has one output for each of {labels}, and here are also {', '.join(seen[:8])}.",
            do="map the labels where the data is loaded, or add them to the app's schema before a run starts.",
        )
    return codes

"""Features brought to one scale: nodes describe theirs before the first round, and the model keeps what they say.

A model that scales its features has a frozen leaf "scaling", (3, features) float32: what is taken off each feature,
what the rest is divided by, and how many examples this was measured on; 0 where it follows from the schema alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from lycia.core import tensorfile
from lycia.core.layout import Layout, Model
from lycia.core.tensorfile import Tensor
from lycia.errors import TensorFileError

SCALING = "scaling"
_ROWS = 4096  # examples at a time, so that large sets need little memory
_PARTS = ("count", "mean", "squares")
_LARGEST = 1e37  # of any feature: what a model scales by, and what it scales, is float32
_ROUNDING = 1e-12  # times its mean: what a feature seems to vary by that does not vary at all


@dataclass(frozen=True)
class Moments:
    """What a node says of its features.

    Shapes: count, mean, squares (features,) float64: how many values, their mean, and their squared distances from it,
      added up.
    """

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Moments":
        """The moments of features, an example a row; not finite where a feature is not, or is too large.

        Shapes: features (n, …), of numbers; n is at least 1.
        """
        rows = features.reshape(len(features), -1)
        blocks = (np.asarray(rows[start : start + _ROWS], np.float64) for start in range(0, len(rows), _ROWS))
        with np.errstate(over="ignore", invalid="ignore"):
            return pooled(map(_of_block, blocks), rows.shape[1])

    def to_bytes(self) -> bytes:
        """The moments as a safetensors file."""
        return tensorfile.to_bytes({name: Tensor.of(getattr(self, name)) for name in _PARTS}, {})

    @classmethod
    def from_bytes(cls, body: bytes) -> "Moments":
        """The moments that `to_bytes` wrote.

        Raises: TensorFileError, if the bytes are no such file.
        """
        tensors, _ = tensorfile.read(body)
        if tensors.keys() != set(_PARTS) or any(tensor.dtype != "float64" for tensor in tensors.values()):
            raise TensorFileError(
                f"moments come as {', '.join(tensors) or 'nothing'}.",
                why=f"they are {', '.join(_PARTS)}, all float64.",
                do="send what Moments.to_bytes gives.",
            )
        return cls(*(tensors[name].array() for name in _PARTS))


def objection(layout: Layout, weight_cap: float, body: bytes) -> str | None:
    """Why what a node says of its features cannot be used, or None."""
    try:
        moments = Moments.from_bytes(body)
    except TensorFileError as error:
        return f"its description cannot be read: {error.what}"
    arrays = (moments.count, moments.mean, moments.squares)
    features = features_of(layout)
    if any(array.shape != (features,) for array in arrays):
        return f"it describes {arrays[0].shape} features, and the model takes ({features},)"
    if not all(np.isfinite(array).all() for array in arrays):
        return "its description holds a NaN or an infinity"
    if (moments.count < 0).any() or (moments.squares < 0).any():
        return "its description holds a negative count, or a negative square"
    if (moments.count > weight_cap).any():
        return f"it describes {moments.count.max():g} examples, above the cap of {weight_cap:g}"
    if (np.abs(moments.mean) > _LARGEST).any() or (moments.squares > moments.count * _LARGEST**2).any():
        return "its description holds a number beyond all measure"
    return None


def pooled(described: Iterable[Moments], features: int) -> Moments:
    """The moments of all values together; the same for the same moments in the same order.

    Source: Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance", section 2.
    """
    count, mean, squares = (np.zeros(features) for _ in _PARTS)
    for more in described:
        total = count + more.count
        share = np.divide(more.count, total, out=np.zeros(features), where=total > 0)
        apart = more.mean - mean
        squares = squares + more.squares + np.square(apart) * count * share
        mean, count = mean + apart * share, total
    return Moments(count, mean, squares)


def awaits_description(model: Model) -> bool:
    """Whether the model scales its features, and nobody has been asked about them yet."""
    scaling = model.frozen.get(SCALING)
    return scaling is not None and not scaling[2].any()


def features_of(layout: Layout) -> int:
    """How many features the model scales; 0 if it scales none."""
    return next((leaf.shape[1] for leaf in layout.leaves if leaf.name == SCALING), 0)


def described(model: Model, bodies: Mapping[str, bytes]) -> Model:
    """The model with features scaled to mean 0 and variance 1, over all that nodes said of them.

    A feature that does not vary is only shifted. Read in name order, so that the order of arrival does not matter.

    What is described is believed: a node that lies within the bounds of `objection` can still spoil the scale for all.
    """
    scaling = model.frozen[SCALING]
    moments = pooled((Moments.from_bytes(bodies[node]) for node in sorted(bodies)), scaling.shape[1])
    if not moments.count.any():
        return model
    deviation = np.sqrt(
        np.divide(moments.squares, moments.count, out=np.zeros_like(moments.mean), where=moments.count > 0)
    )
    varies = deviation > np.maximum(_ROUNDING * np.abs(moments.mean), np.finfo(np.float32).tiny)
    width = np.where(varies, deviation, 1.0)
    measured = np.stack([moments.mean, width, moments.count]).astype(np.float32)
    return replace(model, frozen={**model.frozen, SCALING: measured})


def _of_block(rows: np.ndarray) -> Moments:
    mean = rows.mean(axis=0)
    return Moments(np.full(rows.shape[1], float(len(rows))), mean, np.square(rows - mean).sum(axis=0))

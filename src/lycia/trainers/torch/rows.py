"""A node's data as tensors: examples of this package, or any map-style Dataset of pairs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset, Subset, TensorDataset, default_collate

from lycia.core.layout import Model
from lycia.data.population import Examples
from lycia.errors import TrainingError
from lycia.trainers.examples import codes_of, fitting, labels_of, rows_of, scaling_of

_AT_ONCE_BYTES = 1 << 24  # gathered together: much for small examples, few for large ones, also out of a mapped file


class Rows(Protocol):
    """What can be taken by places.

    Attributes:
      at_once: how many rows may well be taken together, to be cut into batches afterwards.
    """

    at_once: int

    def __len__(self) -> int: ...

    def take(self, places: np.ndarray) -> tuple[Any, Any]:
        """The inputs and the targets at these places, on the device of the module."""
        ...


def rows_for(data: Any, model: Model, device: torch.device) -> Rows:
    """The data as the module takes it.

    Features that are floats or bools come as float32, integers (token ids) as int64. The targets of examples are their
    places in the model's label set, or else their labels as float32. What a Dataset gives is collated, as a DataLoader
    does; its float64 becomes float32.

    Raises: TrainingError, if it is no such data, if there is none, or if a label is not in the label set.
    """
    if isinstance(data, Examples):
        return _ExampleRows(fitting(data), model, device)
    if isinstance(data, (np.ndarray, Mapping, str)) or not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        return _ExampleRows(fitting(data), model, device)  # which says what it should be
    if len(data) == 0:
        fitting(Examples(np.zeros((0, 1)), np.zeros(0)))
    base, places = _unwrapped(data)
    if isinstance(base, TensorDataset) and len(base.tensors) == 2:
        return _TensorRows(base.tensors, places, device)
    return _DatasetRows(data, device)


def dataset_for(data: Any, model: Model) -> Dataset[Any]:
    """The data as a Dataset of pairs: what it is, or tensors of all of it.

    Raises: TrainingError, as `rows_for` does.
    """
    rows = rows_for(data, model, torch.device("cpu"))
    return TensorDataset(*rows.take(np.arange(len(rows)))) if isinstance(rows, _ExampleRows) else data


def batch_sizes(examples: int, batch_size: int, *, two_at_least: bool) -> list[int]:
    """How many examples each batch of an epoch has; with `two_at_least`, a last single one joins the batch before it.

    Example:
      >>> batch_sizes(7, 3, two_at_least=False), batch_sizes(7, 3, two_at_least=True)
      ([3, 3, 1], [3, 4])
    """
    sizes = [batch_size] * (examples // batch_size)
    rest = examples - sum(sizes)
    if rest == 1 and two_at_least and sizes:
        sizes[-1] += 1
    elif rest:
        sizes.append(rest)
    return sizes


def batches(rows: Rows, order: np.ndarray, sizes: Sequence[int]) -> Iterator[tuple[Any, Any, int]]:
    """The inputs, the targets and the size of each batch, in this order."""
    ends = [0, *accumulate(sizes)]
    first = 0
    while first < len(sizes):
        last = first + 1
        while last < len(sizes) and ends[last + 1] - ends[first] <= rows.at_once:
            last += 1
        inputs, targets = rows.take(order[ends[first] : ends[last]])
        if last == first + 1:
            yield inputs, targets, sizes[first]
        else:
            cuts = list(sizes[first:last])
            yield from zip(inputs.split(cuts), targets.split(cuts), cuts, strict=True)
        first = last


class _ExampleRows:
    def __init__(self, data: Examples, model: Model, device: torch.device) -> None:
        labels = labels_of(model)
        self._features, self._model, self._device = data.features, model, device
        self._targets = _numbers(data.labels) if labels is None else codes_of(labels, data)
        floats = data.features.dtype.kind in "fb" or scaling_of(model) is not None
        self._dtype = torch.float32 if floats else torch.int64
        self.at_once = max(1, _AT_ONCE_BYTES // max(1, math.prod(data.features.shape[1:]) * self._dtype.itemsize))

    def __len__(self) -> int:
        return len(self._targets)

    def take(self, places: np.ndarray) -> tuple[Any, Any]:
        features = self._features[places]
        if scaling_of(self._model) is not None:
            features = rows_of(features, self._model, np.float32).reshape(features.shape)
        targets = self._targets[places]
        return (
            _tensor(features, self._dtype).to(self._device),
            _tensor(targets, torch.float32 if targets.dtype.kind == "f" else torch.int64).to(self._device),
        )


class _TensorRows:
    def __init__(self, tensors: Sequence[torch.Tensor], places: np.ndarray | None, device: torch.device) -> None:
        self._tensors, self._device = tensors, device
        self._places = np.arange(len(tensors[0])) if places is None else places
        self.at_once = max(1, _AT_ONCE_BYTES // max(1, tensors[0][:1].nbytes))

    def __len__(self) -> int:
        return len(self._places)

    def take(self, places: np.ndarray) -> tuple[Any, Any]:
        chosen = torch.from_numpy(self._places[places])
        inputs, targets = (_placed(tensor[chosen], self._device) for tensor in self._tensors)
        return inputs, targets


class _DatasetRows:
    at_once = 1

    def __init__(self, data: Any, device: torch.device) -> None:
        self._data, self._device = data, device

    def __len__(self) -> int:
        return len(self._data)

    def take(self, places: np.ndarray) -> tuple[Any, Any]:
        wanted = places.tolist()
        fetch = getattr(self._data, "__getitems__", None)
        items = fetch(wanted) if callable(fetch) else [self._data[place] for place in wanted]
        kinds = {len(item) if isinstance(item, (tuple, list)) else type(item).__name__ for item in items}
        if kinds != {2}:
            raise TrainingError(
                f"the items of the {type(self._data).__name__} are not pairs: {', '.join(map(str, kinds))}.",
                why="a model learns from an input and its target.",
                do="let __getitem__ return (input, target), or use TorchTrainer(…, loop=…) with a loop of your own.",
            )
        try:
            inputs, targets = default_collate(items)
        except (RuntimeError, TypeError) as error:
            raise TrainingError(
                f"items of the {type(self._data).__name__} cannot be put together into a batch.",
                why=f"PyTorch says: {error}",
                do="return tensors or numbers, of the same shape for every item.",
            ) from error
        return _placed(inputs, self._device), _placed(targets, self._device)


def _unwrapped(data: Any) -> tuple[Any, np.ndarray | None]:
    """The data set that a Subset of a Subset is about, and the places in it."""
    if type(data) is not Subset:
        return data, None
    base, places = _unwrapped(data.dataset)
    chosen = np.asarray(data.indices, np.int64)
    return base, chosen if places is None else places[chosen]


def _tensor(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    # In memory of torch, whose alignment never differs: with another one, sums may be taken in another order.
    tensor = torch.empty(array.shape, dtype=dtype)
    np.copyto(tensor.numpy(), array, casting="unsafe")
    return tensor


def _placed(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device, torch.float32 if value.dtype == torch.float64 else value.dtype)
    if isinstance(value, Mapping):
        return {name: _placed(item, device) for name, item in value.items()}
    return [_placed(item, device) for item in value] if isinstance(value, (tuple, list)) else value


def _numbers(labels: np.ndarray) -> np.ndarray:
    try:
        return labels.astype(np.float32)
    except (ValueError, TypeError):
        raise TrainingError(
            f"the labels have type {labels.dtype}, and the app's schema has no label set.",
            why="without one, labels are numbers to predict.",
            do="pass Schema(labels=…) with every label that may occur, in the order of the module's outputs.",
        ) from None

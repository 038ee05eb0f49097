"""A trained model, taken out of its file."""

import sys
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np

from lycia.core.layout import Layout, Model, read_checkpoint
from lycia.errors import LayoutError, NotFound
from lycia.trainers.examples import LABELS, labels_of, scaling_of
from lycia.trainers.numpy import NumpyTrainer, Predictor
from lycia.trainers.sklearn import SklearnTrainer, load_into
from lycia.trainers.torch import LightningTrainer, TorchTrainer

Estimator = TypeVar("Estimator")


@overload
def load_model(path: str | Path) -> dict[str, np.ndarray]: ...
@overload
def load_model(path: str | Path, into: NumpyTrainer) -> Predictor: ...
@overload
def load_model(path: str | Path, into: SklearnTrainer | TorchTrainer | LightningTrainer) -> Any: ...
@overload
def load_model(path: str | Path, into: Estimator) -> Estimator: ...
def load_model(path: str | Path, into: Any = None) -> Any:
    """The model in a checkpoint, as what `into` asks for.

    Args:
      into: None for the arrays by name, the label set among them as "labels"; a `NumpyTrainer` for a `Predictor`; an
        estimator of scikit-learn for that same estimator, which then predicts; a `SklearnTrainer` for a copy of its; a
        module of PyTorch for that same module; a `TorchTrainer` or a `LightningTrainer` for a new module in eval mode,
        which also scales its inputs, if the model was made so.
    Raises:
      NotFound: if there is no such file.
      TensorFileError: if it is not a sound safetensors file.
      LayoutError: if its model is of another kind than `into`, or scales features, which a bare module would not.
    Example:
      >>> model = load_model("model.safetensors", into=NumpyTrainer())  # doctest: +SKIP
      >>> model.predict(features)  # doctest: +SKIP
    """
    layout, model = _read(Path(path))
    if into is None:
        return _arrays(layout, model)
    if isinstance(into, NumpyTrainer):
        return into.predictor(layout, model)
    if isinstance(into, (SklearnTrainer, TorchTrainer, LightningTrainer)):
        return into.predictor(layout, model)
    if _is_module(into):
        from lycia.trainers.torch import modules

        if scaling_of(model) is not None:
            raise LayoutError(
                f"the model in {Path(path).name} scales its features, and a bare module would not.",
                why="it would be given features in their own units, and be wrong without a word.",
                do="pass into=TorchTrainer(…), the app's trainer, for a module that scales them; or read the arrays.",
            )
        return modules.load_into(into, layout, model)
    if hasattr(into, "fit") and hasattr(into, "get_params") and not isinstance(into, type):
        return load_into(into, layout, model)
    raise LayoutError(
        f"a model cannot be put into {into!r}.",
        why="it becomes arrays, a predictor of NumpyTrainer, an estimator of scikit-learn, or a module of PyTorch.",
        do="pass into=NumpyTrainer(hidden=…), an estimator, a module, a trainer of either, or nothing for the arrays.",
    )


def _is_module(thing: Any) -> bool:
    torch = sys.modules.get("torch")  # where there is a module, PyTorch is imported already
    return torch is not None and isinstance(thing, torch.nn.Module)


def _arrays(layout: Layout, model: Model) -> dict[str, np.ndarray]:
    arrays, labels = layout.arrays(model), labels_of(model)
    return arrays if labels is None else {**arrays, LABELS: np.array(labels)}


def _read(path: Path) -> tuple[Layout, Model]:
    try:
        file = path.read_bytes()
    except OSError as error:
        raise NotFound(
            f"there is no model {path}.",
            why=f"the file cannot be read: {error.strerror or error}.",
            do="give the path of a file that `lycia model RUN -o FILE` or Result.save wrote.",
        ) from None
    layout, model, _ = read_checkpoint(file)
    return layout, model

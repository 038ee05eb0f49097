"""What a run begins with, wherever it is held: its first model, its name, and the versions it depends on."""

import platform
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from uuid import uuid4

import numpy as np

from lycia.core import normalising
from lycia.core.keys import Key
from lycia.core.layout import Layout, Model, read_checkpoint
from lycia.core.plan import App
from lycia.core.space import is_large
from lycia.errors import LayoutError, NotFound


def first_model(app: App, checkpoint: str | Path | None = None) -> tuple[Layout, Model]:
    """What a run of the app begins with: the model in a checkpoint, or else the trainer's first model.

    Raises:
      NotFound: if there is no such file.
      TensorFileError, LayoutError: if it is not a checkpoint, or not of a model of this app.
    """
    layout, model = app.trainer.first_model(app.schema, Key(app.plan.seed).at("first model"))
    if checkpoint is None:
        return layout, model
    path = Path(checkpoint)
    if not path.is_file():
        raise NotFound(
            f"there is no checkpoint {str(path)!r}.",
            why="a run can start from a file that `lycia model` or Result.save wrote.",
            do="check the path, or leave it out to start from the app's first model.",
        )
    found, model, _ = read_checkpoint(_content(path))
    if found != layout:
        shapes = {leaf.name: (leaf.shape, leaf.dtype) for leaf in found.leaves}
        differences = "; ".join(layout.differences(shapes)) or "their segments, aliases or order differ"
        raise LayoutError(
            f"the checkpoint {str(path)!r} is not a model of this app: {differences}.",
            why="a run keeps the names, shapes and kinds of the app's model.",
            do="start from a checkpoint of the same app and version.",
        )
    if app.plan.normalisation and normalising.awaits_description(model):
        raise LayoutError(
            f"the checkpoint {str(path)!r} scales features by the bounds in a schema.",
            why="the plan normalises features over the nodes, and the model has learned with another scale.",
            do="start from a model of a run that was normalised, or leave the normalisation out of the plan.",
        )
    return layout, model


def _content(path: Path) -> bytes | memoryview:
    """What is in a file; a large one is mapped, and read where it is looked at."""
    large = is_large(path.stat().st_size)
    return np.memmap(path, np.uint8, mode="r").data if large else path.read_bytes()


def run_id(name: str) -> str:
    """A name for a run that no other run has."""
    return f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid4().hex[:4]}"


def versions() -> dict[str, str]:
    """What the results depend on, apart from the record: software and machine."""
    known = {"python": platform.python_version(), "machine": platform.machine(), "numpy": np.__version__}
    for package in ("lycia", "scikit-learn", "torch"):
        with suppress(metadata.PackageNotFoundError):
            known[package] = metadata.version(package)
    return known

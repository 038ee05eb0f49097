"""Who holds what: the examples of a node, the nodes of a simulation, and the data that a deployed node brings."""

import hashlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from lycia.core.plan import App
from lycia.core.training import NodeData
from lycia.errors import AppError, DataError, LyciaError, NotFound


@dataclass(frozen=True, eq=False)
class Examples:
    """Features with their labels.

    A slice, an array of places or a mask picks examples: `examples[:10]`, `examples[order]`.

    Attributes:
      features: (n, …), an example a row.
      labels: (n,), one for each example.
      columns: what the features mean, where the data says so.
    """

    features: np.ndarray
    labels: np.ndarray
    columns: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", np.asarray(self.features))
        object.__setattr__(self, "labels", np.asarray(self.labels))
        if self.columns is not None:
            object.__setattr__(self, "columns", tuple(map(str, self.columns)))

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, chosen: slice | np.ndarray | Sequence[int]) -> "Examples":
        places = chosen if isinstance(chosen, slice) else np.asarray(chosen)
        if not isinstance(places, slice) and places.ndim != 1:
            raise TypeError(f"examples are picked by a slice, an array of places or a mask, not by {chosen!r}")
        return Examples(self.features[places], self.labels[places], self.columns)


class Population:
    """The nodes of a simulation, in a fixed order, each with its data.

    Nothing is loaded before it is asked for, and nothing is kept: a `load` that takes long keeps what it read itself
    (`functools.cache`).

    Args:
      names: what the nodes are called.
      load: name → what that node holds.
      sizes: (nodes,) how many training examples each has, where that is known without loading.
    Raises: AppError, if a name is taken twice or is empty, or if there is nobody.
    """

    def __init__(
        self, names: Sequence[str], load: Callable[[str], NodeData], *, sizes: np.ndarray | None = None
    ) -> None:
        self._names = tuple(names)
        self._places = {name: place for place, name in enumerate(self._names)}
        self._load = load
        self._sizes = None if sizes is None else np.asarray(sizes, dtype=np.float64)
        if not self._names or len(self._places) < len(self._names) or "" in self._places:
            raise AppError(
                f"a population of {len(self._names)} nodes has {len(self._places)} different names"
                f"{', one of them empty' if '' in self._places else ''}.",
                why="a population has at least one node, and every node a name of its own.",
                do="give each node a different name, such as 'hospital-1'.",
            )
        if self._sizes is not None and self._sizes.shape != (len(self._names),):
            raise AppError(
                f"a population of {len(self._names)} nodes is given sizes of shape {self._sizes.shape}.",
                why="there is one size for each node.",
                do="give as many sizes as names, in the same order, or none.",
            )

    @classmethod
    def of(cls, nodes: Mapping[str, NodeData]) -> "Population":
        """The population whose data is all there already.

        Raises: AppError, as the class does.
        """
        held = dict(nodes)
        return cls(tuple(held), held.__getitem__)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all nodes, in order."""
        return self._names

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __getitem__(self, name: str) -> NodeData:
        if name not in self._places:
            raise NotFound(
                f"there is no node {name!r} in the population.",
                why=f"it has {len(self)} nodes: {_some(self._names)}.",
                do="use one of these names.",
            )
        data = self._load(name)
        if not isinstance(data, NodeData):
            raise AppError(
                f"the population gives a {type(data).__name__} for node {name!r}.",
                why="what a node holds is NodeData: examples to train on and examples held out.",
                do="return NodeData(train=Examples(…), held_out=Examples(…)).",
            )
        return data

    def sizes(self) -> np.ndarray | None:
        """(nodes,) how many training examples each node has; None where its data has no length.

        Where the sizes were not given, this loads every node once.
        """
        if self._sizes is None:
            sizes = []
            for name in self._names:  # one at a time: together they may be more than memory holds
                train = self[name].train
                if not (train is None or hasattr(train, "__len__")):
                    return None
                sizes.append(0 if train is None else len(train))
            self._sizes = np.array(sizes, dtype=np.float64)
        return self._sizes.copy()

    @property
    def known_sizes(self) -> np.ndarray | None:
        """(nodes,) what `sizes` returns, if that is known without loading anything."""
        return None if self._sizes is None else self._sizes.copy()


def as_population(value: Any) -> Population:
    """The population that an app was given: a `Population`, a mapping from names to `NodeData`, or what makes one.

    Raises: AppError, if `value` is none of these.
    """
    if isinstance(value, Population):
        return value
    if isinstance(value, Mapping):
        strange = [name for name, data in value.items() if not isinstance(name, str) or not isinstance(data, NodeData)]
        if not strange:
            return Population.of(value)
        if not isinstance(strange[0], str):
            raise _no_population(f"has {strange[0]!r} for a name, which is no text")
        raise _no_population(f"maps {strange[0]!r} to a {type(value[strange[0]]).__name__}")
    if callable(value) and not isinstance(value, type):
        if not _needs_nothing(value):
            raise _no_population("is a function that wants arguments")
        made = value()
        if isinstance(made, (Population, Mapping)):
            return as_population(made)
        raise _no_population(f"is a function that gives a {type(made).__name__}")
    raise _no_population(f"is a {type(value).__name__}" if value is not None else "is missing")


def load_node_data(spec: str, app: App, note: Callable[[str], None] = lambda _: None) -> NodeData:
    """What `--data` names: a file, a folder, `path/to/file.py:function`, or a node of the app's own population.

    A function is called without arguments and gives `NodeData`. Tables (.csv, .tsv, both also with .gz, .parquet) are
    read by the app's schema. A `.npz` file holds x_train and y_train, and may hold x_test and y_test, and the names of
    the columns as `columns`. What a folder holds is said in `lycia.data.files`. Where a file or folder has nothing to
    measure with, a fifth of the examples is held out, always the same ones.

    Args:
      note: told in a sentence what was left out, and what was held out.
    Raises: DataError, which says what was tried, or lists everything in which a table misses the schema.
    """
    from lycia.data.files import ENDINGS, node_data_at  # which know examples, as this room does

    path, colon, function = spec.rpartition(":")
    if colon and path.endswith(".py"):
        return _from_function(Path(path), function)
    is_folder = Path(spec).is_dir()
    if spec.endswith(ENDINGS) or (is_folder and set(spec) & {"/", os.sep}):
        return node_data_at(Path(spec), app.schema, note)
    population = None if app.population is None else as_population(app.population)
    if population is not None and spec in population:
        return population[spec]
    if is_folder:
        return node_data_at(Path(spec), app.schema, note)
    endings = ", ".join(ENDINGS)
    raise DataError(
        f"there is no data {spec!r}.",
        why=f"it is not written as path/to/file.py:function, does not end in {endings}, is no folder, and "
        + (
            "the app has no population that could name it."
            if population is None
            else f"is not in the app's population: {_some(population.names)}."
        ),
        do="pass --data FILE.csv with the columns of the app's schema, another file or folder of these kinds, or "
        "--data path/to/file.py:function with a function that returns NodeData.",
    )


def _from_function(path: Path, name: str) -> NodeData:
    module = _module(path)
    function = getattr(module, name, None)
    if not callable(function):
        public = [key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")]
        raise DataError(
            f"{path} has no function {name!r}.",
            why=f"its functions are: {', '.join(public) or 'none'}.",
            do="name one of them after the colon.",
        )
    try:
        data = function()
    except LyciaError:
        raise
    except (Exception, SystemExit) as error:
        raise DataError(
            f"{name}() in {path} failed: {type(error).__name__}: {error}.",
            why="it is called without arguments to load this node's data.",
            do=f"call {name}() at the end of the file, run `python {path}` to see the traceback, and mend it.",
        ) from error
    if not isinstance(data, NodeData):
        raise DataError(
            f"{name}() in {path} returned a {type(data).__name__}.",
            why="what a node holds is NodeData: examples to train on and examples held out.",
            do="return NodeData(train=Examples(features, labels), held_out=Examples(…)).",
        )
    return data


def _module(path: Path) -> ModuleType:
    # Under a name of its own: two files called data.py do not meet, and what they define can still be pickled.
    name = f"lycia_data_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    spec = spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise DataError(
            f"there is no file {path}.",
            why=f"it was looked for as {path.resolve()}.",
            do="give the path from here, or an absolute one.",
        )
    module = module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve().parent))  # it may import what lies beside it, as if it were run
    try:
        spec.loader.exec_module(module)
    except LyciaError:
        raise
    except (Exception, SystemExit) as error:  # SystemExit: of a file that is a program
        del sys.modules[name]
        raise DataError(
            f"{path} does not import: {type(error).__name__}: {error}.",
            why="a data file is Python, run once to find the function in it.",
            do=f"run `python {path}` to see the whole traceback, and mend it there.",
        ) from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def _needs_nothing(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some built-in callables have no signature to look at
        return True
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(item.default is not item.empty or item.kind in optional for item in parameters)


def _no_population(found: str) -> AppError:
    return AppError(
        f"the app's population {found}.",
        why="a simulation needs the name of every node and what it holds.",
        do="pass a dict from names to NodeData, a Population(names, load), or a function that gives one.",
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")

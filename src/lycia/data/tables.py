"""Tables of pandas, pyarrow and Hugging Face `datasets` as a node's data. Nothing else imports these, and nothing is
fetched: a data set is read from a folder on this machine, never by its name on a hub.

A function for `--data` is then one line: `return node_data_of(pandas.read_excel("patients.xlsx"), app.schema)`.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from lycia.core.training import NodeData
from lycia.data.cells import Numbers, Reading, Table, examples_from, node_data_from, numbers_in, numbers_of
from lycia.data.population import Examples
from lycia.data.schema import Schema
from lycia.errors import DataError

_COUNTED = "from 0"


def examples_of(table: Any, schema: Schema, *, features: str | None = None) -> Examples:
    """The examples in a table: columns are found by the schema's names, others are left out.

    For a schema with a plain shape, the features are the column that holds an array, a list or a picture in each row;
    or, if there is none, all columns beside the labels.

    Args:
      table: a pandas DataFrame, a pyarrow Table, a Hugging Face Dataset, anything else that hands out Arrow data
        (polars, DuckDB), or a mapping from names to columns.
      features: the column that holds the arrays, where there are several.
    Raises: DataError, which lists everything in which the table misses the schema.
    Example:
      >>> pictures = {"pixels": np.zeros((2, 8, 8)), "label": ["cat", "dog"]}
      >>> examples_of(pictures, Schema(shape=(8, 8), labels=("cat", "dog"))).labels.tolist()
      ['cat', 'dog']
    """
    return examples_from(_as_table(table), schema, features)[0]


def node_data_of(table: Any, schema: Schema, test: Any = None, *, features: str | None = None) -> NodeData:
    """What a node holds: a table to train on, and one to measure with, each as `examples_of` takes it.

    Where `test` is not given a fifth of the rows is held out, always the same ones. A Hugging Face DatasetDict has
    both: its split "train", and "test" or else "validation".

    Raises: DataError, which lists everything in which a table misses the schema.
    """
    if _is_of("datasets", table) and isinstance(table, Mapping):
        train, held_out = _splits(table, "the DatasetDict")
    else:
        train, held_out = _as_table(table), None
    measured = held_out if test is None else _as_table(test)
    return node_data_from(train, measured, schema, lambda _: None, features)


def parquet_table(path: Path) -> Table:
    """The table in a Parquet file; only the columns that are needed are read.

    Raises: DataError, if it cannot be read, or if pyarrow is not installed.
    """
    pyarrow = _imported("pyarrow", "parquet")
    import pyarrow.parquet as parquet

    def load(places: Sequence[int]) -> Any:
        with _in_words(pyarrow, path):
            return file.read(columns=[file.schema_arrow.names[place] for place in places])

    with _in_words(pyarrow, path):
        file = parquet.ParquetFile(path)
        return _ArrowTable(str(path), file.schema_arrow, load)


def saved_dataset(path: Path) -> tuple[Table | None, Table | None]:
    """The tables to train on and to measure with, in a folder that `datasets` wrote with save_to_disk.

    Raises: DataError, if it cannot be read, or if `datasets` is not installed.
    """
    datasets = _imported("datasets", "datasets")
    try:
        with _offline(datasets):
            found = datasets.load_from_disk(str(path.resolve()))
    except Exception as error:  # noqa: BLE001  # what it raises over a damaged folder is of many kinds
        raise DataError(
            f"{path} cannot be read: {type(error).__name__}: {error}.",
            why="it is taken for a data set that `datasets` wrote with save_to_disk, and may be damaged or incomplete.",
            do="write it again with save_to_disk, and copy the whole folder.",
        ) from None
    return _splits(found, str(path)) if isinstance(found, Mapping) else (_dataset(found, str(path)), None)


@dataclass(frozen=True)
class _Columns:
    """A mapping from names to arrays or lists."""

    columns: Mapping[str, np.ndarray]
    called: str = "the table"
    counted: str = _COUNTED

    @property
    def headers(self) -> Sequence[str]:
        return tuple(self.columns)

    def array_columns(self) -> Collection[int]:
        return [place for place, values in enumerate(self.columns.values()) if values.ndim > 1]

    def read(self, numbers: Collection[int], texts: Collection[int], arrays: Collection[int]) -> Reading:
        columns = list(self.columns.values())
        return Reading(
            np.arange(len(columns[0]) if columns else 0),
            {place: numbers_in(columns[place]) for place in numbers},
            {place: columns[place].astype(object) for place in texts},
            {place: columns[place] for place in arrays},
        )


@dataclass(frozen=True)
class _Frame:
    """A pandas DataFrame."""

    frame: Any
    called: str = "the DataFrame"
    counted: str = _COUNTED

    @property
    def headers(self) -> Sequence[str]:
        return tuple(map(str, self.frame.columns))

    def array_columns(self) -> Collection[int]:
        firsts = (next(iter(self._cells(place, 1)), None) for place in range(self.frame.shape[1]))
        return [place for place, cell in enumerate(firsts) if _is_array(cell)]

    def read(self, numbers: Collection[int], texts: Collection[int], arrays: Collection[int]) -> Reading:
        texts_found = {place: np.empty(len(self.frame), dtype=object) for place in texts}
        for place, cells in texts_found.items():
            cells[:] = self._cells(place)
        return Reading(
            np.arange(len(self.frame)),
            {place: self._numbers(place) for place in numbers},
            texts_found,
            {place: _stacked(self._cells(place), self.called, self.headers[place]) for place in arrays},
        )

    def _numbers(self, place: int) -> Numbers:
        column = self.frame.iloc[:, place]
        if getattr(column.dtype, "kind", "O") in "biuf":  # of NumPy's types and of those that know gaps
            return numbers_in(column.to_numpy(dtype=np.float64, na_value=np.nan))
        return numbers_of(self._cells(place))

    def _cells(self, place: int, most: int | None = None) -> list[Any]:
        column = self.frame.iloc[:most, place]
        return [cell if there else None for cell, there in zip(column.tolist(), column.notna().tolist(), strict=True)]


@dataclass(frozen=True)
class _ArrowTable:
    """Columns of pyarrow's, loaded when they are read.

    Attributes:
      load: places → a pyarrow Table of these columns.
      names: place → what the numbers in a column of labels stand for.
      pictures: place → what makes a picture of a cell.
    """

    called: str
    schema: Any
    load: Callable[[Sequence[int]], Any]
    names: Mapping[int, Sequence[str]] = field(default_factory=dict)
    pictures: Mapping[int, Callable[[Any], np.ndarray]] = field(default_factory=dict)
    counted: str = _COUNTED

    @property
    def headers(self) -> Sequence[str]:
        return tuple(self.schema.names)

    def array_columns(self) -> Collection[int]:
        return [place for place, kind in enumerate(self.schema.types) if place in self.pictures or _is_list(kind)]

    def read(self, numbers: Collection[int], texts: Collection[int], arrays: Collection[int]) -> Reading:
        places = sorted({*numbers, *texts, *arrays})
        table = self.load(places)
        columns = dict(zip(places, table.columns, strict=True))
        texts_found = {place: np.empty(len(table), dtype=object) for place in texts}
        for place, cells in texts_found.items():
            cells[:] = self._texts(place, columns[place])
        return Reading(
            np.arange(len(table)),
            {place: _arrow_numbers(columns[place]) for place in numbers},
            texts_found,
            {place: self._arrays(place, columns[place]) for place in arrays},
        )

    def _texts(self, place: int, column: Any) -> list[Any]:
        cells: list[Any] = column.to_pylist()
        names = self.names.get(place)
        if names is None:
            return cells
        return [names[code] if code is not None and 0 <= code < len(names) else None for code in cells]

    def _arrays(self, place: int, column: Any) -> np.ndarray:
        header, picture = self.headers[place], self.pictures.get(place)
        if picture is not None:
            return _stacked([picture(cell.as_py()) for cell in column], self.called, header)
        return _arrow_arrays(column, self.called, header)


def _as_table(value: Any) -> Table:
    if _is_of("datasets", value) and hasattr(value, "with_format") and hasattr(value, "select_columns"):
        return _dataset(value, "the Dataset")
    if _is_of("pandas", value) and hasattr(value, "iloc"):
        return _Frame(value)
    if hasattr(value, "__arrow_c_stream__"):
        pyarrow = _imported("pyarrow", "parquet")
        table = pyarrow.table(value)
        return _ArrowTable("the table", table.schema, lambda places: table.select(list(places)))
    if isinstance(value, Mapping):
        return _columns(value)
    raise DataError(
        f"a {type(value).__name__} is no table.",
        why="a table is a pandas DataFrame, a pyarrow Table, a Hugging Face Dataset, or a dict of columns.",
        do="turn it into one of these; or return NodeData(train=Examples(features, labels), held_out=Examples(…)).",
    )


def _columns(value: Mapping[Any, Any]) -> Table:
    columns: dict[str, np.ndarray] = {}
    for name, cells in value.items():
        try:
            columns[str(name)] = np.asarray(cells)
        except ValueError:  # lists of several lengths
            _stacked(list(cells), "the table", str(name))
    sizes = {len(cells) if cells.ndim else 0 for cells in columns.values()}
    if len(sizes) > 1 or any(not cells.ndim for cells in columns.values()):
        raise DataError(
            f"the table has columns of {len(sizes)} lengths.",
            why="a row has a cell in each column.",
            do="give a mapping from names to columns of one length.",
        )
    return _Columns(columns)


def _dataset(dataset: Any, called: str) -> Table:
    """A Hugging Face Dataset. Its pictures come out of it or out of files on this machine, never from an address."""
    datasets = _imported("datasets", "datasets")
    features = dataset.features
    names, pictures = {}, {}
    for place, (name, feature) in enumerate(features.items()):
        if isinstance(feature, datasets.ClassLabel):
            names[place] = feature.names
        elif isinstance(feature, datasets.Image):
            pictures[place] = _decoder(feature, called, name)

    def load(places: Sequence[int]) -> Any:
        with _offline(datasets):
            chosen = dataset.select_columns([tuple(features)[place] for place in places])
            return chosen.with_format("arrow")[:].select([tuple(features)[place] for place in places])

    return _ArrowTable(called, features.arrow_schema, load, names, pictures)


def _decoder(feature: Any, called: str, name: str) -> Callable[[Any], np.ndarray]:
    def picture(cell: Mapping[str, Any] | None) -> np.ndarray:
        if cell is None or (cell["bytes"] is None and not Path(cell["path"] or "").is_file()):
            raise DataError(
                f"{called} has a picture that is not there in column {name!r}.",
                why="pictures are read from the data set or from files on this machine, and nothing is fetched.",
                do="write the data set again with its pictures in it: load it where they are, and call save_to_disk.",
            )
        try:
            return np.asarray(feature.decode_example(cell))
        except ImportError:
            raise _not_installed("pillow", "datasets") from None

    return picture


def _splits(found: Mapping[str, Any], called: str) -> tuple[Table | None, Table | None]:
    train, test = found.get("train"), found.get("test", found.get("validation"))
    if train is None and test is None:
        raise DataError(
            f"{called} has the splits {', '.join(found) or 'none'}.",
            why="a node trains on a split called train, and measures on one called test or validation.",
            do="rename the splits: DatasetDict({'train': …, 'test': …}).",
        )
    return (
        None if train is None else _dataset(train, f"the split 'train' of {called}"),
        None if test is None else _dataset(test, f"the held-out split of {called}"),
    )


def _arrow_numbers(column: Any) -> Numbers:
    import pyarrow.types as kinds
    from pyarrow import float64, int8

    if kinds.is_boolean(column.type):
        column = column.cast(int8())
    if kinds.is_integer(column.type) or kinds.is_floating(column.type) or kinds.is_decimal(column.type):
        return numbers_in(np.asarray(column.cast(float64(), safe=False).to_numpy()))
    return numbers_of(column.to_pylist())


def _is_list(kind: Any) -> bool:
    import pyarrow
    import pyarrow.types as kinds

    kind = kind.storage_type if isinstance(kind, pyarrow.BaseExtensionType) else kind
    return bool(kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind))


def _arrow_arrays(column: Any, called: str, header: str) -> np.ndarray:
    """Lists, and lists of lists, as one array, without making Python's lists of them."""
    import pyarrow
    import pyarrow.compute as compute

    if isinstance(column.type, pyarrow.BaseExtensionType):
        column = pyarrow.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    shape = [len(column)]
    while _is_list(column.type):
        lengths = compute.unique(compute.list_value_length(column)).to_pylist() if len(column) else [0]
        if len(lengths) > 1 or None in lengths:
            raise _uneven(called, header, lengths)
        shape.append(lengths[0])
        column = compute.list_flatten(column)
    return np.asarray(column.to_numpy()).reshape(shape)


def _stacked(cells: Sequence[Any], called: str, header: str) -> np.ndarray:
    arrays = [None if cell is None else np.asarray(cell) for cell in cells]
    shapes = list({None if array is None else array.shape for array in arrays})
    if len(shapes) > 1 or None in shapes:
        raise _uneven(called, header, shapes)
    return np.stack(arrays) if arrays else np.zeros((0, 0))  # type: ignore[arg-type]  # none of them is None


def _uneven(called: str, header: str, shapes: Sequence[object]) -> DataError:
    empty = " and empty cells" * (None in shapes)
    known = sorted((shape for shape in shapes if shape is not None), key=str)
    return DataError(
        f"{called} has arrays of {len(known)} shapes{empty} in column {header!r}: {', '.join(map(str, known[:5]))}.",
        why="all examples of a node have the schema's shape.",
        do="cut or pad them to one shape, in the same way at every node.",
    )


def _is_array(cell: object) -> bool:
    return isinstance(cell, (list, tuple)) or (hasattr(cell, "__array_interface__") and np.ndim(cell) > 0)  # type: ignore[arg-type]


def _is_of(package: str, value: object) -> bool:
    """Whether a value is of a class of a package, which need not be imported to see that."""
    return any(kind.__module__.partition(".")[0] == package for kind in type(value).__mro__)


def _imported(package: str, extra: str) -> ModuleType:
    try:
        return import_module(package)
    except ImportError:
        raise _not_installed(package, extra) from None


def _not_installed(package: str, extra: str) -> DataError:
    return DataError(
        f"this data takes {package}, which is not installed.",
        why="the base install reads CSV and NumPy files; other formats come with an extra.",
        do=f"pip install 'lycia[{extra}]', or bring the data as CSV.",
    )


@contextmanager
def _in_words(pyarrow: Any, path: Path) -> Iterator[None]:
    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read: {error}.",
            why="it is no Parquet file, or was cut off or damaged: a Parquet file has its directory at its end.",
            do="copy or write the file again from its source.",
        ) from None


@contextmanager
def _offline(datasets: Any) -> Iterator[None]:
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before

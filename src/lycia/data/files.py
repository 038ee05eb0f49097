"""A node's data in files: a table, arrays, or a folder of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from lycia.core import training
from lycia.core.training import NodeData
from lycia.data import tables
from lycia.data.cells import Table, node_data_from, split_off
from lycia.data.delimited import DelimitedFile
from lycia.data.population import Examples
from lycia.data.schema import Schema
from lycia.errors import DataError

TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
ENDINGS = (*TABLES, ".npz")
"""Of the files that hold a node's data."""

_ARRAYS = ("x_train", "y_train", "x_test", "y_test", "columns")
_SAVED = ("dataset_dict.json", "dataset_info.json")  # what `datasets` leaves in a folder


def node_data_at(path: Path, schema: training.Schema | None, note: Callable[[str], None]) -> NodeData:
    """What a node holds, out of a file that ends as `ENDINGS` says, or out of a folder.

    A folder holds train.* and test.*, tables of any kind, of which one may be missing; or x_train.npy, y_train.npy and
    the same for test; or what `datasets` wrote there with save_to_disk. Where there is nothing to measure with, a fifth
    of the examples is held out, always the same ones.

    Args:
      note: told in a sentence what was left out, and what was held out.
    Raises: DataError, if it cannot be read; for a table, with everything in which it misses the schema.
    """
    if path.is_dir():
        return _from_folder(path, schema, note)
    if not path.is_file():
        raise DataError(
            f"there is no file {path}.",
            why=f"it was looked for as {path.resolve()}.",
            do="give the path from here, or an absolute one.",
        )
    if path.suffix == ".npz":
        return _from_arrays(_arrays_in(path), path, note)
    return node_data_from(_table(path), None, _known(schema), note)


def _from_folder(folder: Path, schema: training.Schema | None, note: Callable[[str], None]) -> NodeData:
    if any((folder / name).is_file() for name in _SAVED):
        return node_data_from(*tables.saved_dataset(folder), _known(schema), note)
    arrays = {name: folder / f"{name}.npy" for name in _ARRAYS if (folder / f"{name}.npy").is_file()}
    found = {part: [folder / f"{part}{ending}" for ending in TABLES if (folder / f"{part}{ending}").is_file()]
             for part in ("train", "test")}  # fmt: skip
    if arrays and not any(found.values()):
        return _from_arrays({name: _array(path) for name, path in arrays.items()}, folder, note)
    if not any(found.values()) or max(map(len, found.values())) > 1:
        names = sorted(path.name for path in folder.iterdir())
        raise DataError(
            f"the folder {folder} holds {', '.join(names[:8]) or 'nothing'}{', …' * (len(names) > 8)}.",
            why="a node's folder holds one train.* and, to measure with, one test.*, which end in "
            f"{', '.join(TABLES)}; or x_train.npy and y_train.npy; or what `datasets` wrote with save_to_disk.",
            do="name the files so, or give one of them: --data FILE.",
        )
    train, test = (_table(paths[0]) if paths else None for paths in found.values())
    return node_data_from(train, test, _known(schema), note)


def _table(path: Path) -> Table:
    return tables.parquet_table(path) if path.suffix == ".parquet" else DelimitedFile.at(path)


def _known(schema: training.Schema | None) -> Schema:
    if isinstance(schema, Schema):
        return schema
    raise DataError(
        f"a table cannot be read for an app whose schema is {'missing' if schema is None else type(schema).__name__}.",
        why="the schema says which columns are the features, in which order, and which one is the label.",
        do="pass App(schema=Schema(columns=(Column(…), …), labels=…, label='its name'), …); or bring a .npz file.",
    )


def _arrays_in(path: Path) -> Mapping[str, np.ndarray]:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, BadZipFile, EOFError, TypeError, AttributeError) as error:
        raise _unreadable(path, error, "numpy.savez(path, x_train=…, y_train=…)") from None


def _array(path: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))  # it may be larger than memory
    except (OSError, ValueError, EOFError) as error:
        raise _unreadable(path, error, "numpy.save(path, array)") from None


def _unreadable(path: Path, error: Exception, writer: str) -> DataError:
    return DataError(
        f"{path} cannot be read: {error}.",
        why="it is to hold plain arrays of numbers or text. Objects in it would be code, and are not loaded; and what "
        "was cut off cannot be read either.",
        do=f"write it with {writer}.",
    )


def _from_arrays(arrays: Mapping[str, np.ndarray], path: Path, note: Callable[[str], None]) -> NodeData:
    wanted = {"x_train", "y_train"} | ({"x_test", "y_test"} if arrays.keys() & {"x_test", "y_test"} else set())
    lacking = wanted - arrays.keys()
    unknown = arrays.keys() - set(_ARRAYS)
    if lacking or unknown:
        raise DataError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; {', '.join(sorted(lacking or unknown))} "
            f"{'is missing' if lacking else 'is not known'}.",
            why=f"the arrays have fixed names: {', '.join(_ARRAYS)}; only the first two must be there.",
            do="write it with numpy.savez(path, x_train=…, y_train=…, x_test=…, y_test=…).",
        )  # fmt: skip
    columns = tuple(map(str, arrays["columns"])) if "columns" in arrays else None
    train, test = (
        Examples(arrays[f"x_{part}"], arrays[f"y_{part}"], columns) if f"x_{part}" in arrays else None
        for part in ("train", "test")
    )
    assert train is not None
    return split_off(train, test, note)

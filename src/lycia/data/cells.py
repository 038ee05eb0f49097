"""A table becomes examples: columns are found by name and unit, cells are read, and all that is wrong is told at once.

Nothing is guessed and nothing converted. A node that declines tells the coordinator why, so what is told here names
columns, rows and counts, never the content of a cell.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from lycia.core.keys import Key
from lycia.core.training import NodeData
from lycia.data.partition import hold_out
from lycia.data.population import Examples
from lycia.data.schema import Column, Schema, column_differences, label_differences, shape_differences
from lycia.errors import DataError

GAPS = frozenset({"", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "None", "?"})
"""What stands in a cell of text that is empty."""

HELD_OUT = 0.2
"""The share of a table's rows that is held out where no other table is given to measure with."""

_NONE = np.zeros(0, dtype=np.int64)
_MOST_TOLD = 12
_WITH_UNIT = re.compile(r"(.*\S)\s*(?:\(([^()]*)\)|\[([^][]*)\])")


@dataclass(frozen=True)
class Numbers:
    """A column that is to hold numbers.

    Shapes: values (n,) float64, NaN where there is no number; empty, strange: the places without one, and of something
      that is none.
    """

    values: np.ndarray
    empty: np.ndarray = field(default_factory=lambda: _NONE)
    strange: np.ndarray = field(default_factory=lambda: _NONE)


@dataclass(frozen=True)
class Reading:
    """The columns that were asked for, by place.

    Attributes:
      rows: (n,) what each row is called where the table comes from.
      texts: (n,) objects, each of them text or None.
      arrays: (n, …) one array for each row.
    """

    rows: np.ndarray
    numbers: dict[int, Numbers] = field(default_factory=dict)
    texts: dict[int, np.ndarray] = field(default_factory=dict)
    arrays: dict[int, np.ndarray] = field(default_factory=dict)


class Table(Protocol):
    """Columns with headers, of which some are read."""

    @property
    def called(self) -> str:
        """What errors call it, such as "patients.csv"."""
        ...

    @property
    def counted(self) -> str:
        """How its rows are counted, such as "from 0"."""
        ...

    @property
    def headers(self) -> Sequence[str]:
        """What stands above the columns."""
        ...

    def array_columns(self) -> Collection[int]:
        """The places of those that hold an array in each row: pictures, lists of tokens."""
        ...

    def read(self, numbers: Collection[int], texts: Collection[int], arrays: Collection[int]) -> Reading:
        """Some columns, as numbers, as text or as arrays.

        Raises: DataError, if they cannot be read.
        """
        ...


class Complaints:
    """All that is wrong with a table, with what can be done about it."""

    def __init__(self) -> None:
        self._told: list[str] = []
        self._remedies: dict[str, None] = {}

    def tell(self, sentences: Iterable[str], remedy: str) -> None:
        """Note what is wrong; nothing, if there are no sentences."""
        for sentence in sentences:
            self._told.append(sentence)
            self._remedies[remedy] = None

    def check(self, table: Table) -> None:
        """Raises: DataError, with all of it, if there was anything."""
        if self._told:
            more = len(self._told) - _MOST_TOLD
            told = "; it ".join(self._told[:_MOST_TOLD]) + (f"; and {more} more things" if more > 0 else "")
            raise DataError(
                f"{table.called} does not fit the app's schema: it {told}.",
                why="all nodes train one model, so the same column must mean the same thing everywhere; "
                f"rows are counted {table.counted}.",
                do=f"{'; '.join(self._remedies)}.",
            )


def examples_from(table: Table, schema: Schema, features: str | None = None) -> tuple[Examples, tuple[str, ...]]:
    """The examples in a table, and the headers of the columns that were left out.

    A table with a schema's columns is read by their names. For a plain shape the features are the one column that holds
    arrays, or as many columns of numbers as the shape has places, in the table's order.

    Args:
      features: the column that holds the arrays, where there are several.
    Shapes: features float32 where they are columns of numbers; arrays keep their type. Labels are text, int64, or
      float32 where they are numbers to predict.
    Raises: DataError, which lists everything in which the table misses the schema.
    """
    complaints = Complaints()
    headers = tuple(header.strip() for header in table.headers)
    found = _find([*schema.columns, Column(schema.label)], headers, complaints)
    label = found.pop(schema.label, None)
    chosen = [(column, found[column.name]) for column in schema.columns if column.name in found]
    arrays: tuple[int, ...] = ()
    if not schema.columns:
        chosen, arrays = _plain(table, schema, headers, label, features, complaints)
    is_text = schema.labels is not None and isinstance(schema.labels[0], str)
    of_label = () if label is None else (label,)
    places = [place for _, place in chosen]
    reading = table.read([*places, *(() if is_text else of_label)], of_label if is_text else (), arrays)
    if not len(reading.rows):
        complaints.tell(["has no rows"], "fill it, or bring another table")
    for column, place in chosen:
        values = _numbers(column.name, reading.numbers[place], reading.rows, complaints)
        known = ~np.isnan(values)
        complaints.tell(
            column_differences(column, values[known], reading.rows[known]),
            "correct these values, or the unit of their column",
        )
    given = [_array(reading.arrays[place], headers[place], schema, reading.rows, complaints) for place in arrays]
    labels = np.zeros(0) if label is None else _labels(schema, label, reading, complaints)
    complaints.check(table)
    used = {*places, *arrays, *of_label}
    names = tuple(column.name for column in schema.columns) or None
    whole = given[0] if given else _stacked([reading.numbers[place].values for place in places], schema.shape)
    return Examples(whole, labels, names), tuple(name for at, name in enumerate(headers) if at not in used)


def node_data_from(
    train: Table | None,
    test: Table | None,
    schema: Schema,
    note: Callable[[str], None],
    features: str | None = None,
) -> NodeData:
    """What a node holds, from a table to train on and one to measure with, of which one may be missing.

    Where there is nothing to measure with, a fifth of the rows is held out. Which ones depends on their number only.

    Args:
      note: told in a sentence what was left out, and what was held out.
      features: the column that holds the arrays, where there are several.
    Raises: DataError, which lists everything in which a table misses the schema.
    """
    parts: list[Examples | None] = []
    for table in (train, test):
        parts.append(None)
        if table is not None:
            parts[-1], left_out = examples_from(table, schema, features)
            if left_out:
                names = ", ".join(repr(name) for name in left_out[:8]) + ", …" * (len(left_out) > 8)
                note(f"{table.called} has columns that the schema does not know, which are left out: {names}")
    examples, held_out = parts
    return NodeData(None, held_out) if examples is None else split_off(examples, held_out, note)


def split_off(examples: Examples, held_out: Examples | None, note: Callable[[str], None]) -> NodeData:
    """The data of a node; where nothing is held out, a fifth of the examples is, unless there are fewer than two."""
    is_sound = examples.features.ndim > 0 and examples.features.shape[:1] == examples.labels.shape[:1]
    if held_out is not None or not is_sound or len(examples) < 2:  # what is not sound the schema refuses
        return NodeData(examples, held_out)
    data = hold_out(examples, HELD_OUT, Key(0).at("held out"))
    note(f"{len(data.held_out)} of {len(examples)} examples are held out to measure with, as no test data is given")
    return data


def numbers_of(cells: Sequence[object]) -> Numbers:
    """Cells of text, or of anything else, as numbers.

    Example:
      >>> found = numbers_of(["1.5", "NA", "1,5"])
      >>> found.values.tolist(), found.empty.tolist(), found.strange.tolist()
      ([1.5, nan, nan], [1], [2])
    """
    try:
        values = np.fromiter(map(float, cells), np.float64, len(cells))  # type: ignore[arg-type]  # or it raises
        if np.isfinite(values).all() and not _has_underline(cells):
            return Numbers(values)
    except (ValueError, TypeError):
        pass
    values, empty, strange = np.full(len(cells), np.nan), [], []
    for place, cell in enumerate(cells):
        number = math.nan if cell is None or (isinstance(cell, str) and cell.strip() in GAPS) else _number(cell)
        if number is None:
            strange.append(place)
        elif math.isnan(number):
            empty.append(place)
        else:
            values[place] = number
    return Numbers(values, np.array(empty, dtype=np.int64), np.array(strange, dtype=np.int64))


def numbers_in(values: np.ndarray) -> Numbers:
    """An array of any type as numbers; a NaN is an empty cell."""
    if values.dtype.kind in "OU":
        return numbers_of(values.tolist())
    if values.dtype.kind not in "biuf":  # dates, and whatever else is no number
        return Numbers(np.full(len(values), np.nan), strange=np.arange(len(values)))
    found = values.astype(np.float64)
    return Numbers(found, np.flatnonzero(np.isnan(found)))


def is_same_unit(one: str, other: str) -> bool:
    """Whether two ways of writing mean one unit: spaces, ², µ and the litre's capital do not matter, all else does.

    Example:
      >>> is_same_unit("mg/dL", "mg / dl"), is_same_unit("kg/m²", "kg/m^2"), is_same_unit("mg/dl", "mmol/l")
      (True, True, False)
    """
    return _plain_unit(one) == _plain_unit(other)


def _plain_unit(unit: str) -> str:
    said = re.sub(r"[\s^]", "", unicodedata.normalize("NFKC", unit))
    return re.sub(r"(?<![A-Za-zμ])([numcdhk]?|μ)L(?![A-Za-z])", r"\1l", said)


def _number(cell: object) -> float | None:
    if isinstance(cell, np.ndarray) or (isinstance(cell, str) and "_" in cell):
        return None
    try:
        return float(cell)  # type: ignore[arg-type]  # or it raises
    except (ValueError, TypeError):
        return None


def _has_underline(cells: Sequence[object]) -> bool:
    """Whether digits are grouped in Python's own way, which is nobody else's."""
    try:
        return "_" in "".join(cells)  # type: ignore[arg-type]  # or it raises
    except TypeError:
        return any(isinstance(cell, str) and "_" in cell for cell in cells)


def _find(wanted: Sequence[Column], headers: Sequence[str], complaints: Complaints) -> dict[str, int]:
    """Where each column is, by name."""
    places: dict[str, int] = {}
    lacking = []
    for column in wanted:
        candidates = [(place, unit) for place, header in enumerate(headers) for unit in _units(header, column.name)]
        fitting = [place for place, unit in candidates if unit is None or is_same_unit(unit, column.unit)]
        if len(fitting) == 1:
            places[column.name] = fitting[0]
        elif fitting:
            complaints.tell(
                [f"has {len(fitting)} columns {column.name!r}"],
                "leave one column under each name, and rename the others",
            )
        elif candidates:
            units = " and in ".join(unit or "no unit" for _, unit in candidates)
            expected = column.unit or "no unit"
            complaints.tell(
                [f"has the column {column.name!r} in {units}, where the schema says {expected}"],
                "convert the column to the schema's unit and write that into its header, as nothing is converted here",
            )
        else:
            alike = [header for header in headers if _letters(header) == _letters(column.name)]
            lacking.append(column.name + (f" (is it {alike[0]!r}?)" if alike else ""))
    if lacking:
        named = f"lacks the column{'s' * (len(lacking) > 1)} {', '.join(lacking)}"
        headless = bool(headers) and all(_number(header) is not None for header in headers)
        complaints.tell(
            [named + (", and its first row holds numbers instead of names" if headless else "")],
            "add the columns that are lacking, or give those that hold them the schema's names",
        )
    return places


def _units(header: str, name: str) -> list[str | None]:
    """The unit that a header gives to the column of this name, if it is that column's: a list of one, or of none."""
    if header == name:
        return [None]
    parts = _WITH_UNIT.fullmatch(header)
    return [parts[2] or parts[3] or ""] if parts and parts[1] == name else []


def _letters(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _plain(
    table: Table, schema: Schema, headers: Sequence[str], label: int | None, named: str | None, complaints: Complaints
) -> tuple[list[tuple[Column, int]], tuple[int, ...]]:
    """The features for a plain shape: columns of numbers with their places, or the place of a column of arrays."""
    others = [place for place in range(len(headers)) if place != label]
    arrays = tuple(place for place in others if place in table.array_columns())
    if named is not None:
        arrays = tuple(place for place in others if headers[place] == named)
    size = math.prod(schema.shape)
    if len(arrays) == 1:
        return [], arrays
    if named is None and not arrays and len(others) == size:
        return [(Column(headers[place], bounds=schema.bounds), place) for place in others], ()
    told = (
        f"has {len(arrays)} columns {named!r}" if named is not None
        else f"has {len(arrays)} columns of arrays: {', '.join(headers[place] for place in arrays)}" if arrays
        else f"has {len(others)} columns beside the labels, where the shape {schema.shape} takes {size} numbers"
    )  # fmt: skip
    complaints.tell(
        [told],
        "bring one column of arrays beside the labels, or as many columns of numbers as the shape has places; or name "
        "the column: examples_of(table, schema, features='picture')",
    )
    return [], ()


def _numbers(name: str, found: Numbers, rows: np.ndarray, complaints: Complaints) -> np.ndarray:
    for places, one, many, remedy in (
        (
            found.empty, "empty cell", "empty cells",
            "leave out the rows with empty cells, or fill them in the way that all nodes agreed on",
        ),
        (
            found.strange, "cell that is no number", "cells that are no numbers",
            "write numbers as numbers, with a point for decimals: 5.2 and not 5,2",
        ),
    ):  # fmt: skip
        if len(places):
            told = f"has {len(places)} {one if len(places) == 1 else many} in column {name!r}"
            complaints.tell([f"{told} (the first in row {rows[places[0]]})"], remedy)
    return found.values


def _labels(schema: Schema, place: int, reading: Reading, complaints: Complaints) -> np.ndarray:
    labels, rows = schema.labels or (), reading.rows
    if place in reading.texts:
        known = {label: at for at, label in enumerate(labels)}
        cells = [cell.strip() if isinstance(cell, str) else cell for cell in reading.texts[place]]
        codes = np.array([known.get(cell, -1) if isinstance(cell, str) else -1 for cell in cells], dtype=np.int64)
        empty = [at for at in np.flatnonzero(codes < 0).tolist() if cells[at] is None or str(cells[at]) in GAPS]
        _numbers(schema.label, Numbers(codes, np.array(empty, dtype=np.int64)), rows, complaints)
        values = np.array([*labels, ""])[codes]
    else:
        found = reading.numbers[place]
        values, empty = _numbers(schema.label, found, rows, complaints), [*found.empty, *found.strange]
    there = np.ones(len(rows), dtype=bool)
    there[empty] = False
    complaints.tell(
        label_differences(schema, values[there], rows[there]),
        "correct the labels, or leave their rows out; if the label set is wrong, change it in the app",
    )
    if place in reading.texts:
        return values
    return values[there].astype(
        np.int64 if labels and bool((values[there] == np.rint(values[there])).all()) else np.float32
    )


def _array(values: np.ndarray, name: str, schema: Schema, rows: np.ndarray, complaints: Complaints) -> np.ndarray:
    if math.prod(values.shape[1:]) != math.prod(schema.shape) or values.dtype.kind not in "biuf":
        found = f"has arrays of shape {values.shape[1:]} and type {values.dtype} in column {name!r}"
        complaints.tell([f"{found}, where the schema's shape is {schema.shape}"], "bring arrays of the schema's shape")
        return values
    told = (f"{sentence} in column {name!r}" for sentence in shape_differences(schema, values, rows))
    complaints.tell(told, "correct these values, or scale them as the schema says")
    return values.reshape(len(values), *schema.shape)


def _stacked(columns: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    whole = np.empty((len(columns[0]), len(columns)), dtype=np.float32)
    with np.errstate(over="ignore"):  # what is too large becomes an infinity, which the schema refuses
        for place, values in enumerate(columns):
            whole[:, place] = values
    return whole.reshape(len(whole), *shape)

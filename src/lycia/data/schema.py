"""What an app expects of every node's data, and the ways in which data misses it.

A node that declines says so to the coordinator. So a difference names columns, rows and counts, never a value.
"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lycia.core import training
from lycia.core.training import NodeData
from lycia.data.population import Examples
from lycia.errors import AppError, DataError

Kind = Literal["number", "integer", "category"]
Bounds = tuple[float | None, float | None]
KINDS: tuple[Kind, ...] = ("number", "integer", "category")


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
      name: by which a table's column is found.
      kind: "number", "integer" or "category".
      unit: of its numbers, such as "mm Hg"; "" where there is none.
      bounds: the least and the greatest value that it may hold, both included; None for an open end.
      categories: the codes that a category may hold; the features of a table are numbers.
    Raises: AppError, if the parts contradict each other.
    """

    name: str
    kind: Kind = "number"
    unit: str = ""
    bounds: Bounds = (None, None)
    categories: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "categories", tuple(float(code) for code in self.categories))
        object.__setattr__(self, "bounds", _checked_bounds(f"column {self.name!r}", self.bounds))
        if self.kind not in KINDS or (self.kind == "category") != bool(self.categories):
            raise AppError(
                f"column {self.name!r} is of kind {self.kind!r} and has {len(self.categories)} categories.",
                why=f"a column is one of {', '.join(KINDS)}; a category, and nothing else, lists its codes.",
                do="use, for example, Column('sex', 'category', categories=(0, 1)).",
            )


@dataclass(frozen=True)
class Schema(training.Schema):
    """Columns or a plain shape, and the label set.

    Attributes:
      columns: what a table's features mean, in order; empty where `shape` is given instead.
      shape: the shape of one example, or how many features it has; taken from the columns where there are some.
      labels: every label that may occur, in the order of a model's outputs; None where labels are numbers to predict.
      bounds: the least and the greatest value of any feature, for a plain shape.
      label: what the column with the labels is called, where data comes as a table with named columns.
    Raises: AppError, if it describes no data.
    Example:
      >>> Schema(columns=(Column("age", unit="years", bounds=(0, 120)),), labels=("ill", "well")).shape
      (1,)
    """

    columns: tuple[Column, ...] = ()
    shape: tuple[int, ...] = ()
    labels: tuple[int, ...] | tuple[str, ...] | None = None
    bounds: Bounds = (None, None)
    label: str = "label"

    def __post_init__(self) -> None:
        columns = tuple(self.columns)
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "shape", (len(columns),) if columns else _checked_shape(self.shape))
        object.__setattr__(self, "labels", None if self.labels is None else _checked_labels(self.labels))
        object.__setattr__(self, "bounds", _checked_bounds("the schema", self.bounds))
        names = [*(column.name for column in columns), self.label]
        if len(set(names)) < len(names) or "" in names:
            twice = sorted({name for name in names if names.count(name) > 1})
            raise AppError(
                f"the schema names a column twice: {', '.join(twice)}." if twice else "a column has no name.",
                why="a name stands for one column, and the column with the labels is one, too.",
                do="rename one of them, or say with label=… what the column with the labels is called.",
            )

    def differences(self, data: NodeData) -> list[str]:
        """One sentence for each way in which `data` is not what the schema says; empty if it fits."""
        parts = (("training", data.train), ("held-out", data.held_out))
        return [
            f"the {name} data {difference}"
            for name, part in parts
            if part is not None
            for difference in self._differences_of(part)
        ]

    def ranges(self) -> np.ndarray:
        """The least and the greatest value of each feature; 0 and 1 for one that is not bounded on both sides.

        They are the same at every node. So features can be scaled by them without a node telling its own extremes.

        Shapes: returns (2, features) float32.
        """
        columns = [
            (min(column.categories), max(column.categories)) if column.categories else column.bounds
            for column in self.columns
        ]
        bounds = columns or [self.bounds] * math.prod(self.shape)
        spans = [(low, high) if low is not None and high is not None and low < high else (0, 1) for low, high in bounds]
        return np.array(spans, dtype=np.float32).T

    def to_json(self) -> str:
        """The schema as canonical JSON, for people and for the record."""
        columns = [
            {
                "name": column.name, "kind": column.kind, "unit": column.unit,
                "bounds": list(column.bounds), "categories": list(column.categories),
            }
            for column in self.columns
        ]  # fmt: skip
        labels = None if self.labels is None else list(self.labels)
        described = {
            "columns": columns, "shape": list(self.shape), "labels": labels, "bounds": list(self.bounds),
            "label": self.label,
        }  # fmt: skip
        return json.dumps(described, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Schema":
        """The schema that `to_json` wrote.

        Raises: DataError, if `text` is not such a schema.
        """
        try:
            described: dict[str, Any] = json.loads(text)
            return cls(
                tuple(
                    Column(
                        str(column["name"]), column["kind"], str(column["unit"]),
                        _pair(column["bounds"]), tuple(column["categories"]),
                    )
                    for column in described["columns"]
                ),
                tuple(described["shape"]), None if described["labels"] is None else tuple(described["labels"]),
                _pair(described["bounds"]), str(described["label"]),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AppError) as error:
            raise DataError(
                f"a schema cannot be read: {getattr(error, 'what', repr(error))}",
                why="it is not the JSON that this version's Schema.to_json writes.",
                do="make it anew with this version, from the app's own schema.",
            ) from None

    def _differences_of(self, examples: Any) -> Iterator[str]:
        if not isinstance(examples, Examples):
            yield f"is {_a(type(examples).__name__)}, not Examples(features, labels)"
            return
        if examples.labels.ndim != 1:
            yield f"has labels of shape {examples.labels.shape} instead of one label for each example"
        elif examples.features.ndim and len(examples.features) != len(examples.labels):
            yield f"has {len(examples.features)} examples and {len(examples.labels)} labels"
        if self.labels is None or examples.labels.ndim == 1:
            yield from label_differences(self, examples.labels)
        misshapen = list(self._misshapen(examples))
        yield from misshapen
        if not misshapen:
            yield from self._bad_values(examples.features)

    def _misshapen(self, examples: Examples) -> Iterator[str]:
        features = examples.features
        if features.dtype.kind not in "biuf":
            yield f"has features of type {features.dtype} instead of numbers"
        if self.columns and examples.columns is not None:
            known, found = [column.name for column in self.columns], list(examples.columns)
            lacking = [name for name in known if name not in found]
            extra = [name for name in found if name not in known]
            if lacking:
                yield f"lacks {_columns(lacking)}"
            if extra:
                yield f"has {_columns(extra)}, which the schema does not know"
            if not lacking and not extra and found != known:
                yield f"has its columns in another order than the schema, which says {', '.join(known)}"
        if features.ndim < 1 or features.shape[1:] != self.shape:
            if len(self.shape) == 1 and features.ndim == 2:
                yield f"has {features.shape[1]} columns instead of {self.shape[0]}"
            else:
                yield f"has examples of shape {features.shape[1:]} instead of {self.shape}"

    def _bad_values(self, features: np.ndarray) -> Iterator[str]:
        if not self.columns:
            yield from shape_differences(self, features)
        for column, values in zip(self.columns, features.T, strict=False):
            yield from column_differences(column, values)


def check_data(schema: training.Schema, data: NodeData) -> None:
    """Do nothing if `data` is what `schema` says.

    Raises: DataError, which lists all differences.
    """
    differences = list(schema.differences(data))
    if differences:
        raise DataError(
            f"the data does not fit the app's schema: {'; '.join(differences)}.",
            why="all nodes train one model, so the same column must mean the same thing everywhere.",
            do="change the data, or the function that loads it; if the schema is wrong, change it in the app.",
        )


def column_differences(column: Column, values: np.ndarray, rows: np.ndarray | None = None) -> Iterator[str]:
    """What is wrong with the numbers of one column, as verbs without a subject.

    Shapes: values (n,); rows (n,) what each row is called where the data comes from, if not by its place.
    """
    place = f" in column {column.name!r}"
    yield from _out_of_bounds(place, values[:, np.newaxis], column.bounds, column.unit, rows)
    whole = np.isfinite(values)
    if column.kind == "integer":
        yield from _count(whole & (values != np.rint(values)), f"that is not a whole number{place}", rows=rows)
    elif column.kind == "category":
        codes = np.array(column.categories, dtype=values.dtype if values.dtype.kind == "f" else np.float64)
        known = ", ".join(f"{code:g}" for code in column.categories)
        yield from _count(whole & ~np.isin(values, codes), f"that is not one of {known}{place}", rows=rows)


def shape_differences(schema: Schema, features: np.ndarray, rows: np.ndarray | None = None) -> Iterator[str]:
    """What is wrong with the values of features of a plain shape; as `column_differences` has it."""
    yield from _out_of_bounds("", features.reshape(len(features), math.prod(schema.shape)), schema.bounds, "", rows)


def label_differences(schema: Schema, labels: np.ndarray, rows: np.ndarray | None = None) -> Iterator[str]:
    """What is wrong with the labels; as `column_differences` has it."""
    if schema.labels is not None:
        yield from _strange_labels(schema.labels, labels, rows)
    elif not np.isfinite(_numbers(labels)).all():
        yield "has labels that are not finite numbers"


def label_codes(labels: tuple[int, ...] | tuple[str, ...], values: np.ndarray) -> np.ndarray:
    """The place of each value in the label set; −1 for a value that is not in it.

    Shapes: values (n,) of any dtype; returns (n,) int64.
    Example:
      >>> label_codes(("cat", "dog"), np.array(["dog", "cat", "cow"]))
      array([ 1,  0, -1])
    """
    known, found = np.array(labels), np.asarray(values)
    if known.dtype.kind == "U" and found.dtype.kind not in "OSU":
        return np.full(found.shape, -1)
    found = found.astype(str) if known.dtype.kind == "U" else _numbers(found)
    order = np.argsort(known, kind="stable")
    places = order[np.minimum(np.searchsorted(known[order], found), len(known) - 1)]
    return np.where(known[places] == found, places, -1)


def _numbers(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind in "biuf":
        return values
    try:
        return values.astype(np.float64)
    except (ValueError, TypeError):  # objects or text that are not numbers: none of them is a known label
        return np.full(values.shape, np.nan)


def _strange_labels(
    labels: tuple[int, ...] | tuple[str, ...], values: np.ndarray, rows: np.ndarray | None
) -> Iterator[str]:
    known = f"{labels[0]!r} … {labels[-1]!r}" if len(labels) > 8 else ", ".join(map(repr, labels))
    strange = label_codes(labels, values) < 0
    yield from _count(strange, f"whose label is not in the label set ({known})", "example", rows)


def _out_of_bounds(place: str, cells: np.ndarray, bounds: Bounds, unit: str, rows: np.ndarray | None) -> Iterator[str]:
    finite = np.isfinite(cells)
    yield from _count(~finite.all(axis=1), f"with a NaN or an infinity{place}", "example", rows)
    low, high = (-np.inf if bounds[0] is None else bounds[0]), (np.inf if bounds[1] is None else bounds[1])
    where = (
        f"above {high:g}"
        if bounds[0] is None
        else f"below {low:g}"
        if bounds[1] is None
        else f"outside {low:g} to {high:g}"
    )
    strange = (finite & ((cells < low) | (cells > high))).any(axis=1)
    guess = f", so many that they may be {f'in another unit than {unit}' if unit else 'on another scale'}"
    for told in _count(strange, f"{where}{' ' * bool(unit)}{unit}{place}", "example", rows):
        yield told + guess * bool(2 * np.count_nonzero(strange) > len(strange))


def _count(strange: np.ndarray, what: str, noun: str = "value", rows: np.ndarray | None = None) -> Iterator[str]:
    count = int(np.count_nonzero(strange))
    if count:
        place = int(np.argmax(strange))
        row = place if rows is None else rows[place]
        said = what.replace("that is", "that are", 1) if count > 1 else what
        yield f"has {count} {noun}{'s' * (count > 1)} {said} (the first in row {row})"


def _columns(names: list[str]) -> str:
    return f"the column{'s' * (len(names) > 1)} {', '.join(names)}"


def _a(noun: str) -> str:
    return f"{'an' if noun[:1] in 'aeiouAEIOU' else 'a'} {noun}"


def _pair(bounds: Iterable[float | None]) -> Bounds:
    low, high = bounds
    return low, high


def _checked_bounds(whose: str, bounds: Bounds) -> Bounds:
    low, high = bounds
    if any(end is not None and not np.isfinite(end) for end in bounds) or (
        low is not None and high is not None and not low <= high
    ):
        raise AppError(
            f"the bounds of {whose} are {low} and {high}.",
            why="a range goes from a least to a greatest finite value.",
            do="give them in this order; write None for an open end.",
        )
    return low, high


def _checked_shape(shape: Iterable[int] | int) -> tuple[int, ...]:
    sizes = (shape,) if isinstance(shape, int) else tuple(int(size) for size in shape)
    if not sizes or any(size < 1 for size in sizes):
        raise AppError(
            f"the schema has no columns, and the shape {sizes}.",
            why="an example has at least one feature.",
            do="pass columns=(Column(…), …), or a shape such as shape=(64,).",
        )
    return sizes


def _checked_labels(labels: Iterable[Any]) -> tuple[int, ...] | tuple[str, ...]:
    given = tuple(label.item() if isinstance(label, np.generic) else label for label in labels)
    texts = tuple(label for label in given if isinstance(label, str))
    numbers = tuple(int(label) for label in given if isinstance(label, (int, float)) and label == int(label))
    found: tuple[int, ...] | tuple[str, ...] = texts or numbers
    if len(found) < len(given) or len(set(found)) < len(found) or len(found) < 2:
        raise AppError(
            f"the label set is {given!r}.",
            why="it holds at least two labels, all different, and either all whole numbers or all text.",
            do="write, for example, labels=tuple(range(10)) or labels=('ill', 'well').",
        )
    return found

"""Real data to try things on: from scikit-learn, and from the folder that LYCIA_DATA names. Nothing is fetched."""

import os
from functools import cache
from pathlib import Path

import numpy as np

from lycia.data.population import Examples
from lycia.data.schema import Column, Schema
from lycia.errors import DataError

DIGITS = Schema(shape=(64,), bounds=(0, 1), labels=tuple(range(10)))
"""8×8 grey pictures of handwritten digits, row by row, 0 white to 1 black."""

HEART_DISEASE = Schema(
    columns=(
        Column("age", unit="years", bounds=(0, 120)),
        Column("sex", "category", categories=(0, 1)),  # female, male
        Column("chest_pain", "category", categories=(1, 2, 3, 4)),  # typical, atypical, other, none
        Column("resting_blood_pressure", unit="mm Hg", bounds=(0, 300)),
        Column("cholesterol", unit="mg/dl", bounds=(0, 700)),
        Column("high_fasting_sugar", "category", categories=(0, 1)),  # above 120 mg/dl
        Column("resting_ecg", "category", categories=(0, 1, 2)),  # normal, ST-T abnormality, hypertrophy
        Column("greatest_heart_rate", unit="beats/min", bounds=(30, 250)),
        Column("exercise_angina", "category", categories=(0, 1)),
        Column("st_depression", unit="mm", bounds=(-10, 10)),
    ),
    labels=(0, 1),
)
"""What was measured in four hospitals, and whether an artery was found narrowed by more than half."""

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
_FOLDER = "LYCIA_DATA"
_COLUMNS = 14  # in a row of the file: ten that are used, three with many gaps, the diagnosis
_USED = (*range(10), 13)


@cache
def digits() -> Examples:
    """The 1797 handwritten digits that scikit-learn ships; float32, 0 to 1. They fit `DIGITS`.

    Raises: DataError, if scikit-learn is not installed.
    Source: Alpaydin and Kaynak 1998, "Optical recognition of handwritten digits", UCI (its test set).
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError(
            "the digits are not here.",
            why="they come with scikit-learn, which is not installed.",
            do="pip install 'lycia[sklearn]'",
        ) from None
    features, labels = load_digits(return_X_y=True)
    return Examples(_frozen((features / 16).astype(np.float32)), _frozen(labels.astype(np.int64)))


def heart_disease() -> dict[str, Examples]:
    """Patients by hospital, from $LYCIA_DATA/heart_disease/processed.*.data as UCI has them. They fit `HEART_DISEASE`.

    The three columns with many gaps (slope, ca, thal) are left out, and so are patients with a gap in what remains:
    303, 261, 46 and 130 are left. The label is 1 where the diagnosis is 1 or more.

    Shapes: features (patients, 10) float32, in the units of the schema.
    Raises: DataError, if LYCIA_DATA is not set, or the files are not there or not those.
    Source: Janosi, Steinbrunn, Pfisterer and Detrano 1989, "Heart Disease", UCI, CC BY 4.0; the choice of columns and
      patients is that of Ogier du Terrail et al. 2022, "FLamby", arXiv:2210.04620.
    """
    folder = os.environ.get(_FOLDER)
    if not folder:
        raise DataError(
            f"the heart disease data is not here: the environment variable {_FOLDER} is not set.",
            why="patients' records are not shipped with a package, and nothing is fetched without being asked.",
            do=f"put UCI's files processed.{{{','.join(HOSPITALS)}}}.data into a folder heart_disease, "
            f"and set {_FOLDER} to the folder above it: export {_FOLDER}=path/to/data",
        )
    return {name: _hospital(Path(folder) / "heart_disease" / f"processed.{name}.data") for name in HOSPITALS}


def _hospital(path: Path) -> Examples:
    try:
        lines = path.read_text(encoding="ascii").split()
        rows = np.array([[np.nan if cell == "?" else float(cell) for cell in line.split(",")] for line in lines])
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from None
    if rows.ndim != 2 or rows.shape[1] != _COLUMNS:
        raise _unreadable(path, f"it is a table of shape {rows.shape} instead of (patients, {_COLUMNS})")
    known = rows[:, _USED]
    known = known[~np.isnan(known).any(axis=1)]
    names = tuple(column.name for column in HEART_DISEASE.columns)
    return Examples(known[:, :-1].astype(np.float32), (known[:, -1] > 0).astype(np.int64), names)


def _unreadable(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path} cannot be read: {reason}.",
        why=f"{_FOLDER} names the folder that holds heart_disease/processed.{{{','.join(HOSPITALS)}}}.data.",
        do=f"set {_FOLDER} to that folder, and take the files again from UCI's archive if they are damaged.",
    )


def _frozen(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)  # one copy serves everybody
    return array

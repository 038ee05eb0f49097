"""Heart disease in four hospitals, as UCI publishes it, and as FLamby's benchmark prepares it."""

from collections.abc import Mapping

import numpy as np

from lycia.core.training import NodeData
from lycia.data.datasets.description import Dataset, File
from lycia.data.datasets.finding import content_of
from lycia.data.population import Examples, Population
from lycia.data.schema import Column, Schema
from lycia.errors import DataError

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

HEART_DISEASE_FLAMBY = Schema(
    columns=tuple(
        Column(name)
        for name in (
            "age", "sex", "resting_blood_pressure", "cholesterol", "high_fasting_sugar", "greatest_heart_rate",
            "exercise_angina", "st_depression", "chest_pain_2", "chest_pain_3", "chest_pain_4", "resting_ecg_1",
            "resting_ecg_2",
        )
    ),
    labels=(0, 1),
)  # fmt: skip
"""The same, each column less its mean at the hospital, over its standard deviation there."""

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")

_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease"
_COLUMNS = 14  # in a row of the file: ten that are used, three with many gaps, the diagnosis
_USED = (*range(10), 13)
_CHEST_PAIN, _RESTING_ECG = 2, 6

ABOUT_HEART_DISEASE = Dataset(
    name="heart_disease",
    title="UCI Heart Disease",
    folder="heart_disease",
    licence="CC BY 4.0",
    source='Janosi, Steinbrunn, Pfisterer and Detrano 1989, "Heart Disease", UCI, doi:10.24432/C52P4X; the choice of '
    'columns and patients is that of Ogier du Terrail et al. 2022, "FLamby", arXiv:2210.04620',
    nodes="4 hospitals: Cleveland, Budapest, Zurich with Basel, and Long Beach",
    schema=HEART_DISEASE,
    loaders=("heart_disease", "heart_disease_flamby"),
    files=tuple(
        File(f"processed.{hospital}.data", size, digest, (f"{_UCI}/processed.{hospital}.data",))
        for hospital, size, digest in (
            ("cleveland", 18461, "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8"),
            ("hungarian", 10263, "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796"),
            ("switzerland", 4109, "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314"),
            ("va", 6737, "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f"),
        )
    ),
)


def heart_disease() -> dict[str, Examples]:
    """Patients by hospital: 303, 261, 46 and 130, in the order of the files. They fit `HEART_DISEASE`.

    The three columns with many gaps (slope, ca, thal) are left out, and so are patients with a gap in what remains. The
    label is 1 where the diagnosis is 1 or more: 139, 98, 45 and 101 patients.

    Shapes: features (patients, 10) float32, in the units of the schema; labels (patients,) int64.
    Raises: DataError, if a file is damaged, or not here and cannot be fetched (40 kB).
    Source: Janosi, Steinbrunn, Pfisterer and Detrano 1989, "Heart Disease", UCI, CC BY 4.0; the choice of columns and
      patients is that of Ogier du Terrail et al. 2022, "FLamby", arXiv:2210.04620.
    """
    return {
        hospital: read_patients(content_of(ABOUT_HEART_DISEASE, f"processed.{hospital}.data")) for hospital in HOSPITALS
    }


def read_patients(content: bytes) -> Examples:
    """The patients without gaps in one of UCI's files, or in one of your own in the same format.

    Raises: ValueError, if it is not a table of numbers, '?' for a gap, with 14 columns.
    """
    lines = content.decode("ascii").split()
    rows = np.array([[np.nan if cell == "?" else float(cell) for cell in line.split(",")] for line in lines])
    if rows.ndim != 2 or rows.shape[1] != _COLUMNS:
        raise ValueError(f"it is a table of shape {rows.shape} instead of (patients, {_COLUMNS})")
    known = rows[:, _USED]
    known = known[~np.isnan(known).any(axis=1)]
    names = tuple(column.name for column in HEART_DISEASE.columns)
    return Examples(known[:, :-1].astype(np.float32), (known[:, -1] > 0).astype(np.int64), names)


def heart_disease_flamby() -> Population:
    """The hospitals as in FLamby's benchmark Fed-Heart-Disease: 199/104, 172/89, 30/16 and 85/45 patients, train/test.

    Each hospital subtracts the means of its training patients and divides by their standard deviations. The two
    categories with more than two codes become a column for each code but the first. The split is FLamby's own.

    The benchmark: logistic regression (one output, first weights as torch draws them); every hospital in every round,
    100 local SGD steps of 4 patients at a learning rate of 0.001, and 15 rounds, which is 50 passes over 486 / 4
    patients; an example-weighted mean. Its figure is the mean of the four hospitals' test accuracies, over five seeds.
    A softmax over two outputs takes the same steps at half the learning rate.

    Shapes: features (patients, 13) float32, labels (patients,) int64. They fit `HEART_DISEASE_FLAMBY`.
    Raises: DataError, if a file is damaged, or not here and cannot be fetched; or without scikit-learn, whose split
      it is.
    Source: Ogier du Terrail et al. 2022, arXiv:2210.04620; github.com/owkin/FLamby, commit edacf54d,
      flamby/datasets/fed_heart_disease/dataset.py and common.py.
    """
    return Population.of(prepared_as_flamby(heart_disease()))


def prepared_as_flamby(patients: Mapping[str, Examples]) -> dict[str, NodeData]:
    """Each hospital's patients as FLamby's benchmark prepares and splits them."""
    return {hospital: _prepared(examples) for hospital, examples in patients.items()}


def _prepared(examples: Examples) -> NodeData:
    plain = np.delete(examples.features, (_CHEST_PAIN, _RESTING_ECG), axis=1)
    codes = (examples.features[:, _CHEST_PAIN], (2, 3, 4)), (examples.features[:, _RESTING_ECG], (1, 2))
    dummies = [values == code for values, later in codes for code in later]
    features = np.column_stack([plain, *dummies]).astype(np.float32)
    trained, held = _flamby_split(examples.labels)
    means, spreads = features[trained].mean(axis=0), features[trained].std(axis=0, ddof=1)
    features = (features - means) / (spreads + np.float32(1e-9))
    whole = Examples(features, examples.labels, tuple(column.name for column in HEART_DISEASE_FLAMBY.columns))
    return NodeData(whole[trained], whole[held])


def _flamby_split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise DataError(
            "FLamby's split of the hospitals cannot be made.",
            why="it is drawn by scikit-learn, which is not installed.",
            do="pip install 'lycia[sklearn]'",
        ) from None
    counts = np.unique(labels, return_counts=True)[1]
    stratify = labels if len(counts) > 1 and counts.min() > 2 else None
    places = np.arange(len(labels))
    trained, held = train_test_split(
        places, test_size=1.0 - 0.66, train_size=0.66, random_state=43, shuffle=True, stratify=stratify
    )
    return np.sort(trained), np.sort(held)

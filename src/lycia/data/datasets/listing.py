"""All data sets by name, and fetching one before it is needed."""

from lycia.data.datasets.activity import ABOUT_HAR
from lycia.data.datasets.cifar import ABOUT_CIFAR10, ABOUT_CIFAR10_JPEG
from lycia.data.datasets.description import Dataset
from lycia.data.datasets.fetching import Progress
from lycia.data.datasets.finding import content_of
from lycia.data.datasets.hospitals import ABOUT_HEART_DISEASE
from lycia.data.datasets.pictures import ABOUT_DIGITS, ABOUT_FASHION_MNIST, ABOUT_MNIST
from lycia.data.datasets.speech import ABOUT_SHAKESPEARE, ABOUT_TINY_SHAKESPEARE
from lycia.data.datasets.survival import ABOUT_TCGA_BRCA
from lycia.data.datasets.turbofans import ABOUT_CMAPSS
from lycia.data.datasets.tweets import ABOUT_SENT140, ABOUT_SENT140_SAMPLE
from lycia.errors import NotFound

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        ABOUT_DIGITS, ABOUT_MNIST, ABOUT_FASHION_MNIST, ABOUT_CIFAR10, ABOUT_CIFAR10_JPEG, ABOUT_HEART_DISEASE,
        ABOUT_TCGA_BRCA, ABOUT_HAR, ABOUT_CMAPSS, ABOUT_SHAKESPEARE, ABOUT_TINY_SHAKESPEARE, ABOUT_SENT140,
        ABOUT_SENT140_SAMPLE,
    )
}  # fmt: skip
"""What there is, and what each says of itself."""


def download(name: str, progress: Progress | None = None) -> None:
    """Fetch the public files of a data set into the cache, and check them; those that are here already stay.

    A loader does the same when it needs them. Call this first for a machine that will be offline, or to see how far it
    is: `progress` is told (file, bytes so far, bytes in all or None) after every piece.

    Raises: NotFound, if there is no such data set; DataError, if a file is damaged, or cannot be fetched.
    """
    if name not in DATASETS:
        raise NotFound(
            f"there is no data set {name!r}.",
            why=f"there are: {', '.join(DATASETS)}.",
            do="use one of these names.",
        )
    dataset = DATASETS[name]
    for file in [file for file in dataset.files if file.addresses] or dataset.files:
        content_of(dataset, file.name, progress)

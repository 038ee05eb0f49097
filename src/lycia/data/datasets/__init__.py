"""Real data to try things on, by its natural owners where it has some.

A loader reads the files of the folder that LYCIA_DATA names; else those in the cache, in which it first puts what it
fetched from the public address (`LYCIA_CACHE`, or a folder of this user's caches). Every file is checked before it is
used. `DATASETS` says of each data set what it is, and whose.
"""

from lycia.data.datasets.activity import ACTIVITIES, HAR, har_by_person
from lycia.data.datasets.cifar import CIFAR10, THINGS, cifar10, cifar10_jpeg
from lycia.data.datasets.description import Dataset, File
from lycia.data.datasets.hospitals import (
    HEART_DISEASE,
    HEART_DISEASE_FLAMBY,
    HOSPITALS,
    heart_disease,
    heart_disease_flamby,
)
from lycia.data.datasets.listing import DATASETS, download
from lycia.data.datasets.pictures import (
    CLOTHING,
    DIGITS,
    FASHION_MNIST,
    MNIST,
    digits,
    fashion_mnist,
    mnist,
    mnist_by_writer,
)
from lycia.data.datasets.speech import ALPHABET, SHAKESPEARE, shakespeare_by_role, tiny_shakespeare_by_role
from lycia.data.datasets.survival import REGIONS, TCGA_BRCA, events_and_days, tcga_brca_by_region
from lycia.data.datasets.turbofans import CMAPSS, SENSORS, cmapss_by_engine
from lycia.data.datasets.tweets import SENT140, SENT140_COUNTS, sent140_by_user, sent140_sample_by_user, word_counts

__all__ = [
    "ACTIVITIES",
    "ALPHABET",
    "CIFAR10",
    "CLOTHING",
    "CMAPSS",
    "DATASETS",
    "DIGITS",
    "FASHION_MNIST",
    "HAR",
    "HEART_DISEASE",
    "HEART_DISEASE_FLAMBY",
    "HOSPITALS",
    "MNIST",
    "REGIONS",
    "SENSORS",
    "SENT140",
    "SENT140_COUNTS",
    "SHAKESPEARE",
    "TCGA_BRCA",
    "THINGS",
    "Dataset",
    "File",
    "cifar10",
    "cifar10_jpeg",
    "cmapss_by_engine",
    "digits",
    "download",
    "events_and_days",
    "fashion_mnist",
    "har_by_person",
    "heart_disease",
    "heart_disease_flamby",
    "mnist",
    "mnist_by_writer",
    "sent140_by_user",
    "sent140_sample_by_user",
    "shakespeare_by_role",
    "tcga_brca_by_region",
    "tiny_shakespeare_by_role",
    "word_counts",
]

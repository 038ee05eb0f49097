"""Tweets, and whether they are glad or sad."""

import csv
import io
import json
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable
from functools import cache

import numpy as np

from lycia.core.keys import Key
from lycia.data.datasets.description import Dataset, File
from lycia.data.datasets.finding import content_of
from lycia.data.datasets.owners import by_owner, held_at_random
from lycia.data.population import Examples, Population
from lycia.data.schema import Schema

WORDS = 32
"""How many words of a tweet are kept."""

BUCKETS = 8192
"""How many codes there are for words; a word's code follows from its letters, so no vocabulary is shared."""

SENT140 = Schema(shape=(WORDS,), bounds=(0, BUCKETS), labels=(0, 1))
"""The codes of a tweet's words in order, 0 after the last; the label is 1 for a glad one."""

SENT140_COUNTS = Schema(shape=(BUCKETS,), bounds=(0, WORDS), labels=(0, 1))
"""How often each word occurs in a tweet; the label is 1 for a glad one."""

_ARCHIVE, _TABLE = "trainingandtestdata.zip", "training.1600000.processed.noemoticon.csv"
_SAMPLE = "sent140_users.jsonl"
_LEAST_TWEETS = 30
_TOKEN = re.compile(r"@\w+|<\w+>|https?://\S+|www\.\S+|[a-z0-9']+|[!?.]+|[^\s\w]")
_SOURCE = 'Go, Bhayani and Huang 2009, "Twitter sentiment classification using distant supervision"'
_LICENCE = "offered for research; tweets remain their authors'"

ABOUT_SENT140 = Dataset(
    name="sent140",
    title="Sentiment140",
    folder="sent140",
    licence=_LICENCE,
    source=_SOURCE,
    nodes="people with 30 tweets or more",
    schema=SENT140,
    loaders=("sent140_by_user",),
    files=(
        File(
            _ARCHIVE,
            81363704,
            "004a3772c8a7ff9bbfeb875880f47f0679d93fc63e5cf9cff72d54a8a6162e57",
            (f"https://cs.stanford.edu/people/alecmgo/{_ARCHIVE}",),
        ),
    ),
)

ABOUT_SENT140_SAMPLE = Dataset(
    name="sent140_sample",
    title="Sentiment140, a sample by user",
    folder="sent140",
    licence=_LICENCE,
    source=f"{_SOURCE}; a tenth of the tweets of those with 30 or more, as drawn by LEAF (Caldas et al. 2018, "
    "arXiv:1812.01097), pseudonymised",
    nodes="2,875 people",
    schema=SENT140,
    loaders=("sent140_sample_by_user",),
    files=(File(_SAMPLE, 1811238, "2d4eeaec50bbf92a29e47ebc2007909d5e36e8e4a7e74791b660edbed553f820"),),
)


@cache
def sent140_by_user() -> Population:
    """The tweets of everybody who sent 30 or more, of 1.6 million. They fit `SENT140`.

    Users are numbered, not named: "user-0000" is the first in alphabetical order. A random fifth of each user's tweets
    is held out, always the same.

    Shapes: features (tweets, 32) uint16, labels (tweets,) int64.
    Raises: DataError, if the archive is damaged, or not here and cannot be fetched (81 MB).
    Source: Go, Bhayani and Huang 2009; the labels come from emoticons, which were removed. The choice of users is that
      of Caldas et al. 2018, "LEAF", arXiv:1812.01097.
    """
    return by_user(read_tweets(content_of(ABOUT_SENT140, _ARCHIVE)))


@cache
def sent140_sample_by_user() -> Population:
    """16,025 tweets of 2,875 people, 3 to 55 of each; 9,717 glad, 6,308 sad. They fit `SENT140`.

    It is a tenth of the tweets of LEAF's users with 30 or more, with names and links masked. A random fifth of each
    user's tweets is held out, at least one, always the same.

    Shapes: features (tweets, 32) uint16, labels (tweets,) int64.
    Raises: DataError, if the file is damaged, or not here: it has no public address (`sent140_by_user` has).
    Source: Go, Bhayani and Huang 2009; Caldas et al. 2018, "LEAF", arXiv:1812.01097.
    """
    lines = content_of(ABOUT_SENT140_SAMPLE, _SAMPLE).decode("utf-8").splitlines()
    return by_user((said["client"], said["text"], said["label"]) for said in map(json.loads, lines))


def read_tweets(archive: bytes) -> list[tuple[int, str, int]]:
    """(user, text, label) of every tweet in Stanford's archive by somebody with 30 or more; users are numbered."""
    with zipfile.ZipFile(io.BytesIO(archive)) as members, members.open(_TABLE) as table:
        rows = [(row[4], row[5], int(row[0])) for row in csv.reader(io.TextIOWrapper(table, "latin-1", newline=""))]
    counts = Counter(user for user, _, _ in rows)
    kept = sorted(user for user, count in counts.items() if count >= _LEAST_TWEETS)
    numbers = {user: number for number, user in enumerate(kept)}
    return [(numbers[user], text, int(mood > 0)) for user, text, mood in rows if user in numbers]


def by_user(tweets: Iterable[tuple[int, str, int]]) -> Population:
    """The population of all users among (user, text, label)."""
    users, texts, labels = zip(*tweets, strict=True)
    features = np.zeros((len(texts), WORDS), np.uint16)
    for row, text in zip(features, texts, strict=True):
        codes = word_codes(text)
        row[: len(codes)] = codes
    owners = np.array(users)
    held_out = held_at_random(owners, 0.2, Key(0).at("sent140", "held out"))
    return by_owner(Examples(features, np.array(labels, dtype=np.int64)), owners, held_out, "user-{:04d}".format)


def word_codes(text: str) -> list[int]:
    """The codes of the first 32 words, from 1 to 8192. Names and links have one code each, whatever they are.

    Example:
      >>> word_codes("@you Nice!") == word_codes("@me nice !")
      True
    """
    words = (
        "@" if word[0] == "@" and len(word) > 1 else "<" if _is_link(word) else word
        for word in _TOKEN.findall(text.lower())
    )
    return [1 + zlib.crc32(word.encode()) % BUCKETS for word, _ in zip(words, range(WORDS), strict=False)]


def _is_link(word: str) -> bool:
    return word == "<url>" or word.startswith(("http://", "https://", "www."))


def word_counts(examples: Examples) -> Examples:
    """The same tweets as how often each word occurs, for models that do not learn from order.

    Shapes: features (n, 32) of codes; returns (n, 8192) uint8, the count of code 1 first. They fit `SENT140_COUNTS`.
    """
    counts = np.zeros((len(examples), BUCKETS + 1), np.uint8)
    np.add.at(counts, (np.arange(len(examples))[:, np.newaxis], examples.features), 1)
    return Examples(counts[:, 1:], examples.labels)

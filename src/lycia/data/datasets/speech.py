"""What Shakespeare's characters say, one letter at a time."""

import json
import re
from collections.abc import Mapping
from functools import cache

import numpy as np

from lycia.core.training import NodeData
from lycia.data.datasets.description import Dataset, File
from lycia.data.datasets.finding import content_of
from lycia.data.datasets.owners import frozen
from lycia.data.population import Examples, Population
from lycia.data.schema import Schema

ALPHABET = "\n !\"$&'(),-./0123:;?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]_abcdefghijklmnopqrstuvwxyz{"
"""The characters that occur. The code of one is its place here, counted from 1; 0 stands before the beginning."""

CONTEXT = 80
"""How many characters the model sees."""

SHAKESPEARE = Schema(shape=(CONTEXT,), bounds=(0, len(ALPHABET)), labels=tuple(range(len(ALPHABET) + 1)))
"""The codes of 80 characters, and that of the next; `ALPHABET` says what they mean."""

_ROLES, _TINY = "shakespeare_roles.jsonl", "tinyshakespeare.txt"
_LEAST_SPEECHES = 2
_HELD_OUT = 0.2

ABOUT_SHAKESPEARE = Dataset(
    name="shakespeare",
    title="Shakespeare's plays by role",
    folder="shakespeare",
    licence="the plays are in the public domain; this edition CC BY 2.5",
    source="William Shakespeare, 37 plays, in the text of Project Gutenberg that the Python package shakespeare 0.6 "
    "carries",
    nodes="1,097 roles with two speeches or more",
    schema=SHAKESPEARE,
    loaders=("shakespeare_by_role",),
    files=(File(_ROLES, 6112584, "9a8a99955cddd41439fc8b012bcbea9efe1a52f8b2d5424b6bb1d0d4e14a49fa"),),
)

ABOUT_TINY_SHAKESPEARE = Dataset(
    name="tiny_shakespeare",
    title="tinyshakespeare by role",
    folder="shakespeare",
    licence="the plays are in the public domain; no licence is stated for this excerpt",
    source='Karpathy 2015, "The unreasonable effectiveness of recurrent neural networks", github.com/karpathy/char-rnn',
    nodes="",
    schema=SHAKESPEARE,
    loaders=("tiny_shakespeare_by_role",),
    files=(
        File(
            _TINY,
            1115394,
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            (
                "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e"
                "/data/tinyshakespeare/input.txt",
            ),
        ),
    ),
)


@cache
def shakespeare_by_role() -> Population:
    """Next characters by who speaks them: 1,097 roles of 37 plays, such as "macbeth/DUNCAN". They fit `SHAKESPEARE`.

    A role's speeches are joined in the order of the play, with a line break between; roles with one speech are left
    out. Held out is the last fifth of a role's text. A window reaches back into what comes before it, and is filled up
    with 0 where there is nothing.

    Shapes: features (characters, 80) uint8, views of each role's text; labels (characters,) uint8.
    Raises: DataError, if the file is damaged, or not here: it has no public address (`tiny_shakespeare_by_role` has).
    Source: Project Gutenberg's text; the task is that of McMahan et al. 2017, arXiv:1602.05629, whose edition had 1,146
      roles.
    """
    speeches: dict[str, list[str]] = {}
    for line in content_of(ABOUT_SHAKESPEARE, _ROLES).decode("utf-8").splitlines():
        said = json.loads(line)
        speeches.setdefault(f"{said['play']}/{said['role']}", []).append(said["text"])
    return of_roles(speeches)


@cache
def tiny_shakespeare_by_role() -> Population:
    """The same task on a million characters of the plays, by the name of who speaks. They fit `SHAKESPEARE`.

    A name such as "First Citizen" stands for whoever bears it in any of these plays.

    Shapes: features (characters, 80) uint8, views of each role's text; labels (characters,) uint8.
    Raises: DataError, if the file is damaged, or not here and cannot be fetched (1.1 MB).
    Source: Karpathy 2015, github.com/karpathy/char-rnn, data/tinyshakespeare.
    """
    return of_roles(read_speeches(content_of(ABOUT_TINY_SHAKESPEARE, _TINY).decode("ascii")))


def read_speeches(text: str) -> dict[str, list[str]]:
    """Who says what, in order: each speech is a line with a name and a colon, then its lines, then an empty line."""
    speeches: dict[str, list[str]] = {}
    for name, speech in re.findall(r"^([^\n:]+):\n((?:[^\n]+\n)+)(?=\n|\Z)", text, re.MULTILINE):
        speeches.setdefault(name, []).append(speech.rstrip("\n"))
    return speeches


def of_roles(speeches: Mapping[str, list[str]]) -> Population:
    """The population of all roles with two speeches or more, in their order there."""
    codes = np.zeros(256, np.uint8)
    codes[np.frombuffer(ALPHABET.encode("ascii"), np.uint8)] = np.arange(1, len(ALPHABET) + 1)
    texts = {}
    for role, said in speeches.items():
        if len(said) >= _LEAST_SPEECHES:
            known = codes[np.frombuffer("\n".join(said).encode("ascii"), np.uint8)]
            texts[role] = frozen(np.concatenate([np.zeros(CONTEXT, np.uint8), known]))
    trained = {role: len(text) - CONTEXT - round(_HELD_OUT * (len(text) - CONTEXT)) for role, text in texts.items()}

    def load(role: str) -> NodeData:
        text, cut = texts[role], trained[role]
        windows = np.lib.stride_tricks.sliding_window_view(text, CONTEXT)[:-1]
        examples = Examples(windows, text[CONTEXT:])
        return NodeData(examples[:cut], examples[cut:])

    return Population(tuple(texts), load, sizes=np.array(list(trained.values())))

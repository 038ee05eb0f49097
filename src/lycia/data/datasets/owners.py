"""Examples divided among those to whom they belong: natural nodes, whose data are views into one array."""

from collections.abc import Callable

import numpy as np

from lycia.core.keys import Key
from lycia.core.training import NodeData
from lycia.data.population import Examples, Population


def by_owner(examples: Examples, owners: np.ndarray, held_out: np.ndarray, name: Callable[[int], str]) -> Population:
    """The population of all owners, in the order of their numbers.

    Shapes: owners (n,) of whole numbers; held_out (n,) of bool.
    Guarantees: a node's examples keep their order; they are views, and the one array below cannot be written to.
    """
    order = np.lexsort((held_out, owners))  # stable
    sorted_examples = Examples(frozen(examples.features[order]), frozen(examples.labels[order]), examples.columns)
    numbers, whose, counts = np.unique(owners, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    begins = ends - counts
    trained = counts - np.bincount(whose[held_out], minlength=len(numbers))
    names = tuple(name(int(number)) for number in numbers)
    places = {own: place for place, own in enumerate(names)}

    def load(own: str) -> NodeData:
        place = places[own]
        begin, middle, end = begins[place], begins[place] + trained[place], ends[place]
        return NodeData(sorted_examples[begin:middle], sorted_examples[middle:end])

    return Population(names, load, sizes=trained)


def held_at_random(owners: np.ndarray, share: float, key: Key) -> np.ndarray:
    """(n,) bool: which examples are held out, a random `share` of each owner's, at least one on either side."""
    held = np.zeros(len(owners), dtype=bool)
    for own in _places_by_owner(owners):
        order = key.at(int(owners[own[0]])).generator().permutation(len(own))
        held[own[order[: _held(share, len(own))]]] = True
    return held


def held_at_the_end(owners: np.ndarray, share: float) -> np.ndarray:
    """(n,) bool: which examples are held out, the last `share` of each owner's, at least one on either side."""
    held = np.zeros(len(owners), dtype=bool)
    for own in _places_by_owner(owners):
        held[own[len(own) - _held(share, len(own)) :]] = True
    return held


def frozen(array: np.ndarray) -> np.ndarray:
    """The same array, which can no longer be written to: one copy serves everybody."""
    array.setflags(write=False)
    return array


def _held(share: float, count: int) -> int:
    return min(max(round(share * count), 1), count - 1)


def _places_by_owner(owners: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(owners, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(owners[order])) + 1)

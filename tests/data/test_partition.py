"""Every example goes to exactly one part, whatever the rule and the key."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lycia.core.keys import Key
from lycia.data import Examples, by_label_shards, by_label_skew, evenly, hold_out
from lycia.errors import DataError

RULES = {
    "evenly": evenly,
    "skew": lambda examples, nodes, key: by_label_skew(examples, nodes, key, alpha=0.3),
    "extreme skew": lambda examples, nodes, key: by_label_skew(examples, nodes, key, alpha=1e-6),
    "shards": lambda examples, nodes, key: by_label_shards(examples, nodes, key, shards=2),
    "mixed shards": lambda examples, nodes, key: by_label_shards(examples, nodes, key, shards=2, mixed=0.3),
}


def numbered(count: int, labels: int = 4) -> Examples:
    return Examples(np.arange(count)[:, np.newaxis], np.arange(count) % labels)


def places(parts: tuple[Examples, ...]) -> list[int]:
    return sorted(int(place) for part in parts for place in part.features[:, 0])


def shares(part: Examples) -> np.ndarray:
    return np.sort(np.bincount(part.labels, minlength=4) / len(part))[::-1]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@given(count=st.integers(20, 60), nodes=st.integers(1, 7), seed=st.integers(0, 1000))
def test_every_example_is_in_exactly_one_part(rule, count: int, nodes: int, seed: int):
    parts = rule(numbered(count), nodes, Key(seed))
    assert len(parts) == nodes
    assert places(parts) == list(range(count))
    assert min(map(len, parts)) >= 1


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_key_names_one_partition(rule):
    examples = numbered(40)
    same, again, other = (rule(examples, 4, Key(seed)) for seed in (1, 1, 2))
    assert [part.features.tolist() for part in same] == [part.features.tolist() for part in again]
    assert [part.features.tolist() for part in same] != [part.features.tolist() for part in other]


@pytest.mark.parametrize("rule", [RULES["evenly"], RULES["skew"], RULES["extreme skew"]])
def test_sizes_differ_by_at_most_one(rule):
    sizes = {len(part) for part in rule(numbered(103), 4, Key(0))}
    assert sizes == {25, 26}


def test_skew_grows_as_alpha_shrinks():
    largest = [
        np.mean([shares(part)[0] for part in by_label_skew(numbered(400), 5, Key(0), alpha=alpha)])
        for alpha in (1000, 1, 0.01)
    ]
    assert largest[0] < 0.32
    assert largest[0] < largest[1] < largest[2]
    assert largest[2] > 0.7


def test_shards_leave_a_node_few_labels_and_mixing_leaves_none_foreign():
    pure = by_label_shards(numbered(400, labels=10), 5, Key(0), shards=2)
    assert all(len(np.unique(part.labels)) <= 4 for part in pure)
    mixed = by_label_shards(numbered(400, labels=10), 5, Key(0), shards=2, mixed=0.5)
    assert all(len(np.unique(part.labels)) >= 8 for part in mixed)


def test_held_out_examples_are_not_trained_on():
    data = hold_out(numbered(10), 0.3, Key(0))
    assert (len(data.train), len(data.held_out)) == (7, 3)
    assert places((data.train, data.held_out)) == list(range(10))
    assert [len(hold_out(numbered(2), share, Key(0)).held_out) for share in (0.01, 0.99)] == [1, 1]


@pytest.mark.parametrize(
    "divide",
    [
        lambda: evenly(numbered(3), 4, Key(0)),
        lambda: evenly(numbered(3), 0, Key(0)),
        lambda: by_label_skew(numbered(3), 4, Key(0), alpha=1),
        lambda: by_label_skew(numbered(9), 4, Key(0), alpha=0),
        lambda: by_label_shards(numbered(7), 4, Key(0), shards=2),
        lambda: by_label_shards(numbered(9), 4, Key(0), shards=0),
        lambda: by_label_shards(numbered(9), 4, Key(0), mixed=1),
        lambda: hold_out(numbered(1), 0.5, Key(0)),
        lambda: hold_out(numbered(9), 1.0, Key(0)),
    ],
)
def test_what_cannot_be_divided_is_told_why(divide):
    with pytest.raises(DataError, match="do: "):
        divide()

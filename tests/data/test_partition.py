"""Every example goes to exactly one part, whatever the rule and the key."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lycia.core.keys import Key
from lycia.core.training import NodeData
from lycia.data import Column, Examples, Schema, by_label_shards, by_label_skew, evenly, hold_out
from lycia.data.partition import by_feature, by_key, by_size_skew, population_of, with_noise
from lycia.errors import AppError, DataError

RULES = {
    "evenly": evenly,
    "skew": lambda examples, nodes, key: by_label_skew(examples, nodes, key, alpha=0.3),
    "extreme skew": lambda examples, nodes, key: by_label_skew(examples, nodes, key, alpha=1e-6),
    "shards": lambda examples, nodes, key: by_label_shards(examples, nodes, key, shards=2),
    "mixed shards": lambda examples, nodes, key: by_label_shards(examples, nodes, key, shards=2, mixed=0.3),
    "sizes": lambda examples, nodes, key: by_size_skew(examples, nodes, key, beta=0.5),
    "extreme sizes": lambda examples, nodes, key: by_size_skew(examples, nodes, key, beta=1e-6),
    "feature": lambda examples, nodes, key: by_feature(examples, nodes, key, feature=0, mixed=0.3),
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


@given(nodes=st.integers(1, 9), least=st.integers(1, 5), beta=st.floats(1e-3, 1e3), seed=st.integers(0, 100))
def test_sizes_are_skewed_above_a_least(nodes: int, least: int, beta: float, seed: int):
    parts = by_size_skew(numbered(60), nodes, Key(seed), beta=beta, least=least)
    assert min(map(len, parts)) >= least
    assert places(parts) == list(range(60))


def test_sizes_become_alike_as_beta_grows():
    uneven, alike = ([len(part) for part in by_size_skew(numbered(1000), 10, Key(0), beta=beta)] for beta in (0.3, 1e4))
    assert max(uneven) > 250
    assert max(alike) - min(alike) < 20


@given(count=st.integers(10, 60), nodes=st.integers(1, 7), seed=st.integers(0, 100))
def test_a_feature_rises_from_node_to_node(count: int, nodes: int, seed: int):
    values = np.random.default_rng(seed).integers(0, 5, count).astype(np.float64)
    examples = Examples(np.stack([np.arange(count), values], axis=1), np.zeros(count), ("place", "height"))
    parts = by_feature(examples, nodes, Key(seed), feature="height")
    joined = np.concatenate([np.sort(part.features[:, 1]) for part in parts])
    assert joined.tolist() == np.sort(values).tolist()
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_feature_is_a_column_a_place_or_a_number_for_each_example():
    pictures = Examples(np.arange(24.0).reshape(6, 2, 2), np.zeros(6))
    named = Examples(pictures.features.reshape(6, 4), np.zeros(6), ("a", "b", "c", "d"))
    for examples, feature in ((pictures, 3), (pictures, -1), (pictures, np.arange(6.0)), (named, "d"), (named, 3)):
        parts = by_feature(examples, 2, Key(0), feature=feature)
        assert [part.features.max() for part in parts] == [11, 23]


def test_mixing_lets_ranges_overlap():
    low, high = by_feature(numbered(200), 2, Key(0), feature=0, mixed=0.5)
    assert low.features.max() > high.features.min()


def test_natural_parts_are_sorted_by_their_key_and_named_in_text():
    parts = by_key(numbered(6), [10, 2, 10, 10, 2, 7])
    assert {name: places((part,)) for name, part in parts.items()} == {"2": [1, 4], "7": [5], "10": [0, 2, 3]}
    assert list(by_key(numbered(6), [10, 2, 10, 10, 2, 7], least=2)) == ["2", "10"]
    assert list(by_key(numbered(3), [2.0, 1.0, 2.0])) == ["1", "2"]
    assert list(by_key(numbered(3), np.array(["b", "a", "b"], dtype=object))) == ["a", "b"]


@given(keys=st.lists(st.sampled_from(["north", "east", "south"]), min_size=1, max_size=30))
def test_every_example_goes_to_the_node_that_its_key_names(keys: list[str]):
    parts = by_key(numbered(len(keys)), keys)
    assert {name: places((part,)) for name, part in parts.items()} == {
        name: [place for place, key in enumerate(keys) if key == name] for name in sorted(set(keys))
    }


TABLE = Schema(
    columns=(
        Column("age", unit="years", bounds=(0, 100)),
        Column("visits", "integer", bounds=(0, 9)),
        Column("sex", "category", categories=(0, 1)),
        Column("score"),
    ),
    labels=(0, 1),
)


def test_noise_grows_from_node_to_node_and_the_schema_still_holds():
    random = np.random.default_rng(0)
    features = np.stack(
        [random.uniform(0, 100, 400), random.integers(0, 9, 400), random.integers(0, 2, 400), random.normal(size=400)],
        axis=1,
    )
    parts = evenly(Examples(features, random.integers(0, 2, 400), ("age", "visits", "sex", "score")), 4, Key(0))
    noisy = with_noise(parts, TABLE, Key(0), level=0.2)
    assert noisy[0] is parts[0]
    assert all(TABLE.differences(NodeData(part)) == [] for part in noisy)
    shifts = [np.std(after.features - before.features, axis=0) for before, after in zip(parts, noisy, strict=True)]
    assert shifts[1][0] < shifts[2][0] < shifts[3][0] < 20  # years
    assert shifts[3][1:3].tolist() == [0, 0]  # what is counted or named has no noise
    assert shifts[3][3] == pytest.approx(0.2, rel=0.2)
    assert [part.labels.tolist() for part in noisy] == [part.labels.tolist() for part in parts]
    again = with_noise(parts, TABLE, Key(0), level=0.2)
    assert [part.features.tolist() for part in again] == [part.features.tolist() for part in noisy]


def test_noise_on_pictures_stays_within_their_bounds():
    white = Examples(np.zeros((20, 2, 2), dtype=np.uint8), np.zeros(20, dtype=int))
    noisy = with_noise([white, white, white], Schema(shape=(2, 2), bounds=(0, 1), labels=(0, 1)), Key(0), level=0.5)
    assert noisy[2].features.dtype == np.float32
    assert 0 <= noisy[2].features.min() < noisy[2].features.max() <= 1
    assert noisy[2].features.mean() > noisy[1].features.mean() > 0


def test_a_population_of_parts_holds_something_out_at_every_node():
    parts = evenly(numbered(50), 5, Key(0))
    population = population_of(parts, Key(1), held_out=0.3)
    assert population.names == ("node-0", "node-1", "node-2", "node-3", "node-4")
    assert population.sizes().tolist() == [len(population[name].train) for name in population] == [7] * 5
    for name, part in zip(population, parts, strict=True):
        assert places((population[name].train, population[name].held_out)) == places((part,))
    fewer = population_of(parts[:2], Key(1), held_out=0.3)
    assert places((fewer["node-1"].held_out,)) == places((population["node-1"].held_out,))


def test_a_population_of_natural_parts_has_their_names_or_others():
    parts = by_key(numbered(6), ["b", "a", "b", "a", "c", "b"])
    population = population_of(parts, Key(0))
    assert population.names == ("a", "b", "c")
    assert population["c"].held_out is None
    assert population.sizes().tolist() == [1, 2, 1]
    assert population_of(parts, Key(0), held_out=0)["b"].held_out is None
    assert population_of(parts, Key(0), names=["x", "y", "z"]).names == ("x", "y", "z")


@pytest.mark.parametrize("names", [["a"], ["a", "a"], ["a", "b", "c"]])
def test_every_part_has_a_name_of_its_own(names: list[str]):
    with pytest.raises(AppError):
        population_of(evenly(numbered(4), 2, Key(0)), Key(0), names=names)


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
        lambda: by_size_skew(numbered(9), 4, Key(0), beta=0),
        lambda: by_size_skew(numbered(9), 4, Key(0), beta=1, least=3),
        lambda: by_feature(numbered(9), 4, Key(0), feature=0, mixed=1),
        lambda: by_feature(numbered(9), 4, Key(0), feature=1),
        lambda: by_feature(numbered(9), 4, Key(0), feature="age"),
        lambda: by_feature(numbered(9), 4, Key(0), feature=np.full(9, np.nan)),
        lambda: by_feature(numbered(9), 4, Key(0), feature=np.zeros(8)),
        lambda: by_key(numbered(3), ["a", "b"]),
        lambda: by_key(numbered(2), ["a", None]),
        lambda: by_key(numbered(2), [1.0, np.nan]),
        lambda: by_key(numbered(2), ["a", "b"], least=2),
        lambda: with_noise([numbered(2)], TABLE, Key(0), level=0.1),
        lambda: with_noise([numbered(2)], Schema(shape=1), Key(0), level=-1),
        lambda: population_of([numbered(2)], Key(0), held_out=1),
        lambda: hold_out(numbered(1), 0.5, Key(0)),
        lambda: hold_out(numbered(9), 1.0, Key(0)),
    ],
)
def test_what_cannot_be_divided_is_told_why(divide):
    with pytest.raises(DataError, match="do: "):
        divide()

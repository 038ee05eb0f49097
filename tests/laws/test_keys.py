"""A key is a place, and each place has one stream."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lycia.core.keys import Key, derived, from_entropy, generators

steps = st.one_of(st.text(max_size=6), st.integers(-(2**40), 2**40))
paths = st.lists(steps, max_size=4).map(tuple)
seeds = st.integers(-(2**70), 2**70)
KNOWN_DIGEST = "b481e7b15d3c93796a0a6636ac35a31b"
KNOWN_NUMBERS = [3537411039, 3686315220, 2459911229, 3701979314]


def typed(path: tuple) -> tuple:
    return tuple((type(step), step) for step in path)


@given(one=paths, other=paths, seed=seeds)
def test_different_paths_are_different_places(one: tuple, other: tuple, seed: int):
    assert (Key(seed, one).digest() == Key(seed, other).digest()) == (typed(one) == typed(other))


@given(path=paths, one=seeds, other=seeds)
def test_different_seeds_are_different_places(path: tuple, one: int, other: int):
    assert (Key(one, path).digest() == Key(other, path).digest()) == (one == other)


@given(path=paths, more=paths, seed=seeds)
def test_a_path_may_be_walked_in_one_go_or_step_by_step(path: tuple, more: tuple, seed: int):
    key = Key(seed).at(*path)
    for step in more:
        key = key.at(step)
    assert key == Key(seed).at(*path, *more)


def test_texts_that_run_together_and_numbers_that_look_like_texts_are_told_apart():
    places = [("ab", "c"), ("a", "bc"), ("abc",), ("1",), (1,), ("", "abc"), ("abc", ""), (), ("",), (-1,), ("-1",)]
    assert len({Key(1, place).digest() for place in places}) == len(places)


@given(seed=st.integers(0, 2**32), nodes=st.lists(st.text(max_size=4), max_size=5), purpose=st.text(max_size=4))
def test_the_generators_of_a_block_are_those_that_nodes_make_for_themselves(seed: int, nodes: list[str], purpose: str):
    block = [generator.random(3).tolist() for generator in generators(Key(seed), nodes, purpose)]
    assert block == [Key(seed).at(node, purpose).generator().random(3).tolist() for node in nodes]


def test_a_stream_depends_on_no_global_generator_and_moves_none():
    np.random.seed(5)  # noqa: NPY002 - the global generator is what this is about
    numbers, after = Key(3).at("a").generator().random(4).tolist(), np.random.random()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    assert np.random.random() == after  # noqa: NPY002
    assert Key(3).at("a").generator().random(4).tolist() == numbers


def test_a_stream_is_the_same_on_every_machine():
    assert Key(1).at(2, "node", "dropout").digest().hex()[:32] == KNOWN_DIGEST
    assert Key(1).at(2, "node", "dropout").generator().integers(0, 2**32, 4).tolist() == KNOWN_NUMBERS


def test_numbers_of_numpy_are_the_same_places():
    assert Key(np.int64(1)).at(np.int32(2)).digest() == Key(1).at(2).digest()


@given(one=st.text(max_size=5), other=st.text(max_size=5), secret=st.binary(min_size=32, max_size=32))
def test_a_secret_gives_another_stream_for_each_purpose(one: str, other: str, secret: bytes):
    same = from_entropy(secret, one).random() == from_entropy(secret, other).random()
    assert same == (one == other) == (derived(secret, one) == derived(secret, other))


def test_what_is_derived_depends_on_every_byte_of_the_secret():
    secret = bytes(32)
    changed = {derived(secret[:place] + b"\1" + secret[place + 1 :], "noise") for place in range(32)}
    assert len(changed | {derived(secret, "noise")}) == 33

"""The real coordinator and the real agents in a world that a seed makes: whatever befalls them, they keep their word.

    LYCIA_SEED=17 python -m pytest -n0 tests/chaos/test_fault_simulation.py -k fixed     one seed, with its story
    LYCIA_SEEDS=100000 python -m pytest tests/chaos/test_fault_simulation.py -m slow      many, from a new beginning

What a seed shows stands in `deterministic/promises.py`; what may befall them, in `deterministic/simulation.py`.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.chaos.deterministic import planted
from tests.chaos.deterministic.simulation import Story, tell

SEEDS = 1000
AT_ONCE = 20
MANY = int(os.environ.get("LYCIA_SEEDS", "0"))
ALONE = os.environ.get("LYCIA_SEED")


def seeds(first: int, count: int) -> list[range]:
    """The seeds of a test, some in each of its cases; or the one that is looked at alone."""
    if ALONE is not None:
        return [range(int(ALONE), int(ALONE) + 1)]
    return [range(start, start + AT_ONCE) for start in range(first, first + count, AT_ONCE)]


def told(some: range) -> str:
    return f"{some.start}-{some.stop - 1}"


def check(kind: str, some: range) -> None:
    for seed in some:
        story = tell(seed, kind)
        if story.broken is not None:
            pytest.fail(story.told(), pytrace=False)


@pytest.mark.parametrize("some", seeds(0, SEEDS), ids=told)
def test_with_a_fixed_cohort_every_model_is_that_of_the_quiet_run(some: range):
    check("fixed", some)


@pytest.mark.parametrize("some", seeds(0, SEEDS), ids=told)
def test_under_the_default_rules_every_run_ends_and_every_model_follows_from_its_record(some: range):
    check("default", some)


@pytest.mark.slow
@pytest.mark.parametrize("some", seeds(SEEDS, MANY), ids=told)
@pytest.mark.parametrize("kind", ["fixed", "default"])
def test_many_more_seeds(kind: str, some: range):
    check(kind, some)


# -------------------------------------------------------------------------------------------------- the simulation itself


@pytest.mark.parametrize("kind", ["fixed", "default"])
def test_the_same_seed_tells_the_same_story(kind: str):
    for seed in range(4):
        one, other = tell(seed, kind), tell(seed, kind)
        assert one.trace == other.trace
        assert (one.digests, one.state, one.moments) == (other.digests, other.state, other.moments)


@pytest.mark.parametrize(("plant", "kind", "within"), planted.BUGS, ids=lambda value: getattr(value, "__name__", None))
def test_a_planted_bug_is_found(plant: Callable[[], Any], kind: str, within: int):
    stories: list[Story] = []
    for seed in range(within):
        stories.append(tell(seed, kind, plant=plant))
        if stories[-1].broken is not None:
            return
    pytest.fail(f"{plant.__name__} was not found by {within} seeds", pytrace=False)

"""The real coordinator and the real agents in a world that a seed makes: whatever befalls them, they keep their word.

    LYCIA_SEEDS=17 python -m pytest -n0 tests/chaos/test_fault_simulation.py -k fixed      one seed, with its story
    LYCIA_SEEDS=1000-99999 python -m pytest tests/chaos/test_fault_simulation.py           many new ones

What a seed shows stands in `deterministic/promises.py`; what may befall them, in `deterministic/simulation.py`.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest

from lycia.storage.carrying import model_digest
from lycia.testing import Federation
from tests.chaos.deterministic import planted
from tests.chaos.deterministic.app import NAMES, PLANS, SmallTrainer, data_of
from tests.chaos.deterministic.simulation import quiet, tell

FIRST, _, LAST = os.environ.get("LYCIA_SEEDS", "0-999").partition("-")
AT_ONCE = 25  # seeds in one case, so that cases may be spread over cores
QUICK = 100  # seeds that take a few seconds; `./check --quick` leaves out the others


def cases() -> list[Any]:
    """All seeds, some in each case."""
    first, last = int(FIRST), int(LAST or FIRST)
    ranges = (range(start, min(start + AT_ONCE, last + 1)) for start in range(first, last + 1, AT_ONCE))
    return [
        pytest.param(some, id=f"{some.start}-{some.stop - 1}", marks=[pytest.mark.slow] if some.start >= QUICK else [])
        for some in ranges
    ]


def check(kind: str, seeds: range) -> None:
    for seed in seeds:
        story = tell(seed, kind)
        if story.broken is not None:
            pytest.fail(story.told(), pytrace=False)


@pytest.mark.parametrize("seeds", cases())
def test_with_a_fixed_cohort_every_model_is_that_of_the_quiet_run(seeds: range):
    check("fixed", seeds)


@pytest.mark.parametrize("seeds", cases())
def test_under_the_default_rules_every_run_ends_and_every_model_follows_from_its_record(seeds: range):
    check("default", seeds)


# ------------------------------------------------------------------------------------------------ the simulation itself


@pytest.mark.parametrize("kind", PLANS)
def test_the_same_seed_tells_the_same_story(kind: str):
    for seed in range(4):
        one, other = tell(seed, kind), tell(seed, kind)
        assert one.trace == other.trace
        assert (one.digests, one.state, one.moments) == (other.digests, other.state, other.moments)


@pytest.mark.parametrize("by_parts", [False, True])
@pytest.mark.parametrize("name", PLANS["fixed"])
def test_a_quiet_run_ends_with_the_model_of_a_federation_without_network_or_disk(name: str, by_parts: bool):
    federation = Federation(PLANS["fixed"][name], SmallTrainer(), {name: data_of(name) for name in NAMES})
    federation.hold()
    assert quiet("fixed", name, False)[3] == model_digest(federation.run.layout, federation.model)
    assert quiet("fixed", name, by_parts).keys() == {0, 1, 2, 3}


@pytest.mark.parametrize(("plant", "kind", "within"), planted.BUGS, ids=lambda value: getattr(value, "__name__", None))
def test_a_planted_bug_is_found(plant: Callable[[], Any], kind: str, within: int):
    for seed in range(within):
        story = tell(seed, kind, plant=plant)
        if story.broken is not None:
            assert story.told().startswith(f"seed {seed} ({kind}): ")
            return
    pytest.fail(f"{plant.__name__} was not found by {within} seeds", pytrace=False)

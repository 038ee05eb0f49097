"""Every part of every room keeps the contract of its kind."""

import pytest

from lycia.core.plan import describe
from lycia.testing import (
    check_aggregator,
    check_client_rule,
    check_selector,
    check_server_optimizer,
    check_stage,
)
from tests.laws import rooms


def name_of(part: object) -> str:
    return type(part).__name__


CHECKS = [
    *((check_aggregator, part) for part in rooms.aggregators()),
    *((check_selector, part) for part in rooms.selectors()),
    *((check_client_rule, part) for part in rooms.client_rules()),
    *((check_server_optimizer, part) for part in rooms.server_optimizers()),
    *((check_stage, part) for part in rooms.stages()),
]


@pytest.mark.parametrize(("check", "part"), CHECKS, ids=[name_of(part) for _, part in CHECKS])
def test_a_part_keeps_the_contract_of_its_kind(check, part):
    check(part)


def test_the_rooms_were_searched():
    assert {"UniformMean", "ExampleWeightedMean"} <= set(map(name_of, rooms.aggregators()))
    assert {"Everyone", "Uniform", "Poisson", "SizeWeighted"} <= set(map(name_of, rooms.selectors()))
    assert {"FedAvg", "FedProx"} <= set(map(name_of, rooms.client_rules()))
    assert {"SGD", "Adagrad", "Adam", "Yogi"} <= set(map(name_of, rooms.server_optimizers()))


@pytest.mark.parametrize("part", [part for _, part in CHECKS], ids=name_of)
def test_parts_of_ours_go_by_their_bare_name(part):
    assert describe(part)["part"] == name_of(part)

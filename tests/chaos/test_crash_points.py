"""Every named point of the product, before and after it: a process is killed exactly there, and nothing is lost."""

from pathlib import Path

import pytest

from tests.chaos import judging
from tests.chaos.apps import LARGE, NODES, SMALL, made, write_app
from tests.chaos.disks import Flag
from tests.chaos.federation import Federation, Operator, Zygote
from tests.chaos.playing import Play
from tests.chaos.points import MOMENTS, POINTS, Charge, Moment
from tests.chaos.telling import Program

pytestmark = pytest.mark.slow
ROUNDS = {"coordinator": 16, "agent": 10, "trainer": 6}  # more than the lives need
LAG_S: dict[Moment, float] = {"before": 0.03, "after": 0.0}  # what is acknowledged before its write gets out
WHOM = {"coordinator": "coordinator", "agent": "node-0", "trainer": "node-1"}
RUNS: list[tuple[Program, bool]] = [("coordinator", False), ("coordinator", True), ("agent", False), ("trainer", False)]


def charges_of(program: Program, *, small: bool) -> list[Charge]:
    """One life for each point and moment, in an order in which all are reached."""
    return [
        Charge(program, point.name, moment, 1, program == "trainer" or bool(number % 2), LAG_S[moment])
        for number, point in enumerate(POINTS)
        if point.program == program and point.small == small
        for moment in MOMENTS
    ]


@pytest.mark.parametrize(("program", "small"), RUNS, ids=["coordinator", "coordinator, small", "agent", "trainer"])
def test_a_process_that_is_killed_at_every_point_loses_nothing(
    program: Program, small: bool, zygote: Zygote, tmp_path: Path
):
    # Given a federation in which each life of one process ends at another point
    size, rounds, charges = SMALL if small else LARGE, ROUNDS[program], charges_of(program, small=small)
    app = made("strict", size, rounds)
    with Federation(zygote, tmp_path, write_app(tmp_path, "strict", size, 0.0), silence_s=60.0) as federation:
        federation.charges = {WHOM[program]: list(charges)}
        federation.add_coordinator()
        playing = Play(federation, Flag(tmp_path / "full"), down_s=0.0)
        operator = Operator(federation, playing.mend)
        # When a run is held to its end
        playing.hold(operator, app, {f"node-{number}": {} for number in range(NODES["strict"])})
        # Then each point was reached, every model is the quiet run's, and no finished update was made again
        assert list(playing.happened) == [f"{one.moment} {program}'s {one.point}" for one in charges]
        (facts,) = operator.facts
        judging.check_finished(facts, app, tmp_path)
        assert judging.models(facts) == list(judging.quiet("strict", size, rounds))
        assert judging.trained_again(federation.events) == []
        assert operator.pauses == []


def test_points_have_names_of_their_own():
    assert len({(point.program, point.name) for point in POINTS}) == len(POINTS)

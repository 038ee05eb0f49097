"""Runs of real processes under seeded trouble: some seeds here, always the same; many in `tests.chaos.campaign`."""

from collections import Counter
from pathlib import Path

import pytest

from tests.chaos import judging
from tests.chaos.apps import LARGE, NODES, SMALL, Kind, made, write_app
from tests.chaos.disks import Flag
from tests.chaos.federation import Event, Federation, Operator, Zygote
from tests.chaos.playing import PAUSE_S, SILENCE_S, Play, play
from tests.chaos.script import Script, script

pytestmark = pytest.mark.slow
IN_CI, IN_ALL = range(12), range(200)
LOST = 3


@pytest.mark.parametrize("seed", IN_CI)
def test_strict_rules_end_with_the_quiet_runs_models(seed: int, zygote: Zygote, tmp_path: Path):
    play(zygote, script("strict", seed), tmp_path)


@pytest.mark.parametrize("seed", IN_CI)
def test_default_rules_end_and_each_model_follows_from_its_record(seed: int, zygote: Zygote, tmp_path: Path):
    play(zygote, script("default", seed), tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["strict", "default"])
@pytest.mark.parametrize("seed", IN_ALL[len(IN_CI) :])
def test_two_hundred_seeds(kind: Kind, seed: int, zygote: Zygote, tmp_path: Path):
    play(zygote, script(kind, seed), tmp_path)


@pytest.mark.parametrize("size", [LARGE, SMALL], ids=["by parts", "inline"])
def test_the_quiet_run_is_the_simulated_one(size: int, zygote: Zygote, tmp_path: Path):
    outcome = play(zygote, Script("strict", 0, size), tmp_path)
    assert outcome.happened == Counter()
    assert set(outcome.trainings.values()) == {1}


class Losing(Play):
    """Kills three nodes of ten in the middle of their work in each round, and brings them back when it has ended."""

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation, Flag(federation.folder / "full"))
        self._dead = set[str]()
        self.lost: dict[int, set[str]] = {}

    def hear(self, event: Event) -> None:
        if event["said"] == "trains":
            lost = self.lost.setdefault(event["round"], set())
            # Those who have trained in this round cannot be lost in its middle any more; so the first ones are.
            if len(lost) < LOST and event["name"] not in lost | self._dead:
                lost.add(event["name"])
                self._dead.add(event["name"])
                self._federation.kill(event["name"])
        elif event["said"] == "ends round":
            back, self._dead = self._dead, set()
            for name in back:
                super().bury(name)

    def bury(self, name: str) -> None:
        """It stays away until the round ends."""


def test_a_run_completes_where_three_nodes_of_ten_are_lost_in_every_round(zygote: Zygote, tmp_path: Path):
    app = made("lossy", LARGE, rounds := 5)
    app_file = write_app(tmp_path, "lossy", LARGE, PAUSE_S)
    with Federation(zygote, tmp_path, app_file, silence_s=SILENCE_S["lossy"]) as federation:
        federation.add_coordinator()
        losing = Losing(federation)
        operator = Operator(federation, losing.mend)
        losing.hold(operator, app, {f"node-{number}": {} for number in range(NODES["lossy"])})
        (facts,) = operator.facts
        judging.check_finished(facts, app, tmp_path)
        judging.check_records(facts, app)
        assert {number: len(lost) for number, lost in losing.lost.items()} == dict.fromkeys(range(rounds), LOST)

"""One app file, unchanged, simulated and on real processes over TLS: the same model, bit for bit."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lycia import Faults, simulate
from lycia.deployment.local import Federation
from lycia.deployment.operator import follow
from lycia.deployment.starting import start_run
from lycia.runtime.apps import load_app
from lycia.runtime.facts import Fact, RoundEnded
from tests.postgres import PASSWORD, Cluster
from tests.stories.script import SCRIPT

STORIES = Path(__file__).parent
COORDINATOR = (sys.executable, "-m", "tests.stories.scripted_coordinator")
NODE = (sys.executable, "-m", "tests.stories.scripted_node")


@pytest.fixture(autouse=True)
def _stories_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(path) for path in sys.path if path))


class KillCoordinator:
    """Kills the coordinator when a round is done, and starts it again."""

    def __init__(self, federation: Federation, after_round: int) -> None:
        self.federation, self.after_round, self.killed = federation, after_round, False

    def notice(self, fact: Fact) -> None:
        """Strike once."""
        if isinstance(fact, RoundEnded) and fact.record["round"] + 1 == self.after_round and not self.killed:
            self.killed = True
            self.federation.kill("coordinator")
            self.federation.restart("coordinator")


def deployed(app_file: Path, home: Path, kill_after: int | None = None, serve: Sequence[str] = ()) -> Mapping[str, Any]:
    """What the coordinator knows of a run on four node processes. `serve`: more arguments for the coordinator."""
    app = load_app(app_file)
    with Federation(home, app_file, serve, coordinator=COORDINATOR, node=NODE) as federation:
        for name in app.population:
            federation.add_node(name, name)
        federation.wait_nodes(4)
        run = start_run(federation.client, app)
        killer = KillCoordinator(federation, kill_after or 0)
        follow(federation.client, run, [killer])
        assert killer.killed == (kill_after is not None)
        facts: Mapping[str, Any] = federation.client.get(f"/v1/runs/{run}")
        return facts


def models(facts: Mapping[str, Any]) -> list[str]:
    """The digest of the model that each round made."""
    return [record["model"] for record in facts["records"] if record["model"]]


def survivors(facts: Mapping[str, Any]) -> list[list[str]]:
    """Whose updates each round's model is made of."""
    return [record["survivors"] for record in facts["records"]]


@pytest.mark.parametrize("name", ["digits_app", "fedavg_app", "torch_app"])
def test_simulated_and_deployed_end_with_the_same_bits(name: str, tmp_path: Path):
    # Given one app file, and a script: a dropout, a straggler, and a round that misses its quorum
    app_file = STORIES / f"{name}.py"
    simulated = simulate(load_app(app_file), faults=Faults(script=SCRIPT))
    # When the same file runs on real node processes, where the coordinator is killed after round 5
    real = deployed(app_file, tmp_path, kill_after=5)
    # Then every round's model is the same file, and the script was followed in both worlds
    assert models(real) == models(simulated.facts)
    assert survivors(real) == survivors(simulated.facts)
    assert sorted(map(len, survivors(real))) == [1, 2, 2, *[3] * 6]
    assert real["state"] == simulated.state == "finished"


@pytest.mark.slow
def test_with_its_state_in_postgresql_a_coordinator_that_is_killed_ends_with_the_same_bits(
    tmp_path: Path, postgres: Cluster
):
    app_file, url = STORIES / "fedavg_app.py", postgres.fresh()
    simulated = simulate(load_app(app_file), faults=Faults(script=SCRIPT))
    real = deployed(app_file, tmp_path, kill_after=5, serve=["--database", url])
    assert models(real) == models(simulated.facts)
    assert survivors(real) == survivors(simulated.facts)
    # And nothing of it is in a file of the folder, nor the password of the database anywhere
    assert not (tmp_path / "coordinator" / "lycia.db").exists()
    assert [path for path in tmp_path.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()] == []


@pytest.mark.parametrize("name", ["digits_app", "fedavg_app", "torch_app"])
def test_a_simulation_that_stops_at_round_5_and_resumes_ends_with_the_same_bits(name: str, tmp_path: Path):
    app = load_app(STORIES / f"{name}.py")
    whole = simulate(app, faults=Faults(script=SCRIPT))
    # When it stops at round 5, and another process's worth of objects goes on from the folder
    stopped = simulate(app, faults=Faults(script=SCRIPT), directory=tmp_path, until_round=5)
    resumed = simulate(app, faults=Faults(script=SCRIPT), directory=tmp_path)
    # Then nothing differs
    assert stopped.state == "stopped"
    assert stopped.rounds == 5
    assert models(resumed.facts) == models(whole.facts)
    assert resumed.digest == whole.digest


def test_the_late_and_the_lost_are_named_in_the_record():
    app = load_app(STORIES / "fedavg_app.py")
    facts = simulate(app, faults=Faults(script=SCRIPT)).facts
    dropped = {
        (record["round"], drop["node"], drop["kind"]) for record in facts["records"] for drop in record["dropped"]
    }
    late = {item["node"] for record in facts["records"] for item in record["late"]}
    assert dropped == {(1, "birch", "vanished"), (6, "ash", "vanished"), (6, "birch", "vanished")}
    assert late == {"cedar"}

"""kill -9 at a node, in the middle of its work: the round goes on, and the same update comes as without the kill."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lycia import simulate
from lycia.deployment.local import Federation
from lycia.deployment.operator import follow
from lycia.deployment.starting import start_run
from lycia.runtime.apps import load_app

APP = Path(__file__).with_name("watched_app.py")


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Federation]:
    """A coordinator and the three nodes of the app, which find the folder that the test watches."""
    (tmp_path / "meeting").mkdir()
    monkeypatch.setenv("WATCHED_AT", str(tmp_path / "meeting"))
    with Federation(tmp_path / "home", APP, ["--silence", "20"]) as running:
        for name in load_app(APP).population:
            running.add_node(name, name)
        running.wait_nodes(3)
        yield running


def trainer_of(meeting: Path, number: int) -> int:
    """The process that does the watched node's training of that number, once it is in the middle of it."""
    until_s = time.monotonic() + 60
    while not (meeting / f"training-{number}").exists():
        assert time.monotonic() < until_s, "the node did not train"
        time.sleep(0.01)
    return int((meeting / f"training-{number}").read_text())


def kill_trainer(federation: Federation, meeting: Path) -> None:
    """Only the process that has the data."""
    os.kill(trainer_of(meeting, 2), signal.SIGKILL)
    trainer_of(meeting, 3)


def kill_node(federation: Federation, meeting: Path) -> None:
    """Both processes, as a machine that loses its power."""
    federation.kill("watched")
    federation.restart("watched")
    trainer_of(meeting, 3)


def kill_agent(federation: Federation, meeting: Path) -> None:
    """Only the one that has the key: its trainer is still at work when the next agent asks another one."""
    orphan = trainer_of(meeting, 2)
    agent = federation._processes.pop("watched")
    agent.kill()
    agent.wait()
    federation.restart("watched")
    assert trainer_of(meeting, 3) != orphan
    os.kill(orphan, 0)  # it is still there, and will find that nobody waits for it


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("kill", [kill_trainer, kill_node, kill_agent])
def test_a_kill_in_the_middle_of_training_changes_no_bit(
    kill: Callable[[Federation, Path], None], federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Given a run in which the watched node is in the middle of its second training
    meeting, app = tmp_path / "meeting", load_app(APP)
    run = start_run(federation.client, app)
    trainer_of(meeting, 2)
    # When it is killed there, and comes back
    kill(federation, meeting)
    (meeting / "go").touch()
    follow(federation.client, run, [])
    # Then nobody else was asked again, and every model is what it is where nothing ever happens
    facts = federation.client.get(f"/v1/runs/{run}")
    assert facts["state"] == "finished"
    assert [len(record["survivors"]) for record in facts["records"]] == [3, 3, 3]
    assert len(list(meeting.glob("training-*"))) == 4
    monkeypatch.delenv("WATCHED_AT")
    undisturbed = simulate(app).facts
    assert [record["model"] for record in facts["records"]] == [record["model"] for record in undisturbed["records"]]

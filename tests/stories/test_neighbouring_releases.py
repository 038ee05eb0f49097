"""A node, or a coordinator, of the next or the previous minor release takes part; one of a distant release does not."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lycia.deployment.local import Federation
from lycia.deployment.operator import follow
from lycia.deployment.starting import start_run
from lycia.deployment.wire import InviteMessage
from lycia.errors import LyciaError, TrainingError
from lycia.runtime.apps import load_app

APP = Path(__file__).parents[1] / "deployment" / "small_app.py"
NEIGHBOUR = (sys.executable, "-m", "tests.stories.scripted_neighbour")


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    """A coordinator of this release, and nodes of another one."""
    with Federation(tmp_path / "home", APP, ["--silence", "20"], node=NEIGHBOUR) as running:
        yield running


@pytest.mark.parametrize("release", ["0.2.3", "0.0.9"])
def test_nodes_of_a_neighbouring_release_take_part(
    federation: Federation, release: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PRETENDS_TO_BE", release)
    for name in ("node-0", "node-1"):
        federation.add_node(name, name)
    federation.wait_nodes(2)
    run = start_run(federation.client, load_app(APP))
    assert follow(federation.client, run, []) == "finished"
    facts = federation.client.get(f"/v1/runs/{run}")
    assert [record["survivors"] for record in facts["records"]] == [["node-0", "node-1"]] * 3


@pytest.mark.parametrize("release", ["0.3.0", "1.0.0"])
def test_a_node_of_a_distant_release_is_told_so_on_its_terminal(
    federation: Federation, release: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PRETENDS_TO_BE", release)
    federation.add_node("node-0", "node-0")
    with pytest.raises(TrainingError, match="node-0 did not join"):
        federation.wait_nodes(1)
    words = federation.last_words("node-0")
    assert f"error: a caller of lycia {release} does not work with a coordinator of lycia 0.1" in words
    assert "do:  install lycia 0.0, 0.1, 0.2 where the call comes from" in words
    assert "a caller is turned away" in federation.last_words("coordinator")


def test_a_coordinator_that_would_let_anybody_in_is_refused_by_its_callers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PRETENDS_TO_BE", "0.4.0")
    refused = pytest.raises(LyciaError, match=r"lycia 0\.1.* does not work with a coordinator of lycia 0\.4\.0")
    with Federation(tmp_path / "home", APP, coordinator=NEIGHBOUR) as federation, refused:
        federation.client.post("/v1/invitations", InviteMessage(name="node-0"))

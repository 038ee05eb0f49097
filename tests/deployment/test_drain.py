"""Drain and rolling restart: whoever is told to stop finishes what it has in hand, and nothing is lost."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import numpy as np
import pytest

from lycia import simulate
from lycia.deployment.identity import Identity
from lycia.deployment.local import Federation
from lycia.deployment.operator import OperatorAccess, follow
from lycia.deployment.starting import start_run
from lycia.runtime.apps import load_app
from tests.deployment.by_hand import Answer, ByHand, free_port
from tests.deployment.conftest import APP
from tests.deployment.raw_node import Draft, RawNode
from tests.deployment.test_killed_nodes import trainer_of

WATCHED = Path(__file__).with_name("watched_app.py")

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals")


class Slow:
    """An update that arrives as slowly as a test likes."""

    def __init__(self, federation: Federation, node: RawNode, tmp_path: Path) -> None:
        access, key = OperatorAccess.at(federation.coordinator_home), tmp_path / "raw" / node.name / "key.pem"
        self.hand = ByHand(access.url, access.certificate, node.name, Identity.at(key)).sign_in()
        ask = node.poll(10.0)
        assert ask is not None
        layout = node.layout(ask)
        delta = np.full(layout.size("trained"), 0.01, np.float32)
        self.ask, self._content, self._go = ask, Draft(ask, node.name, layout, delta).file(), threading.Event()
        self._answers: list[Answer] = []
        self._thread = threading.Thread(target=self._send, daemon=True)

    def _send(self) -> None:
        place = f"/v1/runs/{self.ask.run}/tasks/{self.ask.task}/update"
        with suppress(OSError, HTTPException):  # a coordinator that ends at once says nothing
            self._answers.append(self.hand.call("POST", place, self._pieces()))

    def _pieces(self) -> Iterator[bytes]:
        yield self._content[:10]
        self._go.wait(60)
        yield self._content[10:]

    def begin(self) -> None:
        """Send the first bytes."""
        self._thread.start()

    def finish(self) -> list[str]:
        """Send the rest; returns why it was not taken, if anything is said of it."""
        self._go.set()
        self._thread.join(30)
        return [str(answer.json()["refused"]) for answer in self._answers]


@pytest.fixture
def port() -> int:
    """Where the figures are."""
    return free_port()


@pytest.fixture
def federation(tmp_path: Path, port: int) -> Iterator[Federation]:
    """A coordinator whose open bodies can be counted."""
    with Federation(tmp_path / "home", APP, ["--silence", "30", "--metrics", f"127.0.0.1:{port}"]) as running:
        yield running


def wait_for(what: Callable[[], bool]) -> None:
    """Look until it is so."""
    until_s = time.monotonic() + 30
    while not what():
        assert time.monotonic() < until_s
        time.sleep(0.01)


def ended(federation: Federation, name: str) -> int:
    """The exit status of a process that ends without being told again."""
    process = federation._processes.pop(name)
    status = process.wait(30)
    if process.stdout is not None:
        process.stdout.close()
    return status


def figures(port: int) -> str:
    """What Prometheus would read."""
    return ByHand(f"http://127.0.0.1:{port}", "").call("GET", "/metrics").body.decode()


@pytest.mark.parametrize("again", [False, True])
def test_a_coordinator_that_drains_finishes_what_arrives_and_begins_nothing(
    federation: Federation, raw_node: Callable[[str], RawNode], tmp_path: Path, port: int, again: bool
):
    # Given a coordinator with half of an update
    north, south = raw_node("north"), raw_node("south")
    assert north.poll(0.0) is south.poll(0.0) is None
    run = start_run(federation.client, load_app(APP))
    slow = Slow(federation, north, tmp_path)
    slow.begin()
    wait_for(lambda: "lycia_open_bodies 1.0" in figures(port))
    # When it is told to stop
    process = federation._processes["coordinator"]
    process.terminate()
    stranger = ByHand(slow.hand.url, slow.hand.certificate)
    wait_for(lambda: stranger.call("GET", "/v1/ready").status == 503)
    # Then it says that it is alive and not ready, and hands out nothing
    assert stranger.call("GET", "/v1/ready").json() == {"ready": False, "reasons": ["draining"]}
    assert stranger.call("GET", "/v1/health").json() == {"alive": True}
    refused = slow.hand.call("POST", "/v1/poll", b"{}")
    assert (refused.status, refused.json()["what"]) == (503, "the coordinator is about to stop.")
    if again:
        # When it is told once more, then it ends at once; of the update nobody was told that it is there
        process.terminate()
        assert ended(federation, "coordinator") == 1
        assert slow.finish() == []
        federation.restart("coordinator")
        assert north.answer(slow.ask, Draft.file) == ""
    else:
        # When the rest comes, then it is taken, and the coordinator ends in peace
        assert slow.finish() == [""]
        assert ended(federation, "coordinator") == 0
        federation.restart("coordinator")
        assert north.poll(0.0) is None  # it was written down
    facts = federation.client.get(f"/v1/runs/{run}")
    assert (facts["state"], facts["records"]) == ("running", [])


def test_a_body_that_goes_on_for_too_long_holds_up_no_drain(tmp_path: Path):
    with Federation(tmp_path / "home", APP, ["--silence", "30", "--grace", "0.2"]) as federation:
        access = OperatorAccess.at(federation.coordinator_home)
        hand = ByHand(access.url, access.certificate, "operator", Identity.at(Path(access.key))).sign_in()
        with hand.connected() as connection:
            connection.putrequest("POST", "/v1/blobs")
            connection.putheader("authorization", hand.headers["authorization"])
            connection.putheader("content-length", "1000")
            connection.endheaders(b"the beginning")
            assert federation.drain("coordinator") == 0
        federation.restart("coordinator")
        assert federation.client.get("/v1/runs") == {"runs": []}


# --------------------------------------------------------------------------------------------------------------- nodes


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Federation]:
    """A coordinator and the three nodes of the app, which find the folder that the test watches."""
    (tmp_path / "meeting").mkdir()
    monkeypatch.setenv("WATCHED_AT", str(tmp_path / "meeting"))
    with Federation(tmp_path / "home", WATCHED, ["--silence", "30"]) as running:
        for name in load_app(WATCHED).population:
            running.add_node(name, name)
        running.wait_nodes(3)
        yield running


def test_a_rolling_restart_of_everything_in_the_middle_of_a_run_loses_nothing(
    watched: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Given a run in which one node is in the middle of its second training
    meeting = tmp_path / "meeting"
    run = start_run(watched.client, load_app(WATCHED))
    trainer_of(meeting, 2)
    # When everything is told to stop and started again, one after the other, that node last
    for name in ("small", "middle", "coordinator"):
        assert watched.drain(name) == 0
        watched.restart(name)
    busy = watched._processes["watched"]
    busy.terminate()
    wait_for(lambda: "finishes what is in hand" in watched.last_words("watched"))
    assert busy.poll() is None
    (meeting / "go").touch()
    assert ended(watched, "watched") == 0
    watched.restart("watched")
    # Then the run ends as if nothing had been: nobody was asked twice, or trained twice, and no bit differs
    assert follow(watched.client, run, []) == "finished"
    facts = watched.client.get(f"/v1/runs/{run}")
    assert [len(record["survivors"]) for record in facts["records"]] == [3, 3, 3]
    assert not any(record["dropped"] or record["late"] or record["missed"] for record in facts["records"])
    assert len(list(meeting.glob("training-*"))) == 3
    monkeypatch.delenv("WATCHED_AT")
    quiet = simulate(load_app(WATCHED)).facts
    assert [record["model"] for record in facts["records"]] == [record["model"] for record in quiet["records"]]


def test_a_node_that_is_told_twice_ends_at_once_and_does_its_work_when_it_is_back(watched: Federation, tmp_path: Path):
    meeting = tmp_path / "meeting"
    run = start_run(watched.client, load_app(WATCHED))
    trainer = trainer_of(meeting, 2)
    process = watched._processes["watched"]
    process.terminate()
    wait_for(lambda: "finishes what is in hand" in watched.last_words("watched"))
    os.killpg(process.pid, signal.SIGINT)  # as a Ctrl-C, which the trainer hears, too
    assert ended(watched, "watched") == 0
    with pytest.raises(ProcessLookupError):
        os.kill(trainer, 0)
    assert "asked again when this node is back" in watched.last_words("watched")
    watched.restart("watched")
    trainer_of(meeting, 3)
    (meeting / "go").touch()
    assert follow(watched.client, run, []) == "finished"


def test_a_node_leaves_when_its_time_is_up():
    program = (
        "import time\n"
        "from lycia.deployment.node.leaving import stop_on_signals\n"
        "class Busy:\n"
        "    busy = True\n"
        "    def stop(self): print('stopping', flush=True)\n"
        "    def kill(self): print('killed', flush=True)\n"
        "stop_on_signals(Busy(), Busy(), lambda text: print(text, flush=True), 0.1)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait(20) == 0
        said = process.stdout.read()
    assert said.splitlines() == [
        "stopping",
        "finishes what is in hand, for at most 0.1 s, and ends then (once more ends it now)",
        "killed",
        "ends now; what was in hand is asked again when this node is back",
    ]

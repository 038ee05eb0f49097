"""A node that was killed between its work and the end of its delivery: it delivers, and works nothing out twice."""

import json
import os
import shutil
from pathlib import Path

import pytest

from lycia.deployment import wire
from lycia.deployment.node.agent import Agent
from lycia.deployment.node.trainer import Job, Worker
from lycia.deployment.wire import AskMessage
from lycia.errors import AccessError, ConnectionFailed, NotFound
from lycia.runtime.apps import load_app
from lycia.storage.node_state import NodeState
from tests.deployment.test_trainer import APP, Bench, Calls, Here, with_files


class Killed(BaseException):
    """The end of a process."""


class Coordinator(Calls):
    """What a node hears: asks that are open until they are answered, and what becomes of its updates.

    Attributes:
      open: the asks that wait for it.
      delivered: the bytes of each update that came, in order.
      meets: what happens to the next deliveries, in order: an error that is raised, or why they are not taken.
    """

    def __init__(self, *asks: AskMessage) -> None:
        self.open, self.delivered, self.meets, self.agent = list(asks), [], [], None
        super().__init__()

    def poll(self, wait_s: float, examples: float | None) -> AskMessage | None:
        """The oldest ask; when there is none any more, the agent is told to stop."""
        if not self.open:
            self.agent.stop()
            return None
        return self.open[0]

    def upload_update(self, run: str, task: int, path: Path) -> str:
        """As it was told to."""
        self.delivered.append(path.read_bytes())
        met = self.meets.pop(0) if self.meets else ""
        if isinstance(met, BaseException):
            raise met
        self.open = [ask for ask in self.open if ask.task != task]
        return met

    def download(self, digest: str, target: Path, run: str | None = None) -> Path:
        """Whatever comes along with an ask."""
        if not target.exists():
            raise AssertionError("nothing needs to be fetched for what is finished")
        return target


class Trainer(Here):
    """A trainer that says how often it worked."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)
        self.worked: list[int] = []

    def do(self, job: Job) -> dict:
        """The work, noted."""
        self.worked.append(job.ask.task)
        return super().do(job)


class Node:
    """A node's folder, and one process after another that works in it."""

    def __init__(self, bench: Bench, *asks: AskMessage) -> None:
        self.bench, self.home = bench, bench.folder / "home"
        self.coordinator = Coordinator(*asks)
        self.trainer = Trainer(Worker("watched", bench.app, bench.app.population["watched"]))
        self.notes: list[str] = []

    def live(self) -> None:
        """One process, until nothing is left to do."""
        self.coordinator.agent = agent = Agent(self.home, self.coordinator, self.trainer, "watched", self.notes.append)
        agent.serve()

    def die_delivering(self, error: BaseException | None = None) -> None:
        """One process, which ends when it delivers."""
        error = error or Killed()
        self.coordinator.meets = [error]
        with pytest.raises(type(error)):
            self.live()

    def memory(self) -> NodeState:
        """What it remembers."""
        return NodeState.at(self.home / "memory" / "a-run.safetensors")

    def files(self, room: str) -> list[str]:
        """The names in one of its rooms."""
        return sorted(path.name for path in (self.home / room).iterdir())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """One with the app whose nodes remember."""
    return Bench(tmp_path, load_app(APP))


@pytest.fixture
def node(bench: Bench) -> Node:
    """One that is asked to train, and was killed when it was about to deliver."""
    one = Node(bench, with_files(bench, bench.ask(0)))
    one.die_delivering()
    assert one.files("finished") == ["a-run-0.json"]
    assert one.files("spool") == ["a-run-0.safetensors"]
    return one


def test_finished_work_is_delivered_after_a_restart_without_working_again(node: Node):
    node.live()
    assert node.trainer.worked == [0]
    assert node.coordinator.delivered[0] == node.coordinator.delivered[1]
    assert (node.files("finished"), node.files("spool")) == ([], [])


def test_an_ask_that_comes_again_is_answered_with_what_is_finished(node: Node, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lycia.storage.node_journal.NodeJournal.undelivered", lambda _: iter(()))
    shutil.copytree(node.home / "spool", node.home / "kept")  # as if the journal had been read a moment too early
    agent = Agent(node.home, node.coordinator, node.trainer, "watched", node.notes.append)
    shutil.copytree(node.home / "kept", node.home / "spool", dirs_exist_ok=True)
    node.coordinator.agent = agent
    agent.serve()
    assert node.trainer.worked == [0]
    assert node.files("finished") == []


def test_work_that_is_delivered_is_the_same_wherever_the_folder_has_been_moved(node: Node):
    moved = node.home.with_name("elsewhere")
    node.home.rename(moved)
    node.home = moved
    node.live()
    assert node.trainer.worked == [0]
    assert node.coordinator.delivered[0] == node.coordinator.delivered[1]


def test_a_restart_that_finds_no_coordinator_keeps_what_is_finished(node: Node):
    node.die_delivering(ConnectionFailed("nobody answers.", why="it is off.", do="wait."))
    node.live()
    assert node.trainer.worked == [0]
    assert len(set(node.coordinator.delivered)) == 1


@pytest.mark.parametrize(
    "refusal", ["it came late", NotFound("there is no run.", why="it is gone.", do="poll again.")], ids=["said", "gone"]
)
def test_work_that_turns_out_not_to_count_is_forgotten_once(refusal: object, node: Node, bench: Bench):
    before = node.memory()
    assert before.now != before.before
    node.coordinator.meets, node.coordinator.open = [refusal], []
    node.live()
    undone = node.memory()
    assert {name: array.tobytes() for name, array in undone.now.items()} == {
        name: array.tobytes() for name, array in before.before.items()
    }
    assert (node.files("finished"), node.files("spool")) == ([], [])
    assert any("was not taken" in note for note in node.notes)
    # And work on what is asked next begins there, and is undone by nothing more.
    node.coordinator.open = [with_files(bench, bench.ask(1, number=1))]
    node.live()
    after = node.memory()
    node.live()
    assert after.task == 1
    assert {name: array.tobytes() for name, array in node.memory().now.items()} == {
        name: array.tobytes() for name, array in after.now.items()
    }


def test_a_node_that_dies_after_its_work_was_refused_undoes_it_all_the_same(
    node: Node, monkeypatch: pytest.MonkeyPatch
):
    before = node.memory().before
    with monkeypatch.context() as patched:

        def die(*_: object) -> None:
            raise Killed

        patched.setattr("lycia.storage.node_journal.NodeJournal.delivered", die)
        node.coordinator.meets = ["it came late"]
        with pytest.raises(Killed):
            node.live()
    node.coordinator.meets, node.coordinator.open = ["it came late"], []
    node.live()
    assert {name: array.tobytes() for name, array in node.memory().now.items()} == {
        name: array.tobytes() for name, array in before.items()
    }
    assert node.trainer.worked == [0]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b'{"ask": {}, "said": {}}', b'{"ask": {}, "said": {"update": "x"}}']
)
def test_a_journal_that_was_damaged_costs_the_work_again_and_the_update_is_the_same(content: bytes, node: Node):
    (node.home / "finished" / "a-run-0.json").write_bytes(content)
    node.live()
    assert node.trainer.worked == [0, 0]
    assert node.coordinator.delivered[0] == node.coordinator.delivered[1]
    assert (node.files("finished"), node.files("spool")) == ([], [])


def test_an_update_that_is_missing_is_worked_out_again_if_it_is_still_asked_for(node: Node):
    (node.home / "spool" / "a-run-0.safetensors").unlink()
    node.live()
    assert node.trainer.worked == [0, 0]
    assert node.coordinator.delivered[0] == node.coordinator.delivered[1]
    assert node.files("finished") == []


def test_an_update_that_is_missing_and_that_nobody_waits_for_is_not_worked_out_again(node: Node):
    (node.home / "spool" / "a-run-0.safetensors").unlink()
    node.coordinator.open = []
    node.live()
    assert node.trainer.worked == [0]
    assert node.files("finished") == []


def test_what_is_finished_does_not_answer_another_ask_of_the_same_number(node: Node, bench: Bench):
    # As of a coordinator that was restored from a backup, and gives a number to another task.
    agent = Agent(node.home, node.coordinator, node.trainer, "watched", node.notes.append)
    agent.answer(with_files(bench, bench.ask(0, number=1)))
    assert node.trainer.worked == [0, 0]
    assert node.files("finished") == []


def test_updates_that_were_never_finished_are_removed(node: Node):
    for name in ("a-run-1.safetensors", "b-run-0.safetensors", "something"):
        (node.home / "spool" / name).write_bytes(b"half")
    agent = Agent(node.home, node.coordinator, node.trainer, "watched", node.notes.append)
    assert node.files("spool") == ["a-run-0.safetensors"]
    node.coordinator.agent = agent
    agent.serve()
    assert node.files("spool") == []


def test_an_update_is_on_the_disk_before_it_is_said_to_be_finished(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    order: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        order.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("there is no way to see which file a descriptor stands for")
    monkeypatch.setattr(os, "fsync", fsync)
    Node(bench, with_files(bench, bench.ask(0))).live()
    assert order.index("a-run-0.safetensors") < order.index("a-run-0.json.part")


def test_a_node_that_was_revoked_meanwhile_ends_and_keeps_its_work(node: Node):
    node.die_delivering(AccessError("revoked.", why="so.", do="ask."))
    assert node.files("finished") == ["a-run-0.json"]


def test_the_journal_does_not_keep_what_came_along_with_an_ask(node: Node):
    kept = json.loads((node.home / "finished" / "a-run-0.json").read_bytes())
    assert kept["ask"]["inline"] == {}
    assert AskMessage.model_validate(kept["ask"]).task == 0
    assert (node.home / kept["said"]["update"]).exists() or Path(kept["said"]["update"]).exists()


def test_scores_are_not_kept_since_they_are_quickly_made_again(bench: Bench):
    node = Node(bench, with_files(bench, bench.ask(0, exchange="evaluate")))
    replies: list[wire.ReplyMessage] = []

    def reply(run: str, task: int, message: wire.ReplyMessage) -> str:
        replies.append(message)
        node.coordinator.open = []
        return ""

    node.coordinator.reply = reply
    node.live()
    assert [message.kind for message in replies] == ["scores"]
    assert node.files("finished") == []

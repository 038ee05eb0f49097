"""The trainer: the same work gives the same bytes, what did not count is forgotten, and failures are told."""

import os
import sys
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from lycia.core import space
from lycia.core.keys import Key
from lycia.core.messages import EVALUATE, TRAIN, Ask
from lycia.core.plan import App
from lycia.deployment import wire
from lycia.deployment.node.agent import Agent, TrainerProcess, _bare_environment
from lycia.deployment.node.client import Client
from lycia.deployment.node.trainer import Job, Worker
from lycia.deployment.wire import AskMessage, ReplyMessage, Shared
from lycia.errors import AccessError, ConnectionFailed, LyciaError, NotFound, TrainingError
from lycia.runtime.apps import load_app

APP = Path(__file__).with_name("watched_app.py")  # its nodes remember how many examples they have seen
FAILING = """
from dataclasses import dataclass
import os
import sys
from tests.deployment.small_app import app as small
from dataclasses import replace
from lycia import NumpyTrainer

@dataclass(frozen=True)
class Failing(NumpyTrainer):
    def train(self, task):
        {failure}

app = replace(small, trainer=Failing(learning_rate=0.1, batch_size=20))
"""


class Bench:
    """The files that an agent gives its trainer."""

    def __init__(self, folder: Path, app: App) -> None:
        self.folder, self.app = folder, app
        self.layout, self.model = app.trainer.first_model(app.schema, Key(app.plan.seed).at("first model"))
        self.plan = folder / "plan"
        self.plan.write_text(app.plan.to_json())
        self.memory = folder / "memory"

    def contents(self) -> tuple[bytes, bytes]:
        """The files of the model: what changes, and what is sent once."""
        base = wire.base_file(self.layout, self.model)
        assert base is not None
        return b"".join(wire.model_file(self.layout, self.model, "a-run")), b"".join(base)

    def ask(self, task: int, number: int = 0, attempt: int = 0, exchange: str = TRAIN) -> AskMessage:
        """One ask."""
        asked = Ask(
            "a-run", self.app.plan.digest, number, attempt, task, exchange, ("watched",), weight_cap=1e7,
            deadline_s=60.0,
        )  # fmt: skip
        return wire.encode_ask(asked, self.layout, Shared(None, None, None, {}), "watched")

    def job(self, ask: AskMessage) -> Job:
        """The same, with the files."""
        model, base = self.folder / "model", self.folder / "base"
        model.write_bytes(self.contents()[0])
        base.write_bytes(self.contents()[1])
        update = self.folder / f"update-{ask.task}"
        return Job(ask, self.plan, model, base, None, self.memory, update, b64encode(bytes(32)).decode())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """One with the app whose nodes remember."""
    return Bench(tmp_path, load_app(APP))


def delta_of(bench: Bench, said: dict, task: int) -> bytes:
    """The numbers of an update, apart from the task that it was made for."""
    content = Path(said["update"]).read_bytes()
    found = wire.decode_update(bench.layout, content, "a-run", task, "watched", "")
    assert isinstance(found, wire.Updates), found
    return found.delta.tobytes()


def work(bench: Bench, *asks: AskMessage) -> list[bytes]:
    """What comes of asks, each in a process of its own, as after a kill."""
    data = bench.app.population["watched"]
    found = []
    for ask in asks:
        said = Worker("watched", bench.app, data).do(Job.from_line(bench.job(ask).to_line()))
        found.append(delta_of(bench, said, ask.task) if "update" in said else said["reply"])
    return found


def test_a_task_that_is_asked_again_gives_the_same_bytes_however_far_it_had_come(bench: Bench):
    first, again, second, repeated = work(
        bench, bench.ask(0), bench.ask(0), bench.ask(2, number=1), bench.ask(2, number=1)
    )
    assert first == again
    assert second == repeated
    assert first != second  # it has seen more, so it learns more slowly


def test_another_attempt_at_a_round_begins_as_the_first_one_did(bench: Bench):
    work(bench, bench.ask(0))
    lost, counted = work(bench, bench.ask(2, number=1), bench.ask(3, number=1, attempt=1))
    assert lost == counted


def test_measuring_leaves_what_a_node_remembers_as_it_is(bench: Bench):
    work(bench, bench.ask(0))
    before = bench.memory.read_bytes()
    (scores,) = work(bench, bench.ask(1, number=1, exchange=EVALUATE))
    assert scores["kind"] == "scores"
    assert bench.memory.read_bytes() == before


def test_a_node_that_has_nothing_to_remember_keeps_nothing(tmp_path: Path):
    app = load_app(APP.with_name("small_app.py"))
    bench = Bench(tmp_path, app)
    Worker("watched", app, app.population["node-0"]).do(bench.job(bench.ask(0)))
    assert not bench.memory.exists()


def test_a_run_of_another_model_is_declined_by_name(bench: Bench):
    ask = bench.ask(0).model_copy(update={"layout": "0" * 64})
    said = Worker("watched", bench.app, bench.app.population["watched"]).do(bench.job(ask))
    assert said["reply"]["kind"] == "declined"
    assert "same version" in said["reply"]["reason"]


def test_a_large_model_is_mapped_and_gives_the_same_bytes(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    small = work(bench, bench.ask(0))
    bench.memory.unlink()
    monkeypatch.setattr(space, "LARGE_BYTES", 1)
    assert work(bench, bench.ask(0)) == small
    assert [path.name for path in bench.folder.iterdir() if "update" in path.name] == ["update-0"]


# --------------------------------------------------------------------------------------------------------- as a process


@pytest.mark.parametrize(
    ("failure", "complaint"),
    [
        ("raise ValueError('could not convert: Jane Doe, born 1970')", "failed with ValueError"),
        ("print('Jane Doe'); os._exit(9)", "died 2 times"),
    ],
)
def test_an_app_that_fails_over_the_data_is_declined_without_a_word_of_the_data(
    failure: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    app = tmp_path / "app.py"
    app.write_text(FAILING.format(failure=failure))
    bench = Bench(tmp_path, load_app(app))
    notes: list[str] = []
    trainer = TrainerProcess("watched", app, "node-0", notes.append)
    trainer.start()
    try:
        with pytest.raises(TrainingError, match=complaint) as refused:
            trainer.do(bench.job(bench.ask(0)))
        assert "Jane" not in str(refused.value)
        said = trainer.do(bench.job(bench.ask(1, exchange=EVALUATE)))  # and it is ready for what comes next
        assert said["reply"]["kind"] == "scores"
    finally:
        trainer.stop()
    assert "Jane" in capfd.readouterr().err  # whoever is at the node sees it


def test_a_trainer_that_cannot_load_its_data_again_says_why_at_the_node_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    loader = tmp_path / "loader.py"
    loader.write_text("from tests.deployment.small_app import _some\ndef load(): return _some(0)\n")
    bench = Bench(tmp_path, load_app(APP.with_name("small_app.py")))
    notes: list[str] = []
    trainer = TrainerProcess("watched", APP.with_name("small_app.py"), f"{loader}:load", notes.append)
    trainer.start()
    try:
        loader.write_text("def load(): raise ValueError('Jane Doe, born 1970')\n")
        trainer._running().kill()
        with pytest.raises(TrainingError, match="cannot be started again") as refused:
            trainer.do(bench.job(bench.ask(0)))
        assert "Jane" not in str(refused.value)
        assert "Jane" in notes[-1]
        loader.write_text("from tests.deployment.small_app import _some\ndef load(): return _some(0)\n")
        assert "update" in trainer.do(bench.job(bench.ask(0)))
    finally:
        trainer.stop()


def test_a_trainer_knows_no_credential_of_its_agent(monkeypatch: pytest.MonkeyPatch):
    for name in ("LYCIA_HOME", "LYCIA_SECRET", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("LYCIA_DATA", "/data")
    environment = _bare_environment()
    assert {name for name in environment if name.startswith("LYCIA_")} == {"LYCIA_DATA"}
    assert not {"HTTPS_PROXY", "https_proxy"} & environment.keys()


# ------------------------------------------------------------------------------------------------------------ its agent


class Calls(Client):
    """A client that has no network: what it hands out and takes in is written down."""

    def __init__(self, downloads: Callable[[str], bytes] | None = None, refused: str = "") -> None:
        self._downloads, self._refused, self.replies = downloads, refused, []

    def alive(self, run: str, task: int) -> None:
        """Heard."""

    def reply(self, run: str, task: int, message: ReplyMessage) -> str:
        """Noted."""
        self.replies.append(message)
        return self._refused

    def upload_update(self, run: str, task: int, path: Path) -> str:
        """Noted."""
        self.replies.append(path.read_bytes())
        return self._refused

    def download(self, digest: str, target: Path, run: str | None = None) -> Path:
        """From the test."""
        if not target.exists():
            if self._downloads is None:
                raise NotFound("there is nothing.", why="it was withdrawn.", do="poll again.")
            target.write_bytes(self._downloads(digest))
        return target


class Here(TrainerProcess):
    """A trainer in this process."""

    def __init__(self, worker: Worker) -> None:
        self._worker, self.examples = worker, 50.0

    def do(self, job: Job) -> dict:
        """The same work."""
        return self._worker.do(job)


def agent_of(bench: Bench, calls: Calls, notes: list[str]) -> Agent:
    """An agent without network and processes."""
    trainer = Here(Worker("watched", bench.app, bench.app.population["watched"]))
    return Agent(bench.folder / "home", calls, trainer, "watched", notes.append)


def with_files(bench: Bench, ask: AskMessage) -> AskMessage:
    """An ask that brings its plan and model along."""
    contents = [bench.plan.read_bytes(), *bench.contents()]
    plan, model, base = digests = [sha256(content).hexdigest() for content in contents]
    inline = {digest: b64encode(content).decode() for digest, content in zip(digests, contents, strict=True)}
    return ask.model_copy(update={"plan": plan, "model": model, "base": base, "inline": inline})


def test_work_that_was_refused_leaves_no_trace_in_what_a_node_remembers(bench: Bench):
    notes: list[str] = []
    refused, taken = Calls(refused="it came late"), Calls()
    agent_of(bench, refused, notes).answer(with_files(bench, bench.ask(0)))
    agent_of(bench, taken, notes).answer(with_files(bench, bench.ask(1, number=1)))
    (bench.folder / "other").mkdir()
    fresh = Bench(bench.folder / "other", bench.app)
    (alone,) = work(fresh, fresh.ask(1, number=1))
    found = wire.decode_update(bench.layout, taken.replies[0], "a-run", 1, "watched", "")
    assert isinstance(found, wire.Updates)
    assert found.delta.tobytes() == alone
    assert any("was not taken: it came late" in note for note in notes)


def test_what_came_along_is_checked_and_an_ask_that_lies_is_declined(bench: Bench):
    calls, notes = Calls(), []
    ask = with_files(bench, bench.ask(0))
    for text in (b64encode(b"another plan").decode(), "not base64!"):
        agent_of(bench, calls, notes).answer(ask.model_copy(update={"inline": ask.inline | {ask.plan: text}}))
    assert [reply.kind for reply in calls.replies] == ["declined", "declined"]
    assert all("is something else" in reply.reason for reply in calls.replies)
    assert not (bench.folder / "home" / "models" / ask.plan).exists()


def test_whoever_is_at_the_node_is_told_why_it_declines(bench: Bench):
    calls, notes = Calls(), []
    agent_of(bench, calls, notes).answer(with_files(bench, bench.ask(0)).model_copy(update={"layout": "0" * 64}))
    assert notes == [f"declined 'train' of round 1: {calls.replies[0].reason}"]
    assert f"app {bench.app.name!r}" in notes[0]


def test_a_run_that_changes_its_plan_is_declined(bench: Bench):
    calls, notes = Calls(), []
    agent = agent_of(bench, calls, notes)
    agent.answer(with_files(bench, bench.ask(0)))
    changed = replace(bench.app, plan=replace(bench.app.plan, rounds=99))
    other = Bench(bench.folder, changed)
    agent.answer(with_files(other, other.ask(1)))
    assert calls.replies[-1].kind == "declined"
    assert "another plan" in calls.replies[-1].reason


def test_an_ask_whose_files_are_gone_is_tried_again_once_and_then_declined(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("lycia.deployment.node.agent._PAUSE_S", 0.0)
    calls, notes = Calls(), []
    agent, ask = agent_of(bench, calls, notes), with_files(bench, bench.ask(0)).model_copy(update={"inline": {}})
    agent.answer(ask)
    assert calls.replies == []
    agent.answer(ask)
    assert [reply.kind for reply in calls.replies] == ["declined"]


@pytest.mark.parametrize(
    "error", [ConnectionFailed("a", why="b", do="c"), TrainingError("a", why="b", do="c"), OSError(28, "No space left")]
)
def test_what_goes_wrong_at_a_node_is_declined_and_the_node_goes_on(error: Exception, bench: Bench):
    def fails(digest: str) -> bytes:
        raise error

    calls, notes = Calls(fails), []
    agent_of(bench, calls, notes).answer(with_files(bench, bench.ask(0)).model_copy(update={"inline": {}}))
    assert [reply.kind for reply in calls.replies] == ["declined"]
    assert calls.replies[0].reason


def test_a_node_keeps_no_large_files_that_its_ask_does_not_name(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    agent, models = agent_of(bench, Calls(), []), bench.folder / "home" / "models"
    for name in ("old", "half.part"):
        (models / name).write_bytes(bytes(100))
    (models / "small").write_bytes(bytes(10))
    monkeypatch.setattr(space, "LARGE_BYTES", 100)
    ask = with_files(bench, bench.ask(0))
    agent.answer(ask)
    assert {path.name for path in models.iterdir()} == {"small", ask.plan, ask.model, ask.base}
    agent.answer(with_files(bench, bench.ask(1, number=1)))
    assert {path.name for path in models.iterdir()} == {"small", ask.plan, ask.model, ask.base}


def test_a_node_that_is_not_let_in_any_more_ends(bench: Bench):
    def fails(digest: str) -> bytes:
        raise AccessError("revoked.", why="so.", do="ask.")

    with pytest.raises(AccessError):
        agent_of(bench, Calls(fails), []).answer(with_files(bench, bench.ask(0)).model_copy(update={"inline": {}}))


def test_a_secret_is_drawn_once_for_a_round_and_attempt_and_survives_the_process(bench: Bench):
    def secret(ask: AskMessage) -> bytes:
        return agent_of(bench, Calls(), [])._secret(ask)

    first = secret(bench.ask(0))
    assert secret(bench.ask(7)) == first
    assert secret(bench.ask(0, attempt=1)) != first
    assert (bench.folder / "home" / "runs" / "a-run.secret").stat().st_mode & 0o077 == 0


def test_errors_cross_between_processes_as_they_are():
    error: LyciaError = TrainingError("what.", why="why.", do="do.")
    again = wire.Problem.model_validate(wire.Problem.of(error).model_dump()).to_error()
    assert type(again) is TrainingError
    assert str(again) == str(error)

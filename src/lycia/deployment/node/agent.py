"""The agent process: it has the node's key and talks to the coordinator; it never sees the data."""

import json
import os
import subprocess
import sys
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError
from structlog.contextvars import bound_contextvars

from lycia.core.messages import TRAIN
from lycia.core.space import is_large
from lycia.deployment.holding import held
from lycia.deployment.identity import Identity, Invitation, certificate_pin, fetch_certificate, write_private
from lycia.deployment.node.client import Client
from lycia.deployment.node.leaving import stop_on_signals
from lycia.deployment.node.trainer import Job
from lycia.deployment.wire import AskMessage, Problem, ReplyMessage
from lycia.errors import AccessError, AppError, ConnectionFailed, LyciaError, NotFound, TrainingError
from lycia.storage.disk import check_free, in_words, sync_file
from lycia.storage.node_journal import Finished, NodeJournal
from lycia.storage.node_state import NodeState

_HEARTBEAT_S = 2.0
_POLL_S = 20.0
_MODELS_KEPT = 3
_PAUSE_S = 0.5  # before a poll that may bring the same ask again
_TRIES = 2  # of a task whose trainer process dies


@dataclass(frozen=True)
class Membership:
    """Where a node belongs, as its folder keeps it."""

    name: str
    role: str
    url: str
    certificate: str

    @classmethod
    def at(cls, home: Path) -> "Membership | None":
        """What the folder says; None for a new one."""
        path = home / "membership.json"
        try:
            return cls(**json.loads(path.read_text())) if path.exists() else None
        except (ValueError, TypeError):
            raise AccessError(
                f"{path} cannot be read.",
                why="it does not hold what this node wrote when it joined.",
                do="restore it from a backup, or join with a new invitation and another folder (--home).",
            ) from None

    def keep(self, home: Path) -> None:
        """Write it down."""
        write_private(home / "membership.json", json.dumps(self.__dict__).encode())


class TrainerProcess:
    """The process that has the data. It is started anew when it has died."""

    def __init__(self, name: str, app: Path, data: str, note: Callable[[str], None]) -> None:
        self._arguments = [name, str(app), data]
        self._note = note
        self._process: subprocess.Popen[str] | None = None
        self.examples: float | None = None

    def start(self) -> None:
        """Start it, and wait until it has loaded its app and data.

        Raises: the error that it met, such as an app that does not import or data that misses the schema.
        """
        self.stop()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lycia.deployment.node.trainer", *self._arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=_bare_environment(),
        )  # fmt: skip
        said = self._hear()
        if said is None:
            raise TrainingError(
                f"the trainer process ended before it was ready (exit status {self._process.wait()}).",
                why="it could not even load the app; what it printed stands above.",
                do=f"run `python {self._arguments[1]}` on this machine to see why.",
            )
        self.examples = said["ready"]["examples"]

    def do(self, job: Job) -> dict[str, Any]:
        """What came of a job; a process that dies over it is started again, once.

        Raises: TrainingError, if it dies again; whatever error it meets.
        """
        for _ in range(_TRIES):
            if self._process is None or self._process.poll() is not None:
                self._start_again()
            process = self._running()
            try:
                _pipe(process.stdin).write(job.to_line() + "\n")
                _pipe(process.stdin).flush()
                said = self._hear()
            except BrokenPipeError:
                said = None
            if said is not None:
                return said
            self._note(f"the trainer process died (exit status {process.wait()}) at task {job.ask.task}")
        raise TrainingError(
            f"the trainer process died {_TRIES} times at this task.",
            why="it may have run out of memory, or been killed.",
            do="look at what it printed, and at the machine's memory.",
        )

    def kill(self) -> None:
        """End it at once, in the middle of what it does."""
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        """End it."""
        if self._process is None:
            return
        with suppress(OSError):
            _pipe(self._process.stdin).close()
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _pipe(self._process.stdout).close()

    def _start_again(self) -> None:
        try:
            self.start()
        except LyciaError as error:
            # Why stays here: what app and data files raise may quote the data, and what is raised now is sent on.
            self._note(str(error))
            raise TrainingError(
                "the trainer process cannot be started again; the node's terminal says why.",
                why="its app or its data cannot be loaded any more.",
                do="mend them there; the next task tries again.",
            ) from None

    def _hear(self) -> dict[str, Any] | None:
        line = _pipe(self._running().stdout).readline()
        if not line.endswith("\n"):  # it died, perhaps in the middle of a word
            return None
        said: dict[str, Any] = json.loads(line)
        if "failed" in said:
            raise Problem.model_validate(said["failed"]).to_error()
        return said

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise RuntimeError("the trainer process is used before it is started")
        return self._process


class Agent:
    """Fetches asks, has the trainer do them, and delivers what comes of it; until it is told to stop."""

    def __init__(
        self, home: Path, client: Client, trainer: TrainerProcess, name: str, note: Callable[[str], None]
    ) -> None:
        self._home, self._client, self._trainer, self._name, self._note = home, client, trainer, name, note
        self._stopping = threading.Event()
        self._missing: tuple[str, int] | None = None
        self.busy = False
        for folder in ("models", "memory", "spool", "runs"):
            (home / folder).mkdir(parents=True, exist_ok=True)
        self._journal = NodeJournal(home / "finished")
        needed = {Path(work.said["update"]).name for work in self._journal.undelivered()}
        for left_behind in (home / "spool").iterdir():  # of work that was never finished
            if left_behind.name not in needed:
                left_behind.unlink(missing_ok=True)

    def stop(self) -> None:
        """End after what is in hand."""
        self._stopping.set()

    def serve(self) -> None:
        """Work until told to stop.

        Raises: AccessError, if this node has been revoked.
        """
        for work in self._journal.undelivered():  # before anything new is asked for
            undelivered = _ask_of(work)
            if undelivered is not None and self._known(undelivered) is not None:
                self.answer(undelivered)
        while not self._stopping.is_set():
            message = self._client.poll(_POLL_S, self._trainer.examples)
            if message is not None:
                self.busy = True
                with bound_contextvars(run=message.run, round=message.round + 1):  # for the node's notes
                    self.answer(message)
                self.busy = False

    def answer(self, message: AskMessage) -> None:
        """Do one ask, unless that was done before, and deliver the reply.

        An error of the trainer's becomes a refusal with its words.
        """
        with self._heartbeat(message):
            try:
                with in_words(self._home):
                    said = self._known(message) or self._work(message)
            except AccessError:
                raise
            except NotFound as error:
                place, self._missing = self._missing, (message.run, message.task)
                if (
                    place != self._missing
                ):  # the ask may have been withdrawn; if it is still open, the next poll brings it
                    self._stopping.wait(_PAUSE_S)
                    return
                said = _declined(error)
            except LyciaError as error:
                said = _declined(error)
            reply = said.get("reply", {})
            if reply.get("kind") == "declined":
                self._undo(message)  # a trainer that died may have written down what it had learned, and made of it
                self._update(message).unlink(missing_ok=True)
                self._note(f"declined {message.exchange!r} of round {message.round + 1}: {reply['reason']}")
            self._deliver(message, said)

    def _deliver(self, message: AskMessage, said: Mapping[str, Any]) -> None:
        try:
            refused = self.deliver(message, said)
        except NotFound as error:
            refused = error.what
        if refused:
            self._undo(message)
            self._note(f"{message.exchange!r} of round {message.round + 1} was not taken: {refused}")
        if "update" in said:
            self._journal.delivered(message.run, message.task)
            self._update(message).unlink(missing_ok=True)

    def _undo(self, message: AskMessage) -> None:
        """Go back to what was remembered before this work: it does not count."""
        path = self._memory(message)
        if path.exists():
            NodeState.at(path).refused(message.task).keep(path)

    def deliver(self, message: AskMessage, said: Mapping[str, Any]) -> str:
        """Send what the trainer said; returns why it was not taken, or ""."""
        if "update" in said:
            return self._client.upload_update(message.run, message.task, self._update(message))
        return self._client.reply(message.run, message.task, ReplyMessage.model_validate(said["reply"]))

    def _known(self, message: AskMessage) -> Mapping[str, Any] | None:
        """What came of this task before a restart, if it was finished then."""
        known = self._journal.find(message.run, message.task)
        if known is None:
            return None
        if known.ask == _kept(message) and self._update(message).exists():
            return known.said
        self._journal.delivered(message.run, message.task)  # it is of no use: its file is gone, or the ask is another
        return None

    def _update(self, message: AskMessage) -> Path:
        """Where the update of this work is, also if this node's folder has been moved since."""
        return self._home / "spool" / f"{message.run}-{message.task}.safetensors"

    def _memory(self, message: AskMessage) -> Path:
        return self._home / "memory" / f"{message.run}.safetensors"

    def _work(self, message: AskMessage) -> dict[str, Any]:
        self._check_plan(message)
        plan, model, base, told = (
            self._fetch(digest, message) if digest else None
            for digest in (message.plan, message.model, message.base, message.told)
        )
        assert plan is not None
        if message.exchange == TRAIN and model is not None:
            check_free(self._home / "spool", model.stat().st_size, "this node's update")
        job = Job(
            message, plan, model, base, told, self._memory(message),
            self._update(message),
            b64encode(self._secret(message)).decode(),
        )  # fmt: skip
        said = self._trainer.do(job)
        if "update" in said:
            sync_file(self._update(message))
            self._journal.finished(message.run, message.task, Finished(_kept(message), said))
        return said

    def _fetch(self, digest: str, message: AskMessage) -> Path:
        folder = self._home / "models"
        target = folder / digest
        self._make_room(folder, message)
        if digest in message.inline and not target.exists():
            part = target.with_name(f"{digest}.part")
            part.write_bytes(_inline(digest, message.inline[digest]))
            part.replace(target)
        self._client.download(digest, target, message.run)
        os.utime(target)
        return target

    def _make_room(self, folder: Path, message: AskMessage) -> None:
        """Remove what this ask does not need: large files at once, small ones when there are many."""
        needed = {message.plan, message.model, message.base, message.told}
        others = [path for path in folder.iterdir() if path.name.removesuffix(".part") not in needed]
        others.sort(key=lambda path: path.stat().st_mtime)
        for place, old in enumerate(others):
            if place < len(others) - _MODELS_KEPT * 4 or is_large(old.stat().st_size):
                old.unlink(missing_ok=True)

    def _check_plan(self, message: AskMessage) -> None:
        """A run keeps its plan: one that changes on the way is refused."""
        path = self._home / "runs" / message.run
        if not path.exists():
            write_private(path, message.plan.encode())
        if path.read_text() != message.plan:
            raise TrainingError(
                f"run {message.run} came with another plan than it began with.",
                why="this node agreed to the plan of the first ask, and a run has one plan.",
                do="start a new run for the new plan.",
            )

    def _secret(self, message: AskMessage) -> bytes:
        """32 bytes for this run, round and attempt: drawn once, written down before their first use."""
        path = self._home / "runs" / f"{message.run}.secret"
        place = f"{message.round}/{message.attempt}"
        kept = json.loads(path.read_text()) if path.exists() else {}
        if place not in kept:
            kept = {place: os.urandom(32).hex()}
            write_private(path, json.dumps(kept).encode())
        return bytes.fromhex(kept[place])

    @contextmanager
    def _heartbeat(self, message: AskMessage) -> Iterator[None]:
        done = threading.Event()

        def beat() -> None:
            while not done.wait(_HEARTBEAT_S):
                with suppress(LyciaError):  # whoever delivers the work learns of it, too, and says so
                    self._client.alive(message.run, message.task)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()


def join(
    invitation: Invitation, app: Path, data: str, home: Path, versions: Mapping[str, str], note: Callable[[str], None],
    grace_s: float = 60.0, rate: float | None = None,
) -> None:  # fmt: skip
    """Enrol, if this folder has not yet, and serve until interrupted, moving at most `rate` bytes a second.

    The first SIGTERM or Ctrl-C lets it finish what is in hand, for at most `grace_s`; the second one ends it at once.
    The trainer starts first, so that an app that does not import or data that misses its schema costs no invitation.

    Raises: AppError, DataError, AccessError, ConnectionFailed.
    """
    if not app.is_file():
        raise AppError(
            f"there is no app file {str(app)!r}.",
            why="an app is a Python file that defines `app = App(…)`.",
            do="check the path; `examples/` has some to begin with.",
        )
    if invitation.role == "operator":
        raise AccessError(
            f"the invitation of {invitation.name!r} is for an operator.",
            why="an operator starts runs and invites; what joins is a node or an evaluator.",
            do="ask the operator for an invitation with --role node or --role evaluator.",
        )
    home.mkdir(parents=True, exist_ok=True)
    with held(home, "a node"):
        _join(invitation, app, data, home, versions, note, grace_s, rate)


def _join(
    invitation: Invitation, app: Path, data: str, home: Path, versions: Mapping[str, str], note: Callable[[str], None],
    grace_s: float, rate: float | None,
) -> None:  # fmt: skip
    membership = check_membership(home, invitation)
    note("loading the app and the data")
    trainer = TrainerProcess(invitation.name, app, data, note)
    client: Client | None = None
    try:
        trainer.start()
        identity = Identity.at(home / "key.pem")
        if membership is None:
            certificate = fetch_certificate(invitation.url, invitation.pin)
            with closing(Client(invitation.url, certificate, invitation.name, identity, note=note)) as with_token:
                with_token.enrol(invitation.token, trainer.examples, versions)
            membership = Membership(invitation.name, invitation.role, invitation.url, certificate)
            membership.keep(home)
        has = f"with {trainer.examples or 0:.0f} examples to train on"
        note(f"enrolled at {membership.url} {has}; waiting for work (Ctrl-C ends it)")
        client = Client(
            membership.url, membership.certificate, membership.name, identity, give_up_s=None, note=note, rate=rate
        )
        agent = Agent(home, client, trainer, membership.name, note)
        stop_on_signals(agent, trainer, note, grace_s)
        agent.serve()
    finally:
        trainer.stop()
        if client is not None:
            client.close()


def _kept(message: AskMessage) -> dict[str, Any]:
    """An ask as the journal keeps it: what came along with it can be fetched."""
    return message.model_copy(update={"inline": {}}).model_dump()


def _ask_of(work: Finished) -> AskMessage | None:
    try:
        return AskMessage.model_validate(work.ask)
    except ValidationError:  # another version wrote it; if the task is still open, it is asked for again
        return None


def _declined(error: LyciaError) -> dict[str, Any]:
    return {"reply": ReplyMessage(kind="declined", reason=error.what).model_dump()}


def check_membership(home: Path, invitation: Invitation) -> Membership | None:
    """What the folder knows already.

    Raises: AccessError, if it belongs to another node or coordinator.
    """
    known = Membership.at(home)
    if known is None:
        return None
    if (known.name, known.url) == (invitation.name, invitation.url):
        if certificate_pin(known.certificate) == invitation.pin:
            return known
        raise AccessError(
            f"{home} belongs to the node {known.name!r} of another coordinator at {known.url}.",
            why="the coordinator there has another certificate than the one that this node joined; it was set up anew.",
            do="give another folder with --home, where the node joins as a new one.",
        )
    raise AccessError(
        f"{home} belongs to the node {known.name!r} at {known.url}.",
        why=f"the invitation is for {invitation.name!r} at {invitation.url}, and a folder holds one node's key.",
        do="give another folder with --home.",
    )


def _inline(digest: str, text: str) -> bytes:
    with suppress(ValueError):
        content = b64decode(text, validate=True)
        if sha256(content).hexdigest() == digest:
            return content
    raise ConnectionFailed(
        f"what came along with the ask as {digest[:12]}… is something else.",
        why="what is sent is named by the digest of its bytes.",
        do="tell the operator: the coordinator does not send what it says.",
    )


def _bare_environment() -> dict[str, str]:
    """What the trainer process may know of the agent's environment: nothing that is a credential or a way out."""
    hidden, data = ("LYCIA_", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), ("LYCIA_DATA", "LYCIA_CACHE")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(hidden) or key in data}
    return {**kept, "PYTHONUNBUFFERED": "1"}


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise RuntimeError("the trainer process has no pipe")
    return stream

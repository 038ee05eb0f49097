"""The trainer process: it has the app and the data, and neither keys nor a connection.

It reads jobs from its standard input, a line of JSON each, and writes what came of them to its standard output. Models
and updates pass through files in the agent's folder. What the app prints goes to standard error.
"""

import json
import os
import signal
import sys
import traceback
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lycia.catalogue import plan_from_json
from lycia.core.keys import Key
from lycia.core.layout import Layout, Model
from lycia.core.messages import OWN_EXCHANGES, TRAIN, Declined, Updates
from lycia.core.plan import App, Plan
from lycia.core.space import Space, is_large
from lycia.core.training import NodeData
from lycia.core.work import Node, work
from lycia.data.population import load_node_data
from lycia.data.schema import check_data
from lycia.deployment import wire
from lycia.deployment.wire import AskMessage
from lycia.errors import LyciaError, TrainingError
from lycia.runtime.apps import load_app, own_failure
from lycia.runtime.threads import one_thread
from lycia.storage.blobs import mapped
from lycia.storage.disk import replace_file
from lycia.storage.node_state import EARLIER, NodeState
from lycia.storage.space import Scratch


@dataclass(frozen=True)
class Job:
    """One ask for the trainer, with the files that it names."""

    ask: AskMessage
    plan: Path
    model: Path | None
    base: Path | None
    told: Path | None
    memory: Path
    update: Path
    secret: str

    def to_line(self) -> str:
        """The job as one line."""
        files = (self.plan, self.model, self.base, self.told, self.memory, self.update)
        return json.dumps([self.ask.model_dump(), *(path and str(path) for path in files), self.secret])

    @classmethod
    def from_line(cls, line: str) -> "Job":
        """The job that `to_line` wrote."""
        ask, plan, model, base, told, memory, update, secret = json.loads(line)
        return cls(
            AskMessage.model_validate(ask), Path(plan), model and Path(model), base and Path(base), told and Path(told),
            Path(memory), Path(update), secret,
        )  # fmt: skip


class Worker:
    """Does jobs with one app over one node's data."""

    def __init__(self, name: str, app: App, data: NodeData) -> None:
        self._name, self._app, self._data, self._agent = name, app, data, os.getppid()
        self._plans: dict[str, Plan] = {}
        self._layout, _ = app.trainer.first_model(app.schema, Key(app.plan.seed).at("first model"))

    def do(self, job: Job) -> dict[str, Any]:
        """What came of the job: {"update": path} or {"reply": …}, as the agent sends it on."""
        layout = self._layout
        if job.ask.layout != layout.digest:
            reason = (
                f"the run's model is not the one that this node's app {self._app.name!r} makes; both sides need the "
                "same app, of the same version"
            )
            return {"reply": wire.encode_reply(Declined(job.ask.task, self._name, reason)).model_dump()}
        if job.ask.plan not in self._plans:
            self._plans[job.ask.plan] = plan_from_json(job.plan.read_text())
        plan = self._plans[job.ask.plan]
        space = Scratch(job.update.parent)
        model = _model(layout, job.model, job.base, space) if job.model else None
        told = wire.decode_told(_content(job.told)) if job.told else {}
        ask = wire.decode_ask(job.ask, self._name, model, told)
        state, changes = (
            NodeState.at(job.memory, ask.undone),
            ask.exchange == TRAIN or ask.exchange not in OWN_EXCHANGES,
        )
        node = Node(self._name, self._data, state.base(ask) if changes else state.now, b64decode(job.secret))
        with one_thread():
            reply, memory = work(self._app.trainer, plan, layout, ask, node, space)
        if os.getppid() != self._agent:  # it was killed, and another one may be at the same task with another trainer
            sys.exit(1)
        if changes and (memory or job.memory.exists()):  # most nodes have nothing to remember
            state.worked(ask, memory).keep(job.memory, earlier=EARLIER)
        if isinstance(reply, Updates):
            replace_file(job.update, wire.update_file(layout, reply, job.ask.run), fsync=True)
            return {"update": str(job.update)}
        return {"reply": wire.encode_reply(reply).model_dump()}


def _model(layout: Layout, model: Path, base: Path | None, space: Space) -> Model:
    return wire.decode_model(layout, _content(model), _content(base) if base else None, space)


def _content(path: Path) -> bytes | memoryview:
    """What is in a file; a large one is mapped, and a small one is not, since Windows keeps what is mapped."""
    content = mapped(path) if is_large(path.stat().st_size) else None
    return path.read_bytes() if content is None else content


def _note(said: str) -> None:
    sys.stderr.write(f"{said}\n")


def main(arguments: list[str]) -> int:
    """Load the app and the data, say so, and work until standard input ends."""
    name, app_path, data_name = arguments
    out = _private_output()
    for one in (signal.SIGINT, signal.SIGTERM):  # they are for the agent, which ends this process when its work is done
        signal.signal(one, signal.SIG_IGN)
    try:
        app = load_app(Path(app_path))
        data = load_node_data(data_name, app, _note)
        if app.schema is not None:
            check_data(app.schema, data)
        worker = Worker(name, app, data)
    except LyciaError as error:
        _say(out, {"failed": wire.Problem.of(error).model_dump()})
        return 2
    except Exception as error:  # noqa: BLE001  # the app's code may raise anything
        _say(out, {"failed": wire.Problem.of(own_failure(error) or _not_loaded(error)).model_dump()})
        return 2
    _say(out, {"ready": {"examples": _count(data.train), "held_out": _count(data.held_out)}})
    for line in sys.stdin:
        try:
            _say(out, worker.do(Job.from_line(line)))
        except LyciaError as error:
            _say(out, {"failed": wire.Problem.of(error).model_dump()})
        except Exception as error:  # noqa: BLE001  # the app's code may raise anything
            traceback.print_exc()
            _say(out, {"failed": wire.Problem.of(_failed(error)).model_dump()})
    return 0


def _not_loaded(error: Exception) -> LyciaError:
    # The agent shows it on this node's terminal and sends it nowhere, so its text may be told.
    return TrainingError(
        f"the app and its data cannot be loaded: {type(error).__name__}: {error}.",
        why="a node makes its model and reads its data before it joins.",
        do="mend what it names; nothing was sent, and an invitation that was not used is still good.",
    )


def _failed(error: Exception) -> LyciaError:
    # Its text stays here: it may quote the data.
    return TrainingError(
        f"the app's own code failed with {type(error).__name__}; the node's terminal shows where.",
        why="what it raises over this node's data ends the task, not the node.",
        do="mend the app, or leave this node out.",
    )


def _count(data: Any) -> float | None:
    return float(len(data)) if data is not None and hasattr(data, "__len__") else None


def _private_output() -> IO[str]:
    """Standard output for the agent alone: whatever the app prints goes to standard error instead."""
    private = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    return private


def _say(out: IO[str], message: Mapping[str, Any]) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

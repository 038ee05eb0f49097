"""A federation of forked processes, and the harness's hand on each of them: start, kill, hear what they say."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from lycia.core.plan import App
from lycia.deployment.node.client import Client
from lycia.deployment.operator import OperatorAccess, follow, run_door
from lycia.deployment.starting import start_run
from lycia.deployment.wire import InviteMessage
from lycia.errors import LyciaError
from tests.chaos.links import Links
from tests.chaos.points import Charge
from tests.chaos.programs import Order

ROOT = Path(__file__).parents[2]
PATIENCE_S = 240.0  # what nothing here takes, on a machine however busy
Event = Mapping[str, Any]


class Zygote:
    """The warm process, and all that its children say, in the order in which they said it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.said = threading.Condition()
        self._starting = threading.Lock()

    def __enter__(self) -> "Zygote":
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.zygote"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self._listener = threading.Thread(target=self._listen, name="zygote", daemon=True)
        self._listener.start()
        assert self.wait(lambda event: event["said"] in ("waits", "is gone"))["said"] == "waits", "it cannot begin"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._process.wait()
        self._listener.join(PATIENCE_S)
        self._process.stdout.close()

    def start(self, order: Order) -> int:
        """Fork a process; returns its id."""
        assert self._process.stdin is not None
        with self._starting:
            first = len(self.events)
            self._process.stdin.write(json.dumps(order.to_data()).encode() + b"\n")
            self._process.stdin.flush()
        started = self.wait(lambda event: event["said"] == "started" and event["order"] == order.name, first)
        return int(started["child"])

    def wait(self, fits: Callable[[Event], bool], first: int = 0, within_s: float = PATIENCE_S) -> Event:
        """The first event from number `first` on that fits, once it was said."""
        until_s, at = time.monotonic() + within_s, first
        with self.said:
            while True:
                for event in self.events[at:]:
                    if fits(event):
                        return event
                at = len(self.events)
                if not self.said.wait(max(until_s - time.monotonic(), 0.0)):
                    raise AssertionError(f"nothing of what was awaited was said; the last: {self.events[-5:]}")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self.said:
                self.events.append(json.loads(line))
                self.said.notify_all()
        with self.said:
            self.events.append({"name": "zygote", "said": "is gone", "pid": self._process.pid})
            self.said.notify_all()


class Federation:
    """One coordinator and its nodes, in a folder; leaving the `with` block ends all processes.

    Attributes:
      orders: name → what its next life is started with; a charge is for one life.
      charges: name → where its next lives kill themselves, in order.
    """

    def __init__(
        self, zygote: Zygote, folder: Path, app_file: Path, *, silence_s: float, environment: Mapping[str, str] = {}
    ) -> None:
        self.zygote, self.folder, self._app_file = zygote, folder, app_file
        self._silence_s, self._environment = silence_s, environment
        self.links = Links(self.port)
        self.orders: dict[str, Order] = {}
        self.charges: dict[str, list[Charge]] = {}
        self.pids: dict[str, int] = {}
        self._lives: Counter[str] = Counter()
        self._starting = threading.Lock()
        self._groups: list[int] = []
        self._first = len(zygote.events)
        self._stack = ExitStack()

    @property
    def events(self) -> Sequence[Event]:
        """All that was said in this federation's life."""
        return self.zygote.events[self._first :]

    def __enter__(self) -> "Federation":
        for folder in ("logs", "nodes"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        self._stack.enter_context(self.links)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | BaseException | None) -> None:
        for group in self._groups:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        ended = {event["child"] for event in self.events if event["said"] == "ended"}
        for pid in {*self._groups} - ended:
            self.zygote.wait(lambda event, pid=pid: event["said"] == "ended" and event["child"] == pid, self._first)
        self._stack.close()

    # ---------------------------------------------------------------------------------------------------- its members

    def add_coordinator(self, **more: Any) -> None:
        """Start the coordinator. `more`: what its order says beside the usual."""
        arguments = {"home": str(self.folder / "coordinator"), "port": 0, "silence_s": self._silence_s}
        self.orders["coordinator"] = self._order("coordinator", "coordinator", arguments, **more)
        self._start("coordinator")

    def operator(self) -> Client:
        """A client that calls as the operator, past all links, once the coordinator serves; it is closed in the end."""
        self.zygote.wait(lambda event: event["said"] == "serves", self._first)
        client = OperatorAccess.at(self.folder / "coordinator").client()
        client._give_up_s = PATIENCE_S
        self._stack.callback(client.close)
        return client

    def port(self) -> int:
        """Where the coordinator listens, in all its lives; 0 before it did in one."""
        urls = (event["url"] for event in self.events if event["said"] == "serves")
        return int(next(urls, ":0").rpartition(":")[2])

    def add_node(self, name: str, invite: Callable[[InviteMessage], Any], **more: Any) -> None:
        """Invite a node over a link of its own, and start it."""
        said = invite(InviteMessage(name=name, url=f"https://127.0.0.1:{self.links.add(name)}"))
        arguments = {
            "invitation": said["invitation"], "app": str(self._app_file), "home": str(self.folder / "nodes" / name)
        }  # fmt: skip
        self.orders[name] = self._order("agent", name, arguments, **more)
        self._start(name)

    def restart(self, name: str) -> None:
        """Start it again, with the next charge that waits for it."""
        self._start(name)

    def kill(self, name: str, *, alone: bool = False) -> None:
        """SIGKILL, to an agent's trainer, too, unless it is `alone`."""
        with suppress(ProcessLookupError):
            (os.kill if alone else os.killpg)(self.pids[name], signal.SIGKILL)

    def kill_trainer(self, name: str) -> None:
        """SIGKILL to a node's trainer only."""
        known = [event["trainer"] for event in self.events if event["said"] == "has trainer" and event["name"] == name]
        with suppress(ProcessLookupError):
            if known:
                os.kill(known[-1], signal.SIGKILL)

    def _order(self, program: Any, name: str, arguments: Mapping[str, Any], **more: Any) -> Order:
        log = str(self.folder / "logs" / f"{name}.log")
        return Order(program, name, log, arguments, environment=dict(self._environment), **more)

    def _start(self, name: str) -> None:
        with self._starting:
            waiting, order = self.charges.get(name, []), self.orders[name]
            if name == "coordinator":
                order = replace(order, arguments={**order.arguments, "port": self.port()})
            order = order.for_life(self._lives[name], waiting.pop(0) if waiting else None)
            self._lives[name] += 1
            self.pids[name] = self.zygote.start(order)
            self._groups.append(self.pids[name])

    def last_words(self, name: str) -> str:
        """The end of a process's log."""
        log = self.folder / "logs" / f"{name}.log"
        return log.read_text(errors="replace")[-2000:].strip() if log.exists() else "(no log)"


class Operator:
    """Whoever runs the federation, in a thread of its own: lets nodes in, starts a run, and resumes what pauses.

    Attributes:
      facts: what is known of each run in the end. There are two where the first start failed on a full disk.
      pauses: the reasons for which a run stood still, and the errors that the operator was told.
    """

    def __init__(self, federation: Federation, mend: Callable[[], None]) -> None:
        """`mend`: what the operator does about a pause before the run goes on."""
        self._federation, self._mend = federation, mend
        self._left = threading.Event()
        self.facts: list[Mapping[str, Any]] = []
        self.pauses: list[str] = []
        self.runs: list[str] = []
        self.failed: BaseException | None = None

    def begin(self, app: App, nodes: Mapping[str, Mapping[str, Any]]) -> None:
        """Let `nodes` in (name → what its order says beside the usual), start a run, and follow it to its end."""
        self._thread = threading.Thread(target=self._work, args=(app, nodes), name="operator", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()

    def leave(self) -> None:
        """Follow no more; returns when nothing is under way. Raises what went wrong meanwhile."""
        self._left.set()
        self._thread.join(PATIENCE_S)
        if self.failed is not None:
            raise self.failed

    def _work(self, app: App, nodes: Mapping[str, Mapping[str, Any]]) -> None:
        try:
            self._client = self._federation.operator()
            for name, more in nodes.items():
                self._federation.add_node(name, self._invite, **more)
            self._patiently(lambda: start_run(self._client, app))
            self.runs = self._patiently(lambda: [row["id"] for row in self._client.get("/v1/runs")["runs"]])
            for run in self.runs:
                self._to_its_end(run)
            self.facts = [self._patiently(lambda run=run: self._client.get(run_door(run))) for run in self.runs]
        except BaseException as error:  # noqa: BLE001  # told by whoever waits for this thread
            self.failed = error
        with self._federation.zygote.said:
            self._federation.zygote.said.notify_all()

    def _invite(self, message: InviteMessage) -> Any:
        return self._patiently(lambda: self._client.post("/v1/invitations", message))

    def _to_its_end(self, run: str) -> None:
        while self._patiently(lambda: follow(self._client, run, [])) == "paused":
            reason = self._patiently(lambda: str(self._client.get(run_door(run))["reason"]))
            self.pauses.append(reason)
            assert len(self.pauses) < 100, f"it pauses again and again: {reason}"
            self._mend()
            self._patiently(lambda: self._client.post(run_door(run, "resume")))

    def _patiently(self, call: Callable[[], Any]) -> Any:
        until_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                return call()
            except LyciaError as error:  # a full disk, for one, is told to an operator at once
                if self._left.is_set() or time.monotonic() > until_s:
                    raise
                self.pauses.append(error.what)
                self._mend()
                self._left.wait(0.1)

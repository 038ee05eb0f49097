"""A federation of processes on this machine: for the demo, for tests that kill, and for benchmarks."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from lycia.deployment.operator import OperatorAccess
from lycia.deployment.wire import InviteMessage
from lycia.errors import ConnectionFailed, TrainingError

_COMMAND = (sys.executable, "-m", "lycia.cli")


class Federation:
    """A coordinator and nodes as processes of this machine; leaving the `with` block ends them all."""

    def __init__(
        self, home: Path, app_file: Path, serve: Sequence[str] = (), *,
        coordinator: Sequence[str] = _COMMAND, node: Sequence[str] = _COMMAND,
    ) -> None:  # fmt: skip
        """`serve`: more arguments of `lycia serve`; `coordinator`, `node`: programs in the command line's place."""
        self.home, self._app_file, self._serve = home, app_file, serve
        self._programs = {"coordinator": coordinator, "node": node}
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._joins: dict[str, list[str]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "Federation":
        self.coordinator_home = self.home / "coordinator"
        self.start_coordinator("0")
        self.client = self._stack.enter_context(closing(OperatorAccess.at(self.coordinator_home).client()))
        return self

    def start_coordinator(self, port: str) -> None:
        """Start the coordinator's process, and wait until it listens.

        Raises: ConnectionFailed, if it does not come up.
        """
        process = self._run(
            "coordinator", ["serve", "--home", str(self.coordinator_home), "--port", port, "--json", *self._serve]
        )
        line = process.stdout.readline() if process.stdout else ""
        if not line or "error" in json.loads(line):
            raise ConnectionFailed(
                "the coordinator did not start.",
                why=json.loads(line)["error"]["what"]
                if line
                else f"its log ends with: {self.last_words('coordinator')}",
                do=f"read {self.home / 'logs'}.",
            )
        self.url = str(json.loads(line)["url"])

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        for name in [*(name for name in self._processes if name != "coordinator"), "coordinator"]:
            self.end(name, signal.SIGTERM)

    def add_node(self, name: str, data: str, role: str = "node") -> None:
        """Invite a node and start its process."""
        said = self.client.post("/v1/invitations", InviteMessage(name=name, role=role))
        self.join(name, said["invitation"], data, self.home / "nodes" / name)

    def join(self, name: str, invitation: str, data: str, home: Path) -> None:
        """Start a node's process with an invitation that it has."""
        app = str(self._app_file)
        self._joins[name] = ["join", invitation, "--app", app, "--data", data, "--home", str(home)]
        self.restart(name)

    def restart(self, name: str) -> None:
        """Start a process again: a node's, or the coordinator's on its old port."""
        if name == "coordinator":
            self.start_coordinator(self.url.rpartition(":")[2])
        else:
            self._run(name, self._joins[name])

    def kill(self, name: str) -> None:
        """SIGKILL a process and all that it started: nothing of it gets to say goodbye."""
        self.end(name, signal.SIGKILL)

    def drain(self, name: str, within_s: float = 60.0) -> int:
        """Have a process finish what it has in hand, and wait for its end; returns its exit status."""
        process = self._processes.pop(name)
        process.terminate()
        status = process.wait(within_s)
        if process.stdout is not None:
            process.stdout.close()
        return status

    def end(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End a process and all that it started."""
        process = self._processes.pop(name, None)
        if process is None:
            return
        if process.poll() is None:
            _signal_group(process, how)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                _signal_group(process, signal.SIGKILL)
                process.wait()
        _signal_group(process, signal.SIGKILL)  # a trainer whose agent was killed
        if process.stdout is not None:
            process.stdout.close()

    def wait_nodes(self, count: int, within_s: float = 60.0) -> None:
        """Wait until so many nodes are there.

        Raises: TrainingError, if a node's process ends, or it takes too long.
        """
        until_s = time.monotonic() + within_s
        while sum(node["there"] for node in self.client.get("/v1/nodes")["nodes"]) < count:
            ended = [name for name, process in self._processes.items() if process.poll() is not None]
            if ended or time.monotonic() > until_s:
                name = ended[0] if ended else "a node"
                raise TrainingError(
                    f"{name} did not join.",
                    why=f"its log ends with: {self.last_words(name) if ended else 'nothing'}",
                    do=f"read {self.home / 'logs'}.",
                )
            time.sleep(0.05)

    def processes(self) -> dict[str, list[int]]:
        """name → process ids: a coordinator is one process, a node an agent and its trainer."""
        return {name: [process.pid, *_children(process.pid)] for name, process in list(self._processes.items())}

    def last_words(self, name: str) -> str:
        """The end of a process's log."""
        log = self.home / "logs" / f"{name}.log"
        return log.read_text(errors="replace")[-600:].strip() if log.exists() else "(no log)"

    def _run(self, name: str, arguments: list[str]) -> subprocess.Popen[str]:
        (self.home / "logs").mkdir(parents=True, exist_ok=True)
        with (self.home / "logs" / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                [*self._programs["coordinator" if name == "coordinator" else "node"], *arguments],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if name == "coordinator" else log, stderr=log,
                text=True, start_new_session=True, env={**os.environ, "LYCIA_HOME": str(self.home)},
            )  # fmt: skip
        self._processes[name] = process
        return process


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has ended, or this system does not tell
        return []


def _signal_group(process: subprocess.Popen[str], how: signal.Signals) -> None:
    try:
        os.killpg(process.pid, how)
    except (ProcessLookupError, PermissionError):
        return

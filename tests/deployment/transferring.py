"""What the tests of transfers share: a run and its asks, a link that can be hurt, and a look at what comes in."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lycia import App, Schema
from lycia.deployment.link import Body, Into, Link, LinkFailed, Response
from lycia.deployment.node.client import Client
from lycia.deployment.starting import start_run
from lycia.deployment.wire import AskMessage
from lycia.runtime.apps import load_app
from tests.deployment.conftest import APP
from tests.deployment.in_process import Coordinator
from tests.deployment.raw_node import Draft, RawNode
from tests.waiting import wait_until

PART = 4096  # more than a plan or a layout has, which are always one part
INLINE = 1024
LOST = 0  # the status of a call of which the connection was lost


class Killed(BaseException):
    """The end of a process: nothing that anybody could catch and mend."""


class Hurt:
    """A link that notes what passes, and lets a test do something before a call or to its body.

    Attributes:
      calls: (method, path, status) of what came back; the path without its query.
      before: is told of every call, and may raise, or do whatever it likes to the coordinator.
      change: what goes out in place of a part.
    """

    def __init__(self, link: Link) -> None:
        self._link, self.calls, self.ranges = link, [], []
        self.before: Callable[[str, str], None] = lambda *_: None
        self.change: Callable[[str, Body], Body] = lambda _, body: body

    def call(
        self, method: str, path: str, *, headers: Mapping[str, str], body: Body = b"", into: Into | None = None,
        silence_s: float = 30.0,
    ) -> Response:  # fmt: skip
        """As `Link.call`."""
        place = path.partition("?")[0]
        self.before(method, place)
        if method == "PUT":
            body = self.change(place, body)
        if "range" in headers:
            self.ranges.append(headers["range"])
        try:
            response = self._link.call(method, path, headers=headers, body=body, into=into, silence_s=silence_s)
        except LinkFailed:
            self.calls.append((method, place, LOST))
            raise
        self.calls.append((method, place, response.status))
        return response

    def close(self) -> None:
        """Hang up."""
        self._link.close()

    @property
    def parts(self) -> list[int]:
        """The numbers of the parts that were sent and answered, in order."""
        return [
            int(path.rpartition("/")[2]) for method, path, status in self.calls if method == "PUT" and status == 200
        ]


def hurt(client: Client) -> Hurt:
    """Put such a link where the client's own one was."""
    client._link = link = Hurt(client._link)
    return link


def app_of(least_nodes: int, **changes: Any) -> App:
    """An app of one round, whose updates have several parts."""
    app = load_app(APP)
    rules = replace(app.plan.rules, **{"least_nodes": least_nodes, "deadline_s": 600.0, **changes.pop("rules", {})})
    plan = replace(app.plan, **{"rounds": 1, **changes, "rules": rules})
    return replace(app, plan=plan, population={}, schema=Schema(shape=(2500,), labels=(0, 1)))


def begin(coordinator: Coordinator, *nodes: RawNode, **changes: Any) -> tuple[str, list[AskMessage]]:
    """A run of one round, and what its nodes, who are all that are there, are asked first."""
    for node in nodes:
        assert node.poll(0.0) is None
    run = start_run(coordinator.client, app_of(len(nodes), **changes))
    asks = [node.poll(30.0) for node in nodes]
    assert all(ask is not None and ask.run == run for ask in asks)
    return run, asks


def update_for(node: RawNode, ask: AskMessage) -> bytes:
    """An honest one."""
    files: list[bytes] = []

    class Noted(RawNode):
        def __init__(self) -> None:
            self.name, self._home, self.client = node.name, node._home, node.client

        def send(self, ask: AskMessage, content: bytes) -> str:
            files.append(content)
            return ""

    Noted().answer(ask, Draft.file)
    return files[0]


def facts(coordinator: Coordinator, run: str) -> dict[str, Any]:
    """What is known of a run."""
    return coordinator.client.get(f"/v1/runs/{run}")


def wait_over(coordinator: Coordinator, run: str, *nodes: RawNode) -> dict[str, Any]:
    """Let these nodes answer until the run is over; what is known of it then."""
    over = threading.Event()

    def play(node: RawNode) -> None:
        while not over.is_set():
            ask = node.poll(0.1)
            if ask is not None:
                node.answer(ask, Draft.file)

    threads = [threading.Thread(target=play, args=(node,)) for node in nodes]
    for thread in threads:
        thread.start()
    try:
        assert wait_until(lambda: facts(coordinator, run)["state"] != "running", 60)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    return facts(coordinator, run)


def spooled(coordinator: Coordinator) -> set[str]:
    """The names of all updates that lie at the coordinator, whole or not."""
    return {path.name for path in (coordinator.home / "spool").iterdir()}


def again(node: RawNode, home: Path) -> RawNode:
    """The next process of a node that was killed: the same key and files, and nothing in memory."""
    other = RawNode.__new__(RawNode)
    other.name, other._home = node.name, home
    old = node.client
    other.client = Client(old.url, old.certificate, old.name, old._identity, give_up_s=None, parallel=old._parallel)
    return other

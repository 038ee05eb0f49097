"""A coordinator that is away for a minute in the middle of 50 uploads of 100 MB: what is sent again, and trained again.

Fifty agents (real ones, each with its key, its folder and its connections, in threads of this process) bring one
update each to a real coordinator process over TLS. In place of a trainer process, of which this machine could not hold
fifty, each has a stand-in that writes the same constant update and counts how often it is asked to. When half of the
bytes have been sent, the coordinator is killed (SIGKILL); after the outage it is started again on its port. Bytes are
counted where they leave an agent, headers and whatever else its kernel still held when the connection broke included.
"""

import os
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from constant_app import AddConstant
from convention import Figure, tell, wanted
from round_overhead import app_file

from lycia import SGD, App, Evaluation, Everyone, FedAvg, NodeData, Plan, RoundRules, UniformMean
from lycia.core.layout import Layout
from lycia.core.messages import Updates
from lycia.deployment import wire
from lycia.deployment.identity import Identity, Invitation, fetch_certificate
from lycia.deployment.link import Body, HttpsLink, Into, Response
from lycia.deployment.local import Federation
from lycia.deployment.node.agent import Agent
from lycia.deployment.node.client import Client
from lycia.deployment.node.trainer import Job
from lycia.deployment.operator import follow
from lycia.deployment.starting import start_run
from lycia.deployment.wire import InviteMessage

_LOOK_S = 0.05


class Counted:
    """Bytes of updates that have been sent by anybody."""

    def __init__(self) -> None:
        self.sent = 0
        self._lock = threading.Lock()

    def add(self, size: int) -> None:
        """So many more."""
        with self._lock:
            self.sent += size


class CountingLink(HttpsLink):
    """A link that counts what leaves it in bodies of parts."""

    def __init__(self, url: str, certificate: str, counted: Counted) -> None:
        super().__init__(url, certificate)
        self._counted = counted

    def call(
        self, method: str, path: str, *, headers: Mapping[str, str], body: Body = b"", into: Into | None = None,
        silence_s: float = 30.0,
    ) -> Response:  # fmt: skip
        """As `Link.call`."""
        counted = self._count(body) if method == "PUT" else body
        return super().call(method, path, headers=headers, body=counted, into=into, silence_s=silence_s)

    def _count(self, body: Body) -> Iterator[bytes | memoryview]:
        pieces: Iterable[bytes | memoryview] = [body] if isinstance(body, (bytes, memoryview)) else body
        for piece in pieces:
            self._counted.add(len(piece))  # before it goes: what breaks off in its middle counts as a whole
            yield piece


class StandIn:
    """What an agent sees of a trainer process."""

    examples = 1.0

    def __init__(self, name: str, layout: Layout) -> None:
        self._name, self._layout = name, layout
        self.asked = 0

    def do(self, job: Job) -> dict[str, Any]:
        """The constant update, as a file."""
        self.asked += 1
        delta = np.full((1, self._layout.size("trained")), 1e-3, np.float32)
        update = Updates(job.ask.task, (self._name,), delta, np.ones(1))
        with job.update.open("wb") as file:
            for piece in wire.update_file(self._layout, update, job.ask.run):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        return {"update": str(job.update)}


def main() -> None:
    """Measure, and say so."""
    asked = wanted(__doc__)
    nodes, model_mb, outage_s = (6, 40, 3.0) if asked.quick else (50, 100, 60.0)
    floats = model_mb * 1_000_000 // 4
    with tempfile.TemporaryDirectory(prefix="lycia-bench-outage-") as scratch:
        home, counted = Path(scratch), Counted()
        file = app_file(home / "federation", floats, 1)
        with Federation(home / "federation", file) as federation:
            agents, trainers = _agents(federation, home, nodes, floats, counted)
            threads = [threading.Thread(target=agent.serve, daemon=True) for agent in agents]
            for thread in threads:
                thread.start()
            federation.wait_nodes(nodes)
            run = start_run(federation.client, _app(nodes, floats))
            began_s = time.monotonic()
            while counted.sent < nodes * floats * 4 / 2:
                time.sleep(_LOOK_S)
            federation.kill("coordinator")
            time.sleep(outage_s)
            federation.restart("coordinator")
            state = follow(federation.client, run, ())
            took_s = time.monotonic() - began_s
            facts = federation.client.get(f"/v1/runs/{run}")
            for agent in agents:
                agent.stop()
    heard = len(facts["records"][0]["survivors"]) if facts["records"] else 0
    if state != "finished" or heard != nodes:
        raise SystemExit(f"the run did not go as it should: {state}, {heard} of {nodes} nodes were heard.")
    figures = {
        "bytes_over_updates": Figure(
            counted.sent / (nodes * floats * 4), "bytes that left the nodes over the size of their updates", "≤ 1.1"
        ),
        "trained_again": Figure(sum(trainer.asked for trainer in trainers) - nodes, "trainings beyond one a node", "0"),
        "uploads": Figure(nodes, f"of {model_mb} MB each"),
        "outage_s": Figure(outage_s, "how long nobody listened"),
        "round_s": Figure(took_s, "the whole round, outage included"),
    }
    tell("outage", asked, figures, notes=[str(__doc__).strip()])


def _agents(
    federation: Federation, home: Path, nodes: int, floats: int, counted: Counted
) -> tuple[list[Agent], list[StandIn]]:
    layout, _ = AddConstant(floats).first_model(None, None)  # type: ignore[arg-type]
    agents, trainers = [], []
    for number in range(nodes):
        name = f"node-{number + 1}"
        said = federation.client.post("/v1/invitations", InviteMessage(name=name))
        invitation = Invitation.from_text(said["invitation"])
        certificate, place = fetch_certificate(invitation.url, invitation.pin), home / "nodes" / name
        place.mkdir(parents=True)
        link = CountingLink(invitation.url, certificate, counted)
        client = Client(invitation.url, certificate, name, Identity.at(place / "key.pem"), give_up_s=None, link=link)
        client.enrol(invitation.token, 1.0, {})
        trainers.append(StandIn(name, layout))
        agents.append(Agent(place, client, trainers[-1], name, lambda _: None))  # type: ignore[arg-type]
    return agents, trainers


def _app(nodes: int, floats: int) -> App:
    rules = RoundRules(least_nodes=nodes, quorum=1.0, over_selection=1.0, replacement=False, deadline_s=3600.0)
    return App(
        name="outage",
        trainer=AddConstant(floats),
        plan=Plan(
            rounds=1, selector=Everyone(), client=FedAvg(), aggregator=UniformMean(), server=SGD(), rules=rules,
            evaluation=Evaluation(nodes=0, evaluators=False),
        ),
        population={f"node-{number + 1}": NodeData(train=(number,)) for number in range(nodes)},
    )  # fmt: skip


if __name__ == "__main__":
    main()

"""What the system promises, looked at in the very moment in which it could be broken."""

import hashlib
import json
from pathlib import Path
from typing import Any

from lycia.core import closing
from lycia.core import round as rounds
from lycia.core.events import Asked, Dropped, Heard, Opened, Settled
from lycia.core.layout import Layout, Model
from lycia.core.messages import TRAIN, Updates
from lycia.core.plan import Plan
from lycia.core.round import Carried, Run
from lycia.core.work import Memory, Node, work
from lycia.deployment import wire
from lycia.deployment.wire import AskMessage
from lycia.storage import parts
from lycia.storage.carrying import model_digest
from tests.chaos.deterministic.app import NAMES, app_of, data_of
from tests.chaos.deterministic.database import Disk
from tests.chaos.deterministic.network import Call
from tests.chaos.deterministic.world import World

RUN = "run"


class Promises:
    """Watches one world.

    Attributes:
      updates: (round, attempt, node) → the file that the node made.
    """

    def __init__(self, world: World, disk: Disk, plan: Plan, layout: Layout, home: Path) -> None:
        self._spool, self._homes = home / "coordinator" / "spool", {name: home / name for name in NAMES}
        self._world, self._disk, self._plan, self._layout = world, disk, plan, layout
        self._durable: set[tuple[int, str]] = set()
        self._before_start: set[tuple[int, str]] = set()
        self._acknowledged: set[tuple[int, str]] = set()
        self._finished: set[tuple[int, str]] = set()
        self._seen_lines: set[str] = set()
        self._lives = 0
        self.updates: dict[tuple[int, int, str], bytes] = {}
        self._began: set[tuple[int, str]] = set()
        self._tasks: dict[tuple[int, int, str], int] = {}
        self._made: dict[tuple[int, str], bytes] = {}
        disk.committed.append(self._look_at_journal)

    # ---------------------------------------------------------------------------------------- what happens in the world

    def coordinator_begins(self) -> None:
        """A coordinator starts: what is durable now, it knows."""
        self._before_start = set(self._durable)
        self._lives += 1

    def trains(self, node: str, ask: AskMessage) -> None:
        """A node begins to work on a task."""
        place = (ask.task, node)
        if ask.exchange == TRAIN:
            self._began.add(place)
        self._world.say(node, f"works on task {ask.task} ({ask.exchange!r} of round {ask.round + 1})")
        if place in self._finished:
            self._world.breaks(f"{node} works on task {ask.task} again, which it has finished")
        if place in self._acknowledged:
            self._world.breaks(f"{node} works on task {ask.task} again, for which it was acknowledged")

    def file_is_there(self, path: Path) -> None:
        """A file has got its name: if it is a node's note of finished work, that work is never done again."""
        if path.parent.name == "finished":
            self._finished.add((int(path.stem.rpartition("-")[2]), path.parent.parent.name))

    def made(self, node: str, ask: AskMessage, file: bytes) -> None:
        """A node has made an update."""
        place = (ask.task, node)
        if self._made.setdefault(place, file) != file:
            self._world.breaks(f"{node} made another update for task {ask.task} the second time")
        self.updates[ask.round, ask.attempt, node] = file
        self._tasks[ask.round, ask.attempt, node] = ask.task

    def answered(self, call: Call, path: str, status: int, body: bytes) -> None:
        """The coordinator answers a call: what it says is out of its hands from now on."""
        node, method = call.caller, call.method
        self._world.say("coordinator", f"{status} to {node}: {method} {path} {_in_short(body)}")
        if status == 500:
            self._world.breaks(f"the coordinator failed over {method} {path}: {body[:300]!r}")
        if status != 200:
            return
        if path == "/v1/poll":
            ask = AskMessage.model_validate_json(body)
            self._world.say(node, f"is asked task {ask.task} ({ask.exchange!r} of round {ask.round + 1})")
            place = (ask.task, node)
            if place in self._acknowledged:
                self._world.breaks(f"{node} is asked task {ask.task} again, for which it was acknowledged")
            if place in self._before_start:
                self._world.breaks(f"after a restart {node} is asked task {ask.task} again, which is in the database")
            return
        said = json.loads(body) if body.startswith(b"{") else {}
        if said.get("refused", "?") or said.get("missing"):
            return
        if "damaged" in said and not said["damaged"]:
            self._check_part(path, node)
        elif "have" in said:
            for number in said["have"]:
                self._check_part(f"{path}/{said['upload']}/{number}", node)
        elif path.endswith(("/update", "/reply")) or said.get("over"):
            place = (int(path.split("/")[5]), node)
            if place not in self._durable and b'"kind":"declined"' not in call.body:  # that may come too late to matter
                self._world.breaks(f"task {place[0]} of {node} is acknowledged, and is not in the database")
            self._acknowledged.add(place)

    def _check_part(self, path: str, node: str) -> None:
        """A part that its sender may take for received is in the database, and its bytes are on the disk."""
        *_, id, number = path.split("/")
        found = self._disk.rows("SELECT parts, size_bytes FROM uploads WHERE id = ?", id)
        if not found:  # nobody needs it any more
            return
        ((digests, size_bytes),) = found
        if not self._disk.rows("SELECT 1 FROM parts WHERE upload = ? AND number = ?", id, number):
            self._world.breaks(f"part {number} of {node}'s upload is acknowledged, and is not in the database")
        content = (self._spool / id).read_bytes()[parts.place(size_bytes, int(number))]
        if hashlib.sha256(content).hexdigest() != digests[64 * int(number) :][:64]:
            self._world.breaks(f"part {number} of {node}'s upload is acknowledged, and is not on the disk")

    def _look_at_journal(self) -> None:
        """After each commit: what of each node is in the database from now on."""
        for (line,) in self._disk.rows("SELECT line FROM events WHERE run = ? ORDER BY seq", RUN):
            if line in self._seen_lines:
                continue
            self._seen_lines.add(line)
            event = json.loads(line)
            if event["event"] == "Heard":
                for node in event["nodes"]:
                    place = (event["task"], node)
                    if place in self._durable:
                        self._world.breaks(f"task {place[0]} of {node} is heard twice in the journal")
                    self._durable.add(place)

    # ---------------------------------------------------------------------------------------------------- at the end

    def records(self) -> list[dict[str, Any]]:
        """The records of the rounds that ended."""
        rows = self._disk.rows("SELECT json FROM records WHERE run = ? ORDER BY number", RUN)
        return [json.loads(line) for (line,) in rows]

    def models(self) -> dict[int, str]:
        """The digest of the model after each round."""
        return dict(self._disk.rows("SELECT round, digest FROM models WHERE run = ? ORDER BY round", RUN))

    def check_records(self, first: Model) -> None:
        """Each model follows from its own record, and from the updates as the nodes made them, bit for bit."""
        run, models = Run(RUN, self._plan, self._layout), self.models()
        carried = rounds.first(run, first)
        memories: dict[str, Memory] = {}
        # Whose agent died before it noted what its trainer had done remembers that, though it may never count.
        unsure = {node for task, node in self._began - self._finished}
        for record in self.records():
            if record["missed"]:  # who was heard in it learns of that from the next attempt only, if it is in that
                unsure |= {*record["survivors"]}
            if record["purpose"] != "train" or record["missed"]:
                continue
            opened = Opened(0.0, record["round"], record["attempt"], "train", record["population"], b"",
                            record["norm_bound"])  # fmt: skip
            current, task = rounds.Round.begin(run, opened), carried.task
            nodes = tuple(record["survivors"])
            current = rounds.take(current, Asked(0.0, task, TRAIN, tuple(record["asked"][TRAIN])))
            for drop in record["dropped"]:
                if drop["exchange"] == TRAIN:
                    gone = Dropped(0.0, task, drop["node"], drop["kind"], drop["reason"], drop.get("norm"))
                    current = rounds.take(current, gone)
            heard = Heard(
                0.0, task, nodes, nodes, tuple(record["weights"][node] for node in nodes),
                tuple(record["norms"][node] for node in nodes),
            )  # fmt: skip
            current = rounds.take(rounds.take(current, heard), Settled(0.0, TRAIN, nodes))

            self._check_nodes(carried, record, current.opened, memories, unsure)

            def kept(node: str, record: dict[str, Any] = record) -> Updates:
                file = self.updates[record["round"], record["attempt"], node]
                return wire.reread(self._layout, file, node)

            carried = closing.close(run, carried, current, kept)
            found = model_digest(self._layout, carried.model)
            if not found == record["model"] == models[carried.round]:
                self._world.breaks(f"the model of round {carried.round} does not follow from its record")

    def _check_nodes(
        self, carried: Carried, record: dict[str, Any], opened: Opened, memories: dict[str, Memory], unsure: set[str]
    ) -> None:  # fmt: skip
        """Each survivor's update follows from the model, its data, and its own work that counted before."""
        run, trainer = Run(RUN, self._plan, self._layout), app_of(self._plan).trainer
        for name in record["survivors"]:
            place = record["round"], record["attempt"], name
            ask = rounds.ask(
                run, carried, rounds.Round.begin(run, opened), Asked(0.0, self._tasks[place], TRAIN, (name,))
            )
            node = Node(name, data_of(name), memories.get(name, {}))
            reply, memories[name] = work(trainer, self._plan, self._layout, ask, node)
            file = b"".join(bytes(piece) for piece in wire.update_file(self._layout, reply, RUN))
            if file != self.updates[place] and name not in unsure:
                self._world.breaks(f"{name} began round {record['round'] + 1} with what does not count")

    def check_nothing_is_left(self) -> None:
        """Nothing lies about, on either side, that only an open task would need."""
        ((carried, first),) = self._disk.rows("SELECT carried, first_model FROM runs WHERE id = ?", RUN)
        kept = [carried, *(line for (line,) in self._disk.rows("SELECT carried FROM models") if line)]
        needed = {first, *(json.loads(line)[key] for line in kept for key in ("model", "arrays", "frozen"))}
        blobs = self._spool.with_name("blobs")
        stray = [f"blob {name}" for name in blob_names(blobs) if name not in needed]
        # One that dies between making a model and removing what that replaces leaves it behind; it does no harm.
        left = stray if len(stray) > self._lives - 1 else []
        left += [f"upload {path.name[:12]}" for path in sorted(self._spool.iterdir())]
        left += [f"announced {row}" for row in self._disk.rows("SELECT task, node FROM uploads")]
        left += [f"part {row}" for row in self._disk.rows("SELECT number FROM parts")]
        left += [
            f"{node}: {path.name}"
            for node, home in self._homes.items()
            for folder in ("spool", "finished")
            for path in sorted((home / folder).iterdir())
            if path.suffix != ".part"  # which a trainer died over: the agent removes it when it starts again
        ]
        if left:
            self._world.breaks(f"left over: {', '.join(left)}")


def blob_names(folder: Path) -> list[str]:
    """The digests of all blobs in a folder."""
    return sorted(path.parent.name + path.name.removesuffix(".parts") for path in folder.glob("[0-9a-f][0-9a-f]/*"))


def _in_short(body: bytes) -> str:
    try:
        told = json.loads(body)
    except ValueError:
        return f"({len(body)} bytes)" if body else ""
    if not isinstance(told, dict):
        return ""
    return str({key: told[key] for key in ("refused", "what") if key in told} or "")[:140]

"""What the coordinator does for its callers, apart from HTTP: enrolment, runs, and the nodes' boxes."""

import asyncio
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from lycia.catalogue import plan_from_json
from lycia.core.layout import Layout, read_checkpoint
from lycia.core.messages import Late, Reply
from lycia.core.round import Carried, Run, first
from lycia.deployment.coordinator.mailbox import Mailbox
from lycia.deployment.coordinator.presence import Presence
from lycia.deployment.coordinator.sessions import Caller, Sessions
from lycia.deployment.identity import ROLES, Invitation, Role, is_signed, token_hash
from lycia.deployment.wire import AskMessage, EnrolMessage, InviteMessage, StartMessage
from lycia.errors import AccessError, LayoutError, LyciaError, NotFound, StorageError
from lycia.runtime.apps import run_name
from lycia.runtime.beginning import run_id
from lycia.runtime.facts import Fact, RoundEnded, RoundMoved, RunBegan, RunEnded, fact_to_json
from lycia.runtime.ports import Entropy
from lycia.runtime.runner import World, hold
from lycia.storage import nodes as members
from lycia.storage import runs as kept_runs
from lycia.storage.blobs import BlobFolder
from lycia.storage.carrying import read_kept_model
from lycia.storage.database import Connection, Database
from lycia.storage.facts import StoredRun
from lycia.storage.run_store import RunStore
from lycia.storage.tables import Invitation as StoredInvitation
from lycia.storage.tables import Node

log = structlog.get_logger()

_TOGETHER_S = 0.1


@dataclass
class _Live:
    """A run that is being held now; `written` counts the facts about it that are in the store."""

    run: Run
    mailbox: Mailbox
    task: asyncio.Task[None] | None = None
    moved: str = ""
    written: int = 0
    stirred: asyncio.Event = field(default_factory=asyncio.Event)


class WallClock:
    """Seconds since 1970 that never go back, whatever is done to the machine's clock meanwhile."""

    def __init__(self) -> None:
        self._at_s, self._began_s = time.time(), time.monotonic()

    def now_s(self) -> float:
        """Now."""
        return self._at_s + time.monotonic() - self._began_s


def system_entropy(_round: int, _attempt: int) -> bytes:
    """32 bytes from the system; the loop writes them down with the round that it opens."""
    return os.urandom(32)


class Service:
    """One coordinator."""

    def __init__(
        self, database: Database, blobs: BlobFolder, outgoing: BlobFolder, url: str, pin: str, secret: bytes, *,
        silence_s: float = 10.0, entropy: Entropy = system_entropy,
    ) -> None:  # fmt: skip
        self._db, self._blobs, self._outgoing = database, blobs, outgoing
        self._url, self._pin, self._entropy = url, pin, entropy
        self.clock = WallClock()
        self.sessions = Sessions(secret, self.clock.now_s)
        self.presence = Presence(silence_s, self.clock.now_s)
        self._nodes: dict[str, Node] = {}
        self._live: dict[str, _Live] = {}
        self._arrived = asyncio.Event()
        self._unwritten: dict[str, tuple[str, str]] = {}
        self._ending = False

    # ------------------------------------------------------------------------------------------------------ its life

    async def begin(self) -> None:
        """Load who is enrolled, and go on with the runs that were under way, or had to pause."""
        await self._reload()
        for row in await self._db.read(kept_runs.list_runs):
            if row.state in ("running", "paused"):
                await self._go_on(row)

    async def end(self) -> None:
        """Let go of everything; what is durable stays, and `begin` goes on from there."""
        self._ending = True
        held = list(self._live.values())
        for live in held:
            live.mailbox.interrupt()
            if live.task is not None:
                live.task.cancel()
        await asyncio.gather(*(live.task for live in held if live.task), return_exceptions=True)
        self._wake()
        for live in held:
            self._stir(live)

    # ------------------------------------------------------------------------------------------------- who is calling

    async def invite(self, message: InviteMessage) -> Invitation:
        """A new invitation; only its token's hash stays here."""
        if message.role not in ROLES:
            raise AccessError(
                f"there is no role {message.role!r}.",
                why=f"the roles are {', '.join(ROLES)}.",
                do="use --role node, --role evaluator or --role operator.",
            )
        known = self._nodes.get(message.name)
        if known is not None:
            raise AccessError(
                f"{message.name!r} {'is enrolled already' if known.state == 'active' else f'has been {known.state}'}.",
                why="a name stands for one key, for good: the records of all rounds tell nodes apart by it.",
                do=f"choose another name, such as {message.name}-2; see `lycia nodes` for those that are taken.",
            )
        token, now_s = secrets.token_urlsafe(24), time.time()
        stored = StoredInvitation(token_hash(token), message.name, message.role, now_s, now_s + message.valid_s)
        await self._db.write(lambda connection: members.add_invitation(connection, stored))
        return Invitation(message.url or self._url, self._pin, token, message.name, message.role)

    async def enrol(self, message: EnrolMessage) -> Node:
        """Make the bearer of an unused invitation a member; the same key again changes nothing.

        Raises: AccessError, if the signature is wrong, or the token unknown, used, or expired.
        """
        if not is_signed(
            message.public_key, message.signature, "lycia enrol", message.token.encode(), message.public_key.encode()
        ):
            raise AccessError(
                "the enrolment is not signed by the key that it brings.",
                why="only who holds a key may enrol it.",
                do="join again; if it happens again, something changes messages on the way.",
            )
        now_s = time.time()

        def change(connection: Connection) -> Node:
            used = members.use_invitation(connection, token_hash(message.token), message.public_key, now_s)
            key, examples = bytes.fromhex(message.public_key), _count(message.examples)
            new = Node(used.name, key, used.role, "active", now_s, now_s, examples, versions=message.versions)
            return members.add_node(connection, new)

        node = await self._db.write(change)
        self._nodes[node.name] = node
        log.info("node enrolled", node=node.name, role=node.role)
        return node

    async def add_operator(self, name: str, public_key: str) -> None:
        """Enrol the operator whose key lies on this machine."""
        now_s = time.time()
        operator = Node(name, bytes.fromhex(public_key), "operator", "active", now_s, now_s)
        self._nodes[name] = await self._db.write(lambda connection: members.add_node(connection, operator))

    def open_session(self, name: str, nonce: str, signature: str) -> str:
        """A bearer, if the signature proves that the caller holds the key enrolled under `name`."""
        node = self._member(name)
        return self.sessions.open(name, nonce, signature, node.public_key.hex(), _role(node.role))

    def caller(self, bearer: str) -> Caller | None:
        """Who is calling, if the bearer is good.

        Raises: AccessError, if the caller has been revoked since.
        """
        caller = self.sessions.caller(bearer)
        if caller is not None:
            self._member(caller.name)
        return caller

    async def revoke(self, name: str) -> None:
        """Let a node in no more, from its next call on.

        Raises: NotFound, if there is no such node.
        """
        if name not in self._nodes:
            raise _no_node(name, self._nodes)
        await self._db.write(lambda connection: members.set_node_state(connection, name, "revoked"))
        await self._reload()
        self.presence.forget(name)
        self._wake()  # its open poll, too, ends now
        log.info("node revoked", node=name)

    def nodes(self) -> list[dict[str, Any]]:
        """Everyone who is enrolled, and whether they are there."""
        return [
            {
                "name": node.name, "role": node.role, "state": node.state, "there": self.presence.is_there(node.name),
                "examples": node.examples, "public_key": node.public_key.hex(),
            }
            for node in sorted(self._nodes.values(), key=lambda node: node.name)
        ]  # fmt: skip

    # ---------------------------------------------------------------------------------------------------- nodes' work

    async def poll(
        self, caller: Caller, wait_s: float, examples: float | None, gone: Callable[[], Awaitable[Any]]
    ) -> AskMessage | None:
        """The next ask for the caller; None if there is none for `wait_s` seconds, or if it hangs up meanwhile."""
        await self.presence.saw(caller.name, caller.role, examples)
        self.presence.polling(caller.name, +1)
        hung_up = asyncio.ensure_future(gone())
        until_s = self.clock.now_s() + wait_s
        try:
            while not self._ending:
                self._member(caller.name)
                arrived = self._arrived
                for live in self._live.values():
                    message = live.mailbox.task_for(caller.name)
                    if message is not None:
                        return message
                waiting = asyncio.ensure_future(arrived.wait())
                left_s = max(until_s - self.clock.now_s(), 0)
                done, _ = await asyncio.wait({waiting, hung_up}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if waiting not in done:
                    return None
            return None
        finally:
            hung_up.cancel()
            self.presence.polling(caller.name, -1)

    async def deliver(self, caller: Caller, run: str, reply: Reply) -> str:
        """Hand a reply to its run; returns why it was not taken, or "".

        Raises: AccessError, if the caller was revoked while it sent it.
        """
        self._member(caller.name)
        await self.presence.saw(caller.name, caller.role)
        live = self._live.get(run)
        if live is None:
            return f"the run is {(await self._stored(run)).state}"
        return await live.mailbox.deliver(reply, caller.name) or ""

    async def expects(self, caller: Caller, run: str, task: int) -> Mailbox | None:
        """The box that an update for this task belongs into; None if nobody waits for it any more."""
        live = self._live.get(run)
        return live.mailbox if live is not None and await live.mailbox.expects(task, caller.name) else None

    def box(self, run: str) -> Mailbox | None:
        """The box of a run that is being held now."""
        live = self._live.get(run)
        return live.mailbox if live else None

    async def late(self, caller: Caller, run: str, task: int) -> str:
        """What to tell a node whose update comes too late, as the record will, too; "" if it was taken before."""
        return await self.deliver(caller, run, Late(task, caller.name))

    def may_read(self, caller: Caller, digest: str) -> bool:
        """Whether an ask that waits for the caller gives it this blob."""
        return any(live.mailbox.names(caller.name, digest) for live in self._live.values())

    # ------------------------------------------------------------------------------------------------------------ runs

    async def start(self, message: StartMessage) -> str:
        """Begin a run; returns its id.

        Raises: PlanError, LayoutError, TensorFileError, if what the operator sent does not fit together.
        """
        plan, layout = plan_from_json(message.plan), Layout.from_json(message.layout)
        found, _, _ = await asyncio.to_thread(read_checkpoint, self._blobs.open(message.model))
        if found != layout:
            raise LayoutError(
                "the model that was uploaded has another layout than the run.",
                why="a run keeps the names, shapes and kinds of its first model.",
                do="start again with a model of this app.",
            )
        row = StoredRun(
            run_id(run_name(message.app)), message.app, message.plan, plan.digest, message.layout, time.time(),
            message.versions, message.schema_text, first_model=message.model,
        )  # fmt: skip
        live, start = self._prepare(row)
        await self._db.write(lambda connection: kept_runs.create_run(connection, row))
        self._hold(live, start)
        return row.id

    async def runs(self) -> list[StoredRun]:
        """All runs, the newest first."""
        return [self._as_it_stands(row) for row in reversed(await self._db.read(kept_runs.list_runs))]

    async def facts(self, run: str) -> dict[str, Any]:
        """All that a report is made of.

        Raises: NotFound, if there is no such run.
        """
        found = await self.find(run)
        facts = await self._db.read(lambda connection: kept_runs.facts_of_run(connection, found))
        state, reason = self._unwritten.get(found, (facts["state"], facts["reason"]))
        return {**facts, "state": state, "reason": reason}

    async def find(self, run: str) -> str:
        """The whole id of a run of which an unmistakable beginning is given; "latest" is the newest.

        Raises: NotFound.
        """
        known = [row.id for row in await self.runs()]
        matches = (
            known[:1]
            if run == "latest"
            else [run]
            if run in known
            else [name for name in known if name.startswith(run)]
        )
        if len(matches) != 1:
            raise NotFound(
                f"there is no run {run!r}." if not matches else f"{run!r} may be {', '.join(matches[:5])}.",
                why="a run is named by its id, or by a beginning of it that no other run has.",
                do="see `lycia runs` for the ids.",
            )
        return matches[0]

    async def model_blob(self, run: str, round_number: int | None) -> str:
        """The digest of a run's model after so many rounds; None for the latest.

        Raises: NotFound, if that round has no model here.
        """
        found = await self.find(run)
        stored = await self._db.read(lambda connection: kept_runs.models_of_run(connection, found))
        models = {model.round: model.digest for model in stored}
        number = max(models, default=0) if round_number is None else round_number
        if number not in models:
            raise NotFound(
                f"run {run!r} has no model of round {number}.",
                why=f"it has those of the rounds {', '.join(map(str, sorted(models)))}."
                if models
                else "it has none yet.",
                do="leave --round out for the latest one." if models else "wait until the run has begun: lycia watch",
            )
        return models[number]

    async def events(self, run: str, after: int, wait_s: float) -> dict[str, Any]:
        """What happened in a run after fact number `after`; waits for something to happen."""
        found = run if run in self._live else await self.find(run)
        until_s = self.clock.now_s() + wait_s
        written = -1
        while True:
            live = self._live.get(found)
            stirred, moved = (live.stirred, live.moved) if live else (None, "")
            facts: list[tuple[int, Fact]] = []
            state = "running"
            if live is None or live.written != written:  # a move inside a round is not in the store
                written = live.written if live else -1
                facts, state = await self._facts_after(found, after)
            left_s = until_s - self.clock.now_s()
            if facts or stirred is None or left_s <= 0:
                events = [[number, fact_to_json(fact)] for number, fact in facts]
                return {"run": found, "events": events, "moved": moved, "state": state}
            with suppress(TimeoutError):
                await asyncio.wait_for(stirred.wait(), left_s)
                await asyncio.sleep(_TOGETHER_S)  # what happens within the blink of an eye is told in one answer
            if live and live.moved != moved and live.written == written:
                return {"run": found, "events": [], "moved": live.moved, "state": state}

    async def _facts_after(self, run: str, after: int) -> tuple[list[tuple[int, Fact]], str]:
        """Facts with their numbers: 1 is the run's beginning, then one for each round that ended, and its end."""
        row = await self._stored(run)
        known = max(after - 2, 0)  # the last round that the caller has seen, to tell it from one who has seen the end
        records = await self._db.read(lambda connection: kept_runs.records_of_run(connection, run, known))
        if after >= 2 and not records:
            return [], row.state
        facts: list[tuple[int, Fact]] = []
        if after < 1:
            plan = plan_from_json(row.plan)
            population = records[0]["population"] if records else len(self.presence.roster())
            facts.append((1, RunBegan(run, plan.rounds, 0, population, plan.stop.metric if plan.stop else "")))
        facts += [
            (number, RoundEnded(record)) for number, record in enumerate(records, start=known + 2) if number > after
        ]
        if row.state != "running":
            models = await self._db.read(lambda connection: kept_runs.models_of_run(connection, run))
            facts.append((known + 2 + len(records), RunEnded(row.state, row.reason, len(models) - 1)))
        return facts, row.state

    async def _go_on(self, row: StoredRun) -> None:
        """Hold a run that this coordinator, or one before it, let go of."""
        try:
            live, start = self._prepare(row)
            if row.state != "running":
                await self._db.write(lambda connection: kept_runs.set_run_state(connection, row.id, "running"))
        except LyciaError as error:
            log.error("run cannot go on", run=row.id, what=error.what, why=error.why, do=error.do)
            await self._pause(row.id, error.what)
        else:
            self._hold(live, start)

    def _hold(self, live: _Live, start: Carried) -> None:
        self._live[live.run.id] = live
        live.task = asyncio.create_task(self._watch(live, start))

    def _prepare(self, row: StoredRun) -> tuple[_Live, Carried]:
        _, model = read_kept_model(self._blobs, row.first_model)
        run = Run(row.id, plan_from_json(row.plan), Layout.from_json(row.layout))
        for text in (row.plan, row.layout):
            self._outgoing.put([text.encode()])  # nodes fetch them by digest
        box = Mailbox(run, self.presence, self._blobs, self._outgoing, self.clock.now_s, self._wake)
        return _Live(run, box), first(run, model)

    async def _watch(self, live: _Live, start: Carried) -> None:
        run = live.run
        store = RunStore(self._db, self._blobs, run.id, run.layout)
        world = World(live.mailbox, store, self.clock, self._entropy, (_Feed(self, live),))
        bound = log.bind(run=run.id)
        bound.info("run begins", rounds=run.plan.rounds)
        try:
            outcome = await hold(run, start, world)
            state, reason = outcome.state, outcome.reason
        except LyciaError as error:
            bound.error("run pauses", what=error.what, why=error.why, do=error.do)
            state, reason = "paused", error.what
        except Exception as error:  # noqa: BLE001  # a bug in one run, or in a part of it, ends no other run
            bound.exception("run pauses")
            state, reason = "paused", f"the coordinator failed over it: {type(error).__name__}: {error}"
        await self._set_state(run.id, state, reason)
        bound.info("run ends", state=state, reason=reason)
        del self._live[run.id]
        live.mailbox.dismiss()
        self._stir(live)

    async def _pause(self, run: str, reason: str) -> None:
        await self._set_state(run, "paused", reason)

    async def _set_state(self, run: str, state: str, reason: str) -> None:
        if state == "paused":
            reason = f"{reason.rstrip('.')}; it goes on when `lycia serve` is started again"
        try:
            ended_s = time.time()
            await self._db.write(lambda connection: kept_runs.set_run_state(connection, run, state, reason, ended_s))
        except StorageError as error:  # such as a full disk, for which the run has paused in the first place
            log.error("the state of a run cannot be written down", run=run, what=error.what, do=error.do)
            self._unwritten[run] = (state, reason)

    def _as_it_stands(self, row: StoredRun) -> StoredRun:
        state, reason = self._unwritten.get(row.id, (row.state, row.reason))
        return replace(row, state=state, reason=reason)

    def _wake(self) -> None:
        """Let all open polls look into their boxes."""
        self._arrived.set()
        self._arrived = asyncio.Event()

    def tell(self, live: _Live, fact: Fact) -> None:
        """Wake those who watch the run; all but the moves inside a round is in the store."""
        if isinstance(fact, RoundMoved):
            live.moved = fact_to_json(fact)
        if isinstance(fact, RoundEnded):
            record = fact.record
            heard = len(record["survivors"])
            live.written += 1
            said = {name: record[name] for name in ("purpose", "round", "missed")}
            log.info("round ends", run=live.run.id, heard=heard, **said)
        self._stir(live)

    def _stir(self, live: _Live) -> None:
        live.stirred.set()
        live.stirred = asyncio.Event()

    async def _reload(self) -> None:
        self._nodes = {node.name: node for node in await self._db.read(members.list_nodes)}

    async def _stored(self, run: str) -> StoredRun:
        return self._as_it_stands(await self._db.read(lambda connection: kept_runs.get_run(connection, run)))

    def _member(self, name: str) -> Node:
        node = self._nodes.get(name)
        if node is None or node.state != "active":
            raise AccessError(
                f"{name!r} is not a member of this federation." if node is None else f"{name!r} has been {node.state}.",
                why="only members that the operator has invited, and not revoked, are let in.",
                do="ask the operator for an invitation, under another name if it was revoked.",
            )
        return node


@dataclass
class _Feed:
    service: Service
    live: _Live

    def notice(self, fact: Fact) -> None:
        self.service.tell(self.live, fact)


def _count(examples: float | None) -> int | None:
    return None if examples is None else int(examples)


def _role(text: str) -> Role:
    return next(role for role in ROLES if role == text)


def _no_node(name: str, known: Mapping[str, object]) -> NotFound:
    return NotFound(
        f"there is no node {name!r}.",
        why=f"enrolled are: {', '.join(sorted(known)) or 'none yet'}.",
        do="see `lycia nodes`, or invite it with `lycia invite`.",
    )

"""What the coordinator does for its callers, apart from HTTP: it lets members in, and hands nodes their work."""

import asyncio
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from lycia.core.messages import Late, Reply
from lycia.deployment.coordinator.health import Health
from lycia.deployment.coordinator.mailbox import Mailbox, Stopping
from lycia.deployment.coordinator.presence import Presence
from lycia.deployment.coordinator.runs import Runs
from lycia.deployment.coordinator.sessions import Caller, Sessions
from lycia.deployment.coordinator.transfers import NO_CAPS, Limits, Transfers
from lycia.deployment.identity import ROLES, Invitation, Role, is_signed, token_hash
from lycia.deployment.wire import AskMessage, EnrolMessage, InviteMessage
from lycia.errors import AccessError, NotFound
from lycia.runtime.ports import Entropy
from lycia.storage import nodes as members
from lycia.storage.blobs import BlobFolder
from lycia.storage.database import Connection, Database
from lycia.storage.spool import Spool
from lycia.storage.tables import Invitation as StoredInvitation
from lycia.storage.tables import Node

log = structlog.get_logger()


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
        self, database: Database, blobs: BlobFolder, outgoing: BlobFolder, spool: Spool, url: str, pin: str,
        secret: bytes, *, silence_s: float = 10.0, entropy: Entropy = system_entropy, limits: Limits = NO_CAPS,
        keep_rounds: int | None = None,
    ) -> None:  # fmt: skip
        self._db, self._url, self.pin = database, url, pin
        self.clock = WallClock()
        self.sessions = Sessions(secret, self.clock.now_s)
        self.presence = Presence(silence_s, self.clock.now_s)
        self.transfers = Transfers(database, spool, self.clock.now_s, self.presence.heard, limits)
        self.assembled: set[str] = set()  # models that were put together for an operator
        self._nodes: dict[str, Node] = {}
        self._arrived = asyncio.Event()
        self._ending = False
        self.health = Health(database, blobs.root)
        self.runs = Runs(
            database,
            blobs,
            outgoing,
            self.transfers,
            self.presence,
            self.clock,
            entropy,
            self._wake,
            self.nodes,
            keep_rounds,
        )

    # ------------------------------------------------------------------------------------------------------ its life

    async def begin(self) -> None:
        """Load who is enrolled, and go on with the runs that were under way."""
        await self._reload()
        await self.runs.begin()
        self.health.is_starting = False

    def drain(self) -> None:
        """Hand out nothing any more; what is in hand goes on until `end`."""
        self.health.is_draining = True
        self._wake()

    async def end(self) -> None:
        """Let go of everything; what is durable stays, and `begin` goes on from there."""
        self._ending = True
        await self.runs.end()
        self._wake()
        await self.transfers.end()

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
        return Invitation(message.url or self._url, self.pin, token, message.name, message.role)

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

    def visitor(self, cookie: str) -> Caller | None:
        """Who looks at the dashboard, if the cookie is good; None too if that operator has been revoked since."""
        caller = self.sessions.visitor(cookie)
        node = self._nodes.get(caller.name) if caller else None
        return caller if node is not None and (node.role, node.state) == ("operator", "active") else None

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
        self.runs.watching.changed()
        log.info("node revoked", node=name)

    def nodes(self) -> list[dict[str, Any]]:
        """Everyone who is enrolled, and whether they are there; if not, when they were last seen."""
        return [self._shown(node) for node in sorted(self._nodes.values(), key=lambda node: node.name)]

    def _shown(self, node: Node) -> dict[str, Any]:
        is_there, (seen_s, up, down) = self.presence.is_there(node.name), self.presence.seen(node.name)
        return {
            "name": node.name, "role": node.role, "state": node.state, "there": is_there, "examples": node.examples,
            "public_key": node.public_key.hex(), "bytes_up": up, "bytes_down": down,
            "last_seen_s": None if is_there else seen_s or node.last_seen_s,
        }  # fmt: skip

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
                if self.health.is_draining:
                    raise Stopping
                self._member(caller.name)
                arrived = self._arrived
                message = self._longest_waiting(caller.name)
                if message is not None:
                    self.presence.moved(caller.name, down=sum(map(len, message.inline.values())) * 3 // 4)
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

    def _longest_waiting(self, node: str) -> AskMessage | None:
        """The ask that has waited longest for a node over all runs, so that none of them starves another."""
        waiting = [(since_s, box) for box in self.runs.boxes() if (since_s := box.waiting_since(node)) is not None]
        return min(waiting, key=lambda one: one[0])[1].task_for(node) if waiting else None

    async def deliver(self, caller: Caller, run: str, reply: Reply) -> str:
        """Hand a reply to its run; returns why it was not taken, or "".

        Raises: AccessError, if the caller was revoked while it sent it.
        """
        self._member(caller.name)
        await self.presence.saw(caller.name, caller.role)
        box = self.runs.box(run)
        if box is None:
            return await self.runs.why_not_held(run, reply.task, caller.name)
        return await box.deliver(reply, caller.name) or ""

    async def expects(self, caller: Caller, run: str, task: int) -> Mailbox | None:
        """The box that an update for this task belongs into; None if nobody waits for it any more."""
        # First of all, that it is there: after a restart, the run may wait for its nodes before it listens to them.
        await self.presence.saw(caller.name, caller.role)
        box = self.runs.box(run)
        return box if box is not None and await box.expects(task, caller.name) else None

    async def late(self, caller: Caller, run: str, task: int) -> str:
        """What to tell a node whose update comes too late, as the record will, too; "" if it was taken before."""
        return await self.deliver(caller, run, Late(task, caller.name))

    async def may_read(self, caller: Caller, digest: str, run: str) -> bool:
        """Whether an ask that waits for the caller gives it this blob; to an operator, whether it is a run's model.

        `run`: where the caller had the digest from; "" if it does not say.
        """
        if caller.role == "operator":
            return digest in self.assembled or await self.runs.is_model(digest)
        box = self.runs.box(run)
        if box is not None:
            await box.ready()
        return any(box.names(caller.name, digest) for box in self.runs.boxes())

    async def _reload(self) -> None:
        self._nodes = {node.name: node for node in await self._db.read(members.list_nodes)}

    def _wake(self) -> None:
        """Let all open polls look into their boxes."""
        self._arrived.set()
        self._arrived = asyncio.Event()

    def _member(self, name: str) -> Node:
        node = self._nodes.get(name)
        if node is None or node.state != "active":
            raise AccessError(
                f"{name!r} is not a member of this federation." if node is None else f"{name!r} has been {node.state}.",
                why="only members that the operator has invited, and not revoked, are let in.",
                do="ask the operator for an invitation, under another name if it was revoked.",
            )
        return node


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

"""The tables of a coordinator's database, and their rows as values. Only what every SQL database has."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

METADATA = MetaData()
"""What `migrations` leads to: whoever changes a table adds a page there."""

_NUMBER = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up by itself only in a column called INTEGER

SETTINGS = Table(
    "settings", METADATA,
    Column("key", String(200), primary_key=True),
    Column("value", Text, nullable=False),
)  # fmt: skip

NODES = Table(
    "nodes", METADATA,
    Column("name", String(200), primary_key=True),
    Column("public_key", LargeBinary(200), nullable=False, unique=True),
    Column("role", String(40), nullable=False),
    Column("state", String(40), nullable=False),
    Column("examples", BigInteger),
    Column("schema_digest", String(64), nullable=False),
    Column("versions", Text, nullable=False),
    Column("joined_s", Double, nullable=False),
    Column("last_seen_s", Double, nullable=False),
)  # fmt: skip

INVITATIONS = Table(
    "invitations", METADATA,
    Column("token_hash", String(64), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("role", String(40), nullable=False),
    Column("made_s", Double, nullable=False),
    Column("expires_s", Double, nullable=False),
    Column("used_s", Double),
    Column("used_by", String(200)),
)  # fmt: skip

RUNS = Table(
    "runs", METADATA,
    Column("id", String(200), primary_key=True),
    Column("app", String(200), nullable=False),
    Column("plan", Text, nullable=False),
    Column("plan_digest", String(64), nullable=False),
    Column("layout", Text, nullable=False),
    Column("schema", Text),
    Column("versions", Text, nullable=False),
    Column("state", String(40), nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_s", Double, nullable=False),
    Column("ended_s", Double),
    Column("paused_s", Double, nullable=False),  # how long it has stood still: its own clock is behind by that
    Column("first_model", String(64), nullable=False),
    Column("carried", Text),  # NULL until the run begins; names the blobs of the model and of the optimizer's state
)  # fmt: skip

EVENTS = Table(  # the open round's journal
    "events", METADATA,
    Column("run", ForeignKey("runs.id"), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("round", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("line", Text, nullable=False),
)  # fmt: skip

RECORDS = Table(
    "records", METADATA,
    Column("run", ForeignKey("runs.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("round", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("json", Text, nullable=False),
    Column("undone_s", Double),  # when the run was rolled back to before this round; NULL while it counts
    Column("undone_by", String(200)),
)  # fmt: skip

MODELS = Table(
    "models", METADATA,
    Column("run", ForeignKey("runs.id"), primary_key=True),
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("digest", String(64), nullable=False, index=True),
    Column("carried", Text),  # as in RUNS, after the round's end, for going back there; NULL until then
)  # fmt: skip

UPLOADS = Table(  # updates and models that come by parts, until they are part of a model, or of none
    "uploads", METADATA,
    Column("id", String(64), primary_key=True),
    Column("run", String(200), nullable=False, index=True),  # "" for what an operator sends before there is a run
    Column("task", BigInteger, nullable=False),
    Column("node", String(200), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("parts", Text, nullable=False),  # the digest of each, one after the other
)  # fmt: skip

PARTS = Table(  # those that have arrived, and are on the disk
    "parts", METADATA,
    Column("upload", ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
)  # fmt: skip


@dataclass(frozen=True)
class Node:
    """An enrolled participant.

    Attributes:
      public_key: 32 bytes, Ed25519.
      role, state: words of the coordinator, such as "node" and "active".
      examples: how many it says that it has.
      versions: software → version, as it says.
    """

    name: str
    public_key: bytes
    role: str
    state: str
    joined_s: float
    last_seen_s: float
    examples: int | None = None
    schema_digest: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Invitation:
    """Leave to enrol once, under one name. The token itself is nowhere; its hash is kept."""

    token_hash: str
    name: str
    role: str
    made_s: float
    expires_s: float
    used_s: float | None = None
    used_by: str | None = None


@dataclass(frozen=True)
class StoredModel:
    """The model after a round; the first one stands at round 0."""

    round: int
    digest: str

"""Who may take part: invitations and nodes. Each function works inside a `Database.write` or `read`."""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, insert, or_, select, update

from lycia.errors import AccessError, NotFound
from lycia.storage.database import Connection
from lycia.storage.tables import INVITATIONS, NODES, Invitation, Node


def add_invitation(connection: Connection, invitation: Invitation) -> None:
    """Let somebody enrol once with the token whose hash this is."""
    connection.execute(
        insert(INVITATIONS).values(
            token_hash=invitation.token_hash, name=invitation.name, role=invitation.role,
            made_s=invitation.made_s, expires_s=invitation.expires_s,
        )
    )  # fmt: skip


def use_invitation(connection: Connection, token_hash: str, by: str, at_s: float) -> Invitation:
    """Use up an invitation. Whoever used it may do so again, as a node does whose first answer was lost.

    Args: by: what tells one user from another, such as the digest of a public key.
    Raises: AccessError, if it is unknown, expired, or used by somebody else.
    """
    mine = INVITATIONS.c.token_hash == token_hash
    connection.execute(
        update(INVITATIONS)
        .where(mine, INVITATIONS.c.used_s.is_(None), INVITATIONS.c.expires_s > at_s)
        .values(used_s=at_s, used_by=by)
    )
    row = connection.execute(select(INVITATIONS).where(mine)).one_or_none()
    if row is None:
        raise AccessError(
            "the invitation is not known here.",
            why="this coordinator never gave it out, or its list was made anew since.",
            do="check that it was copied whole and is for this coordinator; or ask the operator for a new one.",
        )
    found = Invitation(**row._mapping)
    if found.used_s is None:
        raise AccessError(
            f"the invitation of {found.name!r} has expired.",
            why="an invitation is good for a limited time, so that a lost one is harmless.",
            do=f"ask the operator for a new one: lycia invite {found.name}",
        )
    if found.used_by != by:
        raise AccessError(
            f"the invitation of {found.name!r} was used before.",
            why="it is good for one node; somebody has enrolled with it, with another key.",
            do=f"if that was not you, tell the operator to revoke {found.name!r}; then ask for a new invitation.",
        )
    return found


def list_invitations(connection: Connection) -> list[Invitation]:
    """All invitations, in the order in which they were made."""
    rows = connection.execute(select(INVITATIONS).order_by(INVITATIONS.c.made_s, INVITATIONS.c.token_hash))
    return [Invitation(**row._mapping) for row in rows]


def add_node(connection: Connection, node: Node) -> Node:
    """Enrol a node; returns it as it stands. The same name with the same key changes nothing.

    Raises: AccessError, if the name or the key belongs to another node.
    """
    same = connection.execute(
        select(NODES).where(or_(NODES.c.name == node.name, NODES.c.public_key == node.public_key))
    ).all()
    for row in same:
        if (row.name, row.public_key) == (node.name, node.public_key):
            return _node(row)
        whose = "that name" if row.name == node.name else "its key"
        raise AccessError(
            f"{node.name!r} cannot be enrolled: {whose} belongs to another node.",
            why="a name stands for one key, and a key for one name.",
            do="use another name, or a fresh key; whoever lost a key enrols under a new name.",
        )
    connection.execute(
        insert(NODES).values(
            name=node.name, public_key=node.public_key, role=node.role, state=node.state,
            examples=node.examples, schema_digest=node.schema_digest, versions=json.dumps(dict(node.versions)),
            joined_s=node.joined_s, last_seen_s=node.last_seen_s,
        )
    )  # fmt: skip
    return node


def get_node(connection: Connection, name: str) -> Node:
    """The node of this name.

    Raises: NotFound.
    """
    row = connection.execute(select(NODES).where(NODES.c.name == name)).one_or_none()
    if row is None:
        raise _unknown(name)
    return _node(row)


def list_nodes(connection: Connection, state: str | None = None) -> list[Node]:
    """All nodes by name, or those in one state."""
    chosen = select(NODES)
    rows = connection.execute(chosen if state is None else chosen.where(NODES.c.state == state))
    return sorted(map(_node, rows), key=lambda node: node.name)  # each database has an alphabet of its own


def set_node_state(connection: Connection, name: str, state: str) -> None:
    """Put a node into another state.

    Raises: NotFound.
    """
    if not connection.execute(update(NODES).where(NODES.c.name == name).values(state=state)).rowcount:
        raise _unknown(name)


def touch_node(
    connection: Connection,
    name: str,
    at_s: float,
    *,
    examples: int | None = None,
    schema_digest: str | None = None,
    versions: Mapping[str, str] | None = None,
) -> None:
    """Note that a node was seen, and what it said of itself; what is None stays as it was.

    Raises: NotFound.
    """
    said = {
        "examples": examples,
        "schema_digest": schema_digest,
        "versions": json.dumps(dict(versions)) if versions else None,
    }
    new = {column: value for column, value in said.items() if value is not None}
    if not connection.execute(update(NODES).where(NODES.c.name == name).values(last_seen_s=at_s, **new)).rowcount:
        raise _unknown(name)


def _node(row: Row[Any]) -> Node:
    return Node(**{**row._mapping, "versions": json.loads(row.versions)})


def _unknown(name: str) -> NotFound:
    return NotFound(
        f"there is no node called {name!r}.",
        why="nobody has enrolled under that name here.",
        do="see `lycia nodes` for those who have; invite it with `lycia invite`.",
    )

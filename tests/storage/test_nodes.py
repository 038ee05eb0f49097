"""Invitations and nodes."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from lycia.errors import AccessError, NotFound
from lycia.storage.database import Connection, Database
from lycia.storage.nodes import (
    add_invitation,
    add_node,
    get_node,
    list_invitations,
    list_nodes,
    set_node_state,
    touch_node,
    use_invitation,
)
from lycia.storage.tables import Invitation, Node

INVITATION = Invitation("ab" * 32, "ada", "node", made_s=100.0, expires_s=200.0)
ADA = Node("ada", b"a" * 32, "node", "active", 100.0, 100.0, 60, "c" * 64, {"lycia": "0.1"})

Change = Callable[[Callable[..., Any]], Any]


def change(database: Database, of: Callable[..., Any], *args: Any, **more: Any) -> Any:
    return asyncio.run(database.write(lambda connection: of(connection, *args, **more)))


def test_an_invitation_lets_its_bearer_enrol(database: Database):
    change(database, add_invitation, INVITATION)
    used = change(database, use_invitation, INVITATION.token_hash, "key-1", 150.0)
    assert used == replace(INVITATION, used_s=150.0, used_by="key-1")
    assert change(database, list_invitations) == [used]


def test_an_invitation_works_again_for_whoever_used_it(database: Database):
    change(database, add_invitation, INVITATION)
    used = change(database, use_invitation, INVITATION.token_hash, "key-1", 150.0)
    assert change(database, use_invitation, INVITATION.token_hash, "key-1", 999.0) == used


def test_an_invitation_works_once(database: Database):
    change(database, add_invitation, INVITATION)

    async def race() -> list[object]:
        uses = (
            database.write(
                lambda connection, by=f"key-{number}": use_invitation(connection, INVITATION.token_hash, by, 150.0)
            )
            for number in range(20)
        )
        return await asyncio.gather(*uses, return_exceptions=True)

    ended = asyncio.run(race())
    refused = [one for one in ended if isinstance(one, AccessError)]
    assert len(refused) == 19
    assert "was used before" in refused[0].what


@pytest.mark.parametrize(
    ("token_hash", "at_s", "words"), [("ab" * 32, 200.0, "has expired"), ("cd" * 32, 150.0, "is not known")]
)
def test_an_invitation_that_cannot_be_used_says_why(database: Database, token_hash: str, at_s: float, words: str):
    change(database, add_invitation, INVITATION)
    with pytest.raises(AccessError, match=words) as refused:
        change(database, use_invitation, token_hash, "key-1", at_s)
    assert "ask the operator" in refused.value.do
    assert change(database, list_invitations) == [INVITATION]


def test_an_invitation_is_not_used_up_by_an_enrolment_that_fails(database: Database):
    change(database, add_invitation, INVITATION)
    change(database, add_node, replace(ADA, public_key=b"b" * 32))

    def enrol(connection: Connection) -> None:
        use_invitation(connection, INVITATION.token_hash, "key-1", 150.0)
        add_node(connection, ADA)

    with pytest.raises(AccessError, match="that name"):
        change(database, enrol)
    assert change(database, list_invitations) == [INVITATION]


def test_a_node_comes_back_as_it_was_enrolled(database: Database):
    assert change(database, add_node, ADA) == ADA
    assert asyncio.run(database.read(lambda connection: get_node(connection, "ada"))) == ADA


def test_enrolling_again_with_the_same_key_changes_nothing(database: Database):
    change(database, add_node, ADA)
    change(database, set_node_state, "ada", "revoked")
    assert change(database, add_node, replace(ADA, role="operator")) == replace(ADA, state="revoked")


@pytest.mark.parametrize(
    ("other", "words"), [(replace(ADA, public_key=b"b" * 32), "that name"), (replace(ADA, name="bob"), "its key")]
)
def test_a_name_and_a_key_belong_to_one_node(database: Database, other: Node, words: str):
    change(database, add_node, ADA)
    with pytest.raises(AccessError, match=f"{words} belongs to another node"):
        change(database, add_node, other)
    assert change(database, list_nodes) == [ADA]


def test_nodes_are_listed_by_name_or_by_state(database: Database):
    bob = Node("bob", b"b" * 32, "evaluator", "revoked", 1.0, 1.0)
    for node in (bob, ADA):
        change(database, add_node, node)
    assert change(database, list_nodes) == [ADA, bob]
    assert change(database, list_nodes, "revoked") == [bob]


def test_what_a_node_says_of_itself_is_noted_and_the_rest_stays(database: Database):
    change(database, add_node, ADA)
    change(database, touch_node, "ada", 300.0)
    assert change(database, get_node, "ada") == replace(ADA, last_seen_s=300.0)
    change(database, touch_node, "ada", 301.0, examples=0, schema_digest="d" * 64, versions={"lycia": "0.2"})
    expected = replace(ADA, last_seen_s=301.0, examples=0, schema_digest="d" * 64, versions={"lycia": "0.2"})
    assert change(database, get_node, "ada") == expected


@pytest.mark.parametrize("of", [get_node, lambda c, n: set_node_state(c, n, "x"), lambda c, n: touch_node(c, n, 1.0)])
def test_a_node_that_nobody_knows_is_told_in_words(database: Database, of: Callable[..., Any]):
    with pytest.raises(NotFound, match="no node called 'eve'"):
        change(database, of, "eve")

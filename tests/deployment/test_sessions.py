"""Who is calling: challenges for one use, bearers for a while, and nothing that can be made up."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lycia.deployment.coordinator import sessions
from lycia.deployment.coordinator.sessions import Caller, Sessions
from lycia.deployment.identity import Identity
from lycia.errors import AccessError


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def now_s(self) -> float:
        """Now."""
        return self.at_s


@pytest.fixture
def clock() -> Clock:
    """One for each test."""
    return Clock()


@pytest.fixture
def door(clock: Clock) -> Sessions:
    """A coordinator's sessions."""
    return Sessions(b"secret of this coordinator", clock.now_s)


@pytest.fixture
def key(tmp_path: Path) -> Identity:
    """The key that is enrolled as "north"."""
    return Identity.at(tmp_path / "key.pem")


def signed(key: Identity, name: str, nonce: str) -> str:
    """What a node answers to a challenge."""
    return key.sign("lycia session", name.encode(), nonce.encode())


def bearer_of(door: Sessions, key: Identity, name: str = "north", role: sessions.Role = "node") -> str:
    """A bearer, as a node gets it."""
    nonce = door.challenge(name)
    return door.open(name, nonce, signed(key, name, nonce), key.public, role)


@pytest.mark.parametrize("role", ["node", "evaluator", "operator"])
def test_a_bearer_says_who_its_holder_is(door: Sessions, key: Identity, role: sessions.Role):
    assert door.caller(bearer_of(door, key, "north", role)) == Caller("north", role)


def test_a_bearer_runs_out(door: Sessions, clock: Clock, key: Identity):
    bearer = bearer_of(door, key)
    clock.at_s += sessions._BEARER_S - 1
    assert door.caller(bearer) is not None
    clock.at_s += 2
    assert door.caller(bearer) is None


def test_a_bearer_outlives_a_restart_and_means_nothing_to_another_coordinator(
    door: Sessions, clock: Clock, key: Identity
):
    bearer = bearer_of(door, key)
    assert Sessions(b"secret of this coordinator", clock.now_s).caller(bearer) == Caller("north", "node")
    assert Sessions(b"another secret", clock.now_s).caller(bearer) is None


def test_a_challenge_is_good_for_one_use_one_name_one_key_and_a_minute(
    door: Sessions, clock: Clock, key: Identity, tmp_path: Path
):
    nonce = door.challenge("north")
    door.open("north", nonce, signed(key, "north", nonce), key.public, "node")
    refusals = [("north", nonce, key)]  # used
    refusals.append(("south", door.challenge("north"), key))  # made for somebody else
    refusals.append(("north", door.challenge("north"), Identity.at(tmp_path / "other.pem")))  # another key
    refusals.append(("north", "made up", key))
    old = door.challenge("north")
    for name, made, signer in refusals:
        with pytest.raises(AccessError, match="could not prove who it is") as refused:
            door.open(name, made, signed(signer, name, made), key.public, "node")
        assert "try again" in refused.value.do
    clock.at_s += 61
    with pytest.raises(AccessError):
        door.open("north", old, signed(key, "north", old), key.public, "node")


@given(st.text() | st.text(alphabet="north|de0123456789.ä").map(lambda text: f"north|node|{text}"))
def test_no_text_that_was_not_given_out_is_a_bearer(text: str):
    assert Sessions(b"secret", Clock().now_s).caller(text) is None


def test_a_bearer_cannot_be_promoted_or_prolonged(door: Sessions, key: Identity):
    bearer = bearer_of(door, key)
    for forged in (
        bearer.replace("node", "operator"),
        bearer.replace("1900", "9900"),
        bearer.replace("north", "south"),
    ):
        assert forged != bearer
        assert door.caller(forged) is None


def test_challenges_that_nobody_answers_take_no_more_room_than_they_may(door: Sessions, key: Identity):
    for number in range(sessions._MOST_NONCES + 500):
        door.challenge(f"nobody {number}")
    assert len(door._nonces) <= sessions._MOST_NONCES
    assert door.caller(bearer_of(door, key)) is not None

"""Which nodes are there: while they poll or work, and for a little while after; a start gives them time to call."""

import asyncio

import pytest

from lycia.deployment.coordinator.presence import Presence


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.at_s = 0.0

    def now_s(self) -> float:
        """Now."""
        return self.at_s


def held(*story: str | float, silence_s: float = 10.0) -> Presence:
    """What is known after a story: seconds that pass; "north" calls; "north +" begins a poll, "north -" ends it."""
    clock = Clock()
    presence = Presence(silence_s, clock.now_s)

    async def tell() -> None:
        for event in story:
            if isinstance(event, (int, float)):
                clock.at_s += event
            elif event.endswith((" +", " -")):
                presence.polling(event[:-2], 1 if event.endswith("+") else -1)
            else:
                await presence.saw(event, "evaluator" if event == "lab" else "node", 7.0)

    asyncio.run(tell())
    return presence


def test_a_node_is_there_for_a_while_after_it_called():
    assert held("north", 9).is_there("north")
    assert not held("north", 11).is_there("north")
    assert not held().is_there("north")


def test_a_node_that_polls_is_there_however_long_it_waits():
    assert held("north", "north +", 1000).is_there("north")
    assert held("north", "north +", 1000, "north -", 9).is_there("north")
    assert not held("north", "north +", 1000, "north -", 11).is_there("north")


def test_a_node_is_lost_after_silence_but_not_before_it_had_time_to_call_after_a_start():
    assert not held(9).is_lost("north")
    assert held(10).is_lost("north")
    assert not held(20, "north", 5).is_lost("north")
    assert held(20, "north", 15).is_lost("north")


def test_a_node_that_is_revoked_is_gone_even_if_its_poll_is_still_open():
    presence = held(20, "north", "north +")
    presence.forget("north")
    presence.polling("north", -1)
    assert not presence.is_there("north")
    assert presence.is_lost("north")
    assert len(presence.roster()) == 0


def test_the_roster_is_in_order_of_names_with_evaluators_apart():
    roster = held("south", "lab", "north").roster()
    assert [roster[index] for index in range(len(roster))] == ["north", "south"]
    assert list(roster.evaluators) == ["lab"]
    sizes = roster.sizes()
    assert sizes is not None
    assert sizes.tolist() == [7.0, 7.0]


def test_sizes_are_unknown_if_one_node_does_not_say():
    presence = held("north")
    asyncio.run(presence.saw("south", "node"))
    assert presence.roster().sizes() is None


@pytest.mark.parametrize("at_least", [0, 1, 2])
def test_who_waits_for_nodes_goes_on_when_enough_have_come(at_least: int):
    async def story() -> list[str]:
        presence = Presence(10.0, lambda: 0.0)
        waiting = asyncio.ensure_future(presence.wait_roster(at_least))
        for name in ("lab", "north", "south"):
            await asyncio.sleep(0)
            if waiting.done():
                break
            await presence.saw(name, "evaluator" if name == "lab" else "node")
        roster = await asyncio.wait_for(waiting, 5)
        return [roster[index] for index in range(len(roster))]

    assert asyncio.run(story())[:at_least] == ["north", "south"][:at_least]

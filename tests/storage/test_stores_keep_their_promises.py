"""What the loop may expect of a store, wherever it keeps a run."""

import asyncio
from base64 import b64encode
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from lycia.core.events import Ended
from lycia.core.layout import Layout, Leaf
from lycia.core.round import Run
from lycia.errors import StorageError
from tests.storage.killing import Killed, Killer
from tests.storage.material import (
    LAYOUT,
    PLAN,
    RUN,
    Call,
    FolderPlace,
    Known,
    Place,
    append,
    begin,
    carried_into,
    digest_of,
    in_bits,
    known_after,
    make,
    one_round,
    opened,
    record,
    what_it_knows,
)

STORY = [begin(), *one_round(0), *one_round(1)]


def test_a_run_that_has_not_begun_cannot_be_resumed(place: Place):
    assert what_it_knows(place) == Known()


@pytest.mark.parametrize("calls", range(1, len(STORY) + 1))
def test_a_store_opened_anew_knows_everything_that_was_acknowledged(place: Place, calls: int):
    make(place.open(), STORY[:calls])
    place.stop()
    assert in_bits(what_it_knows(place)) == in_bits(known_after(STORY[:calls]))


def test_a_run_goes_on_from_any_call_in_a_new_process(place: Place):
    for call in STORY:
        store = place.open()
        asyncio.run(store.resume())
        make(store, [call])
        place.stop()
    assert in_bits(what_it_knows(place)) == in_bits(known_after(STORY))


@pytest.mark.slow
def test_a_process_killed_at_any_file_operation_has_done_each_call_wholly_or_not_at_all(place: Place):
    story = [begin(), *one_round(0), append(opened(1))]
    last, survived = 0, False
    while not survived:
        killed = place.another(f"killed-{last}")
        acknowledged = calls_until_killed(killed, story, Killer(last))
        with Killer(None).watching():
            found = in_bits(what_it_knows(killed))
            possible = [in_bits(known_after(story[:calls])) for calls in (acknowledged, acknowledged + 1)]
            assert found in possible, f"killed at operation {last}, after {acknowledged} calls"
            store = killed.open()
            asyncio.run(store.resume())
            make(store, story[acknowledged + possible.index(found) :])
            assert in_bits(what_it_knows(killed)) == in_bits(known_after(story))
        killed.stop()
        last, survived = last + 1, acknowledged == len(story)
    assert last > 20, "the story has more file operations than that"


def calls_until_killed(place: Place, story: list[Call], killer: Killer) -> int:
    """How many calls were acknowledged before the process died."""
    store, acknowledged = place.open(), 0
    with killer.watching(), suppress(Killed):
        for call in story:
            make(store, [call])
            acknowledged += 1
    return acknowledged


def test_a_round_that_missed_its_quorum_leaves_a_record_and_the_model_it_had(place: Place):
    missed = {**record(0), "missed": "1 of 2 nodes were heard"}
    store = place.open()
    make(store, [begin(), append(opened(0), Ended(3.0, missed["missed"]))])
    asyncio.run(store.end_round(replace(carried_into(0), task=2), missed))
    assert in_bits(what_it_knows(place)) == in_bits(Known(replace(carried_into(0), task=2), (), (missed,)))
    assert place.models() == {0: digest_of(carried_into(0))}


def test_the_secret_of_a_round_is_gone_when_the_round_has_ended(place: Place):
    make(place.open(), [begin(), *one_round(7)])
    place.stop()
    secret = b64encode(opened(7).secret)
    assert [path for path in place.path.rglob("*") if path.is_file() and secret in path.read_bytes()] == []


def test_a_run_cannot_begin_twice(place: Place):
    make(place.open(), [begin(), *one_round(0)])
    with pytest.raises(StorageError, match="has begun"):
        make(place.open(), [begin()])
    assert in_bits(what_it_knows(place)) == in_bits(known_after([begin(), *one_round(0)]))


def test_a_run_of_another_model_is_refused(place: Place):
    make(place.open(), [begin()])
    other = Run(RUN.id, PLAN, Layout((Leaf("layer.weight", (3, 2)),)))
    with pytest.raises(StorageError, match="another model") as refused:
        asyncio.run(place.open(other).resume())
    assert refused.value.do


def test_a_run_of_another_plan_is_refused(place: Place):
    other = Run(RUN.id, replace(PLAN, rounds=4), LAYOUT)
    if isinstance(place, FolderPlace):
        make(place.open(), [begin()])
    with pytest.raises(StorageError, match="another plan"):
        asyncio.run(place.open(other).begin(other, carried_into(0)))


def test_every_model_is_kept_under_its_round(place: Place):
    make(place.open(), STORY)
    assert place.models() == {number: digest_of(carried_into(number)) for number in range(3)}


def test_the_state_of_the_optimizer_is_kept_once_or_for_each_round_that_one_can_go_back_to(place: Place):
    make(place.open(), STORY)
    names = {path.parent.name + path.name for path in place.blobs.rglob("*") if path.is_file()}
    assert len(names - set(place.models().values())) == (1 if isinstance(place, FolderPlace) else 3)


def test_a_damaged_model_is_noticed_before_the_run_goes_on(place: Place):
    make(place.open(), [begin()])
    digest = digest_of(carried_into(0))
    blob = place.blobs / digest[:2] / digest[2:]
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(StorageError, match="damaged"):
        asyncio.run(place.open().resume())


def test_a_lost_model_is_noticed_before_the_run_goes_on(place: Place):
    make(place.open(), [begin()])
    digest = digest_of(carried_into(0))
    (place.blobs / digest[:2] / digest[2:]).unlink()
    with pytest.raises(StorageError, match="is gone"):
        asyncio.run(place.open().resume())


def test_a_record_that_is_not_finite_is_kept_as_null(place: Place):
    store = place.open()
    make(store, [begin()])
    asyncio.run(store.end_round(carried_into(1), {**record(0), "evaluation": {"loss": float("nan"), "best": [np.inf]}}))
    assert place.facts()["records"] == [{**record(0), "evaluation": {"loss": None, "best": [None]}}]


def test_a_call_that_is_cancelled_has_happened_before_anybody_goes_on(place: Place):
    async def cancelled() -> None:
        store = place.open()
        await store.begin(RUN, carried_into(0))
        call = asyncio.create_task(store.append([opened(0)]))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert call.cancelled()

    asyncio.run(cancelled())
    assert what_it_knows(place).events == (opened(0),)


def test_both_stores_tell_a_report_the_same(place: Place):
    make(place.open(), STORY)
    place.set_state("finished", "all rounds done", 99.5)
    facts = place.facts()
    assert facts == {
        "id": "a-run", "app": "digits", "world": "simulation" if isinstance(place, FolderPlace) else "deployment",
        "state": "finished", "reason": "all rounds done", "plan": facts["plan"], "plan_digest": PLAN.digest,
        "layout": facts["layout"], "versions": {"lycia": "0"}, "started": 12.5, "ended": 99.5,
        "records": [record(0), record(1)], "first_model": digest_of(carried_into(0)), "undone": [],
    }  # fmt: skip
    assert facts["plan"]["rounds"] == 3
    assert [leaf["name"] for leaf in facts["layout"]] == ["layer.weight", "layer.bias"]


def test_a_run_that_goes_on_is_told_to_a_report_as_running(place: Place):
    make(place.open(), [begin()])
    facts = place.facts()
    assert (facts["state"], facts["ended"], facts["records"]) == ("running", None, [])

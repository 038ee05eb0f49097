"""Back to an earlier round, in the database: the same bits, and nothing that must never come twice."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lycia.core.round import Carried
from lycia.errors import NotFound
from lycia.storage import carrying
from lycia.storage.blobs import BlobFolder
from lycia.storage.database import Database, sqlite_url
from lycia.storage.facts import StoredRun
from lycia.storage.rollback import remove_held, roll_back, spans
from lycia.storage.run_store import RunStore
from lycia.storage.runs import create_run, get_run, journal_of_run, models_of_run, records_of_run
from tests.storage.material import LAYOUT, PLAN, RUN, Known, asked, carried_into, concluded, in_bits, opened, record


class Place:
    """A run in a database, whose rounds a test ends."""

    def __init__(self, home: Path) -> None:
        self.database, self.blobs = Database(sqlite_url(home / "lycia.db")), BlobFolder(home / "blobs", fsync=False)

    def create(self, id: str = RUN.id) -> None:
        """Put a run on the list."""
        row = StoredRun(id, "digits", PLAN.to_json(), PLAN.digest, LAYOUT.to_json(), 10.0, {}, None)
        self.write(create_run, row)

    def hold(self, rounds: range, *, keep: int | None = None, id: str = RUN.id, drift: float = 0.0) -> None:
        """Hold rounds."""

        async def story() -> None:
            store = RunStore(self.database, self.blobs, id, LAYOUT, keep)
            if await store.resume() is None:
                await store.begin(replace(RUN, id=id), carried_into(0))
            for number in rounds:
                await store.append([opened(number), asked(number)])
                await store.advance(moved(carried_into(number + 1), drift), 0.5)
                await store.end_round(moved(concluded(number), drift), record(number))

        asyncio.run(story())

    def write(self, change: Callable[..., Any], *place: Any, **more: Any) -> Any:
        """Make a change."""
        return asyncio.run(self.database.write(lambda connection: change(connection, *place, **more)))

    def roll_back(self, number: int, **more: Any) -> Any:
        """Put the run back."""
        said = {"by": "ada", "at_s": 50.0, "reason": "rolled back", "retries": 3, **more}
        return self.write(roll_back, RUN.id, number, **said)

    def carried(self) -> Carried:
        """What the run goes on with."""
        resumed = asyncio.run(RunStore(self.database, self.blobs, RUN.id, LAYOUT).resume())
        assert resumed is not None
        assert resumed.events == []
        return resumed.carried


def moved(carried: Carried, drift: float) -> Carried:
    return replace(carried, model=replace(carried.model, trained=carried.model.trained + drift)) if drift else carried


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A run that is on the list."""
    place = Place(tmp_path)
    place.create()
    yield place
    place.database.close()


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_what_is_carried_on_is_the_same_bits_as_it_was_then(place: Place, number: int):
    place.hold(range(3))
    place.roll_back(number)
    then = concluded(number - 1) if number else carried_into(0)
    found = place.carried()
    same = replace(found, task=then.task)
    assert in_bits(Known(same)) == in_bits(Known(then))
    assert found.task == concluded(2).task
    assert (found.attempt, found.first_attempt) == (4, 4)
    assert found.undone == ((number, found.task),)


def test_an_open_round_counts_among_what_must_not_come_twice(place: Place):
    place.hold(range(2))

    async def open_round() -> None:
        store = RunStore(place.database, place.blobs, RUN.id, LAYOUT)
        await store.resume()
        await store.append([replace(opened(2), attempt=5), replace(asked(2), task=70)])

    asyncio.run(open_round())
    place.roll_back(1)
    found = place.carried()
    assert (found.task, found.attempt) == (71, 8)
    assert place.write(journal_of_run, RUN.id) == []


def test_rolled_back_again_it_undoes_no_less(place: Place):
    place.hold(range(3))
    place.roll_back(2)
    place.hold(range(2, 3))
    place.roll_back(1)
    found = place.carried()
    assert found.undone == ((1, found.task),)
    place.hold(range(1, 2))
    place.roll_back(2, by="bob")
    records = place.write(records_of_run, RUN.id)
    assert [one.get("undone", {}).get("by") for one in records] == [None, "ada", "ada", "ada", None]
    assert [one["round"] for one in records] == [0, 1, 2, 2, 1]


def test_the_run_is_paused_and_its_models_are_those_of_the_rounds_that_stand(place: Place):
    place.hold(range(3))
    place.roll_back(1)
    run = place.write(get_run, RUN.id)
    assert (run.state, run.reason, run.ended_s) == ("paused", "rolled back", 50.0)
    assert [model.round for model in place.write(models_of_run, RUN.id)] == [0, 1]


def test_a_round_that_is_over_in_part_cannot_be_gone_back_to(place: Place):
    async def close_one() -> None:
        store = RunStore(place.database, place.blobs, RUN.id, LAYOUT)
        await store.begin(RUN, carried_into(0))
        await store.append([opened(0), asked(0)])
        await store.advance(carried_into(1), 0.5)

    with pytest.raises(NotFound, match="after 0 rounds") as refused:
        place.roll_back(0)
    assert refused.value.why == "it has not begun."
    asyncio.run(close_one())
    with pytest.raises(NotFound, match="after 1 round") as refused:
        place.roll_back(1)
    assert refused.value.why == "kept is how it stood after so many rounds: 0."
    place.roll_back(0)
    assert place.carried().undone == ((0, 2),)  # the model of round 1 came with its tasks counted


# ------------------------------------------------------------------------------------------------------- what is kept


def blobs_of(place: Place) -> int:
    return sum(path.is_file() for path in place.blobs.root.rglob("*"))


@pytest.mark.parametrize("keep", [1, 2])
def test_the_first_the_best_and_the_newest_rounds_are_kept(place: Place, keep: int):
    # `concluded` says that the first round was the best: `since_best` grows from there
    place.hold(range(5), keep=keep)
    kept = [0, 1, *range(6 - keep, 6)]
    assert [model.round for model in place.write(models_of_run, RUN.id)] == kept
    assert blobs_of(place) == 2 * len(kept)
    for number in reversed(kept):
        place.roll_back(number)
        assert place.carried().round == number


def test_an_equal_model_of_another_run_outlives_the_one_that_lets_go_of_it(place: Place):
    place.create("other")
    place.hold(range(1), id="other")
    place.hold(range(4), keep=1)
    resumed = asyncio.run(RunStore(place.database, place.blobs, "other", LAYOUT).resume())
    assert resumed is not None
    assert resumed.carried.round == 1


def test_a_model_that_was_let_go_of_while_an_equal_one_was_on_its_way_is_put_there_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    # Given a run that lets go of its model in the moment in which another has found it there
    place.create("other")
    place.hold(range(1))
    held = place.roll_back(0)
    real, once = carrying.keep, []

    def keep(*given: Any) -> Any:
        kept = real(*given)
        if kept.carried.round == 1 and not once:
            once.append(kept)
            place.blobs.remove(kept.model)
        return kept

    monkeypatch.setattr(carrying, "keep", keep)
    place.hold(range(1), id="other")
    assert once
    assert place.blobs.has(once[0].model)
    # and from then on nobody takes it away
    asyncio.run(remove_held(place.database, place.blobs, RUN.id, held))
    assert place.blobs.has(once[0].model)


def test_numbers_in_spans():
    assert spans([]) == []
    assert spans([0]) == [[0, 0]]
    assert spans([0, 1, 3, 4, 5, 9]) == [[0, 1], [3, 5], [9, 9]]

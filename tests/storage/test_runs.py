"""The list of runs, and what those who watch them are told."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from lycia.errors import NotFound
from lycia.storage.database import Database
from lycia.storage.facts import StoredRun
from lycia.storage.runs import (
    create_run,
    facts_of_run,
    get_run,
    list_runs,
    models_of_run,
    records_of_run,
    set_run_state,
)

RUN = StoredRun("r1", "digits", '{"rounds":3}', "a" * 64, "[]", 10.0, {"lycia": "0.1"}, schema='{"columns":[]}')


def change(database: Database, of: Callable[..., Any], *args: Any, **more: Any) -> Any:
    return asyncio.run(database.write(lambda connection: of(connection, *args, **more)))


def test_a_run_comes_back_as_it_was_created(database: Database):
    change(database, create_run, RUN)
    assert change(database, get_run, "r1") == RUN
    assert change(database, models_of_run, "r1") == []
    assert change(database, records_of_run, "r1") == []


def test_runs_are_listed_in_the_order_of_their_creation_or_by_state(database: Database):
    later = replace(RUN, id="r0", created_s=20.0, schema=None)
    for run in (later, RUN):
        change(database, create_run, run)
    change(database, set_run_state, "r1", "finished", "all rounds done", 30.0)
    finished = replace(RUN, state="finished", reason="all rounds done", ended_s=30.0)
    assert change(database, list_runs) == [finished, later]
    assert change(database, list_runs, "running") == [later]


@pytest.mark.parametrize("of", [get_run, facts_of_run, models_of_run, lambda c, i: set_run_state(c, i, "paused")])
def test_a_run_that_nobody_knows_is_told_in_words(database: Database, of: Callable[..., Any]):
    with pytest.raises(NotFound, match="no run 'r9'"):
        change(database, of, "r9")

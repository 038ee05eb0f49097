"""The folder of a run: what only it promises beside what every store does."""

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lycia.core.events import to_json
from lycia.core.layout import Layout, Leaf, Model, read_checkpoint
from lycia.core.round import Run, first
from lycia.errors import JournalError, NotFound, StorageError
from lycia.storage.run_folder import RunFolder, model_file, read_facts, read_model, read_models
from tests.storage.killing import Killer
from tests.storage.material import (
    LAYOUT,
    PLAN,
    RUN,
    FolderPlace,
    advance,
    append,
    asked,
    begin,
    carried_into,
    concluded,
    digest_of,
    heard,
    in_bits,
    known_after,
    make,
    one_round,
    opened,
    record,
    what_it_knows,
)


@pytest.fixture
def place(tmp_path: Path) -> FolderPlace:
    return FolderPlace(tmp_path / "run")


def journal(place: FolderPlace) -> Path:
    (found,) = place.path.glob("journal-*.jsonl")
    return found


LINE = f"[{to_json(heard(0, 'ada'))},{to_json(heard(0, 'bob'))}]\n".encode()


@pytest.mark.parametrize("cut", [1, 20, len(LINE) // 2, len(LINE) - 2, len(LINE) - 1])
def test_a_line_that_was_cut_off_was_never_acknowledged_and_does_not_count(place: FolderPlace, cut: int):
    make(place.open(), [begin(), append(opened(0), asked(0))])
    with journal(place).open("ab") as file:
        file.write(LINE[:cut])
    assert what_it_knows(place).events == (opened(0), asked(0))
    make(place.open(), [append(heard(0, "ada"))])
    assert what_it_knows(place).events == (opened(0), asked(0), heard(0, "ada"))


def test_a_line_cut_off_after_the_model_was_made_does_not_count_either(place: FolderPlace):
    calls = [begin(), append(opened(0)), advance(0)]
    make(place.open(), calls)
    with journal(place).open("ab") as file:
        file.write(LINE[:30])
    assert in_bits(what_it_knows(place)) == in_bits(known_after(calls))


@pytest.mark.parametrize("line", [b"\n", b"[{]\n", b'{"event":"Opened"}\n', b"[1]\n", LINE[:-20] + b"\n"])
def test_a_line_that_was_written_to_its_end_and_cannot_be_read_is_not_passed_over(place: FolderPlace, line: bytes):
    make(place.open(), [begin(), append(opened(0))])
    with journal(place).open("ab") as file:
        file.write(line)
    with pytest.raises(JournalError):
        what_it_knows(place)


def test_a_journal_that_lost_what_came_before_the_model_is_refused(place: FolderPlace):
    make(place.open(), [begin(), append(opened(0)), advance(0)])
    journal(place).write_bytes(b"")
    with pytest.raises(StorageError, match="something other than this program"):
        what_it_knows(place)


def test_records_that_were_not_acknowledged_do_not_count(place: FolderPlace):
    make(place.open(), [begin(), *one_round(0)])
    with (place.path / "records.jsonl").open("ab") as file:
        file.write(b'{"round":1}\n{"rou')
    assert place.facts()["records"] == [record(0)]
    make(place.open(), one_round(1))
    assert place.facts()["records"] == [record(0), record(1)]


def test_the_journal_is_one_line_of_json_for_each_append(place: FolderPlace):
    make(place.open(), [begin(), append(opened(0), asked(0)), append(heard(0, "ada"))])
    lines = [json.loads(line) for line in journal(place).read_text().splitlines()]
    assert [[event["event"] for event in line] for line in lines] == [["Opened", "Asked"], ["Heard"]]


def test_events_are_on_the_disk_before_they_are_acknowledged(place: FolderPlace):
    store = place.open()
    make(store, [begin()])
    first, second = Killer(None), Killer(None)
    for operations in (first, second):
        with operations.watching():
            make(store, [append(opened(0))])
    assert first.done == ["ftruncate", "write", "fsync", "fsync"], "the file, and its name in the folder"
    assert second.done == ["ftruncate", "write", "fsync"]


def test_a_step_is_on_the_disk_before_it_counts_and_counts_before_anything_is_removed(place: FolderPlace):
    store, operations, following = place.open(), Killer(None), carried_into(1)
    make(store, [begin(), append(opened(0))])
    asyncio.run(store.advance(following, 0.5))
    with operations.watching():
        asyncio.run(store.end_round(replace(following, task=2), record(0)))
    the_record, what_counts, the_journal = (
        ["ftruncate", "write", "fsync", "fsync"],
        ["write", "fsync", "replace", "fsync"],
        ["unlink"],
    )
    assert operations.done == [*the_record, *what_counts, *the_journal]


def test_only_the_open_rounds_journal_is_there(place: FolderPlace):
    make(place.open(), [begin(), *one_round(0), append(opened(1))])
    assert journal(place).name == "journal-1.jsonl"


@pytest.mark.parametrize("name", ["run.json", "current.json"])
def test_a_file_that_was_changed_by_hand_is_told_in_words(place: FolderPlace, name: str):
    make(place.open(), [begin()])
    (place.path / name).write_text('{"id": 1}')
    with pytest.raises(StorageError, match=f"{name} cannot be read"):
        what_it_knows(place)


def test_a_run_that_never_began_has_no_round_to_write_down(place: FolderPlace):
    with pytest.raises(StorageError, match="no run has begun"):
        make(place.open(), [append(opened(0))])


@pytest.mark.parametrize(
    ("keep", "kept"), [("all", range(7)), ("last", [0, 3, 6]), (1, [0, 3, 6]), (2, [0, 3, 5, 6]), (None, range(7))]
)
def test_the_first_the_best_and_the_newest_models_are_kept(tmp_path: Path, keep, kept):
    place = FolderPlace(tmp_path / "run", keep)
    store, figures = place.open(), [None, 0.5, 0.6, 0.9, 0.9, 0.9, 0.9]
    make(store, [begin()])
    for number in range(1, 7):
        asyncio.run(store.advance(replace(carried_into(number), best=figures[number - 1]), 0.0))
        asyncio.run(store.end_round(replace(carried_into(number), best=figures[number]), record(number - 1)))
    assert place.models() == {number: digest_of(carried_into(number)) for number in kept}
    for number in kept:
        assert (read_model(place.path, number)[1].trained == LAYOUT.as_sent(carried_into(number).model).trained).all()
    assert len([path for path in place.blobs.rglob("*") if path.is_file()]) == len(kept) + 1


def test_of_large_models_not_all_are_kept_unless_asked(tmp_path: Path):
    layout = Layout((Leaf("w", (250_000,)),))
    run = Run("large", PLAN, layout)
    for keep, kept in ((None, [0, 3, 4]), ("all", [0, 1, 2, 3, 4])):
        path = tmp_path / str(keep)
        store = RunFolder(path, run, app="a", versions={}, started_s=0.0, fsync=False, keep_models=keep)
        carried = first(run, Model(np.zeros(250_000, np.float32)))
        asyncio.run(store.begin(run, carried))
        for number in range(1, 5):
            model = Model(np.full(250_000, number, np.float32))
            carried = replace(carried, round=number, model=model)
            asyncio.run(store.advance(carried, 0.0))
            asyncio.run(store.end_round(carried, record(number)))
        assert list(read_models(path)) == kept


def test_a_model_that_comes_back_is_not_removed_with_the_one_before_it(tmp_path: Path):
    place = FolderPlace(tmp_path / "run", "last")
    store = place.open()
    make(store, [begin()])
    for number in range(1, 8):
        same = replace(carried_into(number), model=carried_into(number % 2 + 5).model)
        asyncio.run(store.advance(same, 0.0))
        asyncio.run(store.end_round(same, record(number)))
        assert (what_it_knows(place).carried.model.trained == same.model.trained).all()


def test_the_newest_model_can_be_read_while_the_run_goes_on(place: FolderPlace):
    make(place.open(), [begin(), *one_round(0), append(opened(1)), advance(1)])
    layout, model = read_model(place.path)
    assert layout == LAYOUT
    assert (model.trained == LAYOUT.as_sent(carried_into(2).model).trained).all()
    assert read_checkpoint(b"".join(model_file(place.path, 1)))[0] == LAYOUT
    assert read_facts(place.path) == place.open().facts()


def test_a_model_that_was_not_kept_is_told_in_words(place: FolderPlace):
    make(place.open(), [begin(), *one_round(0)])
    with pytest.raises(NotFound, match="round 9") as refused:
        read_model(place.path, 9)
    assert "0, 1" in refused.value.why


def test_a_folder_without_a_run_is_told_in_words(tmp_path: Path):
    for ask in (read_facts, read_models, read_model, model_file):
        with pytest.raises(NotFound, match="there is no run"):
            ask(tmp_path)


def test_how_a_run_stands_is_written_down(place: FolderPlace):
    store = place.open()
    make(store, [begin()])
    store.set_state("paused", "1 of 5 nodes", None)
    assert (place.facts()["state"], place.facts()["reason"]) == ("paused", "1 of 5 nodes")
    assert json.loads((place.path / "run.json").read_text())["id"] == RUN.id


def test_without_fsync_nothing_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "fsync", None)
    store = RunFolder(tmp_path / "run", RUN, app="digits", versions={}, started_s=0.0, fsync=False)
    make(store, [begin(), *one_round(0)])
    resumed = asyncio.run(RunFolder(tmp_path / "run", RUN, app="", versions={}, started_s=1.0, fsync=False).resume())
    assert resumed is not None
    assert resumed.carried.round == concluded(0).round


def test_a_run_starts_without_a_database_installed():
    import subprocess
    import sys

    program = "import sys; sys.modules['sqlalchemy'] = None; import lycia.storage.run_folder, lycia.storage.carrying"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

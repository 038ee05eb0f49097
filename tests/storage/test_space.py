"""Arrays that lie on disk: they take no memory away, leave nothing behind, and change no bit of what is computed."""

import asyncio
import errno
import gc
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lycia import simulate
from lycia.aggregators import UniformMean
from lycia.algorithms import Adam, FedAvg
from lycia.core import closing, space
from lycia.core.events import Asked, Heard, Opened
from lycia.core.layout import Layout, Leaf, Model
from lycia.core.messages import Updates
from lycia.core.plan import Plan
from lycia.core.round import Round, Run, first, take
from lycia.errors import StorageError
from lycia.runtime.apps import load_app
from lycia.selection import Everyone
from lycia.storage import carrying
from lycia.storage.blobs import BlobFolder
from lycia.storage.disk import check_free, free_bytes, size_in_words
from lycia.storage.run_store import RunStore
from lycia.storage.space import Scratch
from tests.storage.material import DatabasePlace, Place, begin, in_bits, known_after, make, one_round, what_it_knows
from tests.storage.test_carrying import EVERY_KIND, LARGE_BASE, bits, carried_of

FLOATS = Layout((Leaf("layer.weight", (3, 2)), Leaf("layer.bias", (2,))))


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays of a byte and more lie on disk."""
    monkeypatch.setattr(space, "LARGE_BYTES", 1)


# --------------------------------------------------------------------------------------------------------- the space


def test_a_small_array_lies_in_memory_and_needs_no_folder(tmp_path: Path):
    assert Scratch(tmp_path / "scratch").empty(3, np.float64).shape == (3,)
    assert not (tmp_path / "scratch").exists()


@pytest.mark.usefixtures("everything_is_large")
def test_a_large_array_can_be_written_to_and_has_no_name(tmp_path: Path):
    array = Scratch(tmp_path).empty(1000, np.int64)
    array[:] = np.arange(1000)
    assert array.sum() == 499_500
    assert array.dtype == np.int64
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="what is mapped is read from /proc")
def test_the_file_of_a_large_array_is_gone_with_the_array(tmp_path: Path):
    array = Scratch(tmp_path).empty(1 << 20, np.uint8)
    assert str(tmp_path) in Path("/proc/self/maps").read_text()
    del array
    gc.collect()
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="room is reserved in another way")
def test_a_disk_without_room_for_an_array_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match="no room left"):
        Scratch(tmp_path).empty(10, np.float32)


@pytest.mark.usefixtures("everything_is_large")
def test_where_the_system_cannot_reserve_room_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    assert not Scratch(tmp_path).empty(3 << 20, np.uint8).any()


# --------------------------------------------------------------------------------------------------------- free room


def a_disk(monkeypatch: pytest.MonkeyPatch, total: int, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=total, used=total - free, free=free))


def test_a_share_of_the_disk_is_left_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for total, free, left in ((1000, 500, 450), (1000, 30, 0), (10**12, 10**10, 10**10 - 256_000_000)):
        a_disk(monkeypatch, total, free)
        assert free_bytes(tmp_path / "not" / "there" / "yet") == left


def test_too_little_room_is_told_with_what_is_needed_and_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    a_disk(monkeypatch, 10**12, 6 * 10**9 + 256_000_000)
    check_free(tmp_path, 6 * 10**9, "the model")
    with pytest.raises(StorageError, match=f"the model needs 7.5 GB on the disk of {tmp_path}, and 6 GB are free"):
        check_free(tmp_path, 7_500_000_000, "the model")


def test_bytes_are_told_in_the_largest_unit_that_they_fill():
    assert [size_in_words(size) for size in (0, 999, 1500, 2.5e6, 1e9, 1e12)] == [
        "0 bytes", "999 bytes", "1.5 KB", "2.5 MB", "1 GB", "1 TB",
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------ what is kept


@pytest.mark.usefixtures("everything_is_large")
def test_a_store_of_large_models_keeps_every_bit(place: Place):
    story = [begin(), *one_round(0), *one_round(1)]
    make(place.open(), story)
    place.stop()
    assert in_bits(what_it_knows(place)) == in_bits(known_after(story))


@pytest.mark.parametrize("layout", [FLOATS, EVERY_KIND, LARGE_BASE], ids=["floats", "every kind", "large base"])
@pytest.mark.usefixtures("everything_is_large")
def test_what_is_mapped_from_blobs_is_what_was_put_there_also_when_they_are_removed(layout: Layout, tmp_path: Path):
    blobs, carried = BlobFolder(tmp_path, fsync=False), carried_of(layout)
    kept = carrying.keep(blobs, "run", layout, carried)
    mapped, restored = carrying.mapped(blobs, layout, kept), carrying.restore(blobs, kept.to_json(), blobs.space)
    for digest in filter(None, (kept.model, kept.arrays)):
        blobs.remove(digest)
    assert bits(mapped.carried) == bits(restored.carried) == bits(carried)
    assert not mapped.carried.slots["server/m"].flags.writeable
    assert not mapped.carried.model.trained.flags.writeable


def test_a_small_model_goes_on_as_it_is(tmp_path: Path):
    blobs = BlobFolder(tmp_path, fsync=False)
    kept = carrying.keep(blobs, "run", EVERY_KIND, carried_of(EVERY_KIND))
    assert carrying.mapped(blobs, EVERY_KIND, kept) is kept


@pytest.mark.usefixtures("everything_is_large")
def test_the_loop_goes_on_with_what_is_mapped_and_nothing_is_written_twice(tmp_path: Path):
    blobs, layout = BlobFolder(tmp_path, fsync=False), FLOATS
    mapped = carrying.mapped(blobs, layout, carrying.keep(blobs, "run", layout, carried_of(layout)))
    again = carrying.keep(blobs, "run", layout, replace(mapped.carried, task=99), mapped)
    assert (again.model, again.arrays) == (mapped.model, mapped.arrays)


@pytest.mark.usefixtures("everything_is_large")
def test_a_store_names_the_file_of_the_model_that_it_carries_and_of_no_other(tmp_path: Path):
    place = DatabasePlace(tmp_path / "run")
    store = place.open()
    floats = RunStore(place.database(), BlobFolder(place.blobs), "a-run", FLOATS)
    carried = carried_of(FLOATS)

    async def story() -> None:
        assert floats.blob_of(carried.model) is None
        floats._kept = carrying.keep(floats._blobs, "a-run", FLOATS, carried)
        assert floats.blob_of(carried.model) == floats._kept.model
        assert floats.blob_of(replace(carried.model, trained=carried.model.trained.copy())) is None
        kept = carried_of(EVERY_KIND)
        store._kept = carrying.keep(store._blobs, "a-run", EVERY_KIND, kept)
        store._layout = EVERY_KIND  # whose file has leaves that nodes are not sent with every ask
        assert store.blob_of(kept.model) is None

    asyncio.run(story())
    place.stop()


# ------------------------------------------------------------------------------------------------------ what is closed


@pytest.mark.parametrize("size", [7, (1 << 16) + 5])
def test_a_round_closes_to_the_same_bits_wherever_its_arrays_lie(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
):
    plan = Plan(rounds=1, selector=Everyone(), client=FedAvg(), aggregator=UniformMean(), server=Adam())
    run, random = Run("run", plan, Layout((Leaf("w", (size,)),))), np.random.default_rng(0)
    deltas = random.normal(size=(3, size)).astype(np.float32)
    nodes, ones = ("ada", "bob", "cid"), (1.0,) * 3
    current = Round.begin(run, Opened(0.0, 0, 0, "train", 3, bytes(32), None))
    for event in (Asked(0.0, 0, "train", nodes), Heard(1.0, 0, nodes, nodes, ones, (float(size),) * 3)):
        current = take(current, event)

    def kept(handle: str) -> Updates:
        row = nodes.index(handle)
        return Updates(0, (handle,), deltas[row : row + 1], np.ones(1))

    model = Model(random.normal(size=size).astype(np.float32))
    in_memory = closing.close(run, first(run, model), current, kept)
    monkeypatch.setattr(space, "LARGE_BYTES", 1)
    on_disk = closing.close(run, first(run, model, Scratch(tmp_path)), current, kept, Scratch(tmp_path))
    assert bits(on_disk) == bits(in_memory)


@pytest.mark.usefixtures("everything_is_large")
def test_a_whole_run_on_disk_ends_with_the_same_model_also_when_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    app = load_app(Path(__file__).parents[1] / "deployment" / "watched_app.py")
    simulate(app, directory=tmp_path / "run", until_round=1)
    on_disk = simulate(app, directory=tmp_path / "run")
    monkeypatch.undo()
    in_memory = simulate(app)
    assert [record["model"] for record in on_disk.records] == [record["model"] for record in in_memory.records]
    assert on_disk.save(tmp_path / "saved").read_bytes() == b"".join(in_memory.layout.file(in_memory.model))

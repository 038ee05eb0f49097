"""What a run carries, to blobs and back: not a bit is lost, and what anybody downloads can be opened."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lycia.core.layout import Layout, Leaf, Model, read_checkpoint
from lycia.core.round import Carried
from lycia.errors import NotFound
from lycia.storage import carrying
from lycia.storage.blobs import BlobFolder
from tests.storage.material import Known, in_bits

EVERY_KIND = Layout(
    (
        Leaf("single", (3, 2)),
        Leaf("brain", (5,), "bfloat16", aliases=("tied",)),
        Leaf("half", (2, 2), "float16"),
        Leaf("double", (), "float64"),
        Leaf("empty", (0, 4)),
        Leaf("mean", (3,), "float32", "statistics"),
        Leaf("count", (), "int64", "statistics", rule="keep"),
        Leaf("base", (4, 3), "bfloat16", "frozen"),
        Leaf("table", (2,), "int8", "frozen"),
        Leaf("head", (2,), "float16", "local"),
    )
)


LARGE_BASE = Layout((*EVERY_KIND.leaves, Leaf("large", (1000, 600), "bfloat16", "frozen")))


def model_of(layout: Layout, seed: int = 0) -> Model:
    random = np.random.default_rng(seed)
    frozen = {
        leaf.name: random.integers(0, 100, leaf.shape).astype(np.uint16 if leaf.dtype == "bfloat16" else leaf.dtype)
        for leaf in layout.leaves
        if leaf.segment == "frozen"
    }
    trained = random.normal(size=layout.size("trained")).astype(np.float32)
    statistics = np.array([1 / 3, np.pi, 1e-20, 2.0**53])[: layout.size("statistics")]
    return Model(trained, statistics, random.normal(size=layout.size("local")).astype(np.float32), frozen)


def carried_of(layout: Layout, seed: int = 0) -> Carried:
    slots = {
        "server/m": np.float32([1 / 3, -0.0, np.inf]),
        "1/table": np.arange(6, dtype=np.int64).reshape(2, 3)[:, ::2],
        "2/one": np.array(2.5),
        "2/none": np.zeros((0, 7), np.uint8),
    }
    return Carried(
        7, model_of(layout, seed), slots, (0.1, 1 / 3, 1e300), 41, 0.1 + 0.2, 3,
        {12: ("ada", 6), 40: ("bob é", 7)}, {"ada": 5, "bob é": 2}, "all rounds done", True,
        answered={39: ("ada", "bob é"), 40: ()},
    )  # fmt: skip


def bits(carried: Carried) -> tuple[object, ...]:
    return in_bits(Known(carried))


@pytest.fixture
def blobs(tmp_path: Path) -> BlobFolder:
    return BlobFolder(tmp_path, fsync=False)


def files(blobs: BlobFolder) -> int:
    return sum(path.is_file() for path in blobs.root.rglob("*"))


def test_what_is_carried_comes_back_bit_for_bit(blobs: BlobFolder):
    carried = carried_of(EVERY_KIND)
    kept = carrying.keep(blobs, "run", EVERY_KIND, carried)
    assert bits(carrying.restore(blobs, kept.to_json()).carried) == bits(carried)
    assert carrying.restore(blobs, kept.to_json()).to_json() == kept.to_json()


@pytest.mark.parametrize("leaf", EVERY_KIND.leaves, ids=lambda leaf: leaf.name)
def test_a_model_of_one_leaf_comes_back_bit_for_bit(blobs: BlobFolder, leaf: Leaf):
    layout = Layout((leaf,))
    carried = Carried(0, model_of(layout), {})
    kept = carrying.keep(blobs, "run", layout, carried)
    assert bits(carrying.restore(blobs, kept.to_json()).carried) == bits(carried)


def test_a_number_that_is_none_comes_back_bit_for_bit(blobs: BlobFolder):
    layout = Layout((Leaf("w", (3,), "bfloat16"),))
    odd = np.array([0x7FC00001, 0xFF800000, 0x80000000], np.uint32).view(np.float32)
    kept = carrying.keep(blobs, "run", layout, Carried(0, Model(odd), {"server/m": odd}))
    assert bits(carrying.restore(blobs, kept.to_json()).carried) == bits(kept.carried)


finite = st.floats(allow_nan=False)


@given(
    st.tuples(finite, finite),
    st.none() | finite,
    st.dictionaries(st.integers(0, 2**60), st.tuples(st.text(), st.integers(0, 2**40)), max_size=3),
    st.dictionaries(st.text(), st.integers(0, 2**60), max_size=3),
    st.text(),
)
def test_figures_and_names_come_back_as_they_were(tmp_path_factory, norms, best, inflight, participation, finished):
    blobs = BlobFolder(tmp_path_factory.getbasetemp() / "figures", fsync=False)
    layout = Layout((Leaf("w", (1,)),))
    carried = Carried(3, Model(np.zeros(1, np.float32)), {}, norms, 1, best, 2, inflight, participation, finished)
    kept = carrying.keep(blobs, "run", layout, carried)
    assert bits(carrying.restore(blobs, kept.to_json()).carried) == bits(carried)


def test_an_exact_copy_is_kept_only_where_the_file_of_the_model_would_lose_bits(blobs: BlobFolder):
    layout = Layout((Leaf("w", (2,), "bfloat16"),))
    exact = carrying.keep(blobs, "run", layout, Carried(0, Model(np.float32([0.5, 1.0])), {}))
    rounded = carrying.keep(blobs, "run", layout, Carried(0, Model(np.float32([0.1, 1.0])), {}))
    assert exact.arrays == ""
    assert rounded.arrays != ""


def test_equal_models_have_equal_digests_in_every_run(blobs: BlobFolder):
    carried = carried_of(EVERY_KIND)
    one, other = (carrying.keep(blobs, run, EVERY_KIND, carried) for run in ("one", "other"))
    assert (one.model, one.frozen) == (other.model, other.frozen)
    assert one.arrays != other.arrays, "they may be removed when their run needs them no more"


def test_a_model_is_a_checkpoint_that_its_digest_names(blobs: BlobFolder):
    carried = carried_of(EVERY_KIND)
    kept = carrying.keep(blobs, "run", EVERY_KIND, carried)
    file = b"".join(carrying.whole_file(blobs, kept.model))
    assert file == b"".join(EVERY_KIND.file(carried.model)) == blobs.open(kept.model).tobytes()
    assert kept.frozen == ""


@pytest.mark.parametrize("layout", [EVERY_KIND, LARGE_BASE], ids=["small", "large"])
def test_a_downloaded_model_is_whole_frozen_leaves_included(blobs: BlobFolder, layout: Layout):
    carried = carried_of(layout)
    kept = carrying.keep(blobs, "run", layout, carried)
    file = b"".join(carrying.whole_file(blobs, kept.model))
    assert file == b"".join(layout.file(carried.model))
    found, model, _ = read_checkpoint(file)
    assert found == layout == carrying.read_kept_model(blobs, kept.model)[0]
    for found in (model, carrying.read_kept_model(blobs, kept.model)[1]):
        assert bits(replace(carried, model=found)) == bits(replace(carried, model=layout.as_sent(carried.model)))


@pytest.mark.parametrize("layout", [EVERY_KIND, LARGE_BASE], ids=["small", "large"])
def test_the_digest_of_a_model_is_known_without_keeping_it(blobs: BlobFolder, layout: Layout):
    carried = carried_of(layout)
    assert carrying.model_digest(layout, carried.model) == carrying.keep(blobs, "run", layout, carried).model


def test_large_frozen_leaves_are_written_once(blobs: BlobFolder):
    carried = carried_of(LARGE_BASE)
    kept = carrying.keep(blobs, "run", LARGE_BASE, carried)
    restored = carrying.restore(blobs, kept.to_json())
    assert bits(restored.carried) == bits(carried)
    for last in (kept, restored):
        model = replace(last.carried.model, trained=carried.model.trained + np.float32(1))
        after = carrying.keep(blobs, "run", LARGE_BASE, replace(last.carried, round=8, model=model), last)
        assert after.frozen == kept.frozen
        assert after.model != kept.model
        assert blobs.size(after.model) < 10_000 < 1_200_000 <= blobs.size(after.frozen)


def test_what_did_not_change_is_not_written_again(blobs: BlobFolder, monkeypatch: pytest.MonkeyPatch):
    carried = carried_of(EVERY_KIND)
    kept = carrying.keep(blobs, "run", EVERY_KIND, carried)
    monkeypatch.setattr(blobs, "put", None)
    after = carrying.keep(blobs, "run", EVERY_KIND, replace(carried, task=99, best=1.0), kept)
    assert (after.model, after.arrays, after.frozen) == (kept.model, kept.arrays, kept.frozen)
    assert bits(carrying.restore(blobs, after.to_json()).carried) == bits(after.carried)


def test_slots_that_change_under_the_same_model_are_kept(blobs: BlobFolder):
    carried = carried_of(EVERY_KIND)
    kept = carrying.keep(blobs, "run", EVERY_KIND, carried)
    after = carrying.keep(blobs, "run", EVERY_KIND, replace(carried, slots={"server/m": np.float32([9.0])}), kept)
    assert bits(carrying.restore(blobs, after.to_json()).carried) == bits(after.carried)


def test_restored_arrays_are_free_of_their_files(blobs: BlobFolder):
    layout, carried = EVERY_KIND, carried_of(EVERY_KIND)
    kept = carrying.keep(blobs, "run", layout, carried)
    restored = carrying.restore(blobs, kept.to_json()).carried
    for digest in (kept.model, kept.arrays):
        blobs.remove(digest)
    assert bits(restored) == bits(carried)
    assert all(array.flags.writeable for array in restored.slots.values())


def test_a_model_that_is_not_there_is_told_in_words(blobs: BlobFolder):
    with pytest.raises(NotFound, match="no blob"):
        carrying.whole_file(blobs, "0" * 64)

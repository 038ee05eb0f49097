"""An update that stays in its file is read as the array that it stands for, in whatever pieces."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lycia.core import space, tensorfile
from lycia.core.admission import row_norms
from lycia.core.columns import Columns
from lycia.core.layout import Layout, Leaf, Model, Narrowed, checkpoint_layout, narrow, read_checkpoint, read_model
from lycia.core.tensorfile import Tensor
from lycia.errors import LayoutError

PARTS = {"half": ("float16", 5), "none": ("float32", 0), "brain": ("bfloat16", 300), "full": ("float32", 7)}
ROW = np.random.default_rng(0).normal(size=312).astype(np.float32)


def pieces() -> list[Tensor]:
    start, found = 0, []
    for dtype, size in PARTS.values():
        values = narrow(ROW[start : start + size], dtype)
        found.append(Tensor(dtype, (size,), Tensor.of(values).data))
        start += size
    return found


ROUNDED = np.concatenate(
    [narrow(ROW[:5], "float16").astype(np.float32), *(piece for piece in np.split(ROW[5:], [300]))]
).astype(np.float32)
ROUNDED[5:305] = (narrow(ROW[5:305], "bfloat16").astype(np.uint32) << np.uint32(16)).view(np.float32)


@given(st.integers(-320, 320), st.integers(-320, 320), st.none() | st.integers(1, 4))
def test_any_columns_are_those_of_the_array(start: int, stop: int, step: int | None):
    columns = slice(start, stop, step)
    found = Columns(pieces())[0, columns]
    assert found.dtype == np.float32
    assert found.tobytes() == ROUNDED[columns].tobytes()


def test_it_looks_like_the_array():
    rows, array = Columns(pieces()), ROUNDED[np.newaxis]
    assert (rows.shape, rows.ndim, rows.dtype, rows.nbytes, len(rows)) == ((1, 312), 2, np.float32, 1248, 1)
    assert np.asarray(rows).tobytes() == rows[0].tobytes() == np.asarray(rows[:1]).tobytes() == array.tobytes()
    assert np.asarray(rows, np.float64).dtype == np.float64
    assert rows[1:].shape == (0, 312)
    assert rows[:, 3:5].tolist() == array[:, 3:5].tolist()
    assert row_norms(rows).tobytes() == row_norms(array).tobytes()
    with pytest.raises(IndexError):
        rows[1]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_a_tensor_that_is_narrowed_as_it_is_written_gives_the_same_bytes(dtype: str):
    values = np.random.default_rng(0).normal(size=(1 << 16) + 3).astype(np.float32)
    narrowed = Narrowed(values, dtype, values.shape)
    whole = Tensor.of(narrow(values, dtype)).data.tobytes()
    assert b"".join(narrowed.pieces()) == whole
    assert narrowed.nbytes == len(whole)


def test_a_large_model_is_a_view_of_its_file_where_it_lies_there_as_it_is(monkeypatch: pytest.MonkeyPatch):
    layout = Layout((Leaf("a", (3,)), Leaf("b", (2, 2)), Leaf("mean", (2,), "float32", "statistics")))
    mixed = Layout((Leaf("a", (3,)), Leaf("mean", (2,), "float32", "statistics"), Leaf("b", (2, 2))))
    model = Model(np.arange(7, dtype=np.float32), np.array([0.5, 0.25]))
    for made, is_view in ((layout, True), (mixed, False)):
        file = b"".join(made.file(model))
        for limit, expected in ((1, is_view), (1 << 20, False)):
            monkeypatch.setattr(space, "LARGE_BYTES", limit)
            found, read, _ = read_checkpoint(file)
            assert found == made == checkpoint_layout(file)
            assert read.trained.tobytes() == model.trained.tobytes()
            assert read.statistics.tobytes() == model.statistics.tobytes()
            assert np.shares_memory(read.trained, np.frombuffer(file, np.uint8)) == expected


def test_tensors_of_two_files_are_not_one_piece():
    files = [tensorfile.to_bytes({name: Tensor.of(np.ones(3, np.float32))}, {}) for name in ("a", "b")]
    a, b = (next(iter(tensorfile.read(file)[0].values())) for file in files)
    assert tensorfile.one_piece([a, b]) is None
    assert tensorfile.one_piece([]) is None


def test_a_checkpoint_that_is_not_of_its_layout_is_refused_unread():
    file = tensorfile.to_bytes({"a": Tensor.of(np.ones(3))}, {"lycia.layout": Layout((Leaf("a", (3,)),)).to_json()})
    with pytest.raises(LayoutError, match="'a' has dtype float64"):
        checkpoint_layout(file)


def test_a_large_narrow_model_is_written_and_read_back_bit_for_bit(monkeypatch: pytest.MonkeyPatch):
    layout = Layout((Leaf("a", (70_000,), "bfloat16"), Leaf("b", (3,), "float16"), Leaf("c", (), "float64")))
    model = layout.as_sent(Model(np.random.default_rng(0).normal(size=70_004).astype(np.float32)))
    small = b"".join(layout.file(model))
    monkeypatch.setattr(space, "LARGE_BYTES", 1)
    assert b"".join(layout.file(model)) == small
    assert read_model(layout, tensorfile.read(small)[0]).trained.tobytes() == model.trained.tobytes()
    assert [type(tensor) for tensor in layout.tensors(model).values()] == [Narrowed, Tensor, Tensor]
    assert layout.is_exact("trained", model.trained)
    assert not layout.is_exact("trained", model.trained + np.float32(1e-3))

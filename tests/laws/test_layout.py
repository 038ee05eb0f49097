"""A model goes into its layout's segments and comes out as it was."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lycia.core import tensorfile
from lycia.core.layout import SEGMENTS, Layout, Leaf, narrow, read_checkpoint, read_model, widen
from lycia.errors import LayoutError, TensorFileError
from lycia.testing import digest_of

FLOATS = ["float64", "float32", "float16", "bfloat16"]
INTEGERS = ["int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "bool"]
shapes = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
finite32 = st.floats(-60000, 60000, width=32)


@st.composite
def leaves(draw, name: str) -> Leaf:
    segment = draw(st.sampled_from(SEGMENTS))
    kinds = FLOATS if segment in ("trained", "local") else FLOATS + INTEGERS
    aliases = draw(st.sampled_from([(), (f"{name}.tied",), (f"{name}.tied", f"{name}.again")]))
    return Leaf(
        name, draw(shapes), draw(st.sampled_from(kinds)), segment, aliases, draw(st.sampled_from(["mean", "keep"]))
    )


layouts = (
    st.integers(0, 4).flatmap(lambda count: st.tuples(*[leaves(f"leaf {index}") for index in range(count)])).map(Layout)
)


@st.composite
def models(draw) -> tuple[Layout, dict[str, np.ndarray]]:
    layout = draw(layouts)
    values = {}
    for leaf in layout.leaves:
        if leaf.dtype in FLOATS:
            values[leaf.name] = narrow(
                draw(arrays.arrays(np.float32, leaf.shape, elements=finite32)), leaf.dtype
            ).reshape(leaf.shape)
        else:
            # Statistics are computed in float64, which counts exactly up to 2**53.
            whole = st.integers(-(2**53), 2**53) if leaf.dtype == "int64" and leaf.segment == "statistics" else None
            values[leaf.name] = draw(arrays.arrays(np.dtype(leaf.dtype), leaf.shape, elements=whole))
    return layout, values


@given(model=models())
def test_arrays_come_back_in_their_shapes_and_dtypes(model):
    layout, values = model
    back = layout.arrays(layout.model(values))
    assert list(back) == [name for leaf in layout.leaves for name in (leaf.name, *leaf.aliases)]
    for leaf in layout.leaves:
        for name in (leaf.name, *leaf.aliases):
            assert back[name].shape == leaf.shape
            assert back[name].tobytes() == values[leaf.name].tobytes()


@given(model=models())
def test_a_checkpoint_comes_back_as_the_same_model(model):
    layout, values = model
    made = layout.model(values)
    again, back, metadata = read_checkpoint(b"".join(layout.file(made, {"run": "x"})))
    assert (again, metadata) == (layout, {"run": "x"})
    assert digest_of(back) == digest_of(made)


@given(model=models(), segments=st.sets(st.sampled_from(SEGMENTS)))
def test_a_file_of_some_segments_holds_their_leaves_in_order(model, segments):
    layout, values = model
    tensors = layout.tensors(layout.model(values), segments)
    assert list(tensors) == [leaf.name for leaf in layout.leaves if leaf.segment in segments]


@given(layout=layouts)
def test_a_layout_comes_back_from_its_json(layout: Layout):
    assert Layout.from_json(layout.to_json()) == layout
    assert Layout.from_json(layout.to_json()).digest == layout.digest


@given(one=layouts, other=layouts)
def test_equal_layouts_and_only_these_have_equal_digests(one: Layout, other: Layout):
    assert (one == other) == (one.digest == other.digest)


@given(layout=layouts)
def test_segments_are_laid_out_without_gaps(layout: Layout):
    for segment in SEGMENTS:
        places = [place for _, place in layout.places(segment)]
        assert [place.start for place in places] == [0, *[place.stop for place in places]][: len(places)]
        assert (places[-1].stop if places else 0) == layout.size(segment)


@given(model=models())
def test_what_was_sent_once_is_sent_as_the_same_again(model):
    layout, values = model
    sent = layout.as_sent(layout.model(values))
    assert digest_of(layout.as_sent(sent)) == digest_of(sent)


@given(
    rows=arrays.arrays(np.float32, (3, 4), elements=st.floats(width=32, allow_nan=False)), dtype=st.sampled_from(FLOATS)
)
def test_a_block_is_rounded_row_by_row_and_left_as_it_is(rows: np.ndarray, dtype: str):
    layout, before = Layout((Leaf("a", (1,), dtype), Leaf("b", (3,), dtype))), rows.tobytes()
    together = layout.round_trip("trained", rows, update=True)
    singly = np.stack([layout.round_trip("trained", row, update=True) for row in rows])
    assert together.tobytes() == singly.tobytes()
    assert rows.tobytes() == before
    if dtype in ("float32", "float64"):
        assert together is rows


@given(values=arrays.arrays(np.float32, 5, elements=st.floats(width=32)))
def test_bfloat16_is_the_nearest_of_its_neighbours(values: np.ndarray):
    stored = narrow(values, "bfloat16")
    back = widen(stored, "bfloat16")
    assert np.array_equal(np.isnan(values), np.isnan(back))
    finite = np.isfinite(values) & np.isfinite(back)
    for direction in (1, -1):
        neighbour = widen((stored[finite].astype(np.int32) + direction).astype(np.uint16), "bfloat16").astype(
            np.float64
        )
        near = np.abs(back[finite].astype(np.float64) - values[finite])
        assert (~np.isfinite(neighbour) | (near <= np.abs(neighbour - values[finite]))).all()


@given(file=st.binary(max_size=60))
def test_a_checkpoint_of_arbitrary_bytes_gives_our_errors(file: bytes):
    with pytest.raises((TensorFileError, LayoutError)):
        read_checkpoint(file)


@given(
    text=st.text(max_size=30) | st.sampled_from(['[{"name":1}]', "[1]", "{}", "null", '[{"name":"a","shape":[[]]}]'])
)
def test_a_layout_of_arbitrary_text_gives_our_error(text: str):
    try:
        layout = Layout.from_json(text)
    except LayoutError:
        return
    assert layout.leaves == ()


@pytest.mark.parametrize(
    ("arrays_", "options", "problem"),
    [
        ({"a": np.zeros(2, np.int64)}, {}, "int64"),
        ({"a": np.zeros(2, np.complex64)}, {"frozen": ("a",)}, "complex64"),
        ({"a": np.zeros(2, np.float32)}, {"frozen": ("b",)}, "no array called 'b'"),
        ({"a": np.zeros(2, np.float32)}, {"aliases": {"a": ("a",)}}, "more than once"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(arrays_, options, problem: str):
    with pytest.raises(LayoutError, match=problem):
        Layout.of(arrays_, **options)


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ({"w": np.zeros(3, np.float32)}, r"'w' has shape \(3,\) instead of \(2,\)"),
        ({"w": np.zeros(2, np.float64)}, "'w' has dtype float64 instead of float32"),
        ({}, "'w' is missing"),
        (
            {"w": np.zeros(2, np.float32), "z": np.zeros(1), "y": np.zeros(1)},
            "'y' is not part of the model; 'z' is not",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_named(found: dict[str, np.ndarray], problem: str):
    layout = Layout.of({"w": np.zeros(2, np.float32)})
    with pytest.raises(LayoutError, match=problem):
        layout.model(found)
    with pytest.raises(LayoutError, match=problem):
        read_model(layout, {name: tensorfile.Tensor.of(array) for name, array in found.items()})


def test_a_model_does_not_change_when_the_arrays_it_was_made_of_do():
    head = np.ones(2, np.float32)
    model = Layout.of({"head": head}).model({"head": head})
    head[:] = 5
    assert model.trained.tolist() == [1, 1]


def test_frozen_arrays_are_not_copied_for_they_may_be_large():
    base = np.ones(2, np.float16)
    model = Layout.of({"base": base}, frozen=("base",)).model({"base": base})
    assert model.frozen["base"] is base

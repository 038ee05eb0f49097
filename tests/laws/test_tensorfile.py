"""Files are read as the format says, and nothing but a TensorFileError comes of bytes that are not one."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lycia.core import tensorfile
from lycia.core.tensorfile import ITEM_BYTES, Tensor
from lycia.errors import TensorFileError

KINDS = [kind for kind in ITEM_BYTES if kind != "bfloat16"]
shapes = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
any_array = st.sampled_from(KINDS).flatmap(lambda kind: arrays.arrays(np.dtype(kind), shapes))
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=10)
names = texts.filter(lambda name: name != "__metadata__")
files = st.builds(
    lambda held, metadata: tensorfile.to_bytes({name: Tensor.of(array) for name, array in held.items()}, metadata),
    st.dictionaries(names, any_array, max_size=4), st.dictionaries(texts, texts, max_size=2),
)  # fmt: skip

# What safetensors 0.8.0 (the reference implementation) writes for
# {"w": float32 [[1, -2]], "n": int64 7, "ok": bool [True]} with the metadata {"run": "x"}.
REFERENCE = (
    b'\xc8\x00\x00\x00\x00\x00\x00\x00{"__metadata__":{"run":"x"},"n":{"dtype":"I64","shape":[],"data_offsets":[0,8]},'
    b'"w":{"dtype":"F32","shape":[1,2],"data_offsets":[8,16]},"ok":{"dtype":"BOOL","shape":[1],"data_offsets":[16,17]}}'
    b"       \x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80?\x00\x00\x00\xc0\x01"
)


@given(tensors=st.dictionaries(names, any_array, max_size=5), metadata=st.dictionaries(texts, texts, max_size=3))
def test_what_is_read_is_what_was_written(tensors: dict[str, np.ndarray], metadata: dict[str, str]):
    file = tensorfile.to_bytes({name: Tensor.of(array) for name, array in tensors.items()}, metadata)
    again, said = tensorfile.read(file)
    assert said == metadata
    assert list(again) == list(tensors)
    for name, array in tensors.items():
        back = again[name].array()
        assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())
        assert file[again[name].start :][: array.nbytes] == array.tobytes()


@given(array=any_array)
def test_arrays_of_another_byte_order_and_layout_are_written_as_their_numbers(array: np.ndarray):
    for other in (array.astype(array.dtype.newbyteorder(">")), array.T, array[..., ::-1] if array.ndim else array):
        (tensor,) = tensorfile.read(tensorfile.to_bytes({"a": Tensor.of(other)}, {}))[0].values()
        assert tensor.array().shape == other.shape
        assert tensor.array().tobytes() == other.astype(array.dtype).tobytes()


@given(file=files)
def test_data_begins_at_a_multiple_of_eight(file: bytes):
    assert int.from_bytes(file[:8], "little") % 8 == 0


@given(file=st.binary(max_size=80))
def test_arbitrary_bytes_give_nothing_but_our_error(file: bytes):
    read_or_refuse(file)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["F32", "I8"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "a"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    header=json_values | st.dictionaries(st.text(max_size=4) | st.just("__metadata__"), json_values),
    body=st.binary(max_size=9),
)
@settings(max_examples=200)
def test_arbitrary_headers_give_nothing_but_our_error(header, body: bytes):
    text = json.dumps(header).encode()
    read_or_refuse(len(text).to_bytes(8, "little") + text + body)


@given(file=files, data=st.data())
@settings(max_examples=200)
def test_a_file_with_changed_bytes_is_read_or_refused(file: bytes, data):
    changed = bytearray(file)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(changed) - 1))
        match data.draw(st.sampled_from(["change", "drop", "insert", "cut"])):
            case "change":
                changed[place] = data.draw(st.integers(0, 255))
            case "drop" if len(changed) > 1:
                del changed[place]
            case "insert":
                changed.insert(place, data.draw(st.integers(0, 255)))
            case "cut":
                del changed[place + 1 :]
    read_or_refuse(bytes(changed))


def read_or_refuse(file: bytes) -> None:
    try:
        tensors, metadata = tensorfile.read(file)
    except TensorFileError as refused:
        str(refused).encode()  # it can be shown
    else:
        assert sum(tensor.array().nbytes for tensor in tensors.values()) <= len(file)
        assert tensorfile.read(tensorfile.to_bytes(tensors, metadata))[1] == metadata


def test_a_file_of_the_reference_implementation_is_read():
    tensors, metadata = tensorfile.read(REFERENCE)
    assert metadata == {"run": "x"}
    assert {name: tensor.array().tolist() for name, tensor in tensors.items()} == {
        "w": [[1.0, -2.0]],
        "n": 7,
        "ok": [True],
    }


def test_the_bytes_of_a_file_are_the_formats():
    file = tensorfile.to_bytes({"w": Tensor.of(np.float32([[1, -2]]))}, {"run": "x"})
    header = b'{"__metadata__":{"run":"x"},"w":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}'
    assert file == (88).to_bytes(8, "little") + header + b" " * (88 - len(header)) + np.float32([1, -2]).tobytes()


def header_of(entry: str, body: bytes = b"") -> bytes:
    return len(entry.encode()).to_bytes(8, "little") + entry.encode() + body


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"", "0 bytes"),
        (b"\0" * 7, "7 bytes"),
        ((2**60).to_bytes(8, "little"), "its header claims"),
        (header_of("[]"), "not a JSON object"),
        (header_of("{"), "not JSON"),
        (header_of('{"a":1}'), "no place"),
        (header_of('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}}', b"12345678"), "does not fill"),
        (header_of('{"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}', b"1234"), "no dtype"),
        (header_of('{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', b"1234"), "no sound shape"),
        (header_of('{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}', b"1234"), "no sound shape"),
        (header_of('{"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}}', b"1"), "no sound shape"),
        (header_of('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"123"), "no place"),
        (header_of('{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', b"1234"), "no place"),
        (header_of('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"12345"), "1 bytes at its end"),
        (header_of('{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', b"12"), "a gap or an overlap"),
        (
            header_of(
                '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}',
                b"123",
            ),
            "a gap or an overlap",
        ),
        (header_of('{"__metadata__":{"a":1}}'), "not a map from text to text"),
        (header_of('{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'), "sound names"),
        (header_of('{"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'), "does not fill"),
        (
            header_of('{"a":{"dtype":"U8","shape":[' + "1," * 98 + '1],"data_offsets":[0,1]}}', b"1"),
            "no sound shape",
        ),
        (len("{}".encode("utf-16")).to_bytes(8, "little") + "{}".encode("utf-16"), "not JSON"),
    ],
)
def test_an_unsound_file_is_refused_with_its_reason(file: bytes, reason: str):
    with pytest.raises(TensorFileError, match=reason):
        tensorfile.read(file)


@pytest.mark.parametrize("name", ["__metadata__", "\ud800"])
def test_a_name_that_a_file_cannot_hold_is_refused_when_it_is_written(name: str):
    with pytest.raises(TensorFileError, match="cannot be called"):
        tensorfile.to_bytes({name: Tensor.of(np.zeros(1))}, {})


def test_a_dtype_that_a_file_cannot_hold_is_refused_when_it_is_written():
    with pytest.raises(TensorFileError, match="complex64"):
        tensorfile.to_bytes({"a": Tensor.of(np.zeros(1, np.complex64))}, {})


def test_a_bool_of_another_byte_than_one_is_true_and_nothing_else():
    entry = '{"a":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]}}'
    (tensor,) = tensorfile.read(header_of(entry, b"\0\1\xff"))[0].values()
    assert tensor.array().tobytes() == b"\0\1\1"


def test_a_file_that_is_mapped_is_read_without_a_copy(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(tensorfile.to_bytes({"w": Tensor.of(np.arange(6, dtype=np.float32))}, {}))
    mapped = np.memmap(path, np.uint8, "r")
    tensors, _ = tensorfile.read(memoryview(mapped))
    assert np.shares_memory(tensors["w"].array(), mapped)

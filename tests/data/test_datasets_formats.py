"""The formats in which data sets are published are read as their authors meant them."""

import gzip
import io
import struct
import tarfile
import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from lycia.core.keys import Key
from lycia.core.training import NodeData
from lycia.data import Examples, check_data
from lycia.data.datasets import (
    ALPHABET,
    CIFAR10,
    CMAPSS,
    HEART_DISEASE,
    HEART_DISEASE_FLAMBY,
    SENT140,
    SENT140_COUNTS,
    SHAKESPEARE,
    TCGA_BRCA,
    Dataset,
    pictures,
    word_counts,
)
from lycia.data.datasets.activity import cut_windows
from lycia.data.datasets.cifar import cifar_batches, jpeg_examples
from lycia.data.datasets.hospitals import prepared_as_flamby, read_patients
from lycia.data.datasets.idx import idx_array
from lycia.data.datasets.owners import by_owner, held_at_random, held_at_the_end
from lycia.data.datasets.speech import of_roles, read_speeches
from lycia.data.datasets.survival import read_regions
from lycia.data.datasets.turbofans import SENSORS, read_engines
from lycia.data.datasets.tweets import by_user, read_tweets, word_codes

ROW = "63.0,1.0,1.0,145.0,233.0,1.0,2.0,150.0,0.0,2.3,3.0,0.0,6.0,2\n"
GAP_THAT_DOES_NOT_MATTER = "37.0,0.0,3.0,130.0,250.0,0.0,0.0,187.0,0.0,3.5,?,?,?,0\n"
GAP = "41.0,0.0,2.0,?,204.0,0.0,2.0,172.0,0.0,1.4,1.0,0.0,3.0,0\n"


def idx(array: np.ndarray, code: int) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape) + array.tobytes()


def zipped(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text.encode("latin-1"))
    return buffer.getvalue()


def rows(table: np.ndarray) -> str:
    return "".join(" ".join(f"{cell:.4f}" for cell in row) + " \n" for row in table)


# ------------------------------------------------------------------------------------------------------------ pictures


def test_an_idx_file_is_read_with_its_shape_and_type():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    numbers = np.array([[1, -2], [70_000, 4]], dtype=">i4")
    assert idx_array(idx(pixels, 8)).tolist() == pixels.tolist()
    assert idx_array(idx(numbers, 12)).tolist() == numbers.tolist()


@pytest.mark.parametrize(
    "content", [b"", b"\0\0\x08", b"PK\x03\x04", b"\0\0\x07\x01\0\0\0\x01a", b"\0\0\x08\x02\0\0\0\x01"]
)
def test_what_is_no_idx_file_is_told(content: bytes):
    with pytest.raises(ValueError, match="idx"):
        idx_array(content)


def test_an_idx_file_that_was_cut_off_is_told():
    whole = idx(np.zeros((5, 2), np.uint8), 8)
    for content in (whole[:-1], whole + b"\0"):
        with pytest.raises(ValueError, match="does not have"):
            idx_array(content)


def test_the_writers_of_mnist_are_read_from_qmnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Given the files as their authors publish them, of three people's digits
    labels = np.arange(12, dtype=np.uint8) % 10
    images = np.repeat(labels, 28 * 28).reshape(12, 28, 28)
    writers = np.zeros((12, 8), dtype=">i4")
    writers[:, 2] = [7, 7, 7, 7, 9, 9, 9, 9, 9, 7, 300, 300]
    contents = dict(
        zip(pictures._PARTS, (idx(images, 8), idx(labels, 8), idx(images[:2], 8), idx(labels[:2], 8)), strict=True)
    )
    files = contents | {"qmnist-train-labels-idx2-int": idx(writers, 12)}
    (tmp_path / "mnist").mkdir()
    for name, content in files.items():
        (tmp_path / "mnist" / f"{name}.gz").write_bytes(gzip.compress(content))
    monkeypatch.setenv("LYCIA_DATA", str(tmp_path))
    monkeypatch.setattr(pictures, "ABOUT_MNIST", with_files(pictures.ABOUT_MNIST, files))
    monkeypatch.setattr(pictures, "_packed", pictures._packed.__wrapped__)  # as if nothing had been read before
    # Then each holds their own
    population, whole = pictures.mnist_by_writer.__wrapped__(), pictures.mnist()
    assert population.names == ("writer-0007", "writer-0009", "writer-0300")
    assert population.sizes().tolist() == [4, 4, 1]
    for name, own in (("writer-0007", [0, 1, 2, 3, 9]), ("writer-0300", [0, 1])):
        data = population[name]
        assert sorted([*data.train.labels, *data.held_out.labels]) == own
        assert (data.train.features[:, 5, 5] == data.train.labels).all()
    assert whole.train.features.shape == (12, 28, 28)
    check_data(pictures.MNIST, whole)


def with_files(about: Dataset, contents: dict[str, bytes]) -> Dataset:
    """The same data set with these files, and their digests, in the place of its own."""
    known = {file.name: file for file in about.files}
    files = (
        replace(
            known[name], size_bytes=len(content), sha256=sha256((known[name].digested or bytes)(content)).hexdigest()
        )
        for name, content in contents.items()
    )
    return replace(about, files=(known["mnist.npz"], *files))


def cifar_archive(batches: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in batches.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_the_photographs_of_cifar_come_in_order_with_their_colours():
    # Given a picture whose first pixel is red, and whose second is blue
    picture = np.zeros((3, 32, 32), np.uint8)
    picture[0, 0, 0] = picture[2, 0, 1] = 255
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    data = cifar_batches(cifar_archive({name: bytes([place]) + picture.tobytes() for place, name in enumerate(names)}))
    assert data.train.labels.tolist() == [0, 1, 2, 3, 4]
    assert data.held_out.labels.tolist() == [5]
    assert data.train.features[3, 0, :2].tolist() == [[255, 0, 0], [0, 0, 255]]
    check_data(CIFAR10, data)


@pytest.mark.parametrize("batch", [None, b"", b"abc"])
def test_an_archive_of_cifar_that_lacks_a_batch_is_told(batch: bytes | None):
    with pytest.raises(ValueError, match=r"data_batch_1.bin in it has \d+ bytes"):
        cifar_batches(cifar_archive({} if batch is None else {"data_batch_1.bin": batch}))


def test_photographs_that_share_a_header_are_decoded():
    image = pytest.importorskip("PIL.Image")
    encoded = []
    for grey in (10, 200):
        buffer = io.BytesIO()
        image.new("RGB", (32, 32), (grey, grey, grey)).save(buffer, "JPEG", quality=75)
        encoded.append(buffer.getvalue())
    header = encoded[0][:100]
    assert encoded[1].startswith(header)
    rest = b"".join(content[100:] for content in encoded)
    file = {
        "header": np.frombuffer(header, np.uint8), "train_bytes": np.frombuffer(rest, np.uint8),
        "train_offsets": np.array([0, len(encoded[0]) - 100, len(rest)], np.uint32),
        "train_labels": np.array([3, 4], np.uint8),
    }  # fmt: skip
    examples = jpeg_examples(file, "train")
    assert examples.features[:, 16, 16, 0].tolist() == [10, 200]
    check_data(CIFAR10, NodeData(examples))


# -------------------------------------------------------------------------------------------------------------- tables


def test_a_patient_with_a_gap_in_a_column_that_is_used_is_left_out():
    patients = read_patients((ROW + GAP + GAP_THAT_DOES_NOT_MATTER).encode())
    assert patients.features[:, 0].tolist() == [63, 37]
    assert patients.labels.tolist() == [1, 0]
    check_data(HEART_DISEASE, NodeData(patients))


@pytest.mark.parametrize("text", ["1,2,3\n", "a,b\n", ROW + "1,2\n", ""])
def test_a_table_of_something_else_is_told(text: str):
    with pytest.raises(ValueError):  # noqa: PT011
        read_patients(text.encode())


def test_a_hospital_is_standardised_by_its_training_patients_as_flamby_does():
    # Given a hospital with all codes of both categories
    random = np.random.default_rng(0)
    features = random.normal(100, 20, (60, 10)).astype(np.float32)
    features[:, 2], features[:, 6] = np.arange(60) % 4 + 1, np.arange(60) % 3
    patients = Examples(features, np.arange(60) % 2)
    data = prepared_as_flamby({"here": patients})["here"]
    assert (len(data.train), len(data.held_out)) == (39, 21)
    assert np.allclose(data.train.features.mean(axis=0), 0, atol=1e-5)
    assert np.allclose(data.train.features.std(axis=0, ddof=1), 1, atol=1e-5)
    assert np.abs(data.held_out.features.mean(axis=0)).max() > 0.01
    assert len(np.unique(data.train.features[:, 8])) == 2  # chest pain of kind 2, or not
    check_data(HEART_DISEASE_FLAMBY, data)


def test_patients_are_divided_by_region_and_censored_days_are_below_zero():
    header = ["pid", *(column.name for column in TCGA_BRCA.columns), "E", "T"]
    quoted = ",".join(f'"{name}"' for name in header)
    lines = [quoted] + [
        ",".join([pid, "60", *["0"] * 38, event, days])
        for pid, event, days in (
            ("a", "1.0", "90.0"),
            ("b", "0.0", "700.0"),
            ("c", "0.0", "0.0"),
            ("left out", "1.0", "5"),
        )
    ]
    split = "pid,fold,fold2\na,train,train_0\nb,test,test_0\nc,train,train_4\n"
    population = read_regions("\n".join(lines).encode(), split.encode())
    assert population.names == ("northeast", "europe")
    assert population["northeast"].train.labels.tolist() == [90]
    assert population["northeast"].held_out.labels.tolist() == [-700]
    assert not np.signbit(population["europe"].train.labels[0])
    check_data(TCGA_BRCA, population["northeast"])


# -------------------------------------------------------------------------------------------------------------- series


def test_the_flights_that_an_engine_has_left_are_counted_from_its_end():
    # Given two engines that fail after 31 and 160 flights, and two others that were stopped with 20 and 130 left
    def flights(count: int, engine: int) -> np.ndarray:
        table = np.zeros((count, 26))
        table[:, 0], table[:, 1] = engine, np.arange(1, count + 1)
        for sensor, column in zip((2, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20, 21), SENSORS, strict=True):
            table[:, 4 + sensor] = np.linspace(*column.bounds, count)
        return table

    train = rows(np.vstack([flights(31, 1), flights(160, 2)]))
    test = rows(np.vstack([flights(40, 1), flights(30, 2)]))
    population = read_engines(train.encode(), test.encode(), b"20 \n130 \n")
    short, long = population["engine-001"], population["engine-002"]
    assert short.train.labels.tolist() == [1, 0]
    assert long.train.labels.tolist() == [*[125] * 6, *range(124, -1, -1)]
    assert (short.held_out.labels.tolist(), long.held_out.labels.tolist()) == ([20], [125])
    assert short.train.features.shape == (2, 30, 14)
    assert np.allclose(short.train.features[1, :, 0], np.linspace(0, 1, 31)[1:], atol=1e-3)
    assert np.shares_memory(long.train.features[0], long.train.features[1])
    check_data(CMAPSS, long)


def test_windows_lie_wholly_inside_one_activity_and_overlap_by_a_half():
    # Given one recording with 256 samples of standing, a transition, and too little walking
    count = 500
    steps = np.arange(count * 6).reshape(count, 6) % 3000 - 1500
    scaled = steps * np.repeat([1 / 720, 7 * np.pi / 72000], 3)
    archive = zipped(
        {
            "RawData/labels.txt": "1 4 5 11 266\n1 4 7 267 400\n1 4 1 401 500\n",
            "RawData/acc_exp01_user04.txt": "".join(" ".join(map(repr, row[:3].tolist())) + "\n" for row in scaled),
            "RawData/gyro_exp01_user04.txt": "".join(" ".join(map(repr, row[3:].tolist())) + "\n" for row in scaled),
        }
    )
    windows, labels, people = cut_windows(archive)
    assert windows.tolist() == [steps[begin : begin + 128].tolist() for begin in (10, 74, 138)]
    assert (labels.tolist(), people.tolist()) == ([4, 4, 4], [4, 4, 4])


# ---------------------------------------------------------------------------------------------------------------- text


def test_every_character_of_a_role_is_asked_for_once_after_those_before_it():
    population = of_roles({"OPHELIA": ["Good my lord,", "How does"], "PRIEST": ["No more."]})
    assert population.names == ("OPHELIA",)
    data, text = population["OPHELIA"], "Good my lord,\nHow does"
    asked = [*data.train.labels, *data.held_out.labels]
    assert "".join(ALPHABET[code - 1] for code in asked) == text
    assert len(data.held_out) == round(0.2 * len(text))
    assert data.train.features[0].tolist() == [0] * 80
    assert data.held_out.features[0, -len(data.train) :].tolist() == data.train.labels.tolist()
    assert population.sizes().tolist() == [len(data.train)]
    check_data(SHAKESPEARE, data)


def test_speeches_are_told_from_names_without_any():
    text = "First Citizen:\nBefore we: proceed\nany further.\n\nAll:\nSpeak.\n\nTITUS:\n\nFirst Citizen:\nResolved\n"
    assert read_speeches(text) == {"First Citizen": ["Before we: proceed\nany further.", "Resolved"], "All": ["Speak."]}


def test_tweets_are_read_by_user_without_names():
    row = '"{mood}","1","Mon","NO_QUERY","{user}","{text}"\n'
    table = "".join(row.format(mood=4 * (place % 2), user="zoe", text="caf\xe9 {place}") for place in range(30))
    table += "".join(row.format(mood=0, user="adam", text=f'quiet, ""{place}""') for place in range(31))
    table += row.format(mood=4, user="once", text="hello")
    tweets = read_tweets(zipped({"training.1600000.processed.noemoticon.csv": table}))
    assert len(tweets) == 61
    assert tweets[-1] == (0, 'quiet, "30"', 0)
    population = by_user(tweets)
    assert population.names == ("user-0000", "user-0001")
    assert population.sizes().tolist() == [25, 24]
    check_data(SENT140, population["user-0001"])
    counted = word_counts(population["user-0001"].train)
    assert (counted.features.sum(axis=1) == (population["user-0001"].train.features > 0).sum(axis=1)).all()
    check_data(SENT140_COUNTS, NodeData(counted))


def test_words_have_the_same_codes_whoever_is_meant():
    assert word_codes("@you see http://a.b/c?d !!") == word_codes("@me SEE <url> !!")
    assert word_codes("") == []
    assert len(word_codes("a " * 99)) == 32
    assert all(1 <= code <= 8192 for code in word_codes("the quick brown fox, isn't it?"))


# -------------------------------------------------------------------------------------------------------------- owners


def test_nodes_see_their_own_examples_in_one_array():
    owners = np.array([5, 2, 5, 5, 2, 5, 9])
    examples = Examples(np.arange(7)[:, np.newaxis], np.arange(7))
    population = by_owner(examples, owners, held_at_the_end(owners, 0.25), "n{}".format)
    held = {name: population[name] for name in population}
    assert [(name, data.train.labels.tolist(), data.held_out.labels.tolist()) for name, data in held.items()] == [
        ("n2", [1], [4]), ("n5", [0, 2, 3], [5]), ("n9", [6], []),
    ]  # fmt: skip
    first, second = population["n2"].train.features, population["n5"].train.features
    assert first.base is second.base
    with pytest.raises(ValueError, match="read-only"):
        first[:] = 0


def test_what_is_held_out_at_random_is_the_same_share_of_everybody_and_always_the_same():
    owners = np.repeat([3, 1, 2], [10, 20, 1])
    held = held_at_random(owners, 0.2, Key(1))
    assert [int(held[owners == owner].sum()) for owner in (3, 1, 2)] == [2, 4, 0]
    assert (held == held_at_random(owners, 0.2, Key(1))).all()
    assert (held != held_at_random(owners, 0.2, Key(2))).any()

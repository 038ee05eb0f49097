"""The data sets are what they say: with the files that LYCIA_DATA names, and where there are none."""

import sys
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from lycia.core.training import NodeData
from lycia.data import DIGITS, HEART_DISEASE, check_data, datasets, digits, heart_disease
from lycia.data.datasets import DATASETS, events_and_days
from lycia.data.datasets.idx import idx_array
from lycia.errors import DataError

needs_files = pytest.mark.skipif(
    "not __import__('os').environ.get('LYCIA_DATA')", reason="needs the files that LYCIA_DATA names"
)


# ------------------------------------------------------------------------------------------------- what they say


def test_every_data_set_says_whose_it_is_and_how_to_tell_a_damaged_file():
    for name, known in DATASETS.items():
        assert name == known.name
        assert all((known.title, known.licence, known.source, known.loaders))
        for file in known.files:
            assert file.size_bytes > 0
            assert len(bytes.fromhex(file.sha256)) == 32
            assert all(address.startswith("https://") for address in file.addresses)


def test_every_loader_belongs_to_one_data_set():
    counted = Counter(loader for known in DATASETS.values() for loader in known.loaders)
    assert set(counted.values()) == {1}
    assert all(callable(getattr(datasets, loader)) and loader in datasets.__all__ for loader in counted)


def test_no_two_files_in_a_folder_have_one_name():
    names = Counter((known.folder, file.name) for known in DATASETS.values() for file in known.files)
    assert set(names.values()) == {1}


# ------------------------------------------------------------------------------------------------- without files


def test_the_digits_fit_their_schema():
    examples = digits()
    assert examples.features.shape == (1797, 64)
    assert examples.features.dtype == np.float32
    assert DIGITS.differences(NodeData(examples)) == []
    assert set(examples.labels.tolist()) == set(range(10))


def test_without_scikit_learn_the_digits_say_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"pip install 'lycia\[sklearn\]'"):
        digits.__wrapped__()


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LYCIA_DATA", raising=False)
    monkeypatch.setenv("LYCIA_CACHE", str(tmp_path / "cache"))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens


def test_without_its_files_and_offline_the_heart_disease_data_says_what_to_set(offline: None):
    with pytest.raises(
        DataError, match=r"set LYCIA_DATA to a folder that holds heart_disease/processed\.cleveland\.data"
    ):
        heart_disease()


def test_who_has_only_the_lossy_photographs_is_told_so(offline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "cifar10_jpeg.npz").write_bytes(b"")
    monkeypatch.setenv("LYCIA_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"(?s)compressed with loss.*call cifar10_jpeg\(\)"):
        datasets.cifar10()


def test_a_file_of_something_else_is_told_so(offline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "heart_disease").mkdir()
    (tmp_path / "heart_disease" / "processed.cleveland.data").write_text("1,2,3\n", encoding="ascii")
    monkeypatch.setenv("LYCIA_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"processed.cleveland.data is not .*: it holds 6 bytes instead of 18461"):
        heart_disease()


def test_days_are_told_from_events():
    died, days = events_and_days(np.array([5.0, -7.0, 0.0]))
    assert died.tolist() == [True, False, False]
    assert days.tolist() == [5, 7, 0]


# ---------------------------------------------------------------------------------------------- with the real files


@needs_files
def test_the_hospitals_have_as_many_patients_as_in_the_literature():
    patients = heart_disease()
    assert [len(examples) for examples in patients.values()] == [303, 261, 46, 130]
    assert [int(examples.labels.sum()) for examples in patients.values()] == [139, 98, 45, 101]
    assert all(HEART_DISEASE.differences(NodeData(examples)) == [] for examples in patients.values())


@needs_files
def test_flambys_hospitals_are_split_as_in_its_readme():
    population = datasets.heart_disease_flamby()
    sizes = [(len(population[name].train), len(population[name].held_out)) for name in population]
    assert sizes == [(199, 104), (172, 89), (30, 16), (85, 45)]
    for name in population:
        check_data(datasets.HEART_DISEASE_FLAMBY, population[name])
    # FLamby's published figures: a model that always says no is right for 48 of 104, 33 of 89 … if it says yes.
    ill = [int(population[name].held_out.labels.sum()) for name in population]
    assert [share / size for share, (_, size) in zip(ill, sizes, strict=True)] == pytest.approx(
        [0.46153846153846156, 0.3707865168539326, 0.9375, 0.7777777777777778]
    )


@needs_files
def test_mnist_has_539_writers_whose_digits_are_its_training_digits():
    whole, population = datasets.mnist(), datasets.mnist_by_writer()
    assert (whole.train.features.shape, whole.held_out.features.shape) == ((60000, 28, 28), (10000, 28, 28))
    assert np.bincount(whole.train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    sizes = [len(population[name].train) + len(population[name].held_out) for name in population]
    assert (len(sizes), min(sizes), max(sizes), sum(sizes), np.median(sizes)) == (539, 19, 131, 60000, 116)
    assert population.sizes().sum() == 48007
    pixels = sum(int(population[name].train.features.sum(dtype=np.int64)) for name in population)
    pixels += sum(int(population[name].held_out.features.sum(dtype=np.int64)) for name in population)
    assert pixels == whole.train.features.sum(dtype=np.int64)
    check_data(datasets.MNIST, population[population.names[0]])


@needs_files
def test_mnist_is_the_same_from_one_file_and_from_the_published_four(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole, known = datasets.mnist(), DATASETS["mnist"]
    arrays = whole.train.features, whole.train.labels, whole.held_out.features, whole.held_out.labels
    for array, file in zip(arrays, known.files[1:5], strict=True):
        header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        content = header + array.astype(np.uint8).tobytes()
        assert (len(content), sha256(content).hexdigest()) == (file.size_bytes, file.sha256)
        assert (idx_array(content) == array).all()


@needs_files
def test_fashion_mnist_has_as_much_of_each_kind():
    whole = datasets.fashion_mnist()
    assert np.bincount(whole.train.labels).tolist() == [6000] * 10
    assert np.bincount(whole.held_out.labels).tolist() == [1000] * 10
    check_data(datasets.FASHION_MNIST, NodeData(whole.held_out))


@needs_files
@pytest.mark.slow
def test_the_lossy_photographs_have_the_colours_of_the_published_ones():
    pytest.importorskip("PIL")
    whole = datasets.cifar10_jpeg()
    assert np.bincount(whole.train.labels).tolist() == [5000] * 10
    assert np.bincount(whole.held_out.labels).tolist() == [1000] * 10
    means = whole.train.features.mean(axis=(0, 1, 2)) / 255
    assert means.round(3).tolist() == [0.491, 0.482, 0.447]
    check_data(datasets.CIFAR10, NodeData(whole.held_out))


@needs_files
def test_thirty_people_move_in_six_ways():
    population = datasets.har_by_person()
    parts = [population[name] for name in population]
    sizes = [len(data.train) + len(data.held_out) for data in parts]
    assert (len(sizes), min(sizes), max(sizes), sum(sizes)) == (30, 284, 413, 10411)
    labels = np.concatenate([part.labels for data in parts for part in (data.train, data.held_out)])
    assert np.bincount(labels).tolist() == [1722, 1544, 1407, 1801, 1979, 1958]
    assert all(len(np.unique(data.held_out.labels)) == 6 for data in parts)
    standing = parts[0].train.features[parts[0].train.labels == 4]
    assert np.linalg.norm(standing[..., :3], axis=-1).mean() == pytest.approx(1, abs=0.05)  # g
    check_data(datasets.HAR, parts[0])


@needs_files
def test_six_regions_have_their_patients_and_their_deaths():
    population = datasets.tcga_brca_by_region()
    assert population.names == datasets.REGIONS
    parts = [population[name] for name in population]
    assert [(len(data.train), len(data.held_out)) for data in parts] == [
        (248, 63), (156, 40), (164, 42), (129, 33), (129, 33), (40, 11),
    ]  # fmt: skip
    deaths = [sum(int((part.labels > 0).sum()) for part in (data.train, data.held_out)) for data in parts]
    assert deaths == [59, 39, 22, 19, 9, 3]
    for data in parts:
        check_data(datasets.TCGA_BRCA, data)


@needs_files
def test_a_hundred_engines_run_until_they_fail():
    population = datasets.cmapss_by_engine()
    assert len(population) == 100
    lives = population.sizes() + 29  # a window is 30 flights
    assert (lives.min(), lives.max(), lives.sum()) == (128, 362, 20631)
    for name in population:
        data = population[name]
        assert (len(data.held_out), data.train.labels[-1]) == (1, 0)
        check_data(datasets.CMAPSS, data)


@needs_files
def test_a_thousand_roles_speak():
    population = datasets.shakespeare_by_role()
    assert len(population) == 1097
    assert "macbeth/DUNCAN" in population
    check_data(datasets.SHAKESPEARE, population["macbeth/DUNCAN"])
    sizes = population.sizes()
    assert sizes is not None
    assert sizes.sum() == 3179098
    tiny = datasets.tiny_shakespeare_by_role()
    assert len(tiny) == 247
    check_data(datasets.SHAKESPEARE, tiny["First Citizen"])


@needs_files
def test_three_thousand_people_are_glad_or_sad():
    population = datasets.sent140_sample_by_user()
    parts = [part for name in population for part in (population[name].train, population[name].held_out)]
    labels = np.concatenate([part.labels for part in parts])
    assert (len(population), np.bincount(labels).tolist()) == (2875, [6308, 9717])
    check_data(datasets.SENT140, population["user-0000"])


@needs_files
def test_a_damaged_copy_of_a_real_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = datasets.finding.content_of(DATASETS["tcga_brca"], "brca.csv")
    (tmp_path / "tcga_brca").mkdir()
    (tmp_path / "tcga_brca" / "brca.csv").write_bytes(whole.replace(b",538.0", b",539.0"))
    monkeypatch.setenv("LYCIA_DATA", str(tmp_path))
    with pytest.raises(DataError, match="SHA-256"):
        datasets.finding.content_of(replace(DATASETS["tcga_brca"]), "brca.csv")

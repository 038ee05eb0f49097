"""The data sets are what they say, and say what is missing."""

import sys
from pathlib import Path

import numpy as np
import pytest

from lycia.core.training import NodeData
from lycia.data import DIGITS, HEART_DISEASE, datasets, digits, heart_disease
from lycia.errors import DataError

ROW = "63.0,1.0,1.0,145.0,233.0,1.0,2.0,150.0,0.0,2.3,3.0,0.0,6.0,2\n"
GAP_THAT_DOES_NOT_MATTER = "37.0,0.0,3.0,130.0,250.0,0.0,0.0,187.0,0.0,3.5,?,?,?,0\n"
GAP = "41.0,0.0,2.0,?,204.0,0.0,2.0,172.0,0.0,1.4,1.0,0.0,3.0,0\n"


def write_hospitals(folder: Path, text: str) -> None:
    (folder / "heart_disease").mkdir()
    for name in datasets.HOSPITALS:
        (folder / "heart_disease" / f"processed.{name}.data").write_text(text, encoding="ascii")


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


def test_a_patient_with_a_gap_in_a_column_that_is_used_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_hospitals(tmp_path, ROW + GAP + GAP_THAT_DOES_NOT_MATTER)
    monkeypatch.setenv("LYCIA_DATA", str(tmp_path))
    patients = heart_disease()
    assert list(patients) == ["cleveland", "hungarian", "switzerland", "va"]
    assert patients["va"].features[:, 0].tolist() == [63, 37]
    assert patients["va"].labels.tolist() == [1, 0]
    assert HEART_DISEASE.differences(NodeData(patients["va"])) == []


def test_without_its_folder_the_heart_disease_data_says_how_to_set_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LYCIA_DATA", raising=False)
    with pytest.raises(DataError, match="export LYCIA_DATA="):
        heart_disease()


@pytest.mark.parametrize("text", ["1,2,3\n", "a,b\n", ROW + "1,2\n", ""])
def test_a_file_of_something_else_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str):
    write_hospitals(tmp_path, text)
    monkeypatch.setenv("LYCIA_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"processed.cleveland.data cannot be read"):
        heart_disease()


def test_a_folder_without_the_files_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LYCIA_DATA", str(tmp_path))
    with pytest.raises(DataError, match="cannot be read"):
        heart_disease()


@pytest.mark.skipif("not __import__('os').environ.get('LYCIA_DATA')", reason="needs the files that LYCIA_DATA names")
def test_the_hospitals_have_as_many_patients_as_in_the_literature():
    patients = heart_disease()
    assert [len(examples) for examples in patients.values()] == [303, 261, 46, 130]
    assert int(patients["cleveland"].labels.sum()) == 139
    assert all(HEART_DISEASE.differences(NodeData(examples)) == [] for examples in patients.values())

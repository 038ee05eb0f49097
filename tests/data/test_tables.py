"""Tables as a node's data: columns by name and unit, everything that is wrong told at once, and nothing converted."""

import gzip
import io
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lycia.aggregators import UniformMean
from lycia.algorithms import SGD, FedAvg
from lycia.core.plan import App, Plan
from lycia.core.training import NodeData
from lycia.data import Column, Examples, Schema, check_data, load_node_data
from lycia.data.cells import is_same_unit, numbers_of
from lycia.data.delimited import DelimitedFile
from lycia.data.tables import examples_of, node_data_of
from lycia.errors import DataError
from lycia.selection import Everyone
from lycia.trainers import NumpyTrainer

PATIENTS = Schema(
    columns=(
        Column("age", unit="years", bounds=(0, 120)),
        Column("cholesterol", unit="mg/dl", bounds=(50, 700)),
        Column("sex", "category", categories=(0, 1)),
    ),
    labels=("ill", "well"),
    label="outcome",
)
TABLE = """\
id,sex,cholesterol (mg/dL),age,outcome
17,0,233,63,ill
18,1,250.5,41,well
19,1,204,56,well
20,0,354,57,ill
21,1,192,44,well
"""


def app_with(schema: object, population: object = None) -> App:
    plan = Plan(rounds=1, selector=Everyone(), client=FedAvg(), aggregator=UniformMean(), server=SGD())
    return App(trainer=NumpyTrainer(), plan=plan, schema=schema, population=population)


def load(path: Path, schema: object = PATIENTS, notes: list[str] | None = None) -> NodeData:
    data = load_node_data(str(path), app_with(schema), (notes if notes is not None else []).append)
    if schema is not None:
        check_data(schema, data)
    return data


def write(path: Path, content: str | bytes = TABLE) -> Path:
    raw = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def rows_of(data: NodeData) -> list[list[float]]:
    parts = [part for part in (data.train, data.held_out) if part is not None]
    return sorted(row for part in parts for row in part.features.tolist())


def refused(path: Path, schema: Schema = PATIENTS) -> DataError:
    with pytest.raises(DataError) as failure:
        load(path, schema)
    assert failure.value.why
    assert failure.value.do
    return failure.value


# --------------------------------------------------------------------------------------------------------- a good table


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("patients.csv", TABLE),
        ("patients.csv", "\ufeff" + TABLE.replace(",", ";").replace("\n", "\r\n")),
        ("patients.csv", TABLE.replace("ill", '"ill"').replace("17,0", '"17",0') + "\n\n"),
        ("patients.tsv", TABLE.replace(",", "\t")),
        ("patients.csv.gz", TABLE),
        ("patients.tsv.gz", TABLE.replace(",", "\t")),
    ],
)
def test_a_text_table_is_read_by_the_names_of_its_columns(tmp_path: Path, name: str, text: str):
    notes: list[str] = []
    data = load(write(tmp_path / name, text), notes=notes)
    assert rows_of(data) == [[41, 250.5, 1], [44, 192, 1], [56, 204, 1], [57, 354, 0], [63, 233, 0]]
    assert (len(data.train), len(data.held_out)) == (4, 1)
    assert data.train.features.dtype == np.float32
    assert data.train.columns == ("age", "cholesterol", "sex")
    by_age = dict(zip(data.train.features[:, 0].tolist(), data.train.labels.tolist(), strict=True))
    assert by_age.items() <= {41: "well", 44: "well", 56: "well", 57: "ill", 63: "ill"}.items()
    assert "columns that the schema does not know, which are left out: 'id'" in notes[0]
    assert "1 of 5 examples are held out" in notes[1]


def test_what_is_held_out_depends_on_the_number_of_rows_only(tmp_path: Path):
    first = load(write(tmp_path / "a.csv")).held_out.features[:, 0].tolist()
    assert load(write(tmp_path / "b.csv", TABLE.replace("233", "240"))).held_out.features[:, 0].tolist() == first


def test_a_folder_holds_a_table_to_train_on_and_one_to_measure_with(tmp_path: Path):
    write(tmp_path / "train.csv")
    assert len(load(tmp_path).held_out) == 1
    write(tmp_path / "test.tsv.gz", TABLE.replace(",", "\t"))
    data = load(tmp_path)
    assert (len(data.train), len(data.held_out)) == (5, 5)
    (tmp_path / "train.csv").unlink()
    evaluator = load(tmp_path)
    assert evaluator.train is None
    assert len(evaluator.held_out) == 5


def test_a_folder_may_hold_arrays(tmp_path: Path):
    pictures = Schema(shape=(2, 2), labels=(0, 1))
    np.save(tmp_path / "x_train.npy", np.ones((4, 2, 2), dtype=np.uint8))
    np.save(tmp_path / "y_train.npy", np.array([0, 1, 0, 1]))
    assert len(load(tmp_path, pictures).held_out) == 1
    np.save(tmp_path / "x_test.npy", np.ones((3, 2, 2)))
    with pytest.raises(DataError, match="y_test is missing"):
        load(tmp_path, pictures)
    np.save(tmp_path / "y_test.npy", np.zeros(3))
    assert len(load(tmp_path, pictures).held_out) == 3


@pytest.mark.parametrize("files", [[], ["data.csv"], ["train.csv", "train.tsv"]])
def test_a_folder_of_something_else_is_told_what_belongs_there(tmp_path: Path, files: list[str]):
    for name in files:
        write(tmp_path / name)
    error = refused(tmp_path)
    assert (", ".join(files) or "nothing") in error.what
    assert "train.*" in error.why


def test_a_nodes_name_comes_before_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "west").mkdir()
    write(tmp_path / "west" / "train.csv")
    app = app_with(PATIENTS, {"west": NodeData(Examples(np.ones((1, 3)), ["ill"]))})
    assert len(load_node_data("west", app).train) == 1
    assert len(load_node_data("west/", app).train) == 4
    assert len(load_node_data("west", app_with(PATIENTS)).train) == 4


def test_numbers_to_predict_and_numbered_labels(tmp_path: Path):
    path = write(tmp_path / "a.csv", "size,label\n1,2.5\n2,3\n")
    predicted = load(path, Schema(columns=(Column("size"),)))
    assert sorted([*predicted.train.labels.tolist(), *predicted.held_out.labels.tolist()]) == [2.5, 3]
    path = write(tmp_path / "b.csv", "size,label\n1,0\n2,1.0\n")
    data = load(path, Schema(columns=(Column("size"),), labels=(0, 1)))
    assert data.train.labels.dtype == np.int64


def test_a_plain_shape_takes_as_many_columns_as_it_has_places(tmp_path: Path):
    text = "label,p0,p1,p2,p3\n" + "".join(f"{row % 2},{row},1,2,3\n" for row in range(5))
    data = load(write(tmp_path / "pixels.csv", text), Schema(shape=(2, 2), labels=(0, 1)))
    assert data.train.features.shape == (4, 2, 2)
    assert data.train.features[0, 1].tolist() == [2, 3]
    error = refused(write(tmp_path / "pixels.csv", text), Schema(shape=(5,), labels=(0, 1)))
    assert "4 columns beside the labels, where the shape (5,) takes 5 numbers" in error.what


# ---------------------------------------------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("(mg/dL)", "[mmol/l]", "has the column 'cholesterol' in mmol/l, where the schema says mg/dl"),
        ("sex", "sex (0 = female)", "has the column 'sex' in 0 = female, where the schema says no unit"),
        ("age", "Age", "lacks the column age (is it 'Age'?)"),
        ("outcome", "result", "lacks the column outcome"),
        ("id", "age", "has 2 columns 'age'"),
        ("63", "", "has 1 empty cell in column 'age' (the first in row 2)"),
        ("204", "NA", "has 1 empty cell in column 'cholesterol' (the first in row 4)"),
        ("250.5", "250,5", "has 6 cells in row 3, and 5 in its header"),
        ("250.5", '"250,5"', "has 1 cell that is no number in column 'cholesterol' (the first in row 3)"),
        ("250.5", "25_0", "has 1 cell that is no number in column 'cholesterol' (the first in row 3)"),
        ("250.5", "2020-01-05", "has 1 cell that is no number in column 'cholesterol' (the first in row 3)"),
        ("250.5", "inf", "has 1 example with a NaN or an infinity in column 'cholesterol' (the first in row 3)"),
        ("20,0", "20,2", "has 1 value that is not one of 0, 1 in column 'sex' (the first in row 5)"),
        ("44,well", "44,HIV", "has 1 example whose label is not in the label set ('ill', 'well') (the first in row 6)"),
        ("44,well", "44,", "has 1 empty cell in column 'outcome' (the first in row 6)"),
    ],
)
def test_each_difference_names_column_and_row_and_no_content(tmp_path: Path, old: str, new: str, told: str):
    error = refused(write(tmp_path / "patients.csv", TABLE.replace(old, new, 1)))
    assert told in error.what
    assert "HIV" not in str(error)
    assert "250,5" not in str(error)


def test_all_differences_are_told_at_once(tmp_path: Path):
    text = "cholesterol (mmol/l),sex,outcome\n5.2,0,ill\n6.1,1,dead\n,7,well\n"
    error = refused(write(tmp_path / "patients.csv", text))
    for told in ("in mmol/l", "lacks the column age", "not one of 0, 1", "not in the label set"):
        assert told in error.what
    for told in ("convert the column", "add the columns", "correct the labels"):
        assert told in error.do
    assert "the header as row 1" in error.why


def test_values_in_another_unit_are_asked_for_it(tmp_path: Path):
    text = TABLE.replace(" (mg/dL)", "")
    for value in ("233", "250.5", "204", "354", "192"):
        text = text.replace(value, "5.2")
    assert "so many that they may be in another unit than mg/dl" in refused(write(tmp_path / "a.csv", text)).what


def test_of_two_columns_the_one_in_the_schemas_unit_is_taken(tmp_path: Path):
    text = TABLE.replace("id", "cholesterol (mmol/l)")
    assert rows_of(load(write(tmp_path / "a.csv", text)))[0] == [41, 250.5, 1]


def test_many_complaints_are_counted_and_not_all_told(tmp_path: Path):
    schema = Schema(columns=tuple(Column(f"c{place}", bounds=(0, 1)) for place in range(30)), labels=(0, 1))
    text = ",".join([*(f"c{place}" for place in range(30)), "label"]) + "\n" + ",".join(["2"] * 30 + ["0"]) + "\n"
    assert "and 18 more things" in refused(write(tmp_path / "a.csv", text), schema).what


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", TABLE.splitlines()[0].encode(), "has no rows"),
        ("a.csv", TABLE.encode()[:-12], "has 3 cells in row 6, and 5 in its header"),
        ("a.csv", TABLE.replace("17", '"17').encode(), "cannot be read: unexpected end of data"),
        ("a.csv", TABLE.encode("utf-16"), "is not text in UTF-8"),
        ("a.csv", "größe,label\n1,2\n".encode("latin-1"), "is not text in UTF-8"),
        ("a.csv.gz", None, "cannot be read: Compressed file ended"),
        ("a.csv.gz", b"plain text", "cannot be read: Not a gzipped file"),
        ("a.csv", b"1,2,3,4\n5,6,7,8\n", "and its first row holds numbers instead of names"),
        ("a.npz", None, "cannot be read"),
    ],
)
def test_a_file_that_is_cut_off_or_something_else_is_told_so(
    tmp_path: Path, name: str, content: bytes | None, told: str
):
    if content is None and name.endswith(".gz"):
        content = gzip.compress(TABLE.encode())[:-20]
    if content is None:
        whole = io.BytesIO()
        np.savez(whole, x_train=np.ones((9, 3)), y_train=np.ones(9))
        content = whole.getvalue()[:-200]
    (tmp_path / name).write_bytes(content)
    assert told in refused(tmp_path / name).what


@pytest.mark.parametrize("schema", [None, object()])
def test_a_table_needs_a_schema_to_be_read_by(tmp_path: Path, schema: object):
    with pytest.raises(DataError, match="a table cannot be read"):
        load_node_data(str(write(tmp_path / "a.csv")), app_with(schema))


@given(
    cells=st.lists(st.one_of(st.sampled_from(["", "NA", "x", "1_0", " 2.5 ", "1e3", "inf"]), st.floats().map(repr))),
)
def test_a_cell_is_a_number_or_empty_or_strange(cells: list[str]):
    found = numbers_of(cells)
    assert not set(found.empty.tolist()) & set(found.strange.tolist())
    for place, cell in enumerate(cells):
        if place in found.empty:
            assert cell in ("", "NA", "nan")
        elif place in found.strange:
            assert cell in ("x", "1_0")
        else:
            assert found.values[place] == float(cell)


ANY_ROW = st.tuples(
    st.floats(0, 120, width=32), st.sampled_from(["0", "1", ""]), st.sampled_from(["a", "b,c", 'd"e', "f\ng"])
)


@given(rows=st.lists(ANY_ROW, min_size=1, max_size=12), quoting=st.sampled_from([0, 1]))
def test_whatever_stands_in_the_other_columns_the_cells_are_found(tmp_path_factory, rows: list, quoting: int):
    import csv

    path = tmp_path_factory.mktemp("any") / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=quoting).writerows(
            [("note", "age", "sex"), *((note, age, sex) for age, sex, note in rows)]
        )
    reading = DelimitedFile.at(path).read([1, 2], [0], [])
    assert reading.numbers[1].values.tolist() == [float(age) for age, _, _ in rows]
    assert reading.numbers[2].empty.tolist() == [place for place, (_, sex, _) in enumerate(rows) if not sex]
    assert reading.texts[0].tolist() == [note for _, _, note in rows]
    assert reading.rows.tolist() == list(range(2, 2 + len(rows)))


def test_a_long_table_is_read_in_blocks_whatever_stands_in_them(tmp_path: Path):
    lines = [f"{row},{row % 2},x" for row in range(50_000)]
    lines[25_000] = '25000,0,"quoted\nover two lines"'
    lines[45_000] = ",1,x"
    path = write(tmp_path / "long.csv", "size,label,note\n" + "\n".join(lines))
    reading = DelimitedFile.at(path).read([0, 1], [], [])
    assert reading.numbers[0].empty.tolist() == [45_000]
    assert np.nansum(reading.numbers[0].values) == sum(range(50_000)) - 45_000
    assert reading.rows[[0, 25_000, -1]].tolist() == [2, 25_002, 50_001]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("mg/dl", "mg/dL", True), ("mm Hg", "mmHg", True), ("µmol/l", "μmol/L", True), ("kg/m²", "kg/m^2", True),
        ("mg/dl", "mmol/l", False), ("mW", "MW", False), ("mg", "Mg", False), ("years", "months", False),
        ("", "cm", False),
    ],
)  # fmt: skip
def test_units_are_one_where_only_their_writing_differs(one: str, other: str, same: bool):
    assert is_same_unit(one, other) is is_same_unit(other, one) is same


# ------------------------------------------------------------------------------------------------- frames and data sets

COLUMNS = {
    "outcome": ["ill", "well", "well"],
    "age": [63, 41, 56],
    "sex": [False, True, True],
    "cholesterol": [233, 250.5, 204],
    "name": ["A", "B", "C"],
}


def pandas_frame(columns: dict) -> object:
    return pytest.importorskip("pandas").DataFrame(columns)


def arrow_table(columns: dict) -> object:
    return pytest.importorskip("pyarrow").table(columns)


def hugging_face(columns: dict) -> object:
    return pytest.importorskip("datasets").Dataset.from_dict(columns)


MAKERS: Sequence[Callable[[dict], object]] = (dict, pandas_frame, arrow_table, hugging_face)


@pytest.mark.parametrize("make", MAKERS)
def test_a_frame_of_any_kind_gives_the_same_examples(make: Callable[[dict], object]):
    examples = examples_of(make(COLUMNS), PATIENTS)
    assert examples.features.tolist() == [[63, 233, 0], [41, 250.5, 1], [56, 204, 1]]
    assert examples.labels.tolist() == ["ill", "well", "well"]
    data = node_data_of(make(COLUMNS), PATIENTS)
    assert (len(data.train), len(data.held_out)) == (2, 1)
    assert len(node_data_of(make(COLUMNS), PATIENTS, make(COLUMNS)).held_out) == 3


@pytest.mark.parametrize("make", MAKERS)
def test_a_frame_that_does_not_fit_is_told_everything(make: Callable[[dict], object]):
    gaps = {
        **COLUMNS, "age": [63, None, 560], "cholesterol": ["233", "a", "204"], "sex (m)": [0, 1, 1],
        "outcome": ["ill", None, "dead"],
    }  # fmt: skip
    del gaps["sex"]
    with pytest.raises(DataError, match="rows are counted from 0") as failure:
        examples_of(make(gaps), PATIENTS)
    for told in (
        "has 1 empty cell in column 'age' (the first in row 1)",
        "outside 0 to 120 years in column 'age' (the first in row 2)",
        "has 1 cell that is no number in column 'cholesterol' (the first in row 1)",
        "has the column 'sex' in m, where the schema says no unit",
        "has 1 empty cell in column 'outcome' (the first in row 1)",
        "not in the label set ('ill', 'well') (the first in row 2)",
    ):
        assert told in failure.value.what


@pytest.mark.parametrize("make", MAKERS)
def test_lists_of_tokens_and_pictures_are_features_of_a_plain_shape(make: Callable[[dict], object]):
    tokens = {"tokens": [[1, 2, 3], [4, 5, 6]], "label": [0, 1], "source": ["x", "y"]}
    examples = examples_of(make(tokens), Schema(shape=(3,), labels=(0, 1), bounds=(0, 9)))
    assert examples.features.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert examples.features.dtype.kind == "i"
    pictures = {"pixels": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]], "other": [[1], [2]], "label": [0, 1]}
    schema = Schema(shape=(2, 2), labels=(0, 1))
    assert examples_of(make(pictures), schema, features="pixels").features[1].tolist() == [[5, 6], [7, 8]]
    with pytest.raises(DataError, match="has 2 columns of arrays: pixels, other"):
        examples_of(make(pictures), schema)
    with pytest.raises(DataError, match="has 0 columns 'image'"):
        examples_of(make(pictures), schema, features="image")


@pytest.mark.parametrize("make", MAKERS)
def test_arrays_of_several_or_other_shapes_are_refused(make: Callable[[dict], object]):
    schema = Schema(shape=(3,), labels=(0, 1), bounds=(0, 9))
    with pytest.raises(DataError, match="2 shapes"):
        examples_of(make({"tokens": [[1, 2, 3], [4, 5]], "label": [0, 1]}), schema)
    with pytest.raises(DataError, match="where the schema's shape is"):
        examples_of(make({"tokens": [[1, 2], [4, 5]], "label": [0, 1]}), schema)
    with pytest.raises(DataError, match=r"outside 0 to 9 .* in column 'tokens'"):
        examples_of(make({"tokens": [[1, 2, 30], [4, 5, 6]], "label": [0, 1]}), schema)


def test_gaps_of_pandas_own_types_and_dates_are_found():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(COLUMNS)
    frame["age"] = pandas.array([63, None, 56], dtype="Int64")
    frame["cholesterol"] = pandas.to_datetime(["2020-01-01"] * 3)
    frame["sex"] = pandas.Categorical([0, 1, 1])
    frame["outcome"] = frame["outcome"].astype("category")
    with pytest.raises(DataError, match="3 cells that are no numbers in column 'cholesterol'") as failure:
        examples_of(frame, PATIENTS)
    assert "1 empty cell in column 'age' (the first in row 1)" in failure.value.what
    assert "sex" not in failure.value.what
    assert "outcome" not in failure.value.what


@pytest.mark.parametrize("value", [3, [1, 2], np.zeros(3), {"a": 1}, {"a": [1], "label": [1, 2]}])
def test_what_is_no_table_is_told_what_one_is(value: object):
    with pytest.raises(DataError, match="do: "):
        examples_of(value, PATIENTS)


def test_a_parquet_file_is_read_and_only_by_the_columns_that_are_needed(tmp_path: Path):
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow_table(COLUMNS), tmp_path / "train.parquet")
    data = load(tmp_path / "train.parquet")
    assert rows_of(data) == [[41, 250.5, 1], [56, 204, 1], [63, 233, 0]]
    assert rows_of(load(tmp_path)) == rows_of(data)
    whole = (tmp_path / "train.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(whole[:-10])
    assert "was cut off or damaged" in refused(tmp_path / "train.parquet").why


# --------------------------------------------------------------------------------------------- what `datasets` wrote


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which every attempt to reach another one fails the test."""
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was touched"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("a name was looked up"))


def test_a_saved_data_set_is_read_with_its_labels_as_text_and_its_test_split(tmp_path: Path, offline: None):
    datasets = pytest.importorskip("datasets")
    labels = datasets.ClassLabel(names=["well", "ill"])
    whole = hugging_face({**COLUMNS, "outcome": [1, 0, 0]}).cast_column("outcome", labels)
    whole.save_to_disk(tmp_path / "one")
    data = load(tmp_path / "one")
    assert {*data.train.labels.tolist(), *data.held_out.labels.tolist()} == {"ill", "well"}
    datasets.DatasetDict(train=whole, validation=whole.select([2, 0])).save_to_disk(tmp_path / "two")
    data = load(tmp_path / "two")
    assert (len(data.train), data.held_out.labels.tolist()) == (3, ["well", "ill"])
    assert node_data_of(datasets.load_from_disk(str(tmp_path / "two")), PATIENTS).held_out.features[0, 0] == 56
    (tmp_path / "two" / "train" / "data-00000-of-00001.arrow").write_bytes(b"")
    assert "save_to_disk" in refused(tmp_path / "two").do


def test_labels_by_number_stay_numbers(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    table = hugging_face({"x": [0.5, 1.5], "label": [1, 0]}).cast_column("label", datasets.ClassLabel(names=["a", "b"]))
    assert examples_of(table, Schema(columns=(Column("x"),), labels=(0, 1))).labels.tolist() == [1, 0]


def test_a_split_that_nobody_knows_is_told(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    datasets.DatasetDict(dev=hugging_face(COLUMNS)).save_to_disk(tmp_path / "odd")
    assert "the splits dev" in refused(tmp_path / "odd").what


def test_pictures_of_a_data_set_are_decoded_and_never_fetched(tmp_path: Path, offline: None):
    datasets, images = pytest.importorskip("datasets"), pytest.importorskip("PIL.Image")
    pixels = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = {"image": [images.fromarray(picture) for picture in pixels], "label": [0, 1]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "pictures")
    schema = Schema(shape=(2, 2), labels=(0, 1), bounds=(0, 255))
    data = load(tmp_path / "pictures", schema)
    assert sorted([*data.train.features.tolist(), *data.held_out.features.tolist()]) == pixels.tolist()
    away = datasets.Dataset.from_dict(
        {"image": [{"path": "https://example.org/a.png", "bytes": None}], "label": [0]}, features=features
    )
    with pytest.raises(DataError, match="a picture that is not there in column 'image'"):
        examples_of(away, schema)


def test_fixed_arrays_and_chosen_rows_of_a_data_set_are_read(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"pixels": datasets.Array2D((2, 2), "float32"), "label": datasets.Value("int64")})
    whole = datasets.Dataset.from_dict(
        {"pixels": np.arange(12.0).reshape(3, 2, 2), "label": [0, 1, 0]}, features=features
    )
    examples = examples_of(whole.select([2, 0]), Schema(shape=(2, 2), labels=(0, 1)))
    assert examples.features.tolist() == [[[8, 9], [10, 11]], [[0, 1], [2, 3]]]

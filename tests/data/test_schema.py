"""What a schema says of data that misses it, and that it comes back from JSON as it went."""

import json

import numpy as np
import pytest

from lycia.core.training import NodeData
from lycia.data import Column, Examples, Schema, check_data
from lycia.data.schema import label_codes
from lycia.errors import AppError, DataError

PATIENTS = Schema(
    columns=(
        Column("age", unit="years", bounds=(0, 120)),
        Column("visits", "integer", bounds=(0, None)),
        Column("sex", "category", categories=(0, 1)),
    ),
    labels=("ill", "well"),
)
NAMES = ("age", "visits", "sex")
FEATURES = np.array([[30.0, 2, 0], [61.5, 0, 1], [120.0, 7, 1]])
LABELS = np.array(["ill", "well", "well"])


def data(features=FEATURES, labels=LABELS, columns=NAMES) -> NodeData:
    return NodeData(Examples(features, labels, columns))


def with_value(row: int, column: int, value: float) -> NodeData:
    features = FEATURES.copy()
    features[row, column] = value
    return data(features)


def test_data_that_fits_has_no_differences():
    assert PATIENTS.differences(NodeData(data().train, data().train)) == []
    assert PATIENTS.differences(data(columns=None)) == []
    assert PATIENTS.differences(NodeData(None, None)) == []
    assert PATIENTS.differences(data(FEATURES[:0], LABELS[:0])) == []
    assert Schema(shape=(2, 2), labels=(0, 1)).differences(NodeData(Examples(np.ones((0, 2, 2)), np.zeros(0)))) == []
    check_data(PATIENTS, data())


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (data(FEATURES[:, :2], columns=None), "the training data has 2 columns instead of 3"),
        (data(columns=("age", "visits", "height")), "the training data lacks the column sex"),
        (data(columns=("age", "visits", "height")), "has the column height, which the schema does not know"),
        (data(columns=("visits", "age", "sex")), "in another order than the schema, which says age, visits, sex"),
        (data(FEATURES[:, 0], columns=None), "the training data has examples of shape () instead of (3,)"),
        (NodeData(Examples(3.0, LABELS)), "the training data has examples of shape () instead of (3,)"),
        (data(FEATURES.astype(str)), "the training data has features of type <U32 instead of numbers"),
        (data(labels=LABELS[:2]), "the training data has 3 examples and 2 labels"),
        (data(labels=LABELS[:, None]), "has labels of shape (3, 1) instead of one label for each example"),
        (
            data(labels=np.array(["ill", "dead", "gone"])),
            "has 2 examples whose label is not in the label set ('ill', 'well') (the first in row 1)",
        ),
        (with_value(2, 0, np.nan), "has 1 example with a NaN or an infinity in column 'age' (the first in row 2)"),
        (with_value(1, 0, 130), "has 1 example outside 0 to 120 years in column 'age' (the first in row 1)"),
        (with_value(0, 1, -1), "has 1 example below 0 in column 'visits' (the first in row 0)"),
        (with_value(0, 1, 1.5), "has 1 value that is not a whole number in column 'visits' (the first in row 0)"),
        (with_value(0, 2, 3), "has 1 value that is not one of 0, 1 in column 'sex' (the first in row 0)"),
        (NodeData([1, 2]), "the training data is a list, not Examples(features, labels)"),
        (NodeData(None, data(labels=LABELS[:2]).train), "the held-out data has 3 examples and 2 labels"),
    ],
)
def test_each_difference_is_one_clear_sentence(wrong: NodeData, sentence: str):
    differences = PATIENTS.differences(wrong)
    assert any(sentence in difference for difference in differences), differences


def test_a_difference_tells_no_value_of_anybody():
    wrong = with_value(1, 0, 130.625)
    with pytest.raises(DataError) as failure:
        check_data(PATIENTS, NodeData(Examples(wrong.train.features, np.array(["ill", "HIV", "well"]), NAMES)))
    assert "130.625" not in str(failure.value)
    assert "HIV" not in str(failure.value)


def test_data_that_misses_the_schema_is_refused_with_all_its_differences():
    with pytest.raises(DataError, match=r"3 examples and 2 labels; .*outside 0 to 120 years") as failure:
        check_data(PATIENTS, NodeData(Examples(with_value(1, 0, 130).train.features, LABELS[:2], NAMES)))
    assert failure.value.why
    assert failure.value.do


def test_where_most_values_miss_their_bounds_the_unit_is_asked_for():
    months = FEATURES * [[12, 1, 1]]
    assert PATIENTS.differences(data(months)) == [
        "the training data has 3 examples outside 0 to 120 years in column 'age' (the first in row 0), "
        "so many that they may be in another unit than years"
    ]


def test_codes_that_no_float32_holds_exactly_are_still_codes():
    schema = Schema(columns=(Column("dose", "category", categories=(0.1, 0.3)),), labels=(0, 1))
    features = np.array([[0.1], [0.3]], dtype=np.float32)
    assert schema.differences(NodeData(Examples(features, np.array([0, 1])))) == []


def test_a_plain_shape_has_bounds_for_all_features():
    pictures = Schema(shape=(2, 2), bounds=(0, 1), labels=(0, 1))
    assert pictures.differences(NodeData(Examples(np.ones((3, 2, 2)), np.array([0, 1, 1])))) == []
    assert pictures.differences(NodeData(Examples(np.full((3, 2, 2), 2.0), np.array([0, 1, 1])))) == [
        "the training data has 3 examples outside 0 to 1 (the first in row 0), "
        "so many that they may be on another scale"
    ]
    assert pictures.differences(NodeData(Examples(np.ones((3, 4)), np.array([0, 1, 1])))) == [
        "the training data has examples of shape (4,) instead of (2, 2)"
    ]


def test_a_shape_may_be_a_number_of_features():
    assert Schema(shape=4).shape == (4,)


def test_targets_are_finite_numbers():
    prices = Schema(shape=(1,))
    assert prices.differences(NodeData(Examples([[1.0], [2.0]], [0.5, 7]))) == []
    assert prices.differences(NodeData(Examples([[1.0], [2.0]], [0.5, np.nan]))) == [
        "the training data has labels that are not finite numbers"
    ]


@pytest.mark.parametrize(
    "schema", [PATIENTS, Schema(shape=(8, 8), bounds=(None, 1)), Schema(shape=(1,), labels=(3, 1), label="class")]
)
def test_a_schema_comes_back_from_json(schema: Schema):
    assert Schema.from_json(schema.to_json()) == schema


@pytest.mark.parametrize("text", ["", "[]", '{"columns": []}', "null"])
def test_json_that_is_no_schema_is_refused(text: str):
    with pytest.raises(DataError, match="a schema cannot be read"):
        Schema.from_json(text)


def test_json_that_describes_an_impossible_schema_is_refused():
    described = json.loads(PATIENTS.to_json())
    described["labels"] = ["ill", "ill"]
    with pytest.raises(DataError, match="label set"):
        Schema.from_json(json.dumps(described))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Schema(),
        lambda: Schema(shape=(0,)),
        lambda: Schema(shape=(1,), labels=(1,)),
        lambda: Schema(shape=(1,), labels=(1, "two")),
        lambda: Schema(shape=(1,), labels=(1, 1)),
        lambda: Schema(shape=(1,), labels=(1, 1.5)),
        lambda: Schema(shape=(1,), bounds=(1, 0)),
        lambda: Schema(columns=(Column("age"), Column("age"))),
        lambda: Schema(columns=(Column("age"), Column("label"))),
        lambda: Schema(columns=(Column("age"),), label="age"),
        lambda: Schema(columns=(Column("age"),), label=""),
        lambda: Column("age", bounds=(0, float("inf"))),
        lambda: Column("sex", "category"),
        lambda: Column("age", "number", categories=(1, 2)),
        lambda: Column("age", "years"),
    ],
)
def test_a_schema_that_describes_no_data_is_refused(make):
    with pytest.raises(AppError, match="do: "):
        make()


def test_features_are_scaled_by_what_the_schema_says():
    assert PATIENTS.ranges().tolist() == [[0, 0, 0], [120, 1, 1]]
    assert Schema(shape=(2,), bounds=(-1, 1)).ranges().tolist() == [[-1, -1], [1, 1]]


@pytest.mark.parametrize(
    ("labels", "values", "codes"),
    [
        ((3, 1), np.array([1, 3, 2]), [1, 0, -1]),
        ((0, 1), np.array([1.0, 0.5, np.nan]), [1, -1, -1]),
        ((0, 1), np.array([True, False]), [1, 0]),
        ((0, 1), np.array(["0", "one"]), [-1, -1]),
        ((0, 1), np.array([0, None], dtype=object), [0, -1]),
        (("b", "a"), np.array(["a", "b", "c"]), [1, 0, -1]),
        (("b", "a"), np.array(["a", "b"], dtype=object), [1, 0]),
        (("b", "a"), np.array([1, 0]), [-1, -1]),
        (("1", "0"), np.array([1, 0]), [-1, -1]),
        (("a", "b"), np.zeros(0), []),
    ],
)
def test_a_label_has_the_place_that_the_label_set_gives_it(labels, values: np.ndarray, codes: list[int]):
    assert label_codes(labels, values).tolist() == codes

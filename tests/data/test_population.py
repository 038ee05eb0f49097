"""Examples, populations, and the data that a node is told to use."""

import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from lycia.aggregators import UniformMean
from lycia.algorithms import SGD, FedAvg
from lycia.core.plan import App, Plan
from lycia.core.training import NodeData
from lycia.data import Examples, Population, as_population, load_node_data
from lycia.errors import AppError, DataError, NotFound
from lycia.selection import Everyone
from lycia.trainers import NumpyTrainer


def held(count: int) -> NodeData:
    return NodeData(Examples(np.arange(2.0 * count).reshape(count, 2), np.arange(count) % 2))


def app_with(population: object) -> App:
    plan = Plan(rounds=1, selector=Everyone(), client=FedAvg(), aggregator=UniformMean(), server=SGD())
    return App(trainer=NumpyTrainer(), plan=plan, population=population)


def test_examples_are_picked_by_slice_by_place_and_by_mask():
    examples = Examples([[0.0], [1.0], [2.0]], ["a", "b", "c"], ("height",))
    assert len(examples) == 3
    for chosen in (slice(1, 3), [1, 2], np.array([False, True, True])):
        picked = examples[chosen]
        assert (picked.features.tolist(), picked.labels.tolist()) == ([[1.0], [2.0]], ["b", "c"])
        assert picked.columns == ("height",)


def test_a_single_example_is_not_a_set_of_examples():
    with pytest.raises(TypeError, match="picked by a slice"):
        held(3).train[1]


def test_a_population_keeps_its_order_and_knows_its_names():
    population = Population.of({"west": held(1), "east": held(2)})
    assert population.names == tuple(population) == ("west", "east")
    assert "east" in population
    assert "north" not in population
    assert len(population) == 2
    assert len(population["east"].train) == 2
    assert population.sizes().tolist() == [1, 2]


def test_nothing_is_loaded_before_it_is_asked_for():
    loaded = []
    population = Population([f"node-{number}" for number in range(1000)], lambda name: loaded.append(name) or held(3))
    assert len(population) == 1000
    assert "node-7" in population
    assert loaded == []
    assert len(population["node-7"].train) == 3
    assert loaded == ["node-7"]


def test_sizes_that_are_given_need_no_loading():
    population = Population(["a", "b"], lambda _: pytest.fail("loaded"), sizes=np.array([5, 6]))
    assert population.sizes().tolist() == [5, 6]


def test_an_evaluator_without_training_data_counts_as_empty():
    assert Population.of({"a": NodeData(None, held(2).train), "b": held(1)}).sizes().tolist() == [0, 1]


def test_data_without_a_length_has_no_size():
    assert Population.of({"a": NodeData(object())}).sizes() is None


@pytest.mark.parametrize("names", [[], ["a", "a"], ["a", ""]])
def test_every_node_has_a_name_of_its_own(names: list[str]):
    with pytest.raises(AppError, match="name"):
        Population(names, lambda _: held(1))


def test_sizes_belong_to_all_names():
    with pytest.raises(AppError, match="sizes of shape"):
        Population(["a"], lambda _: held(1), sizes=np.array([1, 2]))


def test_a_node_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(NotFound, match=r"(?s)no node 'north'.*west, east"):
        Population.of({"west": held(1), "east": held(2)})["north"]


def test_a_load_that_gives_something_else_is_told_so():
    with pytest.raises(AppError, match="gives a tuple for node 'a'"):
        Population(["a"], lambda _: (1, 2))["a"]


@pytest.mark.parametrize("wrap", [lambda nodes: nodes, Population.of, lambda nodes: lambda: nodes])
def test_a_population_is_a_mapping_or_itself_or_what_makes_one(wrap):
    assert as_population(wrap({"a": held(1)})).names == ("a",)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "is missing"),
        ([held(1)], "is a list"),
        ({"a": 3}, "maps 'a' to a int"),
        ({1: held(1)}, "has 1 for a name"),
        ({"north": 1}, "maps 'north' to a int"),
        (lambda: 3, "a function that gives a int"),
        (lambda: lambda: {"a": held(1)}, "a function that gives a function"),
        (lambda count: {"a": held(count)}, "a function that wants arguments"),
        (Population, "is a type"),
        ({}, "0 nodes"),
    ],
)
def test_what_is_no_population_is_told_what_one_is(value: object, told: str):
    with pytest.raises(AppError, match=told) as failure:
        as_population(value)
    assert failure.value.do


# ------------------------------------------------------------------------------------------------------ load_node_data


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return str(path)


LOADER = """
    from dataclasses import dataclass
    from lycia import Examples, NodeData

    @dataclass
    class Source:
        count: "int"

    def load():
        return NodeData(Examples([[1.0]] * Source({count}).count, [0] * {count}))
"""


def test_a_node_of_the_population_is_loaded_by_name():
    assert len(load_node_data("east", app_with({"west": held(1), "east": held(2)})).train) == 2


def test_a_function_in_a_file_gives_the_data(tmp_path: Path):
    path = write(tmp_path, "data.py", LOADER.format(count=3))
    before = list(sys.path)
    assert len(load_node_data(f"{path}:load", app_with(None)).train) == 3
    assert sys.path == before


def test_two_files_of_one_name_do_not_meet(tmp_path: Path):
    files = [write(tmp_path, f"{folder}/data.py", LOADER.format(count=count)) for folder, count in (("a", 1), ("b", 2))]
    assert [len(load_node_data(f"{path}:load", app_with(None)).train) for path in files] == [1, 2]
    assert "data" not in sys.modules


@pytest.mark.parametrize(
    ("text", "function", "told"),
    [
        ("def load(): ...\ndef other(): ...", "lode", "its functions are: load, other"),
        ("def load(): raise ValueError('no disk')", "load", r"load\(\) in .* failed: ValueError: no disk"),
        ("def load(): return 3", "load", "returned a int"),
        ("def load(path): return path", "load", "failed: TypeError"),
        ("import nothing_of_this_name", "load", "does not import: ModuleNotFoundError"),
        ("def load(:", "load", "does not import: SyntaxError"),
    ],
)
def test_a_file_that_gives_no_data_is_told_why(tmp_path: Path, text: str, function: str, told: str):
    path = write(tmp_path, "data.py", text)
    with pytest.raises(DataError, match=told) as failure:
        load_node_data(f"{path}:{function}", app_with(None))
    assert failure.value.do


def test_a_file_that_does_not_import_leaves_no_module_behind(tmp_path: Path):
    before = set(sys.modules)
    path = write(tmp_path, "data.py", "raise KeyError")
    with pytest.raises(DataError):
        load_node_data(f"{path}:load", app_with(None))
    assert not {name for name in set(sys.modules) - before if name.startswith("lycia_data")}


def test_an_npz_file_gives_the_data(tmp_path: Path):
    path = tmp_path / "data.npz"
    arrays = {"x_train": np.ones((4, 2)), "y_train": np.arange(4), "x_test": np.ones((1, 2)), "y_test": np.zeros(1)}
    np.savez(path, **arrays, columns=np.array(["age", "height"]))
    data = load_node_data(str(path), app_with(None))
    assert (len(data.train), len(data.held_out)) == (4, 1)
    assert data.train.columns == ("age", "height")
    np.savez(path, x_train=np.ones((10, 2)), y_train=np.arange(10))
    data = load_node_data(str(path), app_with(None))
    assert (len(data.train), len(data.held_out)) == (8, 2)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"x_train": np.ones(2)}, "y_train is missing"),
        ({"x_train": np.ones(2), "y_train": np.ones(2), "x_test": np.ones(2)}, "y_test is missing"),
        ({"x_train": np.ones(2), "y_train": np.ones(2), "x_valid": np.ones(2)}, "x_valid is not known"),
        ({"x_train": np.array([{}]), "y_train": np.ones(1)}, "cannot be read"),
    ],
)
def test_an_npz_file_of_something_else_is_told_what_belongs_there(tmp_path: Path, arrays: dict, told: str):
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(DataError, match=told):
        load_node_data(str(tmp_path / "data.npz"), app_with(None))


def test_bytes_that_are_no_npz_file_are_refused(tmp_path: Path):
    (tmp_path / "data.npz").write_bytes(b"not a zip file")
    with pytest.raises(DataError, match="cannot be read"):
        load_node_data(str(tmp_path / "data.npz"), app_with(None))


@pytest.mark.parametrize("spec", ["nowhere.npz", "nowhere.py:load"])
def test_a_file_that_is_not_there_is_told_where_it_was_looked_for(tmp_path: Path, spec: str):
    with pytest.raises(DataError, match=r"(?s)no file .*nowhere.*looked for as"):
        load_node_data(str(tmp_path / spec), app_with(None))


@pytest.mark.parametrize(
    ("population", "told"),
    [(None, "the app has no population"), ({"west": held(1)}, "not in the app's population: west")],
)
def test_a_name_that_means_nothing_is_told_what_was_tried(population: object, told: str):
    with pytest.raises(DataError, match=f"(?s)no data 'north'.*{told}.*--data path/to/file.py:function"):
        load_node_data("north", app_with(population))

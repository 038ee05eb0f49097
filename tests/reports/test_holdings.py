"""Who holds what: the counts are right for every kind of label, and a million nodes are never listed or loaded."""

import html
import json
import re
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lycia.aggregators import UniformMean
from lycia.algorithms import SGD, FedAvg
from lycia.core.keys import Key
from lycia.core.plan import App, Plan
from lycia.core.training import NodeData
from lycia.data import Examples, Population, Schema, by_label_shards, evenly
from lycia.data.partition import population_of
from lycia.errors import AppError
from lycia.reports.holdings import BINS, MOST_LABELS, MOST_NODES, OTHERS, Holdings
from lycia.selection import Everyone
from lycia.trainers import NumpyTrainer


def labelled(*labels: object) -> Examples:
    return Examples(np.zeros((len(labels), 1)), np.array(labels))


def counts(holdings: Holdings) -> dict[str, tuple[int, ...]]:
    return {holding.node: holding.counts for holding in holdings.shown}


def test_parts_are_counted_by_label():
    holdings = Holdings.of([labelled("b", "a", "b"), labelled("c")])
    assert holdings.labels == ("a", "b", "c")
    assert counts(holdings) == {"node-0": (1, 2, 0), "node-1": (0, 0, 1)}
    assert holdings.sizes == (3, 1)
    assert counts(Holdings.of({"west": labelled(1, 1), "east": labelled(0)})) == {"west": (0, 2), "east": (1, 0)}


def test_an_app_is_counted_by_its_schema_with_what_is_held_out():
    plan = Plan(rounds=1, selector=Everyone(), client=FedAvg(), aggregator=UniformMean(), server=SGD())
    population = {"west": NodeData(labelled(2, 0, 2), labelled(1, 1)), "east": NodeData(None, labelled(0))}
    schema = Schema(shape=(1,), labels=(2, 1, 0))
    holdings = Holdings.of(App(trainer=NumpyTrainer(), plan=plan, population=population, schema=schema, name="mine"))
    assert (holdings.name, holdings.labels) == ("mine", ("2", "1", "0"))
    assert counts(holdings) == {"west": (2, 0, 1), "east": (0, 0, 0)}
    assert [holding.held_out for holding in holdings.shown] == [2, 1]
    strange = Holdings.of(population, schema=Schema(shape=(1,), labels=(2, 1)))
    assert strange.labels == ("2", "1", OTHERS)
    assert counts(strange)["west"] == (2, 0, 1)


def test_numbers_to_predict_are_counted_in_equally_full_ranges():
    parts = evenly(Examples(np.zeros((1000, 1)), np.random.default_rng(0).lognormal(size=1000)), 4, Key(0))
    holdings = Holdings.of(parts)
    assert holdings.are_ranges
    assert len(holdings.labels) == BINS
    total = np.sum([holding.counts for holding in holdings.shown], axis=0)
    assert total.sum() == 1000
    assert total.min() > 180
    assert total.max() < 220
    assert Holdings.of([labelled(*map(float, range(100)))]).are_ranges
    assert not Holdings.of([labelled(*map(float, range(10)))]).are_ranges
    whole = Holdings.of([labelled(*range(100))], schema=Schema(shape=(1,)))
    assert whole.are_ranges
    assert sum(whole.shown[0].counts) == 100
    assert Holdings.of([labelled(7.0, 7.0)], schema=Schema(shape=(1,))).shown[0].counts in [(2, 0), (0, 2)]


def test_the_rarest_of_many_labels_are_counted_together():
    labels = np.concatenate([np.repeat(np.arange(30), 5), np.arange(100)])
    holdings = Holdings.of([Examples(np.zeros((250, 1)), labels)])
    assert len(holdings.labels) == MOST_LABELS
    assert holdings.labels[:30] == tuple(map(str, range(30)))
    assert holdings.labels[-1] == OTHERS
    assert sum(holdings.shown[0].counts) == 250


def test_data_without_labels_has_sizes_only():
    holdings = Holdings.of({"a": NodeData([1, 2, 3], [4]), "b": NodeData(object())})
    assert (holdings.labels, holdings.label_skew) == ((), None)
    assert [(holding.examples, holding.held_out) for holding in holdings.shown] == [(3, 1), (0, 0)]
    assert holdings.page()


def test_a_node_without_examples_changes_nothing_for_the_others():
    numbers = [labelled(1.5, 2.5, 3.5), labelled(0.5, 4.5)]
    alone, together = Holdings.of(numbers), Holdings.of([*numbers, Examples(np.zeros((0, 1)), np.zeros(0))])
    assert (together.labels, together.label_skew) == (alone.labels, alone.label_skew)
    assert together.shown[-1].counts == (0,) * len(alone.labels)


@pytest.mark.parametrize("beyond", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_in_no_range(beyond: float):
    numbers = [labelled(1.5, 2.5, beyond), labelled(beyond)]
    holdings = Holdings.of(numbers)
    assert holdings.are_ranges
    assert holdings.labels == Holdings.of([labelled(1.5, 2.5)]).labels
    assert [(holding.examples, sum(holding.counts)) for holding in holdings.shown] == [(3, 2), (1, 0)]
    assert counts(Holdings.of([labelled(1.0, beyond, 1.0)])) == {"node-0": (2,)}


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([b"ill", b"well"], ("ill", "well")),
        (np.array(["2020-02-01", "2021-03-01"], "datetime64[D]"), ("2020-02-01", "2021-03-01")),
        (np.array([None, "ill"], dtype=object), ("None", "ill")),
        ([True, False], ("False", "True")),
        (np.array([2**63 + 1, 3], np.uint64), ("3", "9223372036854775809")),
    ],
)
def test_labels_of_any_type_are_counted(labels: object, told: tuple[str, ...]):
    holdings = Holdings.of([Examples(np.zeros((2, 1)), labels)])
    assert (holdings.labels, holdings.shown[0].counts) == (told, (1, 1))


def test_label_skew_goes_from_none_to_nothing_in_common():
    assert Holdings.of([labelled(0, 1), labelled(1, 0)]).label_skew == 0
    assert Holdings.of([labelled(0, 0), labelled(1, 1)]).label_skew == 0.5
    alone = [labelled(*[label] * 3) for label in range(100)]
    assert Holdings.of(alone).label_skew == pytest.approx(0.99)


@given(nodes=st.integers(1, 12), seed=st.integers(0, 100))
def test_every_example_is_counted_once(nodes: int, seed: int):
    examples = Examples(np.zeros((60, 1)), np.random.default_rng(seed).integers(0, 5, 60))
    holdings = Holdings.of(population_of(by_label_shards(examples, nodes, Key(seed)), Key(seed)))
    for holding in holdings.shown:
        assert sum(holding.counts) == holding.examples
    assert sum(holdings.sizes) + sum(holding.held_out for holding in holdings.shown) == 60


def million(loaded: list[str], sizes: np.ndarray | None) -> Population:
    def load(name: str) -> NodeData:
        loaded.append(name)
        return NodeData(labelled(*[int(name[2:]) % 3] * (1 + int(name[2:]) % 7)))

    return Population([f"n-{place}" for place in range(1_000_000)], load, sizes=sizes)


@pytest.mark.parametrize("known", [True, False])
def test_of_a_million_nodes_some_are_looked_into(known: bool):
    loaded: list[str] = []
    holdings = Holdings.of(million(loaded, 1 + np.arange(1_000_000) % 7 if known else None))
    assert len(loaded) == len(holdings.shown) == MOST_NODES
    assert len(holdings.sizes) == (1_000_000 if known else MOST_NODES)
    assert holdings.nodes == 1_000_000
    if known:
        assert [holdings.shown[0].examples, holdings.shown[-1].examples] == [7, 1]
    assert "400 are shown" in holdings.words()[0]
    assert len(holdings.page()) < 1_000_000
    assert len(holdings.to_json()) < 100_000


def test_no_two_nodes_are_in_memory_together():
    seen: list[weakref.ref] = []

    def watched(name: str) -> NodeData:
        assert sum(one() is not None for one in seen) <= 1
        examples = Examples(np.zeros((3, 1)), np.zeros(3))
        seen.append(weakref.ref(examples))
        return NodeData(examples)

    Holdings.of(Population([f"n-{place}" for place in range(20)], watched))
    assert len(seen) == 20


@pytest.mark.parametrize("nodes", [1, 4, 40, 41, 400])
def test_the_page_is_one_file_without_anything_from_outside(tmp_path: Path, nodes: int):
    examples = Examples(np.zeros((2000, 1)), np.arange(2000) % 7)
    holdings = Holdings.of(population_of(evenly(examples, nodes, Key(0)), Key(0)), name="<b>app</b>")
    written = holdings.save(tmp_path / "page.html")
    page = written.read_text(encoding="utf-8")
    assert "<b>app" not in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert re.findall(r"https?://[^\"'<> ]+", page.replace("http://www.w3.org/2000/svg", "")) == []
    facts = re.search(r'<script type="application/json" id="facts">(.*?)</script>', page)
    assert facts is not None
    assert json.loads(facts[1]) == holdings.to_data() == json.loads(holdings.to_json())
    drawn = holdings._repr_html_()
    assert "<script" not in drawn
    assert "data-tips" not in drawn
    assert "lycia-run" in drawn


def test_a_discs_area_is_a_number_of_examples():
    page = Holdings.of([labelled(*[0] * 16), labelled(*[0] * 4, *[1] * 9)]).page()
    radii = [float(found) for found in re.findall(r'<circle class="dot together"[^>]* r="([\d.]+)"', page)]
    assert [round(radius / radii[0] * 4, 1) for radius in radii] == [4.0, 2.0, 3.0]


def test_a_shades_depth_is_a_share_of_a_nodes_examples():
    page = Holdings.of([labelled(*[0] * 7, 1), *[labelled(0, 0)] * 40]).page()
    assert re.findall(r'fill-opacity="([\d.]+)"', page) == ["0.21", "0.89", "1"]


def test_what_nodes_and_labels_are_called_is_shown_as_text():
    holdings = Holdings.of({"<i>west</i>": labelled("a&b", "<script>")})
    for shown in (holdings.page(), holdings._repr_html_()):
        assert "<i>" not in shown
        assert html.escape("<i>west</i>") in shown


@pytest.mark.parametrize("whose", [[], [1, 2], labelled(1), {"a": 3}, None])
def test_what_is_neither_parts_nor_a_population_is_refused(whose: object):
    with pytest.raises(AppError, match="do: "):
        Holdings.of(whose)

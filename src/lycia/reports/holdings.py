"""Who holds what: how many examples of each label every node has, as numbers, as a drawing and as a page.

Nodes are loaded one after the other and none is kept, so a population of any size can be looked at; of more nodes than
are drawn, some are looked into and said to be some.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lycia.core.plan import App
from lycia.core.training import NodeData
from lycia.data.population import Examples, Population, as_population
from lycia.data.schema import Schema, label_codes
from lycia.errors import AppError
from lycia.reports import frames, grids, tables
from lycia.reports.markup import Markup, data_script, el
from lycia.reports.numbers import count, figure, quantile, share
from lycia.reports.styles import card_style

MOST_NODES = 400  # beyond these, so many are looked into
MOST_LABELS = 40  # beyond these, the rarest are counted together
BINS = 5  # into which numbers to predict are divided, equally full over all nodes
OTHERS = "other"
_IN_A_NOTEBOOK = """
.lycia-run .strip { display: flex; align-items: flex-start; gap: 10px; }
.lycia-run .strip .names { list-style: none; margin: 0; padding: 0; flex: none; max-width: 150px; text-align: right; }
.lycia-run .strip .names li { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; margin: 0; }
.lycia-run .scroll { overflow-x: auto; min-width: 0; }
.lycia-run .scroll svg { max-width: none; }
.lycia-run svg.chart { max-width: 560px; }
"""
_MOST_TOLD = 10  # labels of a node, in a terminal
_MOST_CODES = 64  # different whole numbers among floats, beyond which they are numbers to predict
_SKETCH = np.linspace(0.0, 1.0, 201)


@dataclass(frozen=True)
class Holding:
    """What one node has. `counts`: its training examples by label, () where they have no labels."""

    node: str
    examples: int
    held_out: int
    counts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Holdings:
    """What the nodes of a population have.

    Attributes:
      name: the app's, or "".
      nodes: how many there are.
      labels: what is counted, as text: labels, or ranges of a number to predict; () where there are none.
      are_ranges: whether labels are such ranges.
      shown: the nodes that were looked into: all, or of more than `MOST_NODES` some, evenly spaced from the largest to
        the smallest, or in the population's order where sizes are not known.
      sizes: training examples of every node where that is known without loading them, else of those shown.
      label_skew: how much nodes differ in their labels, 0 for alike, near 1 for nothing in common; None without labels.
        It is the share of its examples that a node would have to give another label to look like all nodes shown
        together (the total variation distance), on average over the nodes.
    """

    name: str
    nodes: int
    labels: tuple[str, ...]
    are_ranges: bool
    shown: tuple[Holding, ...]
    sizes: tuple[int, ...]
    label_skew: float | None

    @classmethod
    def of(cls, whose: Any, *, schema: Schema | None = None, name: str = "") -> "Holdings":
        """What the nodes of an app, of a population, or of parts have.

        Args:
          whose: an `App`, whatever an app takes as its population, or parts: a sequence of `Examples`, or a mapping
            from names to `Examples`.
          schema: says which labels there are, where `whose` does not; without one they are those that occur.
        Raises: AppError, if `whose` is none of these.
        Example:
          >>> from lycia.data import evenly
          >>> from lycia.core.keys import Key
          >>> parts = evenly(Examples(np.eye(4), ["a", "b", "a", "b"]), 2, Key(1))
          >>> [holding.counts for holding in Holdings.of(parts).shown]
          [(1, 1), (1, 1)]
        """
        population, known, called = _parts(whose, schema, name)
        sizes = population.known_sizes
        names = _chosen(population.names, sizes)
        looked = [_look(node, population[node]) for node in names]
        labels, ranges, counts, skew = _counted(looked, population, known)
        shown = tuple(
            Holding(look.node, look.examples, look.held_out, tuple(map(int, row)))
            for look, row in zip(looked, counts, strict=True)
        )
        of_all = [look.examples for look in looked] if sizes is None else sizes.tolist()
        return cls(called, len(population), labels, ranges, shown, tuple(map(int, of_all)), skew)

    def to_data(self) -> dict[str, Any]:
        """All of it as plain data; of sizes their number, sum and quartiles."""
        spread = {str(part): quantile(self.sizes, part) for part in (0, 0.25, 0.5, 0.75, 1)} if self.sizes else {}
        return {
            "name": self.name,
            "nodes": self.nodes,
            "labels": list(self.labels),
            "are_ranges": self.are_ranges,
            "label_skew": self.label_skew,
            "sizes": {"known": len(self.sizes), "sum": sum(self.sizes), "quantiles": spread},
            "shown": [
                {"node": it.node, "examples": it.examples, "held_out": it.held_out, "counts": list(it.counts)}
                for it in self.shown
            ],
        }

    def to_json(self) -> str:
        """`to_data` as JSON."""
        return json.dumps(self.to_data())

    def rows(self, most: int = 40) -> list[tuple[str, str, str, str]]:
        """Node, examples, held out and labels, as text for a terminal; of more nodes than `most` the first."""
        return [
            (it.node, count(it.examples), count(it.held_out), self._labels_in_words(it)) for it in self.shown[:most]
        ]

    def words(self) -> tuple[str, ...]:
        """What there is to say, in sentences."""
        held = sum(holding.held_out for holding in self.shown)
        if len(self.shown) == self.nodes:
            said = [
                f"{count(self.nodes, 'node')}: {count(sum(self.sizes), 'example')} to train on, {count(held)} held out."
            ]
        else:
            how = "from the largest to the smallest" if self._are_sizes_known else "in the population's order"
            said = [
                f"{count(self.nodes, 'node')}, of which {count(len(self.shown))} are shown, evenly spaced {how}.",
                f"{'All' if self._are_sizes_known else 'These'} have {count(sum(self.sizes), 'example')} to train on.",
            ]
        if len(set(self.sizes)) > 1:
            low, middle, high = (count(quantile(self.sizes, part)) for part in (0, 0.5, 1))
            said.append(f"The smallest has {low}, the median {middle}, the largest {high}.")
        skew = self.label_skew
        if skew is not None and len(self.shown) > 1:
            what = "to lie in another range" if self.are_ranges else "another label"
            said.append(
                f"On average {share(skew, 1)} of a node's examples would need {what} for all nodes to be alike."
            )
        return tuple(said)

    def save(self, path: Path | str) -> Path:
        """Write the page: one HTML file that needs nothing else. Returns where it is."""
        written = Path(path)
        written.write_text(self.page(), encoding="utf-8")
        return written

    def page(self) -> str:
        """The page, as HTML."""
        title = self.name or "Who holds what"
        first, *others = self.words()
        head = el(
            "header",
            frames.brand("Lycia · who holds what"),
            el("h1", title),
            el("p", first, class_="lead"),
            el("p", " ".join(others), class_="meta") if others else None,
            el("dl", *self._tiles(), class_="tiles"),
            class_="top",
        )
        numbers = el("details", el("summary", "Every node in numbers"), self._table())
        panels = frames.panels(
            [
                frames.panel(heading, drawn, note=f"{note[:1].upper()}{note[1:]}.", wide=wide)
                for heading, note, drawn, wide in self._figures("holdings")
            ]
        )
        said = "Labels are counted in the data to train on. All figures are in this page as JSON, under the id “facts”."
        return frames.document(
            title, head, el("main", frames.section("The nodes", [], panels, numbers)), el("footer", el("p", said)),
            data_script(self.to_data(), "facts"),
        )  # fmt: skip

    def _repr_html_(self) -> str:
        """The drawing, for notebooks, with a style of its own that touches nothing around it."""
        name = f"holdings-{sha256(self.to_json().encode()).hexdigest()[:12]}"
        return el(
            "div",
            el("style", Markup(card_style("lycia-run") + _IN_A_NOTEBOOK)),
            el("p", el("strong", self.name or "Who holds what"), class_="name"),
            el("p", " ".join(self.words())),
            *(
                el("figure", el("figcaption", heading, el("span", f" · {note}")), drawn)
                for heading, note, drawn, _ in self._figures(name, still=True)
            ),
            class_="lycia-run",
        )

    def _labels_in_words(self, held: Holding) -> str:
        there = [place for place, number in enumerate(held.counts) if number]
        most = sorted(there, key=lambda place: -held.counts[place])[:_MOST_TOLD]
        told = ", ".join(f"{self.labels[place]}: {count(held.counts[place])}" for place in sorted(most))
        return told + (f" and {len(there) - len(most)} more" if len(there) > len(most) else "")

    @property
    def _are_sizes_known(self) -> bool:
        return len(self.sizes) == self.nodes

    def _tiles(self) -> list[Markup]:
        sizes, skew = self.sizes, self.label_skew
        low, middle, high = (count(quantile(sizes, part)) for part in (0, 0.5, 1)) if sizes else ("–", "–", "–")
        of_some = "at the nodes shown"
        is_whole = len(self.shown) == self.nodes
        held_out = count(sum(holding.held_out for holding in self.shown))
        return [
            frames.tile("Nodes", count(self.nodes), "" if is_whole else f"{count(len(self.shown))} shown"),
            frames.tile("To train on", count(sum(sizes)), "examples", "" if self._are_sizes_known else of_some),
            frames.tile("Held out", held_out, "examples", "" if is_whole else of_some),
            frames.tile("At a node", middle, "examples, the median", f"from {low} to {high}"),
            frames.tile(
                "Label skew", "–" if skew is None else figure(skew), "0: nodes are alike", "1: nothing in common"
            ),
        ]

    def _figures(self, name: str, *, still: bool = False) -> list[tuple[str, str, Markup, bool]]:
        """Heading, note, drawing, and whether it wants the whole width."""
        heading = (
            f"Nodes and {'ranges of the number to predict' if self.are_ranges else 'labels'}"
            if self.labels
            else "Nodes"
        )
        if len(self.shown) <= grids.MOST_ROWS:
            discs = "a disc's area is a number of examples; " if self.labels else ""
            drawn = grids.bubbles(self.shown, self.labels, f"{name}-grid")
            return [(heading, f"{discs}the bars are all that a node has", drawn, True)]
        note = "a column is a node: above, how much it has"
        note += "; below, the stronger the colour, the more of that is of a label" if self.labels else ""
        drawings = [(heading, note, grids.shades(self.shown, self.labels, f"{name}-grid", still=still), True)]
        if min(self.sizes) < max(self.sizes):
            sizes = grids.sizes_chart(self.sizes, f"{name}-sizes", still=still)
            drawings.append(("Sizes", "how many nodes have how much to train on", sizes, False))
        return drawings

    def _table(self) -> Markup:
        headings = ("Examples", "Held out", *self.labels)
        columns = [tables.Column("Node", "name"), *(tables.Column(heading, "number") for heading in headings)]
        rows = [(it.node, *map(count, (it.examples, it.held_out, *it.counts))) for it in self.shown]
        return tables.table(columns, rows, "Nodes and labels")


_Counts = tuple[tuple[str, ...], bool, np.ndarray, float | None]
"""What is counted, whether that is ranges, (nodes, of these) how often, and how much nodes differ."""


@dataclass(frozen=True)
class _Look:
    """What is kept of a node: few numbers, whatever it holds.

    Attributes:
      labels: value → how often, None where there are more than can be labels; sketch: their quantiles, if they are
        numbers.
    """

    node: str
    examples: int
    held_out: int
    labels: Mapping[Any, int] | None
    sketch: np.ndarray | None


def _parts(whose: Any, schema: Schema | None, name: str) -> tuple[Population, Schema | None, str]:
    if isinstance(whose, App):
        found = whose.schema if isinstance(whose.schema, Schema) else None
        return as_population(whose.population), schema or found, name or whose.name
    if isinstance(whose, Mapping) and whose and all(isinstance(part, Examples) for part in whose.values()):
        return Population.of({str(node): NodeData(part) for node, part in whose.items()}), schema, name
    if isinstance(whose, Sequence) and whose and all(isinstance(part, Examples) for part in whose):
        return Population.of({f"node-{place}": NodeData(part) for place, part in enumerate(whose)}), schema, name
    if isinstance(whose, (Sequence, Examples)):
        raise AppError(
            f"a {type(whose).__name__} is neither parts nor a population.",
            why="parts are Examples, one for each node, as the functions of lycia.data.partition return them.",
            do="pass the parts, a population, or an app.",
        )
    return as_population(whose), schema, name


def _chosen(names: Sequence[str], sizes: np.ndarray | None) -> list[str]:
    if len(names) <= MOST_NODES:
        return list(names)
    order = np.arange(len(names)) if sizes is None else np.argsort(-sizes, kind="stable")
    return [names[order[place]] for place in np.linspace(0, len(names) - 1, MOST_NODES).round().astype(int)]


def _look(node: str, data: NodeData) -> _Look:
    labels = _labels_of(data.train)
    counted: Mapping[Any, int] | None = None
    sketch = None
    if labels is not None and len(labels):
        values, counts = np.unique(labels, return_counts=True)
        if labels.dtype.kind != "f" or (len(values) <= _MOST_CODES and bool((values == np.rint(values)).all())):
            counted = dict(zip(values.tolist(), counts.tolist(), strict=True))
        if labels.dtype.kind in "biuf":
            sketch = np.quantile(labels.astype(np.float64), _SKETCH)
    return _Look(node, _length(data.train), _length(data.held_out), counted, sketch)


def _length(data: Any) -> int:
    return len(data) if hasattr(data, "__len__") else 0


def _labels_of(data: Any) -> np.ndarray | None:
    """(n,) the labels of `Examples`, or of anything else that has such; None where there are none to count.

    Numbers that are not finite are no labels.
    """
    labels = getattr(data, "labels", None)
    found = np.asarray(labels)
    if labels is None or found.ndim != 1:
        return None
    return found[np.isfinite(found)] if found.dtype.kind in "biuf" else found.astype(str)


def _counted(looked: Sequence[_Look], population: Population, schema: Schema | None) -> _Counts:
    labelled = [look for look in looked if look.labels is not None or look.sketch is not None]
    if not labelled:
        return (), False, np.zeros((len(looked), 0), dtype=np.int64), None
    if schema is not None and schema.labels is not None:
        return _by_label(looked, schema.labels)
    are_labels = schema is None and all(look.labels is not None for look in labelled)
    if not are_labels and all(look.sketch is not None for look in labelled):
        return _by_range(labelled, looked, population)
    total: Counter[Any] = Counter()
    for look in labelled:
        total.update(look.labels or {})
    return _by_label(looked, tuple(sorted(total, key=lambda label: (str(type(label)), label))))


def _by_label(looked: Sequence[_Look], labels: Sequence[Any]) -> _Counts:
    known = tuple(labels)
    whole = np.zeros((len(looked), len(known) + 1), dtype=np.int64)
    for row, look in zip(whole, looked, strict=True):
        if look.labels:
            places = label_codes(known, np.array(list(look.labels)))
            np.add.at(row, places, list(look.labels.values()))  # what is not known is counted in the last column
    kept = np.arange(len(known))
    if len(known) > MOST_LABELS:
        kept = np.sort(np.argsort(-whole[:, :-1].sum(axis=0), kind="stable")[: MOST_LABELS - 1])
    rest = whole.sum(axis=1) - whole[:, kept].sum(axis=1)
    names = tuple(str(known[place]) for place in kept)
    if not rest.any():
        return names, False, whole[:, kept], _skew(whole)
    return (*names, OTHERS), False, np.concatenate([whole[:, kept], rest[:, np.newaxis]], axis=1), _skew(whole)


def _by_range(labelled: Sequence[_Look], looked: Sequence[_Look], population: Population) -> _Counts:
    """Ranges that are equally full over all nodes; counted exactly, for which the nodes are loaded once more."""
    points = np.concatenate([look.sketch for look in labelled if look.sketch is not None])
    weights = np.repeat([look.examples for look in labelled], len(_SKETCH))
    order = np.argsort(points, kind="stable")
    shares = np.cumsum(weights[order]) / weights.sum()
    edges = np.unique(points[order][np.searchsorted(shares, np.arange(1, BINS) / BINS)])
    counts = np.zeros((len(looked), len(edges) + 1), dtype=np.int64)
    for row, look in zip(counts, looked, strict=True):
        labels = _labels_of(population[look.node].train)
        if labels is not None:
            row += np.bincount(np.searchsorted(edges, labels, side="left"), minlength=len(row))
    said = [figure(edge) for edge in edges]
    names = (f"≤ {said[0]}", *(f"{low} – {high}" for low, high in pairwise(said)), f"> {said[-1]}")
    return names, True, counts, _skew(counts)


def _skew(counts: np.ndarray) -> float | None:
    table = counts[counts.any(axis=1)]
    if not len(table):
        return None
    shares, whole = table / table.sum(axis=1, keepdims=True), table.sum(axis=0) / table.sum()
    return float(np.abs(shares - whole).sum(axis=1).mean() / 2)

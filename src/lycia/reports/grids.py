"""Drawings of who holds what: a disc for each node and label, shades where there are many nodes, and sizes."""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from lycia.reports import drawing
from lycia.reports.drawing import Frame, Scale, Tips
from lycia.reports.markup import Markup, el, together
from lycia.reports.numbers import count, share

MOST_ROWS = 40  # nodes that get a row with their name; more become columns
_BAR, _GAP, _BARS = 190.0, 22.0, 300.0
_SHADES = 8
_BINS = 24
_TALL = 96.0  # of the columns above the shades
_MOST_LETTERS = 16


class Held(Protocol):
    """What a drawing needs to know of a node."""

    @property
    def node(self) -> str: ...
    @property
    def examples(self) -> int: ...
    @property
    def held_out(self) -> int: ...
    @property
    def counts(self) -> tuple[int, ...]: ...


def bubbles(nodes: Sequence[Held], labels: Sequence[str], name: str) -> Markup:
    """A row for each node: a disc for each label, and bars for how much it has."""
    tall = _row(len(nodes))
    wide = min(60.0, max(15.0, 660.0 / max(len(labels), 1)))
    head, slanted = _head(labels, wide)
    most = max((number for node in nodes for number in node.counts), default=0) or 1
    radius = 0.47 * min(tall, wide)
    end = wide * len(labels)
    largest = max((node.examples + node.held_out for node in nodes), default=0) or 1
    bar = Scale(0.0, largest, end + _GAP if labels else 2.0, (end + _GAP if labels else 2.0) + _BAR)
    parts: list[object] = [_heading(label, wide * (place + 0.5), head, slanted) for place, label in enumerate(labels)]
    parts.append(el("text", "examples", class_="tick", x=bar.start, y=head - 8))
    for place, node in enumerate(nodes):
        y = head + tall * (place + 0.5)
        parts.append(el("line", class_="grid", x1=0, x2=bar.end, y1=y, y2=y))
        for column, number in enumerate(node.counts):
            if number:
                told = (
                    f"{node.node}: {count(number)} of {labels[column]}, {share(number, node.examples)} of its examples"
                )
                size = max(radius * math.sqrt(number / most), 0.9)
                parts.append(
                    el("circle", el("title", told), class_="dot together", cx=wide * (column + 0.5), cy=y, r=size)
                )
        parts.append(_bar(node, bar, y, min(tall * 0.52, 14.0)))
    told = (
        f"{count(len(nodes), 'node')} and {count(len(labels), 'label')}; the fullest cell has {count(most, 'example')}."
    )
    svg = drawing.drawing(
        name, "Who holds what", told, *parts, width=bar.start + _BARS, height=head + tall * len(nodes) + 4, fixed=True
    )
    return together((_beside([node.node for node in nodes], tall, head, svg), _bar_legend(nodes)))


def shades(nodes: Sequence[Held], labels: Sequence[str], name: str, *, still: bool = False) -> Markup:
    """A column for each node: how much it has, and how dark its share of each label is.

    Args:
      still: without a node's figures at the pointer, which take the page's script.
    """
    wide = max(2.0, min(16.0, 960.0 / max(len(nodes), 1)))
    line = _line(len(labels))
    right, foot = wide * len(nodes), _TALL + 12.0
    largest = max((node.examples + node.held_out for node in nodes), default=0) or 1
    frame = Frame(Scale(-0.5, len(nodes) - 0.5, 0.0, right), Scale(0.0, largest * 1.04, _TALL, 8.0))
    parts: list[object] = []
    for tick in frame.y.ticks(4):
        y = frame.y(tick)
        parts.append(el("line", class_="grid", x1=0, x2=right, y1=y, y2=y))
        parts.append(el("text", count(tick), class_="tick", x=right + 8, y=y + 4.5))
    floors = [(place, 0.0, float(node.examples)) for place, node in enumerate(nodes)]
    tops = [(place, float(node.examples), float(node.examples + node.held_out)) for place, node in enumerate(nodes)]
    parts += [drawing.columns(frame, floors, "area up"), drawing.columns(frame, tops, "area down")]
    parts.append(drawing.level(frame, 0.0))
    cells: dict[int, list[str]] = {}
    for place, node in enumerate(nodes):
        for row, number in enumerate(node.counts):
            if number:
                depth = math.ceil(_SHADES * number / sum(node.counts))
                corner = f"M{drawing.short(wide * place)} {drawing.short(foot + line * row)}"
                cells.setdefault(depth, []).append(f"{corner}h{wide:.2f}v{drawing.short(line - 1)}h{-wide:.2f}z")
    for row in range(len(labels)):
        y = foot + line * (row + 1) - 0.5
        parts.append(el("line", class_="grid", x1=0, x2=right, y1=y, y2=y))
    for depth, pieces in sorted(cells.items()):
        parts.append(
            el("path", class_="area up", fill_opacity=round(0.1 + 0.9 * depth / _SHADES, 3), d="".join(pieces))
        )
    told = (
        f"{count(len(nodes), 'node')}, {count(len(labels), 'label')}; the largest node has {count(largest)} examples."
    )
    tips: Tips = () if still else [(frame.x(place), _told(node, labels)) for place, node in enumerate(nodes)]
    svg = drawing.drawing(
        name, "Who holds what", told, *parts, width=right + 64, height=foot + line * len(labels) + 4, tips=tips,
        fixed=True,
    )  # fmt: skip
    return together((_beside(labels, line, foot, svg), _bar_legend(nodes)))


def sizes_chart(sizes: Sequence[int], name: str, *, still: bool = False) -> Markup:
    """How many nodes have how many examples. `still` as in `shades`."""
    values = np.asarray(sizes, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    logarithmic = low > 0 and high / low > 50
    spaced = np.geomspace if logarithmic else np.linspace
    edges = np.unique(np.round(spaced(low, high + 1, _BINS + 1))) - 0.5  # between whole numbers
    nodes, _ = np.histogram(values, edges)
    x = Scale(float(edges[0]), float(edges[-1]), 62.0, drawing.WIDTH - 24, logarithmic)
    y = drawing.values_scale([float(number) for number in nodes], drawing.HEIGHT - 40.0, 16.0, from_zero=True)
    parts: list[object] = []
    for tick in (tick for tick in y.ticks() if tick.is_integer()):
        parts.append(el("line", class_="grid", x1=x.start, x2=x.end, y1=y(tick), y2=y(tick)))
        parts.append(el("text", count(tick), class_="tick", x=x.start - 8, y=y(tick) + 4.5, text_anchor="end"))
    parts += [
        el("text", count(tick), class_="tick", x=x(tick), y=y.start + 19, text_anchor="middle") for tick in x.ticks(5)
    ]
    tips = []
    for begin, end, number in zip(edges[:-1].tolist(), edges[1:].tolist(), nodes.tolist(), strict=True):
        left, right = x(begin), x(end)
        tips.append(
            ((left + right) / 2, f"{count(number, 'node')}\n{count(math.ceil(begin))} to {count(math.floor(end))}")
        )
        if number:
            top = y(number)
            parts.append(
                el(
                    "rect",
                    class_="area up",
                    x=left + 0.5,
                    y=top,
                    width=max(right - left - 1, 0.5),
                    height=y.start - top,
                )
            )
    middle = (x.start + x.end) / 2
    parts.append(el("line", class_="axis", x1=x.start, x2=x.end, y1=y.start, y2=y.start))
    parts.append(el("text", "examples at a node", class_="unit", x=middle, y=y.start + 36, text_anchor="middle"))
    told = f"{count(len(sizes), 'node')} with {count(low)} to {count(high)} examples."
    return drawing.drawing(name, "Sizes of the nodes", told, *parts, tips=() if still else tips)


def _bar(node: Held, scale: Scale, y: float, height: float) -> Markup:
    start, middle, end = scale(0.0), scale(node.examples), scale(node.examples + node.held_out)
    told = f"{node.node}: {count(node.examples, 'example')} to train on, {count(node.held_out)} held out"
    said = count(node.examples) + (f" + {count(node.held_out)}" if node.held_out else "")
    return el(
        "g",
        el("title", told),
        el("rect", class_="area up", x=start, y=y - height / 2, width=max(middle - start, 0.5), height=height),
        el("rect", class_="area down", x=middle, y=y - height / 2, width=end - middle, height=height),
        el("text", said, class_="tick", x=end + 8, y=y + 4.5),
    )


def _bar_legend(nodes: Sequence[Held]) -> Markup | None:
    held_out = any(node.held_out for node in nodes)
    return drawing.legend(("area up", "to train on"), ("area down", "held out")) if held_out else None


def _beside(names: Sequence[str], tall: float, head: float, svg: Markup) -> Markup:
    """Names that stay where they are while the drawing beside them scrolls."""
    style = f"height:{drawing.short(tall)}px;line-height:{drawing.short(tall)}px"
    listed = el(
        "ol", *(el("li", name, title=name, style=style) for name in names),
        class_="names", style=f"padding-top:{drawing.short(head)}px",
    )  # fmt: skip
    return el("div", listed, el("div", svg, class_="scroll", tabindex=0), class_="strip")


def _head(labels: Sequence[str], wide: float) -> tuple[float, bool]:
    """How high the headings are, and whether they are slanted for want of width."""
    longest = max((min(len(label), _MOST_LETTERS) for label in labels), default=0)
    slanted = longest * drawing.LETTER > wide - 2
    return (18.0 + 0.72 * longest * drawing.LETTER if slanted else 26.0), slanted


def _heading(label: str, x: float, head: float, slanted: bool) -> Markup:
    said = label if len(label) <= _MOST_LETTERS else f"{label[: _MOST_LETTERS - 1]}…"
    if not slanted:
        return el("text", said, class_="tick", x=x, y=head - 8, text_anchor="middle")
    place = f"{drawing.short(x + 3)} {drawing.short(head - 6)}"
    return el("text", el("title", label), said, class_="tick", transform=f"translate({place}) rotate(-45)")


def _told(node: Held, labels: Sequence[str]) -> str:
    most = sorted(range(len(node.counts)), key=lambda place: -node.counts[place])[:6]
    lines = [f"{labels[place]}: {count(node.counts[place])}" for place in sorted(most) if node.counts[place]]
    held = f", {count(node.held_out)} held out" if node.held_out else ""
    return "\n".join((node.node, f"{count(node.examples, 'example')}{held}", *lines))


def _row(nodes: int) -> float:
    return 38.0 if nodes <= 8 else 30.0 if nodes <= 20 else 20.0


def _line(labels: int) -> float:
    return 20.0 if labels <= 12 else 15.0

"""What each node gains by joining: alone and together side by side, and how the gains are spread over many nodes."""

from collections.abc import Sequence

from lycia.reports import drawing
from lycia.reports.drawing import Scale
from lycia.reports.figures import NodeFigure
from lycia.reports.markup import Markup, el, together
from lycia.reports.numbers import change, count, figure

MOST_ROWS = 24  # beyond these, the ends of the order are shown
ENDS = 10
_ROW, _HEAD, _FOOT, _LEFT, _RIGHT = 27.0, 44.0, 34.0, 122.0, 94.0


def in_order(figures: Sequence[NodeFigure], *, higher: bool) -> list[NodeFigure]:
    """The nodes that were measured, those whom joining helps least first.

    Of many nodes only those with a baseline, if there are any; without any baseline, the worst come first.
    """
    known = [item for item in figures if item.together is not None or item.alone is not None]
    if len(known) > MOST_ROWS:
        known = [item for item in known if item.benefit is not None] or known

    def place(item: NodeFigure) -> tuple[bool, float, str]:
        value = item.together if item.benefit is None else item.benefit
        sign = 1 if higher or item.benefit is not None else -1
        return (value is None, sign * (value or 0.0), item.node)

    return sorted(known, key=place)


def dumbbell_chart(
    figures: Sequence[NodeFigure], pooled: float | None, metric: str, name: str, *, higher: bool
) -> Markup:
    """One row for each node: what it reaches alone and together, with the pooled figure across."""
    ordered = in_order(figures, higher=higher)
    left_out = len(ordered) - 2 * ENDS if len(ordered) > MOST_ROWS else 0
    rows: list[NodeFigure | None] = [*ordered]
    if left_out:
        rows = [*ordered[:ENDS], None, *ordered[-ENDS:]]
    values = [value for item in ordered for value in (item.together, item.alone) if value is not None]
    scale = drawing.values_scale([*values, *([pooled] if pooled is not None else [])], _LEFT, drawing.WIDTH - _RIGHT)
    height = _HEAD + _ROW * len(rows) + _FOOT
    floor = height - _FOOT
    compared = any(item.benefit is not None for item in ordered)
    parts: list[object] = [_grid(scale, _HEAD - 8, floor)]
    if pooled is not None:
        x = scale(pooled)
        anchor = "end" if x > drawing.WIDTH - _RIGHT - 60 else "start" if x < _LEFT + 60 else "middle"
        parts.append(el("line", class_="line across", x1=x, x2=x, y1=_HEAD - 10, y2=floor))
        parts.append(
            el("text", f"all nodes {figure(pooled)}", class_="label pooled", x=x, y=_HEAD - 18, text_anchor=anchor)
        )
    for place, row in enumerate(rows):
        y = _HEAD + _ROW * (place + 0.5)
        if row is None:
            words = f"⋯ {count(left_out, 'node')} between these ⋯"
            parts.append(
                el("text", words, class_="unit", x=(_LEFT + drawing.WIDTH - _RIGHT) / 2, y=y + 4, text_anchor="middle")
            )
        else:
            parts.append(_row(row, scale, y, compared=compared))
    told = f"{count(len(ordered), 'node')}, those whom joining helps least first."
    return together(
        (
            drawing.drawing(name, f"{metric} of each node, alone and together", told, *parts, height=height),
            drawing.legend(
                *((("dot alone", "alone, on its own data only"),) if compared else ()),
                ("dot together", "together, with the federation's model"),
                *((("dot loses", "together, and worse than alone"),) if any(_loses(item) for item in ordered) else ()),
            ),
        )
    )  # fmt: skip


def size_chart(figures: Sequence[NodeFigure], metric: str, name: str) -> Markup:
    """What each node gains, against how much it has to train on; without a baseline, what it reaches."""
    compared = any(item.benefit is not None for item in figures)
    points = [
        (item, item.examples, value)
        for item in figures
        if item.examples and (value := item.benefit if compared else item.together) is not None
    ]
    values = [value for _, _, value in points]
    sizes = [examples for _, examples, _ in points]
    low, high = min(sizes), max(sizes)
    x = Scale(low / 1.25, high * 1.25, 62.0, drawing.WIDTH - 24, logarithmic=True)
    y = drawing.values_scale([*values, 0.0] if compared else values, drawing.HEIGHT - 40.0, 16.0)
    across = y.ticks()
    write = drawing.tick_writer(across)
    parts: list[object] = []
    for tick in across:
        parts.append(el("line", class_="grid", x1=x.start, x2=x.end, y1=y(tick), y2=y(tick)))
        parts.append(el("text", write(tick), class_="tick", x=x.start - 8, y=y(tick) + 4.5, text_anchor="end"))
    for tick in x.ticks():
        parts.append(el("line", class_="grid", x1=x(tick), x2=x(tick), y1=y.end, y2=y.start))
        parts.append(el("text", count(tick), class_="tick", x=x(tick), y=y.start + 19, text_anchor="middle"))
    if compared:
        parts.append(el("line", class_="axis", x1=x.start, x2=x.end, y1=y(0), y2=y(0)))
    middle = (x.start + x.end) / 2
    parts.append(el("text", "training examples", class_="unit", x=middle, y=y.start + 36, text_anchor="middle"))
    radius = 6.0 if len(points) <= MOST_ROWS else 4.0 if len(points) <= 200 else 2.6
    for item, examples, value in points:
        left, top, title = x(examples), y(value), el("title", _said(item))
        if _loses(item):
            parts.append(el("path", title, class_="dot loses", d=drawing.diamond(left, top, radius * 1.15)))
        else:
            parts.append(el("circle", title, class_="dot together many", cx=left, cy=top, r=radius))
    parts.extend(_named(points, x, y, radius))
    told = f"{count(len(points), 'node')}, from {figure(min(values))} to {figure(max(values))}."
    heading = f"Gain in {metric} by training examples" if compared else f"{metric} by training examples"
    entries = [("dot together", "gains" if compared else "a node")]
    entries += [("dot loses", "loses")] if any(_loses(item) for item, _, _ in points) else []
    return together((drawing.drawing(name, heading, told, *parts), drawing.legend(*entries)))


def _named(points: Sequence[tuple[NodeFigure, float, float]], x: Scale, y: Scale, radius: float) -> list[Markup]:
    """Names at the points: of all where there are few, else of the three that have least."""
    chosen = points if len(points) <= 8 else sorted(points, key=lambda point: (point[2], point[0].node))[:3]
    labels: list[Markup] = []
    taken: list[tuple[float, float]] = []
    for item, examples, value in chosen:
        left = x(examples) > (x.start + x.end) / 2
        place = x(examples) + (-1 if left else 1) * (radius + 5)
        if any(abs(place - other) < 150 and abs(y(value) - height) < 17 for other, height in taken):
            continue
        taken.append((place, y(value)))
        labels.append(
            el("text", _short(item.node), class_="label node", x=place, y=y(value) + 4.5,
               text_anchor="end" if left else "start")
        )  # fmt: skip
    return labels


def _row(item: NodeFigure, scale: Scale, y: float, *, compared: bool) -> Markup:
    parts: list[object] = [
        el("title", _said(item)),
        el("text", _short(item.node), class_="name", x=_LEFT - 14, y=y + 4.5, text_anchor="end"),
    ]
    kind = "loses" if _loses(item) else "together"
    if item.together is not None and item.alone is not None:
        parts.append(el("line", class_=f"link {kind}", x1=scale(item.alone), x2=scale(item.together), y1=y, y2=y))
    if item.alone is not None:
        parts.append(el("circle", class_="dot alone", cx=scale(item.alone), cy=y, r=5))
    if item.together is not None:
        x = scale(item.together)
        if kind == "loses":
            parts.append(el("path", class_="dot loses", d=drawing.diamond(x, y, 6.5)))
        else:
            parts.append(el("circle", class_="dot together", cx=x, cy=y, r=6))
    gain = "" if compared or item.together is None else figure(item.together)
    gain = change(item.benefit) if item.benefit is not None else gain
    parts.append(el("text", gain, class_=f"label {kind}", x=drawing.WIDTH - 8, y=y + 4.5, text_anchor="end"))
    return el("g", *parts, class_="row")


def _said(item: NodeFigure) -> str:
    known = (("alone", item.alone), ("together", item.together))
    return ", ".join((item.node, *(f"{words} {figure(value)}" for words, value in known if value is not None)))


def _short(node: str) -> str:
    return node if len(node) <= 14 else f"{node[:13]}…"


def _loses(item: NodeFigure) -> bool:
    return item.benefit is not None and item.benefit < 0


def _grid(scale: Scale, top: float, floor: float) -> Markup:
    ticks = scale.ticks()
    write = drawing.tick_writer(ticks)
    return together(
        part
        for tick in ticks
        for part in (
            el("line", class_="grid", x1=scale(tick), x2=scale(tick), y1=top, y2=floor),
            el("text", write(tick), class_="tick", x=scale(tick), y=floor + 19, text_anchor="middle"),
        )
    )

"""Lines by round: a metric with its nodes, and the norms of the updates with their bound."""

from collections.abc import Mapping, Sequence
from itertools import chain

from lycia.reports import drawing
from lycia.reports.drawing import Frame, Tips
from lycia.reports.figures import Norms, Points, Series
from lycia.reports.markup import Markup, el, together
from lycia.reports.numbers import count, figure, listing, quantile

MOST_LABELS = 6  # so many lines can carry their names at their ends
MOST_LINES = 12  # so many can be told apart; more of them become a band


def metric_chart(line: Series, rounds: int, target: float | None, name: str, *, still: bool = False) -> Markup:
    """A metric by round: the pooled line, the nodes as thin lines or as a band, evaluators, training, target.

    Args:
      still: nothing is shown at the pointer, for a place where no script runs.
    """
    nodes = line.nodes if len(line.nodes) > 1 else {}
    pooled = line.pooled or (line.training if not line.evaluator else ())
    trained = line.training if pooled is not line.training else ()
    ends = _ends(line, nodes)
    values = [value for _, value in chain(line.pooled, line.evaluator, line.training, *nodes.values())]
    margin = 16 + max((min(len(label), 13) * drawing.LETTER for label, _, _ in ends), default=0.0)
    frame = drawing.frame_by_round(rounds, [*values, *([target] if target is not None else [])], margin=margin)
    parts: list[object] = [drawing.axes(frame, rounds)]
    if len(nodes) > MOST_LINES:
        edges = _edges(nodes)
        parts.append(drawing.band(frame, [(x, low, high) for x, low, _, _, high in edges], "area reach-all"))
        parts.append(drawing.band(frame, [(x, low, high) for x, _, low, high, _ in edges], "area reach-most"))
    else:
        parts.extend(drawing.polyline(frame, points, "node") for points in nodes.values())
    if target is not None:
        y = frame.y(target)
        parts.append(el("line", class_="line target", x1=frame.left, x2=frame.right, y1=y, y2=y))
    parts.extend(
        drawing.polyline(frame, points, kind)
        for points, kind in ((trained, "training"), (line.evaluator, "evaluator"), (pooled, "pooled"))
        if points
    )
    parts.append(_labels(frame, ends))
    told = f"{_course(line.points or line.training)} {count(len(line.nodes), 'node')} measured."
    tips = () if still else _metric_tips(frame, line, nodes)
    return together(
        (
            drawing.drawing(name, f"{line.metric} by round", told, *parts, tips=tips),
            _metric_legend(line, nodes, target),
        )
    )


def norms_chart(rows: Sequence[Norms], rounds: int, name: str) -> Markup:
    """The norms of admitted updates by round, with the bound above which an update is refused."""
    spans = [(row.round, min(row.nodes.values()), max(row.nodes.values())) for row in rows if row.nodes]
    medians = [(row.round, quantile(list(row.nodes.values()), 0.5)) for row in rows if row.nodes]
    bounds = [(row.round, row.bound) for row in rows if row.bound is not None]
    refused = [row for row in rows if row.refused]
    frame = drawing.frame_by_round(
        rounds, [*(high for _, _, high in spans), *(bound for _, bound in bounds)], from_zero=True
    )
    y, mark = frame.top + 10, 11 if len(refused) <= 40 else 5
    parts = (
        drawing.axes(frame, rounds),
        drawing.band(frame, spans, "area reach-most"),
        drawing.polyline(frame, bounds, "bound") if bounds else None,
        drawing.polyline(frame, medians, "pooled"),
        *(drawing.state_mark("quarantined", frame.x(row.round), y, mark) for row in refused if not row.above),
        *(
            drawing.state_mark("quarantined", frame.x(row.round), max(frame.y(norm), y), mark)
            for row in refused
            for norm in row.above
        ),
    )
    tips = [(frame.x(row.round), _norm_tip(row)) for row in rows]
    told = f"Norms lie between {figure(min(s[1] for s in spans))} and {figure(max(s[2] for s in spans))}."
    entries = [("line pooled", "median update"), ("area reach-most", "smallest to largest")]
    entries += [("line bound", "bound of admission")] if bounds else []
    entries += [("state quarantined", "refused; at the top: far above, or for another reason")] if refused else []
    return together(
        (
            drawing.drawing(name, "Norms of the updates by round", told, *parts, tips=tips),
            drawing.legend(*entries),
        )
    )


def _edges(nodes: Mapping[str, Points]) -> list[tuple[int, float, float, float, float]]:
    by_round: dict[int, list[float]] = {}
    for number, value in chain(*nodes.values()):
        by_round.setdefault(number, []).append(value)
    return [
        (number, min(values), quantile(values, 0.1), quantile(values, 0.9), max(values))
        for number, values in sorted(by_round.items())
    ]


def _ends(line: Series, nodes: Mapping[str, Points]) -> list[tuple[str, float, str]]:
    """(label, value, class) of what is named at the end of its line."""
    named = [(node, points[-1][1], "node") for node, points in nodes.items()] if len(nodes) <= MOST_LABELS else []
    main = [
        (figure(points[-1][1]), points[-1][1], kind)
        for points, kind in ((line.evaluator, "evaluator"), (line.pooled, "pooled"))
        if points
    ]
    return [*named, *main]


def _labels(frame: Frame, ends: Sequence[tuple[str, float, str]]) -> Markup:
    heights = drawing.spread([frame.y(value) for _, value, _ in ends], 18, frame.top + 4, frame.base)
    return together(
        el("text", _cut(label), class_=f"label {kind}", x=frame.right + 8, y=y + 4.5)
        for (label, _, kind), y in zip(ends, heights, strict=True)
    )


def _cut(label: str, most: int = 13) -> str:
    return label if len(label) <= most else f"{label[: most - 1]}…"


def _metric_tips(frame: Frame, line: Series, nodes: Mapping[str, Points]) -> Tips:
    named = {"all nodes": line.pooled, "evaluator": line.evaluator, "in training": line.training}
    by_round: dict[int, list[str]] = {}
    for words, points in named.items():
        for number, value in points:
            by_round.setdefault(number, []).append(f"{words} {figure(value)}")
    if len(nodes) <= MOST_LINES:
        for node, points in nodes.items():
            for number, value in points:
                by_round.setdefault(number, []).append(f"{_cut(node, 24)} {figure(value)}")
    else:
        for number, low, tenth, ninetieth, high in _edges(nodes):
            most = f"most nodes {figure(tenth)} to {figure(ninetieth)}"
            by_round.setdefault(number, []).extend((most, f"all of them {figure(low)} to {figure(high)}"))
    return [(frame.x(number), "\n".join((f"Round {number}", *lines))) for number, lines in sorted(by_round.items())]


def _metric_legend(line: Series, nodes: Mapping[str, Points], target: float | None) -> Markup:
    entries = [("line pooled", "all nodes together, by their examples")] if line.pooled else []
    if not line.pooled and line.training and not line.evaluator:
        entries.append(("line pooled", "mean while nodes trained"))
    elif line.training:
        entries.append(("line training", "mean while nodes trained"))
    if line.evaluator:
        entries.append(("line evaluator", "the evaluator's own data"))
    if len(nodes) > MOST_LINES:
        entries += [("area reach-most", "8 of 10 nodes"), ("area reach-all", "all nodes")]
    elif nodes:
        entries.append(("line node", "one node each"))
    if target is not None:
        entries.append(("line target", f"target {figure(target)}"))
    return drawing.legend(*entries)


def _norm_tip(row: Norms) -> str:
    lines = [f"Round {row.round}"]
    if row.nodes:
        values = list(row.nodes.values())
        lines.append(f"median {figure(quantile(values, 0.5))}")
        lines.append(f"{figure(min(values))} to {figure(max(values))}")
    lines.append("no bound yet" if row.bound is None else f"bound {figure(row.bound)}")
    above = f", with a norm of {listing([figure(norm) for norm in row.above], most=3)}" if row.above else ""
    return "\n".join([*lines, *([f"{row.refused} refused{above}"] if row.refused else [])])


def _course(points: Points) -> str:
    if not points:
        return "Nothing was measured."
    (first, began), (last, ended) = points[0], points[-1]
    if first == last:
        return f"{figure(began)} in round {first}."
    return f"From {figure(began)} in round {first} to {figure(ended)} in round {last}."

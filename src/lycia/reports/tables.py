"""The tables of a report: nodes, mishaps, rounds, digests, versions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lycia.reports import drawing, figures
from lycia.reports.bars import STATE_WORDS
from lycia.reports.dumbbells import ENDS, MOST_ROWS, in_order
from lycia.reports.facts import RunFacts
from lycia.reports.figures import STATES, Incident, NodeFigure
from lycia.reports.markup import Markup, el, together
from lycia.reports.numbers import change, count, duration, figure, listing, ranges, size

MOST_NODES = 1000
_FOLDED = 12  # nodes to which the same kind of thing happened, beyond which they share a line
_KINDS = ("quarantined", "declined", "vanished", "late")


@dataclass(frozen=True)
class Column:
    """One column: its heading, and whether it holds numbers, names or reasons."""

    heading: str
    kind: str = ""


def table(columns: Sequence[Column], rows: Sequence[Sequence[object]], caption: str) -> Markup:
    """A table that scrolls sideways where there is no room. `caption` is for those who hear it."""
    head = el("tr", *(el("th", column.heading, class_=column.kind or None, scope="col") for column in columns))
    body = (
        el("tr", *(el("td", cell, class_=column.kind or None) for column, cell in zip(columns, row, strict=True)))
        for row in rows
    )
    return el(
        "div", el("table", el("thead", head), el("tbody", *body), aria_label=caption),
        class_="scroll", tabindex=0, role="region", aria_label=caption,
    )  # fmt: skip


def nodes_table(items: Sequence[NodeFigure], *, higher: bool, narrow: bool = False) -> Markup:
    """What each node gave and got; of many nodes the ends of the order, and all of them folded away.

    Args:
      narrow: leave out how much was held out, and what became of the rounds in which it was not heard.
    """
    order = in_order(items, higher=higher)
    everyone = [*order, *(item for item in items if item not in order)]
    if len(everyone) <= MOST_ROWS:
        return _nodes(everyone, narrow=narrow)
    first, last = (order[:ENDS], order[-ENDS:]) if len(order) > 2 * ENDS else (everyone[: 2 * ENDS], [])
    note = f"{count(len(first) + len(last))} of {count(len(everyone), 'node')}, those whom joining helps least first."
    parts = [_nodes([*first, *last]), el("p", note, class_="note")]
    if len(everyone) <= MOST_NODES:
        parts.append(el("details", el("summary", "All of them"), _nodes(everyone)))
    return together(parts)


def _nodes(rows: Sequence[NodeFigure], *, narrow: bool = False) -> Markup:
    compared, measured = any(item.alone is not None for item in rows), any(item.together is not None for item in rows)
    last = max((item.measured for item in rows), default=0)
    columns = [Column("Node", "name")]
    columns += [Column("Gain", "number"), Column("Alone", "number")] if compared else []
    columns += [Column("Together", "number")] if measured else []
    columns += [] if narrow or not measured else [Column("Held out", "number")]
    columns += [Column("Examples", "number"), Column("Heard", "number")]
    columns += [] if narrow else [Column("Not heard", "reason")]

    def cells(item: NodeFigure) -> list[object]:
        older = f" (round {item.measured})" if item.measured and item.measured < last else ""
        cells: list[object] = [item.node]
        cells += [_gain(item), _figure(item.alone)] if compared else []
        cells += [f"{_figure(item.together)}{older}"] if measured else []
        cells += [] if narrow or not measured else [_amount(item.held_out)]
        return [*cells, _amount(item.examples), _heard(item), *([] if narrow else [_otherwise(item)])]

    return table(columns, [cells(item) for item in rows], "Nodes")


def mishaps_table(incidents: Sequence[Incident]) -> Markup:
    """What happened to whom: one line for each node and kind, and one for many nodes where it was the same for all."""
    by_kind: dict[str, dict[str, list[Incident]]] = {}
    for incident in incidents:
        by_kind.setdefault(incident.kind, {}).setdefault(incident.node, []).append(incident)
    rows: list[Sequence[object]] = []
    for kind in sorted(by_kind, key=lambda kind: _KINDS.index(kind) if kind in _KINDS else len(_KINDS)):
        by_node = by_kind[kind]
        names = sorted(by_node, key=lambda node: (-len(by_node[node]), node))
        alone = names if len(names) <= _FOLDED else names[:_FOLDED] if kind == "quarantined" else []
        rows.extend(_mishap(kind, node, by_node[node]) for node in alone)
        folded = names[len(alone) :]
        if folded:
            found = [incident for node in folded for incident in by_node[node]]
            rows.append(_mishap(kind, f"{count(len(folded), 'node')}: {listing(folded, most=4)}", found))
    columns = (
        Column("What", "what"), Column("Node", "name"), Column("Times", "number"), Column("Rounds", "rounds"),
        Column("Reason", "reason"),
    )  # fmt: skip
    late = "Late: the answer came after the round had enough of them, or after its deadline."
    note = el("p", late, class_="note") if "late" in by_kind else None
    return together((table(columns, rows, "Mishaps"), note))


def rounds_table(facts: RunFacts, metric: str) -> Markup:
    """The figures of each round, for those who would rather read than look."""
    pooled, evaluator, loss = (
        dict(points)
        for points in (
            figures.series(facts, metric).pooled if metric else (),
            figures.series(facts, metric).evaluator if metric else (),
            figures.series(facts, "loss").training,
        )
    )
    bytes_of = {number: (up, down) for number, up, down in figures.traffic(facts)}
    spent: dict[int, float] = {}
    for points in figures.phases(facts).values():
        for number, seconds in points:
            spent[number] = spent.get(number, 0.0) + seconds
    columns = [Column("Round", "number"), Column("Heard", "number")]
    columns += [Column(f"{metric}, nodes", "number")] if pooled else []
    columns += [Column(f"{metric}, evaluator", "number")] if evaluator else []
    columns += [Column("Training loss", "number")] if loss else []
    columns += [Column("Up", "number"), Column("Down", "number"), Column("Time", "number"), Column("", "reason")]
    rows = []
    for row in figures.turnouts(facts):
        up, down = bytes_of.get(row.round, (0, 0))
        cells: list[object] = [row.round, f"{row.heard} of {row.asked}"]
        cells += [_figure(line.get(row.round)) for line in (pooled, evaluator, loss) if line]
        remark = f"missed: {row.missed}" if row.missed else f"asked {row.attempts} times" if row.attempts > 1 else ""
        rows.append([*cells, size(up), size(down), duration(spent.get(row.round, 0.0)), remark])
    return table(columns, rows, "Rounds")


def digests_table(facts: RunFacts) -> Markup:
    """The digest of every model."""
    rows = [
        ("start" if number == 0 else number, el("code", digest)) for number, digest in figures.digests(facts)
    ]  # fmt: skip
    return table((Column("Round", "number"), Column("SHA-256 of the model", "reason")), rows, "Digests of the models")


def pairs_table(pairs: Mapping[str, object], name: str, value: str) -> Markup:
    """Names and what belongs to them."""
    return table((Column(name, "name"), Column(value, "reason")), list(pairs.items()), f"{name}, {value}")


def _mishap(kind: str, who: str, found: Sequence[Incident]) -> Sequence[object]:
    exchanges = sorted({incident.exchange for incident in found} - {"train"})
    reasons = {incident.reason for incident in found}
    reason = found[-1].reason + (f" (the last of {count(len(reasons))})" if len(reasons) > 1 else "")
    where = f" In {listing(exchanges)}." if exchanges else ""
    words = {str(state): said for state, said in STATE_WORDS.items()}.get(kind, kind)
    rounds = ranges(incident.round for incident in found)
    return (
        together((drawing.key(f"state {kind}"), words)),
        who,
        len(found),
        rounds,
        f"{reason}{'.' if where else ''}{where}",
    )


def _heard(item: NodeFigure) -> str:
    return f"{item.states.get('heard', 0)} of {item.asked}"


def _otherwise(item: NodeFigure) -> str:
    return ", ".join(f"{item.states[state]} {STATE_WORDS[state]}" for state in STATES[1:] if item.states.get(state))


def _gain(item: NodeFigure) -> Markup:
    loses = item.benefit is not None and item.benefit < 0
    return el("span", "" if item.benefit is None else change(item.benefit), class_="bad" if loses else None)


def _figure(value: float | None) -> str:
    return "" if value is None else figure(value)


def _amount(value: float | None) -> str:
    return "" if value is None else count(value)

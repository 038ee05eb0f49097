"""Columns by round: bytes, time by phase, and what became of the cohort where there is no room for each node."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from lycia.reports import drawing
from lycia.reports.drawing import Frame, Tips
from lycia.reports.figures import STATES, Points, State, Turnout
from lycia.reports.markup import Markup, el, together
from lycia.reports.numbers import count, duration, quantile, size

STATE_WORDS: Mapping[State, str] = {
    "heard": "heard",
    "quarantined": "quarantined",
    "declined": "declined",
    "vanished": "dropped out",
    "late": "late",
    "unheard": "not waited for",
}
MOST_PHASES = 5
FEW = 5  # columns that are cut off and still say how long they are


def traffic_chart(rows: Sequence[tuple[int, int, int]], rounds: int, name: str) -> Markup:
    """Bytes by round: up from the nodes above the line, down to them below it."""
    most_up, most_down = max((up for _, up, _ in rows), default=0), max((down for _, _, down in rows), default=0)
    frame = drawing.frame_by_round(rounds, [0.0, 1.0], columns=True)
    reach = max(most_up, most_down, 1)
    frame = drawing.Frame(
        frame.x, drawing.Scale(-1.08 * reach if most_down else 0.0, 1.08 * reach, frame.base, frame.top)
    )
    tips: Tips = [(frame.x(number), f"Round {number}\nup {size(up)}\ndown {size(down)}") for number, up, down in rows]
    parts = (
        drawing.axes(frame, rounds, say=lambda value: size(abs(value))),
        drawing.columns(frame, [(number, 0, up) for number, up, _ in rows], "area up"),
        drawing.columns(frame, [(number, -down, 0) for number, _, down in rows], "area down"),
        drawing.level(frame, 0.0),
    )
    told = f"Up to {size(most_up)} from the nodes and {size(most_down)} to them in a round."
    return together(
        (
            drawing.drawing(name, "Bytes by round", told, *parts, tips=tips),
            drawing.legend(("area up", "up, from the nodes"), ("area down", "down, to the nodes")),
        )
    )


def phases_chart(phases: Mapping[str, Points], rounds: int, name: str) -> Markup:
    """Seconds by round, one layer for each phase."""
    spent = {phase: dict(points) for phase, points in phases.items() if any(seconds > 0 for _, seconds in points)}
    if len(spent) > MOST_PHASES:
        spent = _smallest_together(spent)
    numbers = sorted({number for points in spent.values() for number in points})
    total = {number: sum(points.get(number, 0.0) for points in spent.values()) for number in numbers}
    most = _ceiling(list(total.values()))
    frame = drawing.frame_by_round(rounds, [min(value, most) for value in total.values()], from_zero=True, columns=True)
    layers = [
        [(number, min(low, most), min(high, most)) for number, low, high in layer]
        for layer in _stacked(numbers, list(spent.values()))
    ]
    beyond = [number for number in numbers if total[number] > most]
    parts = (
        drawing.axes(frame, rounds, say=duration, ticks=drawing.clock_ticks(frame.y)),
        *(drawing.columns(frame, layer, f"area phase-{place}") for place, layer in enumerate(layers)),
        *(_beyond(frame, number, duration(total[number]) if len(beyond) <= FEW else "") for number in beyond),
    )
    tips: Tips = [
        (
            frame.x(number),
            "\n".join(
                (
                    f"Round {number}: {duration(total[number])}",
                    *(f"{phase} {duration(points[number])}" for phase, points in spent.items() if number in points),
                )
            ),
        )
        for number in numbers
    ]
    longest = max(total.values(), default=0.0)
    return together(
        (
            drawing.drawing(name, "Time by phase", f"Up to {duration(longest)} in a round.", *parts, tips=tips),
            drawing.legend(*((f"area phase-{place}", phase) for place, phase in enumerate(spent))),
        )
    )


def turnout_chart(rows: Sequence[Turnout], rounds: int, name: str, *, span: int = 1, still: bool = False) -> Markup:
    """How many nodes each round asked, and what became of them.

    Args:
      span: so many rounds share a column, which shows the one in which the smallest part was heard.
      still: nothing is shown at the pointer, for a place where no script runs.
    """
    everything, rows = rows, _worst(rows, span)
    seen = [state for state in STATES if any(row.counts.get(state) for row in rows)]
    by_state: list[Mapping[int, float]] = [{row.round: row.counts.get(state, 0) for row in rows} for state in seen]
    frame = drawing.frame_by_round(rounds, [row.asked for row in rows], from_zero=True, columns=True)
    layers = _stacked([row.round for row in rows], by_state)
    whole = [tick for tick in frame.y.ticks() if float(tick).is_integer()]
    parts = (
        drawing.axes(frame, rounds, ticks=whole),
        *(drawing.columns(frame, layer, f"area {state}", span) for state, layer in zip(seen, layers, strict=True)),
    )
    heard, asked = sum(row.heard for row in everything), sum(row.asked for row in everything)
    told = f"{count(heard)} of {count(asked)} asks were heard."
    tips = () if still else [(frame.x(row.round), turnout_words(row)) for row in rows]
    return together(
        (
            drawing.drawing(name, "Cohort by round", told, *parts, tips=tips),
            drawing.legend(*((f"area {state}", STATE_WORDS[state]) for state in seen)),
        )
    )


def turnout_words(row: Turnout) -> str:
    """A round's cohort in a few lines."""
    others = [f"{row.counts[state]} {STATE_WORDS[state]}" for state in STATES[1:] if row.counts.get(state)]
    lines = [f"Round {row.round}: {row.heard} of {row.asked} heard", *others]
    lines += [f"asked {row.attempts} times"] if row.attempts > 1 else []
    return "\n".join([*lines, *([f"missed: {row.missed}"] if row.missed else [])])


def _worst(rows: Sequence[Turnout], span: int) -> Sequence[Turnout]:
    """Of each stretch of rounds the one in which the smallest part was heard, in the middle of the stretch."""
    stretches: dict[int, list[Turnout]] = {}
    for row in rows:
        stretches.setdefault((row.round - 1) // span, []).append(row)
    return [
        replace(min(some, key=lambda row: row.heard / max(row.asked, 1)), round=place * span + (span + 1) // 2)
        for place, some in stretches.items()
    ]


def _stacked(numbers: Sequence[int], layers: Sequence[Mapping[int, float]]) -> list[list[tuple[float, float, float]]]:
    floors = [dict.fromkeys(numbers, 0.0)]
    for layer in layers:
        floors.append({number: floors[-1][number] + max(layer.get(number, 0.0), 0.0) for number in numbers})
    return [[(number, low[number], high[number]) for number in numbers] for low, high in pairwise(floors)]


def _ceiling(values: Sequence[float]) -> float:
    """Where to cut columns off, so that a few that are much longer do not flatten all others."""
    middle, longest = quantile(values, 0.5) if values else 0.0, max(values, default=0.0)
    return 3 * middle if longest > 6 * middle > 0 else longest


def _beyond(frame: Frame, number: int, said: str) -> Markup:
    """The sign that a column goes on beyond the plot, and how far."""
    x = frame.x(number)
    anchor = "end" if x > frame.right - 30 else "start" if x < frame.left + 30 else "middle"
    return together(
        (
            el(
                "path",
                class_="break",
                d=drawing.path([(x - 5, frame.top + 12), (x, frame.top + 6), (x + 5, frame.top + 12)]),
            ),
            el("text", said, class_="label", x=x, y=frame.top, text_anchor=anchor) if said else None,
        )
    )


def _smallest_together(spent: Mapping[str, Mapping[int, float]]) -> dict[str, dict[int, float]]:
    order = sorted(spent, key=lambda phase: -sum(spent[phase].values()))
    kept = [phase for phase in spent if phase in order[: MOST_PHASES - 1]]
    rest: dict[int, float] = {}
    for phase in order[MOST_PHASES - 1 :]:
        for number, value in spent[phase].items():
            rest[number] = rest.get(number, 0.0) + value
    return {**{phase: dict(spent[phase]) for phase in kept}, "everything else": rest}

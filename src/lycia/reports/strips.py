"""The participation strip: a row for each node, a column for each round, a sign for what became of it."""

from collections.abc import Mapping, Sequence

from lycia.reports import drawing
from lycia.reports.bars import STATE_WORDS, turnout_words
from lycia.reports.drawing import Tips
from lycia.reports.figures import STATES, State, Turnout
from lycia.reports.markup import Markup, el, together
from lycia.reports.numbers import count

MOST_NODES = 40
TROUBLED = 10  # of more nodes than these, so many are shown
MOST_COLUMNS = 120
_GRAVITY: Sequence[State] = ("quarantined", "vanished", "declined", "late", "unheard", "heard")
_ROOM, _HEAD = 930.0, 26.0


def troubled(states: Mapping[str, Mapping[int, State]], most: int = TROUBLED) -> list[str]:
    """The nodes that most often did not count for a reason of their own, the worst first."""
    weights = {"quarantined": 3, "vanished": 2, "declined": 2, "late": 1}
    trouble = {node: sum(weights.get(state, 0) for state in by_round.values()) for node, by_round in states.items()}
    worst = sorted((node for node in states if trouble[node]), key=lambda node: (-trouble[node], node))
    return worst[:most]


def strip(
    states: Mapping[str, Mapping[int, State]], nodes: Sequence[str], turnouts: Sequence[Turnout], rounds: int, name: str
) -> Markup:
    """The strip of `nodes`; rounds that find no room share a column, which then shows the gravest thing in it."""
    together_in = -(-rounds // MOST_COLUMNS)
    places = -(-rounds // together_in)
    wide = min(44.0, max(8.0, _ROOM / max(places, 1)))
    tall = 24.0 if len(nodes) <= 24 else 17.0
    mark = min(wide, tall) * 0.62
    width, height = max(places * wide, 40.0) + 4, _HEAD + tall * len(nodes) + 4
    parts: list[object] = []
    for row, node in enumerate(nodes):
        y = _HEAD + tall * (row + 0.5)
        by_place: dict[int, list[State]] = {}
        for number, state in states.get(node, {}).items():
            by_place.setdefault((number - 1) // together_in, []).append(state)
        for place in range(places):
            found = by_place.get(place, [])
            gravest = next((str(state) for state in _GRAVITY if state in found), "absent")
            parts.append(drawing.state_mark(gravest, 2 + wide * (place + 0.5), y, mark))
    again = {row.round for row in turnouts if row.attempts > 1 or row.missed}
    labels = []
    for number in _named(rounds, places, wide):
        x = min(max(2 + wide * ((number - 1) // together_in + 0.5), 8.0), width - 10)
        sign = "↻" if number in again and together_in == 1 else ""
        labels.append(el("text", f"{number}{sign}", class_="tick", text_anchor="middle", x=x, y=15))
    seen = {state for node in nodes for state in states.get(node, {}).values()}
    words = [(f"state {state}", STATE_WORDS[state]) for state in STATES if state in seen]
    if any(len(states.get(node, {})) < rounds for node in nodes):
        words.append(("state absent", "not asked"))
    told = f"{count(len(nodes), 'node')} over {count(rounds, 'round')}."
    svg = drawing.drawing(
        name, "What became of each node in each round", told, *labels, *parts,
        width=width, height=height, tips=_tips(turnouts, together_in, wide), fixed=True,
    )  # fmt: skip
    names = el(
        "ol", *(el("li", node, title=node, style=f"height:{drawing.short(tall)}px") for node in nodes),
        class_="names", style=f"padding-top:{_HEAD:.0f}px",
    )  # fmt: skip
    return together(
        (
            el("div", names, el("div", svg, class_="scroll"), class_="strip"),
            drawing.legend(*words),
        )
    )


def _named(rounds: int, places: int, wide: float) -> list[int]:
    """Rounds named above the strip: not nearer to each other than their numbers need."""
    step = round(drawing.step_of(max(rounds * 34.0 / (places * wide), 0.99), 1))
    inner = [number for number in range(step, rounds, step) if number != 1 and rounds - number > step * 0.6]
    return sorted({1, *inner, rounds})


def _tips(turnouts: Sequence[Turnout], together_in: int, wide: float) -> Tips:
    by_place: dict[int, list[Turnout]] = {}
    for row in turnouts:
        by_place.setdefault((row.round - 1) // together_in, []).append(row)
    return [
        (2 + wide * (place + 0.5), turnout_words(rows[0]) if len(rows) == 1 else _several(rows))
        for place, rows in sorted(by_place.items())
    ]


def _several(rows: Sequence[Turnout]) -> str:
    counts = {state: sum(row.counts.get(state, 0) for row in rows) for state in STATES}
    whole = Turnout(rows[0].round, 1, "", {state: amount for state, amount in counts.items() if amount})
    first, *rest = turnout_words(whole).split("\n")
    return "\n".join((first.replace(f"Round {rows[0].round}:", f"Rounds {rows[0].round} to {rows[-1].round}:"), *rest))

"""The figures that stand for a run, each on a tile."""

import math
from collections.abc import Sequence

from lycia.reports import figures, words
from lycia.reports.facts import RunFacts
from lycia.reports.figures import NodeFigure, Series, Turnout
from lycia.reports.frames import tile
from lycia.reports.markup import Markup, el
from lycia.reports.numbers import change, count, duration, elapsed_s, figure, quantile, share, size

_SIGNS = {"finished": "✓", "paused": "‖", "stopped": "■", "running": "…"}


def row(*tiles: Markup | None) -> Markup:
    """Those that say something, side by side."""
    return el("dl", *(tile for tile in tiles if tile), class_="tiles")


def badge(facts: RunFacts) -> Markup:
    """How the run stands, as a sign and a word."""
    state = facts.state if facts.state in _SIGNS else "stopped"
    return el("span", f"{_SIGNS[state]} {words.STATE_WORDS.get(facts.state, facts.state)}", class_=f"state {state}")


def metric_tile(line: Series) -> Markup:
    """What a metric came to. The line has points."""
    number, value = line.points[-1]
    where = "the nodes' held-out data" if line.pooled else "the evaluator's data"
    other = f"evaluator {figure(line.evaluator[-1][1])}" if line.pooled and line.evaluator else ""
    return tile(_title(line), figure(value), f"{where}, round {number}", other)


def course_tile(line: Series, *, higher: bool) -> Markup:
    """What a metric came to, from where, and the best of it. The line has points."""
    (began, first), (ended, last) = line.points[0], line.points[-1]
    at, best = (max if higher else min)(line.points, key=lambda point: (point[1], -point[0] if higher else point[0]))
    return tile(
        _title(line), figure(last), f"first {figure(first)}, round {began}" * (began != ended),
        f"best {figure(best)}, round {at}" * (at != ended),
    )  # fmt: skip


def benefit_tile(items: Sequence[NodeFigure]) -> Markup | None:
    """What joining is worth; None where no node was trained alone."""
    gains = [item.benefit for item in items if item.benefit is not None]
    if not gains:
        return None
    lost = len(figures.losers(items))
    remark = el("span", f"{count(lost, 'node')} would do better alone", class_="bad") if lost else "nobody loses"
    return tile("Gain by joining", change(quantile(gains, 0.5)), "median node", remark)


def rounds_tile(facts: RunFacts, turnouts: Sequence[Turnout]) -> Markup:
    """How many rounds are done."""
    again = sum(turnout.attempts > 1 for turnout in turnouts)
    planned = facts.plan.get("rounds", "?")
    return tile("Rounds", f"{len(facts.closed)}", f"of {planned} planned", f"{again} asked again" if again else "")


def heard_tile(turnouts: Sequence[Turnout]) -> Markup | None:
    """How many of those asked were heard; None if nobody was asked."""
    asked, heard = sum(turnout.asked for turnout in turnouts), sum(turnout.heard for turnout in turnouts)
    return tile("Heard", share(heard, asked), f"{count(heard)} of {count(asked, 'ask')} to train") if asked else None


def traffic_tile(facts: RunFacts) -> Markup:
    """How much travelled."""
    sums = figures.summary(facts)
    up, down = sums["bytes_up"], sums["bytes_down"]
    return tile("Travelled", size(up + down), f"↑ {size(up)}", f"↓ {size(down)}")


def time_tile(facts: RunFacts) -> Markup:
    """How long it took."""
    clock_s = sum(current.ended_s - current.opened_s for current in facts.rounds)
    wall_s = elapsed_s(facts.started, facts.ended) or math.fsum(current.wall_s for current in facts.rounds)
    if facts.world == "simulation":
        return tile("Time", duration(wall_s), "on this machine", f"{duration(clock_s)} on the simulated clock")
    return tile("Time", duration(wall_s), "from start to end")


def _title(line: Series) -> str:
    return f"{line.metric[:1].upper()}{line.metric[1:]}"

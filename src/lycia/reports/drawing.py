"""Drawing with numbers: scales, ticks, axes, lines, bands and columns, as SVG that needs nothing from outside.

Sizes are in units of the drawing. A chart is about as many units wide as it is pixels on a wide screen, and the style
sheet enlarges its letters on a narrow one; so margins leave room for that. Colours and strokes are classes of the
style sheet, so that one drawing serves a light page, a dark one and paper.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lycia.reports.markup import Markup, el, together
from lycia.reports.numbers import figure

WIDTH, HEIGHT = 560.0, 300.0
LETTER = 7.4  # the width of a letter of the usual size, for leaving room

Tips = Sequence[tuple[float, str]]
"""(x, text): what is shown when a reader points near x."""

Writer = Callable[[float], str]
"""How a value is written at an axis."""


@dataclass(frozen=True)
class Scale:
    """Numbers to units of the drawing."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round numbers within the scale."""
        if self.logarithmic:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            if len(powers) > 2:
                return [10.0**power for power in powers][:: max(1, math.ceil(len(powers) / most))]
            between = [factor * 10.0**power for power in (powers.start - 1, *powers) for factor in (1, 2, 5)]
            return [tick for tick in between if self.low <= tick <= self.high]
        step = step_of(self.high - self.low, most)
        first = math.ceil(self.low / step - 1e-9)
        return [place * step for place in range(first, math.floor(self.high / step + 1e-9) + 1)]


def step_of(span: float, most: int) -> float:
    """A round step, 1, 2 or 5 times a power of ten, that goes into `span` fewer than `most` times."""
    power = 10.0 ** math.floor(math.log10(span / most))
    return next(factor * power for factor in (1, 2, 5, 10, 20) if span / (factor * power) < most)


def values_scale(values: Sequence[float], start: float, end: float, *, from_zero: bool = False) -> Scale:
    """A scale that holds `values` with a little air; logarithmic where they span more than three powers of ten."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if not from_zero and low > 0 and high / low > 1000:
        return Scale(10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high)), start, end, True)
    if from_zero:
        return Scale(0.0, high * 1.06 if high > 0 else 1.0, start, end)
    air = (high - low) * 0.08 or max(abs(high) * 0.1, 0.05)
    is_share = low >= 0 and high <= 1
    return Scale(
        max(low - air, 0.0 if low >= 0 else -math.inf), min(high + air, 1.0 if is_share else math.inf), start, end
    )


@dataclass(frozen=True)
class Frame:
    """A plot's place in its drawing, and its two scales."""

    x: Scale
    y: Scale
    width: float = WIDTH
    height: float = HEIGHT

    @property
    def left(self) -> float:
        """Where the plot begins."""
        return self.x.start

    @property
    def right(self) -> float:
        """Where the plot ends."""
        return self.x.end

    @property
    def base(self) -> float:
        """The height of its floor."""
        return self.y.start

    @property
    def top(self) -> float:
        """The height of its ceiling."""
        return self.y.end


def frame_by_round(
    rounds: int, values: Sequence[float], *, from_zero: bool = False, columns: bool = False, margin: float = 16.0
) -> Frame:
    """A plot of `values` against rounds 1 to `rounds`. `columns`: each round is a column, not a point."""
    low, high = (0.5, rounds + 0.5) if columns or rounds == 1 else (1.0, float(rounds))
    x = Scale(low, high, 62.0, WIDTH - margin)
    return Frame(x, values_scale(values, HEIGHT - 40.0, 16.0, from_zero=from_zero))


def round_ticks(rounds: int) -> list[int]:
    """Which rounds are named on an axis: the first, the last, and round numbers between that do not touch them."""
    step = max(1, round(step_of(max(rounds, 1), 7)))
    inner = [number for number in range(step, rounds, step) if number > 1 + step * 0.4 and rounds - number > step * 0.4]
    return sorted({1, *inner, rounds})


def axes(frame: Frame, rounds: int, *, say: Writer | None = None, ticks: Sequence[float] | None = None) -> Markup:
    """The grid, the numbers at it, and the rounds below. `say`: how a value is written; None for plain numbers."""
    ticks = frame.y.ticks() if ticks is None else ticks
    write = say or tick_writer(ticks)
    parts: list[object] = []
    for tick in ticks:
        y = frame.y(tick)
        parts.append(el("line", class_="grid", x1=frame.left, x2=frame.right, y1=y, y2=y))
        parts.append(el("text", write(tick), class_="tick", x=frame.left - 8, y=y + 4.5, text_anchor="end"))
    for number in round_ticks(rounds):
        x = frame.x(number)
        parts.append(el("text", f"{number}", class_="tick", x=x, y=frame.base + 19, text_anchor="middle"))
    parts.append(el("line", class_="axis", x1=frame.left, x2=frame.right, y1=frame.base, y2=frame.base))
    middle = (frame.left + frame.right) / 2
    parts.append(el("text", "round", class_="unit", x=middle, y=frame.base + 36, text_anchor="middle"))
    return together(parts)


def clock_ticks(scale: Scale) -> list[float]:
    """Round numbers of seconds, minutes, hours or days within the scale."""
    unit = next((unit for unit in (86400.0, 3600.0, 60.0) if scale.high > 2 * unit), 0.0)
    if not unit:
        return scale.ticks()
    return [tick * unit for tick in Scale(scale.low / unit, scale.high / unit, 0, 1).ticks()]


def tick_writer(ticks: Sequence[float]) -> Writer:
    """Writes all of an axis' numbers with as many decimals as tell them apart."""
    step = min((later - former for former, later in pairwise(ticks)), default=0.0)
    largest = max(map(abs, ticks), default=0.0)
    if not step or largest >= 1e5 or (0 < step < 1e-4):
        return figure if step else lambda value: f"{value:.4g}"
    decimals = max(0, math.ceil(-math.log10(step) - 1e-9))
    return lambda value: f"{value:,.{decimals}f}".replace("-", "−")


def polyline(frame: Frame, points: Iterable[tuple[float, float]], class_: str) -> Markup:
    """A line through points; a single one is a dot."""
    places = [(frame.x(x), frame.y(y)) for x, y in points]
    if len(places) == 1:
        return el("circle", class_=f"dot {class_}", cx=places[0][0], cy=places[0][1], r=4)
    return el("path", class_=f"line {class_}", d=path(places))


def band(frame: Frame, edges: Sequence[tuple[float, float, float]], class_: str) -> Markup:
    """The area between two lines, given as (x, low, high)."""
    if len(edges) == 1:
        x, low, high = edges[0]
        y, height = frame.y(high), frame.y(low) - frame.y(high)
        return el("rect", class_=class_, x=frame.x(x) - 9, y=y, width=18, height=max(height, 1.0))
    upper = [(frame.x(x), frame.y(high)) for x, _, high in edges]
    lower = [(frame.x(x), frame.y(low)) for x, low, _ in reversed(edges)]
    return el("path", class_=class_, d=path([*upper, *lower]) + "Z")


def columns(frame: Frame, heights: Iterable[tuple[float, float, float]], class_: str, span: int = 1) -> Markup:
    """Columns from one value to another, given as (x, low, high), all in one path. `span`: rounds to a column."""
    step = span * abs(frame.x(2.0) - frame.x(1.0))
    width = max(min(step - 2, 34.0) if step > 5 else step * 0.94, 0.4)
    pieces = []
    for x, low, high in heights:
        if high != low:
            left, y = frame.x(x) - width / 2, frame.y(max(low, high))
            tall = abs(frame.y(low) - frame.y(high))
            pieces.append(f"M{short(left)} {short(y)}h{short(width)}v{short(tall)}h{short(-width)}z")
    return el("path", class_=class_, d="".join(pieces) or "M0 0")


def level(frame: Frame, value: float) -> Markup:
    """A line across the plot."""
    return el("line", class_="axis", x1=frame.left, x2=frame.right, y1=frame.y(value), y2=frame.y(value))


def path(places: Sequence[tuple[float, float]]) -> str:
    """The path through places, in units of the drawing."""
    return "M" + "L".join(f"{short(x)} {short(y)}" for x, y in places)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Heights near the wanted ones, in the same order, `gap` apart and within bounds so far as there is room."""
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    placed: list[float] = []
    for place in order:
        placed.append(max(wanted[place], placed[-1] + gap if placed else low))
    over = max(placed[-1] - high, 0.0) if placed else 0.0
    for index in range(len(placed) - 1, -1, -1):
        limit = high if index == len(placed) - 1 else placed[index + 1] - gap
        placed[index] = min(placed[index], limit) if over else placed[index]
    result = [0.0] * len(wanted)
    for place, value in zip(order, placed, strict=True):
        result[place] = value
    return result


def drawing(
    name: str, title: str, told: str, *parts: object,
    width: float = WIDTH, height: float = HEIGHT, tips: Tips = (), fixed: bool = False,
) -> Markup:  # fmt: skip
    """A whole SVG, with its title and a sentence for those who hear it.

    Args:
      tips: shown at the pointer, and with the arrow keys.
      fixed: as many pixels as units, whatever the screen; the page lets it scroll.
    """
    pointing = (
        el("line", class_="cursor", x1=0, x2=0, y1=0, y2=height, visibility="hidden"),
        el("rect", el("title"), class_="reach", x=0, y=0, width=width, height=height),
    )
    return el(
        "svg", el("title", title, id=f"{name}-title"), el("desc", told, id=f"{name}-told"), *parts,
        *(pointing if tips else ()), xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {short(width)} {short(height)}",
        class_="fixed" if fixed else "chart", role="img", aria_labelledby=f"{name}-title {name}-told",
        width=width if fixed else None, height=height if fixed else None, tabindex=0 if tips else None,
        data_tips=json.dumps([(round(x, 1), said) for x, said in tips], ensure_ascii=False) if tips else None,
    )  # fmt: skip


def legend(*entries: tuple[str, str]) -> Markup:
    """(kind, words): a list that explains lines ("line pooled"), areas ("area up") and marks ("state heard")."""
    return el("ul", *(el("li", key(kind), words) for kind, words in entries), class_="legend")


def state_mark(state: str, x: float, y: float, size: float) -> Markup:
    """The sign for what became of a node: its shape says it as well as its colour. `x`, `y`: the middle."""
    half = size / 2
    wide = half * 1.2
    shapes = {
        "heard": (el("rect", x=x - half, y=y - half, width=size, height=size, rx=min(2.5, half / 2)),),
        "quarantined": (el("path", d=diamond(x, y, wide)),),
        "vanished": (el("path", d=_cross(x, y, half * 0.85)),),
        "declined": (el("circle", cx=x, cy=y, r=half * 0.82), el("line", x1=x - half, x2=x + half, y1=y, y2=y)),
        "late": (el("path", d=path([(x - half, y - half), (x + half, y - half), (x, y + half)]) + "Z"),),
        "unheard": (el("circle", cx=x, cy=y, r=half * 0.62),),
    }
    drawn = shapes.get(state, (el("circle", cx=x, cy=y, r=max(half * 0.16, 0.9)),))
    return el("g", *drawn, class_=f"mark {state}")


def short(value: float) -> str:
    """A coordinate to a tenth, without what it does not need."""
    return f"{value:.1f}".removesuffix(".0")


def diamond(x: float, y: float, half: float) -> str:
    """The path of a square on its corner."""
    return path([(x, y - half), (x + half, y), (x, y + half), (x - half, y)]) + "Z"


def _cross(x: float, y: float, half: float) -> str:
    return "".join(
        path(leg)
        for leg in ([(x - half, y - half), (x + half, y + half)], [(x - half, y + half), (x + half, y - half)])
    )


def key(kind: str) -> Markup:
    """The small sign that stands before the words of a legend."""
    shape, _, class_ = kind.partition(" ")
    if shape == "state":
        drawn = state_mark(class_, 11, 7, 11)
    elif shape == "area":
        drawn = el("rect", class_=f"area {class_}", x=3, y=1, width=16, height=12, rx=2)
    elif kind == "dot loses":
        drawn = el("path", class_=kind, d=diamond(11, 7, 6))
    elif shape == "dot":
        drawn = el("circle", class_=f"dot {class_}", cx=11, cy=7, r=5)
    else:
        drawn = el("path", class_=f"line {class_}", d="M1 7H21")
    return el(
        "svg",
        drawn,
        xmlns="http://www.w3.org/2000/svg",
        class_="key",
        width=22,
        height=14,
        viewBox="0 0 22 14",
        aria_hidden="true",
    )

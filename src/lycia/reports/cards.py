"""`card`: a run as a small summary on somebody else's page, such as a notebook's."""

from collections.abc import Sequence

from lycia.reports import bars, curves, figures, tiles, words
from lycia.reports.facts import RunFacts
from lycia.reports.figures import Turnout
from lycia.reports.markup import Markup, el
from lycia.reports.numbers import count
from lycia.reports.styles import card_style

_CLASS = "lycia-run"
_MOST_POINTS = 160  # of a line, and half as many columns: more cannot be told apart on a card


def card(facts: RunFacts, name: str) -> Markup:
    """The run as one element that brings its style along. `name`: one that no other card on the page has.

    Guarantees:
      - It refers to nothing outside, holds no script, and its style touches nothing around it.
      - Names, reasons and metrics are escaped, whatever they hold.
    """
    metric = figures.shown_metric(facts)
    line, turnouts = figures.series(facts, metric), figures.turnouts(facts)
    higher, troubles = figures.is_higher_better(facts, metric), words.trouble_words(facts)
    return el(
        "div",
        el("style", Markup(card_style(_CLASS))),
        el("p", el("strong", facts.app), tiles.badge(facts), " ", el("code", facts.id), class_="name"),
        el("p", words.headline(facts), class_="lead"),
        tiles.row(
            tiles.course_tile(line, higher=higher) if line.points else None,
            tiles.benefit_tile(figures.node_figures(facts, metric)),
            tiles.rounds_tile(facts, turnouts),
            tiles.heard_tile(turnouts),
            tiles.traffic_tile(facts),
            tiles.time_tile(facts),
        ),
        el("div", *_panels(facts, metric, turnouts, name), class_="panels") if facts.rounds else None,
        el("p", " ".join(troubles), class_="note") if troubles else None,
        class_=_CLASS,
    )


def _panels(facts: RunFacts, metric: str, turnouts: Sequence[Turnout], name: str) -> list[Markup]:
    rounds = max(current.number for current in facts.rounds)
    span = -(-rounds // (_MOST_POINTS // 2))
    shown = metric or "loss"  # of training, where nothing is measured
    line = figures.thinned(figures.series(facts, shown), _MOST_POINTS)
    panels = []
    if line.points or line.training:
        chart = curves.metric_chart(line, rounds, figures.target(facts, shown), f"{name}-metric", still=True)
        panels.append(_panel(f"{shown[:1].upper()}{shown[1:]} by round", chart))
    note = f"of every {count(span, 'round')} the one with the smallest turnout" if span > 1 else ""
    panels.append(
        _panel("Who took part", bars.turnout_chart(turnouts, rounds, f"{name}-cohort", span=span, still=True), note)
    )
    return panels


def _panel(heading: str, chart: Markup, note: str = "") -> Markup:
    small = el("span", f" · {note}") if note else None
    return el("figure", el("figcaption", heading, small), chart)

"""`page`: a run as one HTML file that needs nothing else: no network, no fonts, no libraries."""

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from importlib import resources
from typing import Any

from lycia.reports import bars, curves, dumbbells, figures, strips, tables, words
from lycia.reports.facts import RunFacts
from lycia.reports.figures import NodeFigure
from lycia.reports.markup import Markup, data_script, el
from lycia.reports.numbers import change, count, duration, elapsed_s, figure, moment, quantile, share, size

MOST_METRICS = 6  # further ones are in the data of the page only
MOST_EMBEDDED_BYTES = 4_000_000  # above this the page's data leaves out the figures of single nodes


def page(facts: RunFacts) -> str:
    """The report of a run.

    Guarantees:
      - One file; it refers to nothing outside, and its policy forbids every script but its own.
      - Names, reasons and metrics are escaped, whatever they hold.
    """
    script, style = _resource("page.js"), _resource("page.css")
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{allowed}'"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("link", rel="icon", href="data:,"),
        el("title", f"{facts.app}: {words.STATE_WORDS.get(facts.state, facts.state)}"),
        el("style", Markup(style)),
    )
    metric = figures.shown_metric(facts)
    items = figures.node_figures(facts, metric)
    sections = (_results(facts, metric, items), _nodes(facts, metric, items), _turnout(facts), _cost(facts))
    about = (_plan(facts), _reproducibility(facts), _data(facts))
    body = el(
        "body", _top(facts, metric, items), el("main", *sections, *about), _foot(), el("script", Markup(script))
    )  # fmt: skip
    return f"<!doctype html>\n{el('html', head, body, lang='en')}\n"


def _top(facts: RunFacts, metric: str, items: Sequence[NodeFigure]) -> Markup:
    name = words.STATE_WORDS.get(facts.state, facts.state)
    signs = {"finished": "✓", "paused": "‖", "stopped": "■", "running": "…"}
    state = facts.state if facts.state in signs else "stopped"
    badge = el("span", f"{signs[state]} {name}", class_=f"state {state}")
    where = "simulated on one machine" if facts.world == "simulation" else "held on real nodes"
    when = [f"{verb} {moment(at)}" for verb, at in (("began", facts.started), ("ended", facts.ended)) if at]
    return el(
        "header",
        el("p", _sign(), el("span", "Lycia · report of a run"), class_="brand"),
        el("h1", facts.app, " ", badge),
        el("p", words.headline(facts), class_="lead"),
        el("p", "Run ", el("code", facts.id), f", {', '.join((where, *when))}.", class_="meta"),
        el("dl", *(tile for tile in _tiles(facts, metric, items) if tile), class_="tiles"),
        class_="top",
    )


def _tiles(facts: RunFacts, metric: str, items: Sequence[NodeFigure]) -> Sequence[Markup | None]:
    sums, line = figures.summary(facts), figures.series(facts, metric)
    up, down = sums["bytes_up"], sums["bytes_down"]
    rows = figures.turnouts(facts)
    asked, heard = sum(row.asked for row in rows), sum(row.heard for row in rows)
    again = sum(row.attempts > 1 for row in rows)
    planned = facts.plan.get("rounds", "?")
    return (
        _metric_tile(line) if line.points else None,
        _benefit_tile(items),
        _tile("Rounds", f"{len(facts.closed)}", f"of {planned} planned", f"{again} asked again" if again else ""),
        _tile("Heard", share(heard, asked), f"{count(heard)} of {count(asked, 'ask')} to train") if asked else None,
        _tile("Travelled", size(up + down), f"↑ {size(up)}", f"↓ {size(down)}"),
        _time_tile(facts),
    )  # fmt: skip


def _metric_tile(line: figures.Series) -> Markup:
    number, value = line.points[-1]
    where = "the nodes' held-out data" if line.pooled else "the evaluator's data"
    other = f"evaluator {figure(line.evaluator[-1][1])}" if line.pooled and line.evaluator else ""
    return _tile(f"{line.metric[:1].upper()}{line.metric[1:]}", figure(value), f"{where}, round {number}", other)


def _benefit_tile(items: Sequence[NodeFigure]) -> Markup | None:
    gains = [item.benefit for item in items if item.benefit is not None]
    if not gains:
        return None
    lost = len(figures.losers(items))
    remark = el("span", f"{count(lost, 'node')} would do better alone", class_="bad") if lost else "nobody loses"
    return _tile("Gain by joining", change(quantile(gains, 0.5)), "median node", remark)


def _time_tile(facts: RunFacts) -> Markup:
    clock_s = sum(current.ended_s - current.opened_s for current in facts.rounds)
    wall_s = elapsed_s(facts.started, facts.ended) or math.fsum(current.wall_s for current in facts.rounds)
    if facts.world == "simulation":
        return _tile("Time", duration(wall_s), "on this machine", f"{duration(clock_s)} on the simulated clock")
    return _tile("Time", duration(wall_s), "from start to end")


def _tile(name: str, value: str, *remarks: str | Markup) -> Markup:
    small = (el("div", remark, class_="small") for remark in remarks if remark)
    return el("div", el("dt", name), el("dd", el("div", value, class_="big"), *small), class_="tile")


def _results(facts: RunFacts, metric: str, items: Sequence[NodeFigure]) -> Markup:
    rounds = _rounds(facts)
    names = list(figures.metric_names(facts))
    if figures.series(facts, "loss").training and "loss" not in names:
        names.insert(1, "loss")
    names.sort(key=lambda name: (name != metric, name != "loss"))
    panels = []
    for place, name in enumerate(names[:MOST_METRICS]):
        line = figures.series(facts, name)
        chart = curves.metric_chart(line, rounds, figures.target(facts, name), f"metric-{place}")
        higher = "higher" if figures.is_higher_better(facts, name) else "lower"
        panels.append(_panel(f"{name[:1].upper()}{name[1:]} by round", chart, note=f"The {higher}, the better."))
    spread = words.spread_words(items, higher=figures.is_higher_better(facts, metric))
    said = [spread] if spread else []
    if not metric:
        said.append("Nothing was measured on held-out data in this run.")
    if len(names) > MOST_METRICS:
        said.append(f"{count(len(names) - MOST_METRICS, 'more metric')} are in the data of this page.")
    return _section("How good the model is", said, _panels(panels), _numbers(facts, metric) if rounds else None)


def _numbers(facts: RunFacts, metric: str) -> Markup:
    return el("details", el("summary", "Every round in numbers"), tables.rounds_table(facts, metric))


def _nodes(facts: RunFacts, metric: str, items: Sequence[NodeFigure]) -> Markup | None:
    if not items:
        return None
    higher = figures.is_higher_better(facts, metric)
    panels = []
    measured = [item for item in items if item.together is not None or item.alone is not None]
    compared = any(item.benefit is not None for item in items)
    if measured:
        points = figures.series(facts, metric).pooled
        chart = dumbbells.dumbbell_chart(
            items, points[-1][1] if points else None, metric, "dumbbell", higher=higher
        )  # fmt: skip
        title = (
            f"{metric[:1].upper()}{metric[1:]} alone and together"
            if compared
            else f"{metric[:1].upper()}{metric[1:]} of each node"
        )
        panels.append(_panel(title, chart, note="Each on its own held-out data."))
    sizes = [item.examples for item in measured if item.examples]
    if sizes and max(sizes) > 1.2 * min(sizes):
        title = "Gain by size" if compared else f"{metric[:1].upper()}{metric[1:]} by size"
        note = "Does it pay for small nodes and for large ones?"
        panels.append(_panel(title, dumbbells.size_chart(measured, metric, "size"), note=note))
    beside = len(panels) == 1 and len(items) <= dumbbells.MOST_ROWS
    listed = tables.nodes_table(items, higher=higher, narrow=beside)
    table = _panel("Node by node", listed, wide=not beside)
    said = words.benefit_words(items, metric) if metric else []
    heading = (
        "Is federating worth it, and for whom" if compared else "How it serves each node" if metric else "The nodes"
    )
    return _section(heading, said, _panels([*panels, table]))


def _turnout(facts: RunFacts) -> Markup | None:
    if not facts.rounds:
        return None
    states, rows, rounds = figures.states(facts), figures.turnouts(facts), _rounds(facts)
    panels = []
    norms = figures.norms(facts)
    if norms or len(states) > strips.MOST_NODES or rounds > strips.MOST_COLUMNS:
        panels.append(_panel("What became of the cohort", bars.turnout_chart(rows, rounds, "turnout")))
    nodes = list(states) if len(states) <= strips.MOST_NODES else strips.troubled(states)
    if norms:
        note = "A bound is fixed when a round is asked; an update above it is refused."
        panels.append(_panel("Norms of the updates", curves.norms_chart(norms, rounds, "norms"), note=note))
    if nodes:
        whose = "every node" if len(nodes) == len(states) else f"the {count(len(nodes), 'node')} with the most mishaps"
        note = f"Each column stands for {-(-rounds // strips.MOST_COLUMNS)} rounds, and shows the gravest." * (
            rounds > strips.MOST_COLUMNS
        )
        title = f"Round by round: {whose}"
        panels.append(_panel(title, strips.strip(states, nodes, rows, rounds, "strip"), wide=True, note=note))
    found = figures.incidents(facts)
    if found:
        panels.append(_panel("What happened to whom", tables.mishaps_table(found), wide=True))
    missed = [f"Round {number}, attempt {attempt}: {why}." for number, attempt, why in figures.retries(facts)]
    said = [
        *words.turnout_words(facts),
        *missed[:8],
        *([f"{len(missed) - 8} more attempts missed."] if missed[8:] else []),
    ]
    if not found:
        said.append("Nobody dropped out, declined, came late or was refused.")
    return _section("Who took part", said, _panels(panels))


def _cost(facts: RunFacts) -> Markup | None:
    rounds = _rounds(facts)
    if not rounds:
        return None
    panels = [_panel("Bytes by round", bars.traffic_chart(figures.traffic(facts), rounds, "traffic"))]
    phases = figures.phases(facts)
    if phases:
        note = "Exchanges on the run's clock; “close” is the server's own work."
        panels.append(_panel("Time by phase", bars.phases_chart(phases, rounds, "phases"), note=note))
    return _section("What it cost", words.cost_words(facts), _panels(panels))


def _plan(facts: RunFacts) -> Markup:
    said = (
        part for aspect, sentence in words.plan_words(facts.plan) for part in (el("dt", aspect), el("dd", sentence))
    )
    text = json.dumps(facts.to_data()["plan"], indent=2, ensure_ascii=False)
    whole = el("details", el("summary", "The plan as JSON"), el("div", el("pre", text), class_="scroll", tabindex=0))
    return _section("The plan", [], el("dl", *said, class_="plan"), whole)


def _reproducibility(facts: RunFacts) -> Markup:
    layout = facts.model_layout
    known = {
        "plan": facts.plan_digest,
        "layout of the model": layout.digest if layout.leaves else "",
        "first model": facts.first_model,
        "last model": next((current.model for current in reversed(facts.closed) if current.model), ""),
    }
    rows: dict[str, object] = {name: el("code", said) for name, said in known.items() if said}
    versions = {name: el("code", version) for name, version in sorted(facts.versions.items())}
    models = el("details", el("summary", "The digest of every model"), tables.digests_table(facts))
    return _section(
        "What it takes to do it again",
        [
            "The same plan, data, versions and kind of machine, with the same nodes heard, give the same bits.",
            *([f"The model: {model}."] if (model := words.model_words(facts)) else []),
        ],
        _panels([
            _panel("Digests (SHA-256)", tables.pairs_table(rows, "Of", "Digest")),
            _panel("Versions", tables.pairs_table(versions, "Package", "Version")) if versions else None,
        ]),
        models if figures.digests(facts) else None,
    )  # fmt: skip


def _data(facts: RunFacts) -> Markup:
    data = facts.to_data()
    written = len(json.dumps(data, separators=(",", ":")))
    said = "All facts behind this page are in it, as JSON, in the element with the id “facts”."
    if written > MOST_EMBEDDED_BYTES:
        data["records"] = [_without_nodes(record) for record in data["records"]]
        said = (
            f"The facts behind this page are in it, as JSON, in the element with the id “facts”; the figures of single "
            f"nodes are left out there, as they would make it {size(written)} larger. The run's own record has them."
        )
    return _section("The data", [said], data_script(data, "facts"))


def _without_nodes(record: dict[str, Any]) -> dict[str, Any]:
    def pooled(scope: dict[str, Any]) -> dict[str, Any]:
        return {**scope, "nodes": {}}

    evaluation = {name: pooled(scope) for name, scope in record["evaluation"].items()}
    bare: dict[str, Any] = {"asked": {}, "survivors": [], "weights": {}, "norms": {}, "dropped": [], "late": []}
    return {**record, **bare, "train_metrics": pooled(record["train_metrics"]), "evaluation": evaluation}


def _rounds(facts: RunFacts) -> int:
    return max((current.number for current in facts.rounds), default=0)


def _section(heading: str, said: Sequence[str], *parts: Markup | None) -> Markup:
    return el(
        "section", el("h2", heading), *(el("p", sentence) for sentence in said), *(part for part in parts if part)
    )


def _panels(panels: Sequence[Markup | None]) -> Markup | None:
    shown = [panel for panel in panels if panel]
    return el("div", *shown, class_="panels") if shown else None


def _panel(heading: str, *body: object, note: str = "", wide: bool = False) -> Markup:
    caption = el("figcaption", el("h3", heading), el("p", note) if note else None)
    return el("figure", caption, *body, class_="panel wide" if wide else "panel")


def _sign() -> Markup:
    """Many around one: the sign of the house."""
    places = [
        (13 + 9.2 * math.cos(angle), 13 + 9.2 * math.sin(angle))
        for angle in (math.tau * k / 6 + 0.52 for k in range(6))
    ]
    spokes = (el("line", class_="spoke", x1=13, y1=13, x2=x, y2=y) for x, y in places)
    dots = (el("circle", class_="node-dot", cx=x, cy=y, r=2.6) for x, y in places)
    middle = el("circle", class_="middle", cx=13, cy=13, r=3.6)
    return el(
        "svg",
        *spokes,
        *dots,
        middle,
        xmlns="http://www.w3.org/2000/svg",
        width=26,
        height=26,
        viewBox="0 0 26 26",
        aria_hidden="true",
    )


def _foot() -> Markup:
    said = "Figures at the nodes are what the nodes say of their own held-out data; nobody else has seen it."
    return el("footer", el("p", said))


def _resource(name: str) -> str:
    return resources.files("lycia.reports").joinpath(name).read_text("utf-8")

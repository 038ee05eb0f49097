"""`page`: a run as one HTML file that needs nothing else: no network, no fonts, no libraries."""

import json
from collections.abc import Sequence
from typing import Any

from lycia.reports import bars, curves, dumbbells, figures, strips, tables, tiles, words
from lycia.reports.facts import RunFacts
from lycia.reports.figures import NodeFigure
from lycia.reports.frames import brand, document, panel, panels, section
from lycia.reports.markup import Markup, data_script, el
from lycia.reports.numbers import count, moment, size

MOST_METRICS = 6  # further ones are in the data of the page only
MOST_EMBEDDED_BYTES = 4_000_000  # above this the page's data leaves out the figures of single nodes


def page(facts: RunFacts) -> str:
    """The report of a run.

    Guarantees:
      - One file; it refers to nothing outside, and its policy forbids every script but its own.
      - Names, reasons and metrics are escaped, whatever they hold.
    """
    metric = figures.shown_metric(facts)
    items = figures.node_figures(facts, metric)
    sections = (_results(facts, metric, items), _nodes(facts, metric, items), _turnout(facts), _cost(facts))
    about = (_plan(facts), _reproducibility(facts), _data(facts))
    title = f"{facts.app}: {words.STATE_WORDS.get(facts.state, facts.state)}"
    return document(title, _top(facts, metric, items), el("main", *sections, *about), _foot())


def _top(facts: RunFacts, metric: str, items: Sequence[NodeFigure]) -> Markup:
    line, turnouts = figures.series(facts, metric), figures.turnouts(facts)
    where = "simulated on one machine" if facts.world == "simulation" else "held on real nodes"
    when = [f"{verb} {moment(at)}" for verb, at in (("began", facts.started), ("ended", facts.ended)) if at]
    return el(
        "header",
        brand("Lycia · report of a run"),
        el("h1", facts.app, " ", tiles.badge(facts)),
        el("p", words.headline(facts), class_="lead"),
        el("p", "Run ", el("code", facts.id), f", {', '.join((where, *when))}.", class_="meta"),
        tiles.row(
            tiles.metric_tile(line) if line.points else None,
            tiles.benefit_tile(items),
            tiles.rounds_tile(facts, turnouts),
            tiles.heard_tile(turnouts),
            tiles.traffic_tile(facts),
            tiles.time_tile(facts),
        ),
        class_="top",
    )


def _results(facts: RunFacts, metric: str, items: Sequence[NodeFigure]) -> Markup:
    rounds = _rounds(facts)
    names = list(figures.metric_names(facts))
    if figures.series(facts, "loss").training and "loss" not in names:
        names.insert(1, "loss")
    names.sort(key=lambda name: (name != metric, name != "loss"))
    shown = []
    for place, name in enumerate(names[:MOST_METRICS]):
        line = figures.series(facts, name)
        chart = curves.metric_chart(line, rounds, figures.target(facts, name), f"metric-{place}")
        higher = "higher" if figures.is_higher_better(facts, name) else "lower"
        shown.append(panel(f"{name[:1].upper()}{name[1:]} by round", chart, note=f"The {higher}, the better."))
    spread = words.spread_words(items, higher=figures.is_higher_better(facts, metric))
    said = [spread] if spread else []
    if not metric:
        said.append("Nothing was measured on held-out data in this run.")
    if len(names) > MOST_METRICS:
        said.append(f"{count(len(names) - MOST_METRICS, 'more metric')} are in the data of this page.")
    return section("How good the model is", said, panels(shown), _numbers(facts, metric) if rounds else None)


def _numbers(facts: RunFacts, metric: str) -> Markup:
    return el("details", el("summary", "Every round in numbers"), tables.rounds_table(facts, metric))


def _nodes(facts: RunFacts, metric: str, items: Sequence[NodeFigure]) -> Markup | None:
    if not items:
        return None
    higher = figures.is_higher_better(facts, metric)
    shown = []
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
        shown.append(panel(title, chart, note="Each on its own held-out data."))
    sizes = [item.examples for item in measured if item.examples]
    if sizes and max(sizes) > 1.2 * min(sizes):
        title = "Gain by size" if compared else f"{metric[:1].upper()}{metric[1:]} by size"
        note = "Does it pay for small nodes and for large ones?"
        shown.append(panel(title, dumbbells.size_chart(measured, metric, "size"), note=note))
    beside = len(shown) == 1 and len(items) <= dumbbells.MOST_ROWS
    listed = tables.nodes_table(items, higher=higher, narrow=beside)
    table = panel("Node by node", listed, wide=not beside)
    said = words.benefit_words(items, metric) if metric else []
    heading = (
        "Is federating worth it, and for whom" if compared else "How it serves each node" if metric else "The nodes"
    )
    return section(heading, said, panels([*shown, table]))


def _turnout(facts: RunFacts) -> Markup | None:
    if not facts.rounds:
        return None
    states, rows, rounds = figures.states(facts), figures.turnouts(facts), _rounds(facts)
    shown = []
    norms = figures.norms(facts)
    if norms or len(states) > strips.MOST_NODES or rounds > strips.MOST_COLUMNS:
        shown.append(panel("What became of the cohort", bars.turnout_chart(rows, rounds, "turnout")))
    nodes = list(states) if len(states) <= strips.MOST_NODES else strips.troubled(states)
    if norms:
        note = "A bound is fixed when a round is asked; an update above it is refused."
        shown.append(panel("Norms of the updates", curves.norms_chart(norms, rounds, "norms"), note=note))
    if nodes:
        whose = "every node" if len(nodes) == len(states) else f"the {count(len(nodes), 'node')} with the most mishaps"
        note = f"Each column stands for {-(-rounds // strips.MOST_COLUMNS)} rounds, and shows the gravest." * (
            rounds > strips.MOST_COLUMNS
        )
        title = f"Round by round: {whose}"
        shown.append(panel(title, strips.strip(states, nodes, rows, rounds, "strip"), wide=True, note=note))
    found = figures.incidents(facts)
    if found:
        shown.append(panel("What happened to whom", tables.mishaps_table(found), wide=True))
    missed = [f"Round {number}, attempt {attempt}: {why}." for number, attempt, why in figures.retries(facts)]
    said = [
        *words.turnout_words(facts),
        *missed[:8],
        *([f"{len(missed) - 8} more attempts missed."] if missed[8:] else []),
    ]
    if not found:
        said.append("Nobody dropped out, declined, came late or was refused.")
    return section("Who took part", said, panels(shown))


def _cost(facts: RunFacts) -> Markup | None:
    rounds = _rounds(facts)
    if not rounds:
        return None
    shown = [panel("Bytes by round", bars.traffic_chart(figures.traffic(facts), rounds, "traffic"))]
    phases = figures.phases(facts)
    if phases:
        note = "Exchanges on the run's clock; “close” is the server's own work."
        shown.append(panel("Time by phase", bars.phases_chart(phases, rounds, "phases"), note=note))
    return section("What it cost", words.cost_words(facts), panels(shown))


def _plan(facts: RunFacts) -> Markup:
    said = (
        part for aspect, sentence in words.plan_words(facts.plan) for part in (el("dt", aspect), el("dd", sentence))
    )
    text = json.dumps(facts.to_data()["plan"], indent=2, ensure_ascii=False)
    whole = el("details", el("summary", "The plan as JSON"), el("div", el("pre", text), class_="scroll", tabindex=0))
    return section("The plan", [], el("dl", *said, class_="plan"), whole)


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
    return section(
        "What it takes to do it again",
        [
            "The same plan, data, versions and kind of machine, with the same nodes heard, give the same bits.",
            *([f"The model: {model}."] if (model := words.model_words(facts)) else []),
        ],
        panels([
            panel("Digests (SHA-256)", tables.pairs_table(rows, "Of", "Digest")),
            panel("Versions", tables.pairs_table(versions, "Package", "Version")) if versions else None,
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
    return section("The data", [said], data_script(data, "facts"))


def _without_nodes(record: dict[str, Any]) -> dict[str, Any]:
    def pooled(scope: dict[str, Any]) -> dict[str, Any]:
        return {**scope, "nodes": {}}

    evaluation = {name: pooled(scope) for name, scope in record["evaluation"].items()}
    bare: dict[str, Any] = {"asked": {}, "survivors": [], "weights": {}, "norms": {}, "dropped": [], "late": []}
    return {**record, **bare, "train_metrics": pooled(record["train_metrics"]), "evaluation": evaluation}


def _rounds(facts: RunFacts) -> int:
    return max((current.number for current in facts.rounds), default=0)


def _foot() -> Markup:
    said = "Figures at the nodes are what the nodes say of their own held-out data; nobody else has seen it."
    return el("footer", el("p", said))

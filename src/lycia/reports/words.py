"""What happened and what was planned, in sentences."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lycia.core.layout import SEGMENTS
from lycia.core.messages import BASELINE
from lycia.reports import figures
from lycia.reports.facts import RunFacts
from lycia.reports.numbers import count, duration, figure, listing, quantile, share, size

STATE_WORDS = {"finished": "Finished", "paused": "Paused", "stopped": "Stopped", "running": "Running"}


def headline(facts: RunFacts) -> str:
    """What happened, in a few plain sentences."""
    done = len(facts.closed)
    state = STATE_WORDS.get(facts.state, facts.state.capitalize() or "Unknown")
    began = f"{state}: {facts.reason}." if facts.reason else f"{state}."
    population = max((current.population for current in facts.rounds), default=0)
    if not done:
        there = f", with {count(population, 'node')} there" if population else ""
        return f"{began} No round was done{there}."
    metric = figures.shown_metric(facts)
    said = f"{count(population, 'node')}, {count(done, 'round')}"
    return f"{began} {said}, {_reached(facts, metric)}." if metric else f"{began} {said}; nothing was measured."


def _reached(facts: RunFacts, metric: str) -> str:
    line = figures.series(facts, metric)
    where = [
        f"{figure(points[-1][1])} on {whose}"
        for points, whose in ((line.pooled, "the nodes' held-out data"), (line.evaluator, "the evaluator's own data"))
        if points
    ]
    said = f"{metric} {' and '.join(where)}"
    alone = [item.alone for item in figures.node_figures(facts, metric) if item.alone is not None]
    if not alone:
        return said
    low, high = figure(min(alone)), figure(max(alone))
    return f"{said}; alone the nodes reach {low if low == high else f'{low} to {high}'}"


def benefit_words(items: Sequence[figures.NodeFigure], metric: str) -> list[str]:
    """Whether federating is worth it, and for whom it is not."""
    gains = [item.benefit for item in items if item.benefit is not None]
    if not gains:
        return [
            "No node was also trained alone, so this run does not say what federating is worth. "
            "Evaluation(baseline_rounds=…) in the plan measures it."
        ]
    lost = figures.losers(items)
    middle = quantile(gains, 0.5)
    verb = "gains" if middle >= 0 else "loses"
    said = [
        f"{count(sum(gain > 0 for gain in gains))} of {count(len(gains), 'node')} do better together than alone; "
        f"the median node {verb} {figure(abs(middle))} in {metric}."
    ]
    left_out = sum(item.benefit is None and item.together is not None for item in items)
    if left_out:
        said.append(f"{count(left_out, 'more node')} measured the model, but not what it reaches alone.")
    if lost:
        named = [f"{item.node} ({_loss(item, metric)})" for item in lost]
        said.append(f"Better off alone: {listing(named, most=8)}.")
    else:
        said.append("None of those compared loses by joining." if left_out else "Nobody loses by joining.")
    return said


def _loss(item: figures.NodeFigure, metric: str) -> str:
    said = figure(item.benefit or 0.0)
    if metric != "accuracy" or not item.held_out:
        return said
    missed = round(-(item.benefit or 0.0) * item.held_out)
    return f"{said}, {count(missed)} of its {count(item.held_out, 'held-out example')}" if missed else said


def spread_words(items: Sequence[figures.NodeFigure], *, higher: bool) -> str:
    """How evenly the model serves the nodes; "" for fewer than two."""
    known = [(item.together, item.node) for item in items if item.together is not None]
    if len(known) < 2:
        return ""
    values = [value for value, _ in known]
    worst, best = (min(known), max(known)) if higher else (max(known), min(known))
    tail = quantile(values, 0.1 if higher else 0.9)
    said = f"The model serves {worst[1]} worst ({figure(worst[0])}) and {best[1]} best ({figure(best[0])})"
    return said + (f"; one node in ten has {figure(tail)} or worse." if len(known) >= 10 else ".")


def turnout_words(facts: RunFacts) -> list[str]:
    """Who was asked and heard over the whole run, and what went wrong."""
    rows = figures.turnouts(facts)
    asked, heard = sum(row.asked for row in rows), sum(row.heard for row in rows)
    said = [f"Heard: {count(heard)} of {count(asked, 'ask')} to train ({share(heard, asked)})."] if asked else []
    described = {node for current in facts.rounds for node in current.described}
    if described:
        said.append(f"{count(len(described), 'node')} described their features, for the scale that all of them share.")
    again = [row.round for row in rows if row.attempts > 1]
    if again:
        said.append(f"{count(len(again), 'round')} had to be asked again: {listing([str(n) for n in again], most=8)}.")
    if facts.undone:
        by = sorted({str(record.get("undone", {}).get("by", "?")) for record in facts.undone})
        said.append(
            f"Not shown: {count(len(facts.undone), 'attempt')} at rounds that {listing(by)} undid with a rollback."
        )
    refused = sorted({item.node for item in figures.quarantines(facts)})
    if refused:
        said.append(f"Updates of {listing(refused)} were quarantined; none of them touched the model.")
    return said


def trouble_words(facts: RunFacts) -> list[str]:
    """Which nodes did not count, and how often, in a sentence for each kind of it; the worst first."""
    said = []
    for kind in ("quarantined", "declined", "vanished", "late"):
        nodes = [incident.node for incident in figures.incidents(facts) if incident.kind == kind]
        if nodes:
            times = Counter(nodes)
            named = [f"{node} ({count(times[node])})" for node in sorted(times, key=lambda node: (-times[node], node))]
            said.append(f"{_KIND_WORDS[kind]} {count(len(nodes), 'time')}: {listing(named, most=6)}.")
    return said


_KIND_WORDS = {"quarantined": "Quarantined", "declined": "Declined", "vanished": "Dropped out", "late": "Late"}


def model_words(facts: RunFacts) -> str:
    """The model's size; "" where the layout is not known."""
    layout = facts.model_layout
    if not layout.leaves:
        return ""
    segments = {segment: layout.size(segment) for segment in SEGMENTS}
    parts = [f"{count(amount)} {segment}" for segment, amount in segments.items() if amount]
    return f"{count(len(layout.leaves), 'tensor')}; numbers: {listing(parts)}"


def plan_words(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(aspect, sentence) for each aspect of a plan; parts that are not known by name are given with their values."""
    evaluation, rules = plan.get("evaluation") or {}, plan.get("rules") or {}
    rows = [
        ("Rounds", _schedule(plan)),
        ("Cohort", _part(plan.get("selector"))),
        ("Features", _normalisation(plan.get("normalisation"))),
        ("At the nodes", _part(plan.get("client"))),
        *(("Each update", _part(stage)) for stage in plan.get("stages") or ()),
        ("Into one", _part(plan.get("aggregator"))),
        ("Next model", _part(plan.get("server"))),
        ("A round counts", _rules(rules, plan.get("selector") or {})),
        ("Admission", _admission(rules)),
        ("Measured", _evaluation(evaluation)),
        ("Seed", str(plan.get("seed", ""))),
    ]
    if not plan.get("stages"):
        rows.insert(5, ("Each update", "Travels as it is: the coordinator sees the single updates of the nodes."))
    return [(aspect, sentence) for aspect, sentence in rows if sentence]


def _schedule(plan: Mapping[str, Any]) -> str:
    rounds, stop, schedule = plan.get("rounds"), plan.get("stop"), plan.get("schedule") or {}
    said = f"At most {count(rounds, 'round')}" if stop and rounds else count(rounds, "round") if rounds else "Rounds"
    if schedule.get("part") == "Buffered":
        said += (
            f", each closed by {count(schedule['size'], 'update')} from {count(schedule['concurrency'], 'node')} "
            f"that train at once; a base model may be {count(schedule['max_staleness'], 'round')} old"
        )
    if stop:
        until = []
        if stop.get("target") is not None:
            until.append(f"{stop['metric']} reaches {figure(stop['target'])}")
        if stop.get("patience") is not None:
            until.append(f"{stop['metric']} does not improve in {count(stop['patience'], 'measurement')}")
        said += f", or until {' or '.join(until)}" if until else ""
    return f"{said}."


def _rules(rules: Mapping[str, Any], selector: Mapping[str, Any]) -> str:
    if not rules:
        return ""
    by_chance = selector.get("part") == "Poisson"  # asks exactly whom chance names; a stranger's selector may as well
    quorum, over = rules.get("quorum"), rules.get("over_selection")
    quorum = (0.0 if by_chance else 0.5) if quorum is None else quorum
    over = (1.0 if by_chance else 1.3) if over is None else over
    said = f"When at least {share(quorum, 1)} of the nodes it needs are heard" if quorum else "However few are heard"
    more = over > 1 and selector.get("part") != "Everyone"
    extra = f"; {share(over, 1)} of them are asked, where there are as many" if more else ""
    return (
        f"{said}{extra}. An exchange lasts at most {duration(rules.get('deadline_s', 0))}; "
        f"a round that misses its quorum is asked again up to {count(rules.get('retries', 0), 'time')}."
    )


def _normalisation(part: Mapping[str, Any] | None) -> str:
    if not part:
        return ""
    return (
        f"Up to {count(part['nodes'], 'node')} told the count, mean and variance of each before the first round; "
        "all scale by what these come to together."
    )


def _admission(rules: Mapping[str, Any]) -> str:
    if not rules:
        return ""
    cap = f"A node may claim at most {count(rules.get('weight_cap', 0), 'example')}"
    if rules.get("norm_bound") is not None:
        return f"{cap}; an update's norm may be at most {figure(rules['norm_bound'])}."
    return (
        f"{cap}; an update's norm may be up to {rules.get('norm_factor', 0):g} times the median of the last "
        f"{count(rules.get('norm_history', 0), 'round')}."
    )


def _evaluation(evaluation: Mapping[str, Any]) -> str:
    if not evaluation:
        return ""
    who = (
        [f"up to {count(evaluation['nodes'], 'node')}, each on its own held-out data"]
        if evaluation.get("nodes")
        else []
    )
    who += ["evaluators, where there are any"] if evaluation.get("evaluators") else []
    if not who:
        return "Not at all."
    every = evaluation.get("every", 1)
    said = f"{'Every round' if every == 1 else f'Every {every} rounds'}, by {' and by '.join(who)}."
    alone = evaluation.get("baseline_rounds")
    return said + (f" At the end each node also trains alone for {count(alone, 'round')}, to compare." if alone else "")


_SENTENCES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "Everyone": lambda _: "All nodes take part in every round.",
    "Uniform": lambda part: f"{count(part['cohort_size'], 'node')} a round, drawn at random, all equally likely.",
    "Poisson": lambda part: f"Each node by its own coin, {count(part['expected_cohort'], 'node')} a round on average.",
    "SizeWeighted": lambda part: f"{count(part['cohort_size'], 'node')} a round, drawn by how many examples they have.",
    "FedAvg": lambda _: "Plain local training (FedAvg).",
    "FedProx": lambda part: f"Local training with a pull of {part['mu']:g} towards the model asked with (FedProx).",
    "ExampleWeightedMean": lambda _: "The mean of the updates, each counting as much as its node has examples.",
    "UniformMean": lambda part: (
        "The mean of the updates, each counting the same."
        if part.get("expected_cohort") is None
        else f"The sum of the updates, divided by a fixed {part['expected_cohort']:g}."
    ),
    "SGD": lambda part: _gradient_step(part),
    "Adagrad": lambda part: f"The mean update by Adagrad, learning rate {part['learning_rate']:g} (FedAdagrad).",
    "Adam": lambda part: f"The mean update by Adam, learning rate {part['learning_rate']:g} (FedAdam).",
    "Yogi": lambda part: f"The mean update by Yogi, learning rate {part['learning_rate']:g} (FedYogi).",
}


def _gradient_step(part: Mapping[str, Any]) -> str:
    rate, momentum, decay = part["learning_rate"], part.get("momentum", 0), part.get("weight_decay", 0)
    times = "" if rate == 1 else f"{rate:g} times "
    update = f"a running sum of the mean updates with a momentum of {momentum:g} (FedAvgM)" if momentum else ""
    shrunk = f"; each step also shrinks the model, by a weight decay of {decay:g}" if decay else ""
    return f"The old model plus {times}{update or 'the mean update'}{shrunk}."


def _part(part: Mapping[str, Any] | None) -> str:
    if not part:
        return ""
    name = str(part.get("part", "?"))
    try:
        return _SENTENCES[name](part)
    except (KeyError, TypeError, ValueError):  # a part of somebody else, or of another version
        values = [f"{key}={_value(value)}" for key, value in part.items() if key != "part"]
        return f"{name}({', '.join(values)})"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return _part(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def cost_words(facts: RunFacts) -> list[str]:
    """Bytes and time of the whole run, and what its figures mean."""
    sums = figures.summary(facts)
    up, down, done = sums["bytes_up"], sums["bytes_down"], len(facts.closed)
    said = [f"{size(up)} up and {size(down)} down" + (f", {size((up + down) / done)} a round." if done else ".")]
    if facts.epilogue and BASELINE in facts.epilogue.evaluation:
        said.append("This includes the measurement of the nodes alone, which is not drawn here.")
    if facts.world == "simulation":
        said.append("Bytes are those that would have travelled; exchanges are timed by the simulation's own clock.")
    return said

from dataclasses import replace

import pytest

from lycia.core.plan import Evaluation, Stop
from lycia.reports import figures, metric_lines, page, summary, words
from tests.reports.runs import Told, a_long_run, a_plan, an_eventful_run, digest, facts_of

RUN = an_eventful_run()


def test_the_metric_of_the_stop_rule_is_shown_first():
    facts = facts_of(a_plan(1, stop=Stop("loss", target=0.1, better="lower")), [])
    told = Told(0, ("north",), {"north": (1.0, 1.0, 1.0)}, nodes={"north": {"accuracy": 0.5, "loss": 1.0}})
    measured = facts_of(a_plan(1, stop=Stop("loss", target=0.1, better="lower")), [told])
    assert figures.shown_metric(measured) == "loss"
    assert figures.metric_names(measured) == ("loss", "accuracy")
    assert figures.target(measured, "loss") == 0.1
    assert figures.shown_metric(facts) == ""


@pytest.mark.parametrize(
    ("measured", "shown"), [({"loss": 1.0, "accuracy": 0.5}, "accuracy"), ({"r2": 0.5, "mae": 1.0}, "mae")]
)
def test_else_accuracy_is_shown_first_and_else_the_first_one(measured: dict[str, float], shown: str):
    told = Told(0, ("north",), {"north": (1.0, 1.0, 1.0)}, nodes={"north": measured})
    assert figures.shown_metric(facts_of(a_plan(1, stop=None), [told])) == shown


@pytest.mark.parametrize(
    ("metric", "higher"), [("accuracy", True), ("loss", False), ("val_loss", False), ("rmse", False), ("auroc", True)]
)
def test_a_metrics_name_says_which_way_is_better(metric: str, higher: bool):
    assert figures.is_higher_better(RUN, metric) is higher


def test_the_plan_outranks_the_name():
    facts = facts_of(a_plan(1, stop=Stop("loss", target=9.0, better="higher")), [])
    assert figures.is_higher_better(facts, "loss")


def test_a_metric_has_a_line_for_all_for_the_evaluator_for_training_and_for_each_node():
    accuracy, loss = figures.series(RUN, "accuracy"), figures.series(RUN, "loss")
    assert [number for number, _ in accuracy.pooled] == [1, 2, 3]
    assert accuracy.pooled[0][1] == pytest.approx(0.55)
    assert accuracy.evaluator == ((1, 0.55), (2, 0.7), (3, 0.8))
    assert accuracy.nodes["west"] == ((1, 0.4), (2, 0.6), (3, 0.7))
    assert (accuracy.training, loss.training) == ((), ((1, 0.5), (2, 0.5), (3, 0.5)))


def test_a_node_stands_beside_what_it_would_have_alone():
    by_node = {item.node: item for item in figures.node_figures(RUN, "accuracy")}
    north = by_node["north"]
    assert (north.together, north.alone, north.measured, north.held_out, north.examples) == (0.9, 0.6, 3, 40.0, 200.0)
    assert north.benefit == pytest.approx(0.3)
    assert by_node["west"].benefit == pytest.approx(-0.05)


def test_less_is_a_benefit_where_less_is_better():
    by_node = {item.node: item for item in figures.node_figures(RUN, "loss")}
    assert by_node["north"].benefit == pytest.approx(0.3)
    assert by_node["west"].benefit == pytest.approx(-0.05)


def test_who_loses_by_joining_is_named():
    assert [item.node for item in figures.losers(figures.node_figures(RUN, "accuracy"))] == ["west"]


def test_without_an_epilogue_nobody_is_compared():
    facts = replace(RUN, records=RUN.records[:-1])
    assert all(item.benefit is None for item in figures.node_figures(facts, "accuracy"))


def test_every_node_has_a_state_in_each_round_it_was_asked_in():
    states = figures.states(RUN)
    assert states["east"] == {1: "heard", 2: "quarantined", 3: "heard"}
    assert states["west"] == {1: "heard", 2: "heard", 3: "late"}


def test_a_node_that_was_asked_and_never_spoke_of_again_was_not_waited_for():
    facts = facts_of(a_plan(2), [Told(0, ("east", "west"), {"east": (1.0, 1.0, 1.0)})])
    assert figures.states(facts)["west"] == {1: "unheard"}


def test_a_late_update_is_told_of_in_the_round_that_asked_for_it():
    two = ("east", "west")
    facts = facts_of(
        a_plan(2),
        [
            Told(0, two, {"east": (1.0, 1.0, 1.0)}),
            Told(1, two, dict.fromkeys(two, (1.0, 1.0, 1.0)), late={"west": "its round closed before round 1"}),
        ],
    )
    assert figures.states(facts)["west"] == {1: "late", 2: "heard"}


def test_a_round_says_how_many_it_asked_and_heard_and_how_often_it_was_asked():
    first, second, third = figures.turnouts(RUN)
    assert (first.asked, first.heard, first.attempts) == (4, 4, 1)
    assert (second.asked, second.heard, second.attempts) == (4, 3, 2)
    assert (second.counts["quarantined"], third.counts["late"]) == (1, 1)


def test_a_quarantine_comes_with_its_reason():
    (quarantine,) = figures.quarantines(RUN)
    assert (quarantine.node, quarantine.round, quarantine.attempt) == ("east", 2, 1)
    assert quarantine.reason == "its norm is 12, above the bound of 9 for this round"


def test_everything_that_kept_a_node_from_counting_is_listed():
    kinds = [(incident.round, incident.node, incident.kind) for incident in figures.incidents(RUN)]
    assert kinds == [
        (2, "north", "vanished"),
        (2, "south", "declined"),
        (2, "west", "vanished"),
        (2, "east", "quarantined"),
        (3, "west", "late"),
    ]


def test_a_retry_says_why():
    assert figures.retries(RUN) == ((2, 1, "1 of 4 nodes were heard in 'train', and the quorum is 2"),)


def test_bytes_and_time_of_all_attempts_count():
    assert figures.traffic(RUN) == ((1, 38_400, 38_400), (2, 38_400, 76_800), (3, 28_800, 38_400))
    train = dict(figures.phases(RUN)["train"])
    assert train[2] == pytest.approx(2 * 3.1)


def test_norms_stand_against_the_bound_of_their_round():
    first, second, _ = figures.norms(RUN)
    assert (first.bound, second.bound, second.refused) == (None, 9.0, 1)
    assert second.nodes == {"north": 2.0, "south": 3.0, "west": 4.0}


def test_hidden_norms_make_no_figure():
    told = Told(0, ("north",), {"north": (1.0, None, 1.0)})
    assert figures.norms(facts_of(a_plan(1), [told])) == ()


def test_every_model_has_its_digest():
    expected = [(number, digest(f"model {number}")) for number in range(4)]
    assert list(figures.digests(RUN)) == expected


def test_the_summary_has_the_figures_that_the_stop_rule_goes_by():
    told = summary(RUN)
    assert told["final"] == {"accuracy": 0.8, "loss": pytest.approx(0.175)}
    assert (told["rounds"], told["bytes_up"], told["bytes_down"]) == (3, 105_600, 153_600)
    assert (told["state"], told["reason"]) == ("finished", "all rounds done")


def test_metric_lines_tell_scopes_and_exchanges_apart():
    lines = list(metric_lines(RUN))
    assert {
        "round": 3,
        "exchange": "evaluate by evaluator",
        "scope": "evaluator",
        "metric": "accuracy",
        "value": 0.8,
    } in lines
    assert {
        "round": 2, "exchange": "evaluate", "scope": "west", "node": "west", "metric": "accuracy", "value": 0.6,
    } in lines  # fmt: skip
    assert {line["exchange"] for line in lines} == {"train", "evaluate", "evaluate by evaluator", "baseline"}
    assert next(line["value"] for line in lines if line["scope"] == "pooled" and line["metric"] == "loss") == 0.5


def test_a_run_that_never_began_has_figures_of_nothing():
    empty = facts_of(a_plan(3, evaluation=Evaluation(nodes=0)), [])
    assert (summary(empty)["rounds"], summary(empty)["final"]) == (0, {})
    assert (figures.turnouts(empty), figures.node_figures(empty, ""), list(metric_lines(empty))) == ((), (), [])


def test_a_thinned_line_keeps_its_ends_and_its_extremes():
    line = figures.series(a_long_run(5, 400, every=1), "accuracy")
    thin = figures.thinned(line, 40)
    assert 20 <= len(thin.pooled) <= 44
    assert (thin.pooled[0], thin.pooled[-1]) == (line.pooled[0], line.pooled[-1])
    assert max(value for _, value in thin.pooled) == max(value for _, value in line.pooled)
    assert set(thin.pooled) <= set(line.pooled)
    rounds = {number for number, _ in thin.pooled}
    assert all({number for number, _ in points} <= rounds for points in thin.nodes.values())
    assert figures.thinned(line, 1000) == line


def test_who_describes_its_features_is_told_of_and_no_part_of_the_cohort():
    record = dict(RUN.records[0])
    record["asked"] = {"describe": ["east", "north", "far"], **record["asked"]}
    record["dropped"] = [{"node": "far", "exchange": "describe", "kind": "vanished", "reason": "gone"}]
    facts = replace(RUN, records=[record])
    (first,) = facts.rounds
    assert first.described == {"east", "north"}
    assert "far" not in first.cohort
    assert figures.states(facts).keys() == {"east", "north", "south", "west"}
    assert [(item.node, item.exchange) for item in figures.incidents(facts)] == [("far", "describe")]
    assert "2 nodes described their features, for the scale that all of them share." in words.turnout_words(facts)
    assert "describe" in page(facts)


def test_the_norm_for_which_an_update_was_refused_is_drawn_where_it_lies():
    record = dict(RUN.records[0], norm_bound=5.0)
    drop = {"node": "far", "exchange": "train", "kind": "quarantined", "reason": "its norm is too large", "norm": 7.5}
    record["dropped"] = [drop]
    facts = replace(RUN, records=[record])
    (found,) = figures.norms(facts)
    assert (found.refused, found.above) == (1, [7.5])
    assert "1 refused, with a norm of 7.500" in page(facts)

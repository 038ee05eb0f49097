import json
from dataclasses import replace

import pytest

from lycia.errors import StorageError
from lycia.reports import RunFacts
from tests.reports.runs import Told, a_plan, an_eventful_run, facts_of, record_of


def test_facts_come_back_from_json_as_they_were():
    facts = an_eventful_run()
    back = RunFacts.from_json(facts.to_json())
    assert back.to_data() == facts.to_data()
    assert (back.rounds, back.epilogue) == (facts.rounds, facts.epilogue)


def test_facts_come_back_from_plain_data_and_pass_over_what_a_newer_version_adds():
    facts = an_eventful_run()
    assert RunFacts.of({**facts.to_data(), "weather": "rain"}).to_data() == facts.to_data()


def test_what_is_not_finite_becomes_null_and_is_no_figure():
    record = record_of(a_plan(1), Told(0, ("north",), {"north": (10.0, None, 0.5)}, population=1))
    record["train_metrics"]["nodes"]["north"]["loss"] = float("nan")
    facts = facts_of(a_plan(1), [], records=[record])
    assert facts.rounds[0].norms == {}
    assert facts.rounds[0].training.nodes["north"] == {"examples": 10.0}
    assert json.loads(facts.to_json())["records"][0]["train_metrics"]["nodes"]["north"]["loss"] is None


def test_a_record_without_the_runners_figures_is_read_as_one_that_cost_nothing():
    record = record_of(a_plan(1), Told(0, ("north",), {"north": (10.0, 1.0, 0.5)}))
    bare = {key: value for key, value in record.items() if key not in ("phases_s", "wall_s", "bytes_up", "bytes_down")}
    facts = replace(facts_of(a_plan(1), []), records=[bare])
    assert (facts.rounds[0].bytes_up, facts.rounds[0].phases_s) == (0, {})


def test_rounds_are_counted_from_one_and_a_missed_attempt_closes_none():
    facts = an_eventful_run()
    assert [(current.number, current.attempt) for current in facts.rounds] == [(1, 0), (2, 0), (2, 1), (3, 0)]
    assert [current.number for current in facts.closed] == [1, 2, 3]
    assert facts.epilogue is not None
    assert facts.epilogue.number == 3


@pytest.mark.parametrize("text", ["", "[]", "{", '{"id": "a"}', '{"id": {}, "records": 3}'])
def test_text_that_is_no_run_is_refused_with_a_remedy(text: str):
    with pytest.raises(StorageError, match="make them again"):
        RunFacts.from_json(text)


def test_a_record_that_lacks_its_round_is_refused():
    data = an_eventful_run().to_data()
    del data["records"][1]["round"]
    with pytest.raises(StorageError, match="round"):
        RunFacts.of(data)


def test_times_may_be_seconds_since_1970_as_stores_have_them():
    facts = RunFacts.of({**an_eventful_run().to_data(), "started": 1_772_368_205.0, "ended": None})
    assert (facts.started, facts.ended) == ("2026-03-01T12:30:05+00:00", "")
    assert RunFacts.from_json(facts.to_json()).to_data() == facts.to_data()


def test_a_run_tells_its_summary_and_what_each_node_has_by_joining():
    facts = an_eventful_run()
    assert facts.summary()["final"]["accuracy"] == 0.8
    assert [(item.node, item.alone, item.together) for item in facts.benefits()] == [
        ("east", 0.5, 0.8),
        ("north", 0.6, 0.9),
        ("south", 0.7, 0.9),
        ("west", 0.75, 0.7),
    ]

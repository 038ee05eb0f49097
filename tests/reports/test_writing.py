import json
from pathlib import Path

import pytest

from lycia.errors import StorageError
from lycia.reports import RunFacts, metric_lines, page, write_report
from tests.reports.runs import an_eventful_run


def test_a_report_is_a_page_its_facts_and_its_metrics(tmp_path: Path):
    facts = an_eventful_run()
    written = write_report(facts.to_data(), tmp_path / "new" / "report")
    assert written.read_text(encoding="utf-8") == page(facts)
    assert RunFacts.from_json((written.parent / "report.json").read_text()).to_data() == facts.to_data()
    lines = (written.parent / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == list(metric_lines(facts))


def test_a_second_report_takes_the_place_of_the_first(tmp_path: Path):
    first = write_report(an_eventful_run(), tmp_path)
    second = write_report({**an_eventful_run().to_data(), "state": "paused"}, tmp_path)
    assert first == second
    assert "Paused" in second.read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "report.html", "report.json"]


def test_a_folder_that_is_a_file_is_refused_in_words(tmp_path: Path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError, match="taken"):
        write_report(an_eventful_run(), tmp_path / "taken")

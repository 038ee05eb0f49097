"""A result as people meet it: a line in a terminal, a card in a notebook, a report in one call."""

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

import lycia
from lycia import Result
from tests.deployment.small_app import app

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def result() -> Result:
    return lycia.simulate(app)


def test_a_result_says_in_a_line_how_it_went(result: Result):
    accuracy = result.metrics()[-1][1]["accuracy"]
    assert repr(result).startswith(f"<Result {result.id}: finished, 3 rounds, accuracy {accuracy:.4g}")
    assert len(repr(result)) < 200


def test_in_a_notebook_it_is_one_well_formed_element(result: Result):
    root = ElementTree.fromstring(result._repr_html_())
    assert root.tag == "div"
    assert len(root.findall(f".//{SVG}svg[@role='img']")) == 2
    assert root.findall(".//script") == []


def test_the_card_shows_the_figures_of_the_facts(result: Result):
    class Texts(HTMLParser):
        said = ""

        def handle_data(self, data: str) -> None:
            self.said += data

    texts = Texts()
    texts.feed(result._repr_html_())
    measured = [metrics["accuracy"] for _, metrics in result.metrics()]
    assert f"Accuracy{measured[-1]:.3f}" in texts.said
    assert f"first {measured[0]:.3f}, round 1" in texts.said
    assert "Rounds3of 3 planned" in texts.said
    assert "12 of 18 asks to train" in texts.said  # two of six nodes decline each time
    assert "Declined 12 times: empty (6) and strange (6)." in texts.said


def test_ten_results_in_one_notebook_share_no_id(result: Result):
    ids = [name for _ in range(10) for name in re.findall(r'\bid="([^"]+)"', result._repr_html_())]
    assert ids
    assert len(ids) == len(set(ids))


def test_the_card_asks_for_nothing_from_outside_and_styles_nothing_but_itself(result: Result):
    html = result._repr_html_()
    assert not re.findall(r"\b(?:src|href|url)\s*[=(]", html)
    assert "@import" not in html
    style = ElementTree.fromstring(html).findtext("style")
    assert style
    for selectors in re.findall(r"([^{}]+)\{[^{}]*:", style):
        for selector in selectors.split(","):
            assert ".lycia-run" in selector or selector.strip().startswith("@media"), selector


def test_a_report_is_written_in_one_line(result: Result, tmp_path: Path):
    page = result.report(tmp_path / "report")
    assert page == tmp_path / "report" / "report.html"
    assert result.id in page.read_text(encoding="utf-8")


def test_a_run_without_a_round_shows_itself_too():
    stopped = lycia.simulate(app, until_round=0)
    assert "No round was done" in stopped._repr_html_()
    assert repr(stopped) == f"<Result {stopped.id}: stopped, 0 rounds>"

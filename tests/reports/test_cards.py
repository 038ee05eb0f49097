import re
import time
from xml.etree import ElementTree

import pytest

from lycia.reports import RunFacts, card
from tests.reports.runs import a_long_run
from tests.reports.test_pages import HOSTILE, RUNS


@pytest.mark.parametrize("kind", RUNS)
def test_a_card_of_any_run_is_well_formed_and_escapes_what_it_holds(kind: str):
    html = card(RUNS[kind](), "one")
    assert ElementTree.fromstring(html).tag == "div"
    assert "<script" not in html
    assert HOSTILE not in html


def test_a_card_shows_first_last_and_best():
    facts = RUNS["eventful"]()
    line = [current.evaluation["evaluate"].pooled["accuracy"] for current in facts.closed]
    html = card(facts, "one")
    assert f">{line[-1]:.3f}<" in html
    assert f"first {line[0]:.3f}, round 1" in html
    assert "Quarantined 1 time: east (1)." in html


def test_where_nothing_was_measured_the_loss_of_training_is_drawn():
    assert "Loss by round" in card(RUNS["unmeasured"](), "one")


def test_a_long_run_of_many_nodes_is_a_small_card():
    facts = a_long_run(100, 1000, every=4)
    RunFacts.of(facts.to_data())
    began_s = time.perf_counter()
    html = card(facts, "one")
    assert len(html) < 60_000
    assert time.perf_counter() - began_s < 20
    assert "of every 13 rounds the one with the smallest turnout" in html


def test_two_cards_have_no_id_in_common():
    facts = RUNS["eventful"]()
    ids = [set(re.findall(r'\bid="([^"]+)"', card(facts, name))) for name in ("one", "two")]
    assert ids[0]
    assert not ids[0] & ids[1]

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from lycia.algorithms.server_optimizers import SGD
from lycia.core.plan import Evaluation, Normalisation
from lycia.reports import RunFacts, bars, figures, page, strips, words
from tests.reports.runs import Told, a_long_run, a_plan, an_eventful_run, facts_of

SVG = "{http://www.w3.org/2000/svg}"
EMPTY = frozenset({"meta", "link", "br", "hr", "wbr"})
HOSTILE = "<script>alert(1)</script>\"'&\x00\u202e"


def one_round() -> RunFacts:
    told = Told(0, ("north",), {"north": (100.0, 1.0, 0.4)}, nodes={"north": {"accuracy": 0.5}}, population=1)
    return facts_of(a_plan(1), [told])


def unmeasured() -> RunFacts:
    plan = a_plan(3, stop=None, evaluation=Evaluation(nodes=0, evaluators=False))
    return facts_of(plan, [Told(number, ("a", "b"), {"a": (9.0, None, 1.0)}, population=2) for number in range(3)])


def never_begun() -> RunFacts:
    return facts_of(a_plan(3), [], state="paused", reason="too few nodes were heard", ended="", versions={})


def hostile() -> RunFacts:
    plan = a_plan(1, stop=None)
    scores = {HOSTILE: {HOSTILE: 0.5, "accuracy": 0.5}, "south": {HOSTILE: 0.7, "accuracy": 0.7}}
    told = Told(
        0, (HOSTILE, "south", "bad"), {HOSTILE: (9.0, 1.0, 1.0), "south": (9.0, 1.0, 1.0)},
        {"bad": ("quarantined", HOSTILE)}, nodes=scores, evaluator={HOSTILE: 0.4},
    )  # fmt: skip
    again = Told(1, ("south",), late={"south": HOSTILE}, missed=HOSTILE)
    alone = Told(2, alone=scores)
    return facts_of(plan, [told, again, alone], app=HOSTILE, id=HOSTILE, reason=HOSTILE, versions={HOSTILE: HOSTILE})


RUNS = {
    "eventful": an_eventful_run,
    "one round": one_round,
    "unmeasured": unmeasured,
    "never begun": never_begun,
    "hostile": hostile,
    "many nodes": lambda: a_long_run(60, 4),
    "many rounds": lambda: a_long_run(3, 260, every=10),
}


@pytest.fixture(params=RUNS, scope="module")
def facts(request: pytest.FixtureRequest) -> RunFacts:
    return RUNS[request.param]()


class Outline(HTMLParser):
    """Checks that every element is closed in order, and keeps what a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_a_page_is_well_formed(facts: RunFacts):
    outline = Outline(page(facts))
    assert outline.open == []
    ids = [attributes["id"] for _, attributes in outline.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    headings = [tag for tag, _ in outline.elements if re.fullmatch("h[1-6]", tag)]
    assert (headings[0], headings.count("h1")) == ("h1", 1)


def test_every_drawing_is_sound_xml_and_says_what_it_shows(facts: RunFacts):
    for text in re.findall(r"<svg.*?</svg>", page(facts), flags=re.DOTALL):
        drawing = ElementTree.fromstring(text)
        assert drawing.get("aria-hidden") == "true" or (
            drawing.findtext(f"{SVG}title") and drawing.findtext(f"{SVG}desc")
        )
        coordinates = [
            value for item in drawing.iter() for name, value in item.items() if name in ("x", "y", "d", "height")
        ]
        assert not any(word in value for value in coordinates for word in ("nan", "inf", "e"))
        assert all(float(value) >= 0 for item in drawing.iter() if (value := item.get("height")))


def test_a_page_refers_to_nothing_outside(facts: RunFacts):
    text = page(facts)
    assert "://" not in text.replace("http://www.w3.org/2000/svg", "")
    outline = Outline(text)
    refers = [v for _, attributes in outline.elements for k, v in attributes.items() if k in ("src", "href", "srcset")]
    assert refers == ["data:,"]
    assert "url(" not in text
    assert "@import" not in text


def test_only_the_pages_own_script_may_run(facts: RunFacts):
    text = page(facts)
    (policy,) = [a["content"] for _, a in Outline(text).elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in (policy or "")
    assert re.search(r"script-src 'sha256-[\w+/=]+'$", policy or "")
    kinds = [attributes.get("type") for tag, attributes in Outline(text).elements if tag == "script"]
    assert kinds == ["application/json", None]


def test_the_facts_are_in_the_page(facts: RunFacts):
    (inside,) = re.findall(r'<script type="application/json" id="facts">(.*?)</script>', page(facts), flags=re.DOTALL)
    assert json.loads(inside) == facts.to_data()


def test_what_others_named_is_escaped_wherever_it_stands():
    text = page(hostile())
    assert "<script>alert" not in text
    assert "\x00" not in text
    assert "\u202e" not in text
    outline = Outline(text)
    shown = [said for said in outline.words if "alert(1)" in said]
    assert len(shown) > 10
    assert not any(name.startswith("on") for _, attributes in outline.elements for name in attributes)


def test_the_header_says_in_plain_words_what_happened():
    assert words.headline(an_eventful_run()) == (
        "Finished: all rounds done. 4 nodes, 3 rounds, accuracy 0.825 on the nodes' held-out data and 0.800 on the "
        "evaluator's own data; alone the nodes reach 0.500 to 0.750."
    )
    assert words.headline(never_begun()) == "Paused: too few nodes were heard. No round was done."
    assert words.headline(unmeasured()) == "Finished: all rounds done. 2 nodes, 3 rounds; nothing was measured."


def test_a_page_names_who_loses_who_was_refused_and_which_round_was_asked_again():
    said = " ".join(Outline(page(an_eventful_run())).words)
    assert "Better off alone: west (−0.050, 2 of its 40 held-out examples)." in said
    assert "its norm is 12, above the bound of 9 for this round" in said
    assert "Round 2, attempt 1: 1 of 4 nodes were heard in 'train', and the quorum is 2." in said


def test_a_large_run_leaves_the_figures_of_single_nodes_out_of_its_data(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lycia.reports.pages.MOST_EMBEDDED_BYTES", 1000)
    facts = an_eventful_run()
    (inside,) = re.findall(r'<script type="application/json" id="facts">(.*?)</script>', page(facts), flags=re.DOTALL)
    back = RunFacts.from_json(inside)
    assert [current.training.pooled for current in back.rounds] == [current.training.pooled for current in facts.rounds]
    assert all(not current.training.nodes and not current.asked for current in back.rounds)


def test_a_fleet_of_a_thousand_nodes_makes_a_page_that_can_be_sent():
    text = page(a_long_run(1000, 40, share=0.1))
    assert len(text.encode()) < 6_000_000
    assert Outline(text).open == []


def test_the_same_facts_make_the_same_page():
    assert page(an_eventful_run()) == page(an_eventful_run())


def test_a_state_or_a_part_that_this_version_does_not_know_is_shown_as_it_is():
    facts = an_eventful_run()
    plan = {**facts.plan, "aggregator": {"part": "house:Krum", "keep": 3}, "stages": [{"part": "Zip", "level": 0.5}]}
    said = " ".join(Outline(page(replace(facts, state="haunted", plan=plan))).words)
    assert "Haunted: all rounds done." in said
    assert "house:Krum(keep=3)" in said
    assert "Zip(level=0.5)" in said


def test_a_round_that_waited_out_its_deadline_does_not_flatten_the_others():
    phases = {"train": tuple((number, 3600.0 if number == 7 else 2.0) for number in range(1, 21))}
    drawn = bars.phases_chart(phases, 20, "phases")
    assert "1 h</text>" in drawn
    assert "4.0 s</text>" in drawn


def test_a_strip_of_many_rounds_shows_the_gravest_of_those_that_share_a_column():
    heard: dict[int, figures.State] = dict.fromkeys(range(1, 301), "heard")
    states = {"north": {**heard, 150: "quarantined"}}
    drawn = strips.strip(states, ["north"], [], 300, "strip")
    assert drawn.count('class="mark heard"') == 99 + 1  # 100 columns but one, and the legend
    assert drawn.count('class="mark quarantined"') == 1 + 1


def test_the_nodes_with_the_most_mishaps_come_first_and_those_without_any_not_at_all():
    states: dict[str, dict[int, figures.State]] = {
        "calm": {1: "heard"},
        "slow": {1: "late", 2: "late"},
        "bad": {1: "quarantined"},
    }
    assert strips.troubled(states) == ["bad", "slow"]


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (SGD(), "The old model plus the mean update."),
        (SGD(0.5), "The old model plus 0.5 times the mean update."),
        (
            SGD(0.5, momentum=0.9),
            "The old model plus 0.5 times a running sum of the mean updates with a momentum of 0.9 (FedAvgM).",
        ),
        (
            SGD(weight_decay=0.01),
            "The old model plus the mean update; each step also shrinks the model, by a weight decay of 0.01.",
        ),
    ],
)
def test_the_servers_step_is_told_in_words(server: SGD, said: str):
    plan = json.loads(a_plan(3, server=server).to_json())
    assert ("Next model", said) in words.plan_words(plan)


def test_a_plan_that_normalises_features_says_so():
    told = dict(words.plan_words(json.loads(a_plan(3, normalisation=Normalisation(nodes=50)).to_json())))
    assert told["Features"].startswith("Up to 50 nodes told the count, mean and variance of each")
    assert "Features" not in dict(words.plan_words(json.loads(a_plan(3).to_json())))

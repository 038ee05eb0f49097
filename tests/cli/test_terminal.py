"""What a person sees of a run: one line a round, and nothing of a node's making that moves more than its letters."""

import io
import json
import re
from typing import Any

import pytest
from rich.console import Console

from lycia.runtime.facts import RoundEnded, RoundMoved, RunBegan, RunEnded, fact_from_json
from lycia.terminal import FactLines, RunProgress, counted, figure_of, readable_bytes, round_line, troubles

RECORD: dict[str, Any] = {
    "round": 4, "attempt": 0, "purpose": "train", "survivors": ["north", "south"], "missed": "", "wall_s": 1.234,
    "evaluation": {"evaluate": {"pooled": {"loss": 0.5, "accuracy": 0.75}, "nodes": {"north": {}, "south": {}}}},
    "dropped": [], "late": [], "bytes_up": 1500, "bytes_down": 2_500_000,
}  # fmt: skip


def shown(*facts: object, terminal: bool = False, watches: bool = False) -> str:
    """What an observer prints."""
    console = Console(file=io.StringIO(), width=100, force_terminal=terminal, highlight=False)
    with RunProgress(console, watches=watches) as progress:
        for fact in facts:
            progress.notice(fact)
    return console.file.getvalue()


def test_a_run_outside_a_terminal_is_a_line_a_round():
    lines = shown(
        RunBegan("digits-1", 20, 0, 1, ""), RoundMoved(4, 0, "train", 1, 2), RoundEnded(RECORD),
        RunEnded("finished", "all rounds done", 20),
    ).splitlines()  # fmt: skip
    assert lines == [
        "run digits-1: 20 rounds, 1 node",
        "round   5  2 nodes heard  accuracy 0.7500  ↑ 1.5 kB ↓ 2.5 MB  1.23 s",
        "finished: all rounds done",
    ]


def test_traffic_adds_up_over_the_rounds():
    assert "↑ 3.0 kB ↓ 5.0 MB" in shown(RoundEnded(RECORD), RoundEnded(RECORD)).splitlines()[-1]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_missed_round_and_those_who_did_not_count_are_named(terminal: bool):
    record = RECORD | {
        "missed": "1 of 3 nodes were heard",
        "dropped": [{"node": "east", "kind": "declined", "reason": "it has no examples", "exchange": "train"}],
        "late": [{"node": "west", "reason": "it came when round 4 had gone on"}],
    }
    text = shown(RoundEnded(record), terminal=terminal)
    assert "missed, 1 of 3 nodes were heard" in text
    assert "round 5: east declined: it has no examples" in text
    assert "round 5: west late: it came when round 4 had gone on" in text


def test_in_a_healthy_round_those_who_were_late_are_a_number():
    late = [{"node": name, "reason": "it came when round 5 had gone on"} for name in ("east", "west")]
    lines = shown(RoundEnded(RECORD | {"late": late})).splitlines()
    assert len(lines) == 1
    assert "2 late" in lines[0]


def test_a_node_that_writes_markup_is_shown_as_it_writes():
    for reason in ("[/] [bold]not bold[/bold]", "[link=https://example.org]click[/link]", "[", "\\[", "100%"):
        dropped = [{"node": "east", "kind": "declined", "reason": reason, "exchange": "train"}]
        assert f"east declined: {reason}" in shown(RoundEnded(RECORD | {"dropped": dropped}))
        assert f"paused: {reason}" in shown(RunEnded("paused", reason, 3))


def a_past(rounds: int, **of_the_second: Any) -> list[RoundEnded]:
    """So many rounds that were over before anybody watched."""
    records = [RECORD | {"round": number} for number in range(rounds)]
    return [RoundEnded(record | (of_the_second if record["round"] == 1 else {})) for record in records]


def test_who_comes_late_is_told_of_many_rounds_in_a_few_lines():
    east = {"node": "east", "kind": "declined", "reason": "it is busy", "exchange": "train"}
    lines = shown(
        RunBegan("digits-1", 700, 0, 2, ""), *a_past(500, dropped=[east], missed="1 of 3 nodes were heard"),
        RoundMoved(500, 0, "train", 0, 2), RoundEnded(RECORD | {"round": 500}), watches=True,
    ).splitlines()  # fmt: skip
    assert lines[1] == "rounds 1 to 496 are done  accuracy 0.7500 → 0.7500  1 declined  1 attempt missed"
    assert [line.split()[1] for line in lines[2:]] == ["497", "498", "499", "500", "501"]
    assert "↑ 751.5 kB ↓ 1.3 GB" in lines[-1]  # all rounds together


def test_a_run_that_is_over_is_told_to_its_end():
    lines = shown(
        RunBegan("digits-1", 5, 0, 2, ""), *a_past(5), RunEnded("finished", "all rounds done", 5), watches=True
    )
    assert len(lines.splitlines()) == 1 + 5 + 1


def test_a_run_that_goes_on_after_a_pause_says_so():
    lines = shown(
        RunBegan("digits-1", 5, 0, 2, ""), RunEnded("paused", "by operator", 1), RoundMoved(1, 0, "train", 0, 2),
        RunEnded("stopped", "by operator", 1),
    ).splitlines()  # fmt: skip
    assert lines[1:] == ["paused: by operator", "the run goes on", "stopped: by operator"]


def test_the_gravest_troubles_come_first_and_hundreds_of_them_are_counted():
    dropped = [{"node": f"n{i}", "kind": "vanished", "reason": "gone", "exchange": "train"} for i in range(300)]
    bad = {"node": "bad", "kind": "quarantined", "reason": "its norm is 9", "exchange": "train"}
    lines = shown(RoundEnded(RECORD | {"dropped": [*dropped, bad]})).splitlines()
    assert lines[1] == "  round 5: bad quarantined: its norm is 9"
    assert lines[-1] == "  round 5: and 293 more"
    assert len(lines) == 10


def test_a_live_line_fits_into_80_columns_and_says_what_is_going_on():
    console = Console(file=io.StringIO(), width=80, force_terminal=True, highlight=False)
    with RunProgress(console, watches=True) as progress:
        for fact in (
            RunBegan("digits-1", 200, 0, 128, ""),
            *a_past(3),
            RoundMoved(3, 1, "evaluate by evaluator", 1, 2),
        ):
            progress.notice(fact)
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue()).rstrip().splitlines()[-1].rstrip()
    assert last == "round ━━━━━━━━   3/200 evaluator 1 of 2, attempt 2 accuracy 0.7500 eta 4:03"
    assert len(last) <= 80


def test_those_who_were_asked_and_not_heard_are_counted():
    record = RECORD | {"asked": {"train": ["east", "north", "south"], "evaluate": ["north", "south"]}}
    assert round_line(record, "", "") == "round   5  2 of 3 nodes heard  1.23 s"


def test_a_terminal_has_its_cursor_again_whatever_happens():
    hidden, visible = "\x1b[?25l", "\x1b[?25h"
    text = shown(RunBegan("digits-1", 20, 0, 4, ""), RoundEnded(RECORD), terminal=True)
    assert text.rindex(visible) > text.rindex(hidden)


def test_the_figure_of_a_round_is_the_one_that_people_look_for():
    assert figure_of(RECORD) == "accuracy 0.7500"
    assert figure_of(RECORD, "loss") == "loss 0.5000"
    lab = {"evaluate by evaluator": {"pooled": {"recall": 0.25}, "nodes": {"lab": {}}}}
    assert figure_of(RECORD | {"evaluation": RECORD["evaluation"] | lab}) == "recall 0.2500"
    assert figure_of(RECORD | {"evaluation": {}}) == ""
    assert figure_of(RECORD | {"evaluation": {"evaluate": {"pooled": {}, "nodes": {}}}}) == ""


def test_the_epilogue_says_what_it_is():
    record = RECORD | {
        "purpose": "epilogue",
        "survivors": [],
        "evaluation": {"baseline": {"pooled": {}, "nodes": {"a": {}}}},
    }
    assert round_line(record, "", "") == "local-only baseline  1 node heard  1.23 s"
    assert troubles(record) == []


def test_facts_as_lines_are_json_that_says_the_same(capsys: pytest.CaptureFixture[str]):
    facts = [RunBegan("digits-1", 20, 0, 4, "accuracy"), RoundEnded(RECORD), RunEnded("stopped", "so", 2)]
    for fact in facts:
        FactLines().notice(fact)
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["fact"] for line in lines] == ["RunBegan", "RoundEnded", "RunEnded"]
    assert [fact_from_json(line) for line in lines] == facts


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_234_000, "1.2 MB"), (5e9, "5.0 GB"), (5e12, "5000.0 GB")],
)
def test_bytes_are_told_as_people_say_them(count: float, text: str):
    assert readable_bytes(count) == text


def test_one_thing_is_not_several():
    assert [counted(number, "node") for number in (0, 1, 2)] == ["0 nodes", "1 node", "2 nodes"]

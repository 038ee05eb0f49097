"""`lycia data` shows who holds what, and a node that brings bad data is told all that is wrong before it joins."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lycia.deployment.identity import Invitation

Told = tuple[int, str, str]
APP = """
from lycia import *
from lycia.data import Examples, evenly

patients = Schema(
    columns=(Column("age", unit="years", bounds=(0, 120)), Column("cholesterol", unit="mg/dl", bounds=(50, 700))),
    labels=("ill", "well"), label="outcome",
)
examples = Examples([[30.0, 200.0]] * 600, ["ill", "well", "well"] * 200)
app = App(
    name="patients", trainer=NumpyTrainer(), schema=patients,
    plan=Plan(rounds=1, selector=Everyone(), client=FedAvg(), aggregator=UniformMean(), server=SGD()),
    population={f"site-{place}": NodeData(part) for place, part in enumerate(evenly(examples, 50, Key(0)))},
)
"""
GOOD = "id,outcome,cholesterol (mg/dL),age\n1,ill,220,30\n2,well,180,41\n3,well,201,55\n"
BAD = "id,outcome,cholesterol (mmol/l)\n1,ill,5.2\n2,dead,6.1\n3,well,4.9\n"
WRONG_UNIT = GOOD.replace(" (mg/dL)", "").replace("220", "5.7").replace("180", "4.6").replace("201", "5.2")
DIFFERENCES = ("lacks the column age", "'cholesterol' in mmol/l, where the schema says mg/dl", "not in the label set")


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """An app for tables of patients."""
    path = tmp_path / "app.py"
    path.write_text(APP)
    return path


def test_the_population_is_shown_as_a_table_and_on_a_page(app: Path, lycia: Callable[..., Told], tmp_path: Path):
    status, out, _ = lycia("data", str(app), "-o", "page.html")
    assert status == 0
    assert "site-0 " in out
    assert "site-49" not in out  # the table has forty, the page all
    assert "50 nodes: 600 examples to train on, 0 held out." in out
    assert "page: page.html" in out
    assert "site-49" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_programs_get_all_of_it(app: Path, lycia: Callable[..., Told]):
    said = json.loads(lycia("data", str(app), "--json")[1])
    assert (said["nodes"], said["labels"], len(said["shown"])) == (50, ["ill", "well"], 50)
    assert [sum(node["counts"]) for node in said["shown"]] == [12] * 50


def test_a_file_can_be_looked_at_before_joining(app: Path, lycia: Callable[..., Told], tmp_path: Path):
    (tmp_path / "good.csv").write_text(GOOD)
    status, out, err = lycia("data", str(app), "--data", "good.csv")
    assert status == 0
    assert "1 node: 2 examples to train on, 1 held out." in out
    assert "left out: 'id'" in err
    assert "1 of 3 examples are held out" in err


def test_an_app_without_a_population_shows_what_a_node_would_bring(
    app: Path, lycia: Callable[..., Told], tmp_path: Path
):
    app.write_text(APP.replace("    population=", "    name='wards', evaluator=").replace('name="patients", ', ""))
    status, _, err = lycia("data", str(app))
    assert status == 1
    assert "has no population" in err
    assert "--data DATA" in err
    (tmp_path / "good.csv").write_text(GOOD)
    assert lycia("data", str(app), "--data", "good.csv")[0] == 0


def test_a_loader_that_ends_the_program_is_told_as_an_error(app: Path, lycia: Callable[..., Told], tmp_path: Path):
    (tmp_path / "loader.py").write_text("def load():\n    raise SystemExit(3)\n")
    status, _, err = lycia("data", str(app), "--data", "loader.py:load")
    assert status == 1
    assert "load() in loader.py failed: SystemExit: 3" in err


@pytest.mark.parametrize("command", ["data", "join"])
@pytest.mark.parametrize(
    ("table", "differences"),
    [(BAD, DIFFERENCES), (WRONG_UNIT, ("outside 50 to 700 mg/dl", "may be in another unit than mg/dl"))],
)
def test_bad_data_is_told_with_all_its_differences(
    app: Path, tmp_path: Path, command: str, table: str, differences: tuple[str, ...]
):
    (tmp_path / "bad.csv").write_text(table)
    invitation = Invitation("https://127.0.0.1:9", "0" * 64, "token", "west", "node").to_text()
    arguments = [str(app)] if command == "data" else [invitation, "--app", str(app), "--home", str(tmp_path / "node")]
    done = subprocess.run(
        [sys.executable, "-m", "lycia.cli", command, *arguments, "--data", str(tmp_path / "bad.csv")],
        capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "LYCIA_HOME": str(tmp_path / "home"), "COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for difference in (*differences, "\n  why: ", "\n  do:  "):
        assert difference in done.stderr
    assert not (tmp_path / "node" / "membership.json").exists()

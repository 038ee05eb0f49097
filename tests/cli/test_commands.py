"""The commands as a newcomer meets them: what they print, under which names runs are found, and how they end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lycia import config
from lycia.runtime.apps import load_app, run_name
from tests.deployment.conftest import APP as SMALL
from tests.deployment.in_process import Coordinator

TWO_APPS = """
from dataclasses import replace
from tests.deployment.small_app import app as first

second = replace(first, name="b")
"""
APP = """
from dataclasses import replace
from lycia import Evaluation
from tests.deployment.small_app import app as small

some = {name: small.population[name] for name in ("node-0", "node-1", "node-2")}
app = replace(small, population=some, name="an app, called so", plan=replace(small.plan, rounds=2))
"""

Told = tuple[int, str, str]


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A small app in a file, with a name that no folder would have."""
    path = tmp_path / "app.py"
    path.write_text(APP)
    return path


def error_of(told: Told) -> dict[str, str]:
    """The error that a program is told with --json: one object on one line, with all that a person is told."""
    status, out, err = told
    assert status == 1
    assert err == ""
    (line,) = out.splitlines()
    error: dict[str, str] = json.loads(line)["error"]
    assert error.keys() == {"kind", "what", "why", "do"}
    assert all(error.values())
    return error


# ------------------------------------------------------------------------------------------------------------ bad input

NEEDS_A_COORDINATOR = [
    ["runs"], ["nodes"], ["invite", "north"], ["revoke", "north"], ["watch", "latest"], ["report", "latest"],
    ["model", "latest", "-o", "x"],
]  # fmt: skip


@pytest.mark.parametrize("command", NEEDS_A_COORDINATOR, ids=lambda command: command[0])
def test_without_a_coordinator_a_command_says_how_to_get_one(command: list[str], lycia: Callable[..., Told]):
    error = error_of(lycia(*command, "--json"))
    assert error["kind"] == "AccessError"
    assert "no coordinator is known in" in error["what"]
    assert "lycia serve" in error["do"]
    assert "--home" in error["do"]
    status, out, err = lycia(*command)
    assert (status, out) == (1, "")
    assert err.startswith("error: no coordinator is known in")
    assert "\n  why: " in err
    assert "\n  do:  " in err


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "there is no app file"),
        ("nonsense = = 1", "does not import: SyntaxError"),
        ("import sys; sys.exit(0)", "does not import: SystemExit"),
        ("x = 1", "has no app"),
        ("def app(): ...", "an `app` that is a function"),
        (TWO_APPS, "several apps: first, second"),
    ],
)
def test_a_file_that_is_no_app_is_told_in_words(
    content: str | None, complaint: str, lycia: Callable[..., Told], tmp_path: Path
):
    path = tmp_path / "file.py"
    if content is not None:
        path.write_text(content)
    for command in ("simulate", "start"):
        error = error_of(lycia(command, str(path), "--json"))
        assert error["kind"] == "AppError"
        assert complaint in error["what"]


def test_an_app_file_may_change_the_path_and_two_files_of_one_name_do_not_meet(tmp_path: Path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "names.py").write_text(f"name = '{folder}'")
        (tmp_path / folder / "app.py").write_text("import sys; sys.path = list(sys.path[1:])\n" + APP)
    before = list(sys.path)
    assert load_app(tmp_path / "a" / "app.py") is not load_app(tmp_path / "b" / "app.py")
    sys.path[:] = before


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("digits", "digits"),
        ("with space", "with-space"),
        ("../up/..", "up"),
        ("", "app"),
        ("ü", "app"),
        ("a" * 99, "a" * 60),
    ],
)
def test_runs_of_an_app_bear_its_name_as_far_as_a_path_can(name: str, folder: str):
    assert run_name(name) == folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["invite", "a b"], ["invite", "north", "--url", "coordinator:8443"], ["serve", "--url", "http://plain"],
        ["invite", "north", "--days", "99999"],
    ],
)  # fmt: skip
def test_what_cannot_be_asked_of_a_coordinator_is_told_before_it_is_asked(
    arguments: list[str], lycia: Callable[..., Told]
):
    error = error_of(lycia(*arguments, "--json"))
    assert "cannot be asked of a coordinator" in error["what"]


def test_a_file_that_cannot_be_written_is_told_in_words_and_not_as_a_traceback(
    lycia: Callable[..., Told], app: Path, tmp_path: Path
):
    lycia("simulate", str(app), "--json")
    for output in (tmp_path / "no such folder" / "model", tmp_path):
        error = error_of(lycia("model", "latest", "-o", str(output), "--json"))
        assert str(output) in error["what"]
    (tmp_path / "file").touch()
    error_of(lycia("report", "latest", "-o", str(tmp_path / "file"), "--json"))
    error_of(lycia("simulate", str(app), "--directory", str(tmp_path / "file"), "--json"))


# ------------------------------------------------------------------------------------------------------- simulated runs


def test_a_simulation_ends_with_one_line_for_programs(lycia: Callable[..., Told], app: Path):
    status, out, err = lycia("simulate", str(app), "--rounds", "3", "--seed", "7", "--json")
    assert status == 0
    said = json.loads(out.splitlines()[-1])
    assert len(out.splitlines()) == 1
    assert said["rounds"] == 3
    assert said["state"] == "finished"
    assert 0 <= said["final"]["accuracy"] <= 1
    assert Path(said["report"]).is_file()
    assert Path(said["model"]).is_file()
    assert "round   3" in err


def test_a_run_is_found_by_the_id_that_was_printed_by_its_beginning_and_by_its_folder(
    lycia: Callable[..., Told], app: Path, tmp_path: Path
):
    _, out, _ = lycia("simulate", str(app))
    run = out.split("run ")[1].split(":")[0]
    assert run.startswith("an-app-called-so-")
    (folder,) = config.simulated_runs().iterdir()
    for name in (run, run[:-2], "latest", str(folder)):
        status, out, _ = lycia("report", name, "--json", "-o", str(tmp_path / "report"))
        assert status == 0
        assert json.loads(out)["id"] == run
        status, out, _ = lycia("model", name, "-o", str(tmp_path / "model"), "--json")
        assert (status, json.loads(out)["model"]) == (0, str(tmp_path / "model"))
    assert "no coordinator is known" in error_of(lycia("report", "no-such-run", "--json"))["what"]


def test_an_ambiguous_beginning_names_the_runs_that_it_may_be(lycia: Callable[..., Told], app: Path):
    for _ in range(2):
        lycia("simulate", str(app), "--rounds", "1")
    runs = sorted(path.name for path in config.simulated_runs().iterdir())
    what = error_of(lycia("report", "an-app", "--json"))["what"]
    assert all(run in what for run in runs)


def test_a_round_that_is_not_there_and_a_round_that_cannot_be(lycia: Callable[..., Told], app: Path):
    lycia("simulate", str(app))
    error = error_of(lycia("model", "latest", "--round", "99", "-o", "x", "--json"))
    assert error["kind"] == "NotFound"
    assert "0, 1, 2" in error["why"]
    assert lycia("model", "latest", "--round", "-1", "-o", "x")[0] == 2
    assert lycia("model", "latest", "--round", "0", "-o", "x")[0] == 0


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_an_interrupted_simulation_says_how_it_goes_on(app: Path, tmp_path: Path):
    command = [sys.executable, "-m", "lycia.cli", "simulate", str(app), "--rounds", "100000"]
    environment = {
        **os.environ, "LYCIA_HOME": str(tmp_path / "home"), "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as running:  # fmt: skip
        assert running.stdout is not None
        next(line for line in running.stdout if line.startswith("round   2"))
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    (folder,) = (tmp_path / "home" / "runs").iterdir()
    assert "Traceback" not in err
    assert f"the run is kept in {folder}" in err
    assert f"lycia simulate {app} --rounds 100000 --directory {folder}" in err


# --------------------------------------------------------------------------------------------------- with a coordinator


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    """One that the commands find without being told."""
    with Coordinator(tmp_path / "home" / "coordinator") as running:
        yield running


def test_an_operator_finds_a_coordinator_from_any_folder_and_by_its_url(
    coordinator: Coordinator, lycia: Callable[..., Told], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for folder in (tmp_path, tmp_path / "home"):
        monkeypatch.chdir(folder)
        home = os.path.relpath(coordinator.home, folder)
        for more in ([], ["--home", home], ["--on", coordinator.url], ["--on", f"{coordinator.url}/"]):
            status, out, _ = lycia("runs", "--json", *more)
            assert (status, json.loads(out)) == (0, {"runs": []})
    assert "is for" in error_of(lycia("runs", "--on", "https://elsewhere:1", "--json"))["what"]
    (coordinator.home / "operator.pem").rename(tmp_path / "aside")
    assert "operator.pem is gone" in error_of(lycia("runs", "--json"))["what"]
    assert not (coordinator.home / "operator.pem").exists()
    (tmp_path / "aside").rename(coordinator.home / "operator.pem")


def test_a_name_that_leads_elsewhere_is_an_unknown_name(coordinator: Coordinator, lycia: Callable[..., Told]):
    for name in ("../nodes", "a/b", "?", "%2e%2e", "#", "a b"):
        for command in (["watch", name], ["report", name], ["model", name, "-o", "x"], ["revoke", name]):
            assert error_of(lycia(*command, "--json"))["kind"] == "NotFound"


def test_a_folder_that_was_named_is_where_the_run_is_looked_for(
    coordinator: Coordinator, lycia: Callable[..., Told], app: Path
):
    lycia("simulate", str(app))
    error = error_of(lycia("report", "latest", "--home", str(coordinator.home), "--json"))
    assert error["kind"] == "NotFound"


def test_a_run_that_waits_for_nodes_says_so(coordinator: Coordinator, lycia: Callable[..., Told], app: Path):
    status, out, _ = lycia("start", str(app))
    assert status == 0
    assert "it waits for nodes: 0 of 2 are there" in out
    run = json.loads(lycia("runs", "--json")[1])["runs"][0]["id"]
    status, out, _ = lycia("runs")
    assert run in out  # in one piece, so that it can be copied, where other columns are folded
    assert "called so" in out
    assert "running" in out


def test_a_plan_with_a_part_that_is_not_installed_is_not_sent(
    coordinator: Coordinator, lycia: Callable[..., Told], tmp_path: Path
):
    path = tmp_path / "mine.py"
    path.write_text(
        APP + "from dataclasses import dataclass\nfrom lycia import Uniform\n"
        "@dataclass(frozen=True)\nclass Mine(Uniform): pass\n"
        "app = replace(app, plan=replace(app.plan, selector=Mine(cohort_size=2)))\n"
    )
    assert lycia("simulate", str(path))[0] == 0  # any object may stand in a simulated plan
    error = error_of(lycia("start", str(path), "--json"))
    assert error["kind"] == "PlanError"
    assert "Mine', which is not installed" in error["what"]
    assert json.loads(lycia("runs", "--json")[1]) == {"runs": []}


def test_joining_speaks_json_as_well(coordinator: Coordinator, lycia: Callable[..., Told], app: Path):
    _, out, _ = lycia("invite", "north", "--json")
    joining = lycia("join", json.loads(out)["invitation"], "--app", str(SMALL), "--data", "nobody", "--json")
    lines = [json.loads(line) for line in joining[1].splitlines()]
    assert lines[0] == {"node": "north", "says": "loading the app and the data"}
    assert "nobody" in lines[-1]["error"]["what"]

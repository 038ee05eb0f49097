"""Bad input at the command line: one error that says what, why and what to do, and nothing lost."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lycia import NumpyTrainer, Schema
from lycia.core.keys import Key
from lycia.deployment.local import Federation
from lycia.deployment.operator import follow
from lycia.deployment.starting import start_run
from lycia.runtime.apps import load_app
from tests.deployment.conftest import APP


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A coordinator for all tests of this page."""
    with Federation(tmp_path_factory.mktemp("home"), APP, ["--silence", "5"]) as running:
        yield running


def lycia(federation: Federation, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, in the operator's environment."""
    command = [sys.executable, "-m", "lycia.cli", *arguments]
    environment = {**os.environ, "LYCIA_HOME": str(federation.home)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)


def told(done: subprocess.CompletedProcess[str]) -> str:
    """What a person is told, once it is known to be an error in three lines and not a traceback."""
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    what, why, do = (done.stderr.index(word) for word in ("error: ", "\n  why: ", "\n  do:  "))
    assert what < why < do
    return done.stderr


def invitation(federation: Federation, name: str) -> str:
    """A good one."""
    return str(json.loads(lycia(federation, "invite", name, "--json").stdout)["invitation"])


def try_to_join(federation: Federation, text: str, data: str, home: Path) -> subprocess.CompletedProcess[str]:
    """A node that ends by itself, since something is wrong."""
    return lycia(federation, "join", text, "--app", str(APP), "--data", data, "--home", str(home))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("import nothing_of_that_name", "does not import: ModuleNotFoundError"),
        ("app = 1", "no App"),
        (
            "from lycia import *\n"
            "Plan(rounds=1, selector=Poisson(expected_cohort=4), client=FedAvg(), aggregator=UniformMean(),\n"
            "     server=SGD(), rules=RoundRules(replacement=True))",
            "Poisson cannot be used with replacement",
        ),
    ],
)
def test_an_app_file_that_is_no_app_or_holds_a_misfit(
    federation: Federation, tmp_path: Path, content: str, complaint: str
):
    app = tmp_path / "app.py"
    app.write_text(content)
    assert complaint in told(lycia(federation, "simulate", str(app)))
    assert complaint in told(lycia(federation, "start", str(app)))


def test_what_the_apps_own_code_raises_is_told_with_its_line(federation: Federation, tmp_path: Path):
    app = tmp_path / "app.py"
    app.write_text(
        f"{APP.read_text()}\nfrom dataclasses import dataclass, replace\n@dataclass(frozen=True)\n"
        "class Failing(NumpyTrainer):\n    def train(self, task):\n        return {}['lost']\n"
        "app = replace(app, trainer=Failing())\n"
    )
    assert f"KeyError: 'lost' ({app}, line" in told(lycia(federation, "simulate", str(app)))


def test_a_missing_app_file(federation: Federation):
    assert "there is no app file" in told(lycia(federation, "simulate", "nowhere.py"))


def test_an_invitation_that_was_cut_off_or_never_given_out(federation: Federation, tmp_path: Path):
    good = invitation(federation, "cut")
    assert "not an invitation" in told(try_to_join(federation, good[:-9], "node-0", tmp_path))
    assert "not an invitation" in told(try_to_join(federation, "hello", "node-0", tmp_path))


def test_an_invitation_is_good_for_one_key(federation: Federation, tmp_path: Path):
    good = invitation(federation, "once")
    federation.join("once", good, "node-0", tmp_path / "first")
    federation.wait_nodes(1)
    federation.end("once")
    assert lycia(federation, "revoke", "once").returncode == 0
    assert "was used before" in told(try_to_join(federation, good, "node-0", tmp_path / "second"))


def test_data_that_misses_the_schema_costs_no_invitation(federation: Federation, tmp_path: Path):
    good = invitation(federation, "strange")
    assert "3 columns" in told(try_to_join(federation, good, "strange", tmp_path))
    assert "nobody" in told(try_to_join(federation, good, "nobody", tmp_path))
    federation.join("strange", good, "node-1", tmp_path)
    federation.wait_nodes(1)
    federation.end("strange")
    assert lycia(federation, "revoke", "strange").returncode == 0


def test_a_node_without_examples_declines_by_name_and_the_run_goes_on(federation: Federation):
    for name, data in (("full-1", "node-0"), ("full-2", "node-1"), ("empty", "empty")):
        federation.add_node(name, data)
    federation.wait_nodes(3)
    run = start_run(federation.client, load_app(APP))
    follow(federation.client, run, [])
    facts = federation.client.get(f"/v1/runs/{run}")
    assert facts["state"] == "finished"
    for record in (record for record in facts["records"] if record["purpose"] == "train"):
        assert record["survivors"] == ["full-1", "full-2"]
        (empty,) = (drop for drop in record["dropped"] if (drop["exchange"], drop["node"]) == ("train", "empty"))
        assert empty["kind"] == "declined"
        assert "example" in empty["reason"]


@pytest.mark.parametrize("command", [["watch"], ["report"], ["model", "-o", "here"]])
def test_an_unknown_run(federation: Federation, command: list[str]):
    done = lycia(federation, command[0], "no-such-run", *command[1:], "--json")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "NotFound"
    assert "no-such-run" in error["what"]
    assert error["why"]
    assert error["do"]


def test_a_port_in_use(federation: Federation, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        complaint = told(lycia(federation, "serve", "--home", str(tmp_path), "--port", str(port)))
    assert f"cannot listen on 127.0.0.1:{port}" in complaint


def test_a_model_of_another_layout_or_no_model_at_all(federation: Federation, tmp_path: Path):
    layout, model = NumpyTrainer().first_model(Schema(shape=(4,), labels=("a", "b")), Key(0))
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"".join(layout.file(model)))
    assert "is not a model of this app" in told(lycia(federation, "start", str(APP), "--from", str(other)))
    other.write_bytes(b"something else")
    assert "not a sound safetensors file" in told(lycia(federation, "start", str(APP), "--from", str(other)))
    assert "there is no checkpoint" in told(lycia(federation, "start", str(APP), "--from", str(tmp_path / "none")))


def test_no_coordinator_in_the_home_folder(federation: Federation, tmp_path: Path):
    assert "no coordinator is known" in told(lycia(federation, "nodes", "--home", str(tmp_path)))

"""Logs: every line about a run says which and in which round, and none says what is nobody's business."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lycia.deployment.local import Federation
from lycia.deployment.operator import follow
from lycia.deployment.starting import start_run
from lycia.deployment.wire import RollbackMessage
from lycia.runtime.apps import load_app
from tests.deployment.conftest import APP


def lines_of(federation: Federation, name: str) -> list[dict[str, Any]]:
    """The log of a process, each line of which is JSON."""
    log = (federation.home / "logs" / f"{name}.log").read_text(encoding="utf-8")
    return [json.loads(line) for line in log.splitlines()]


def test_every_line_about_a_run_says_which_and_in_which_round(tmp_path: Path):
    # Given a run that is paused, resumed, finished, and rolled back; logs go to files, so they are JSON
    with Federation(tmp_path / "home", APP) as federation:
        for name in ("node-0", "node-1"):
            federation.add_node(name, name)
        federation.wait_nodes(2)
        run = start_run(federation.client, load_app(APP))
        for turn in ("pause", "resume"):
            federation.client.post(f"/v1/runs/{run}/{turn}")
        follow(federation.client, run, [])
        federation.client.post(f"/v1/runs/{run}/rollback", RollbackMessage(round=1))
        federation.client.post(f"/v1/runs/{run}/stop")
        bearer = federation.client._headers(True)["authorization"].removeprefix("Bearer ")
        assert federation.drain("coordinator") == 0
        lines = lines_of(federation, "coordinator")
        notes = lines_of(federation, "node-0")
    # Then each line says when, how grave, and what; and of a run which and in which round
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
    told = [line for line in lines if "run" in line["event"] or "round" in line["event"]]
    assert all(line["run"] == run and isinstance(line["round"], int) for line in told), told
    events = {line["event"] for line in lines}
    assert {
        "node enrolled", "run begins", "round begins", "round ends", "run ends", "run is paused", "run is resumed",
        "run is rolled back", "run is stopped", "draining", "drained",
    } <= events  # fmt: skip
    assert [line["round"] for line in lines if line["event"] == "round ends"] == [1, 2, 3]
    assert {line["node"] for line in notes} == {"node-0"}
    # and neither keys nor bearers nor invitations are in any log
    secrets = [bearer, bearer.rpartition("|")[2], (federation.coordinator_home / "session.secret").read_bytes().hex()]
    for name in ("coordinator", "node-0"):
        log = (federation.home / "logs" / f"{name}.log").read_text(encoding="utf-8")
        assert not any(secret in log for secret in secrets)
        assert not any(word in log.lower() for word in ("bearer", "lycia1.", "private key"))


def run_program(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr


PROGRAM = """
import logging, structlog
from lycia.deployment.logs import write_logs
write_logs({how!r})
password = "sesame"
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger().exception("it failed", run="a-run")
logging.getLogger("uvicorn.error").warning("of a library")
"""


def test_a_traceback_is_frames_and_no_values():
    said = [json.loads(line) for line in run_program(PROGRAM.format(how="json")).splitlines()]
    assert (said[0]["event"], said[0]["run"], said[0]["level"]) == ("it failed", "a-run", "error")
    assert "ZeroDivisionError" in said[0]["exception"]
    assert (said[1]["event"], said[1]["level"]) == ("of a library", "warning")
    text = run_program(PROGRAM.format(how="text"))
    assert "ZeroDivisionError" in text
    for log in (text, json.dumps(said)):
        assert "sesame" not in log


@pytest.mark.parametrize(("asked", "is_terminal", "found"), [
    (None, True, "text"), (None, False, "json"), ("json", True, "json"), ("text", False, "text"),
])  # fmt: skip
def test_logs_are_text_on_a_terminal_and_json_elsewhere_unless_asked(
    asked: str | None, is_terminal: bool, found: str, monkeypatch: pytest.MonkeyPatch
):
    from lycia.deployment.logs import format_for

    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal, raising=False)
    assert format_for(asked) == found


def test_a_format_that_there_is_not_is_refused():
    done = subprocess.run(
        [sys.executable, "-m", "lycia.cli", "serve", "--log-format", "xml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "xml" in done.stderr

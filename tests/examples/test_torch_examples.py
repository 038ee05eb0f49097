"""A plain PyTorch script becomes a federated app in at most 15 changed lines, and both do what they say."""

import ast
import os
import subprocess
import sys
from difflib import SequenceMatcher
from pathlib import Path

from lycia import simulate
from lycia.core.plan import App
from lycia.runtime.apps import load_app

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPT, APP = EXAMPLES / "torch_script.py", EXAMPLES / "torch_app.py"


def code_of(path: Path) -> list[str]:
    """The lines of a file, without its docstring and without empty ones."""
    text = path.read_text(encoding="utf-8")
    docstring = ast.parse(text).body[0]
    return [line for line in text.splitlines()[docstring.end_lineno :] if line.strip()]


def federated() -> App:
    """The app that the script became."""
    return load_app(APP)


def run(*command: str, cwd: Path, **environment: str) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        command, cwd=cwd, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_script_becomes_a_federated_app_in_at_most_15_changed_lines():
    # Every place that differs counts with the longer of its two sides: the lines that somebody had to write there, or
    # had to delete (the loop, the measurement) if those are more. Docstrings and empty lines do not count.
    before, after = code_of(SCRIPT), code_of(APP)
    places = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    changed = [max(before[a:b], after[c:d], key=len) for kind, a, b, c, d in places if kind != "equal"]
    assert sum(map(len, changed)) <= 15, changed
    assert max(map(len, after)) <= 120  # and no line is two


def test_the_script_learns_the_digits_in_one_place(tmp_path: Path):
    said = run(sys.executable, str(SCRIPT), cwd=tmp_path)
    assert float(said.split()[-1]) > 0.95


def test_the_app_learns_them_where_they_are():
    result = simulate(federated())
    assert result.state == "finished"
    assert result.metrics()[-1][1]["accuracy"] > 0.95


def test_the_command_line_simulates_the_app(tmp_path: Path):
    said = run(sys.executable, "-c", "from lycia.cli import main; main()", "simulate", str(APP), "--json", cwd=tmp_path)
    assert '"finished"' in said


def test_a_nodes_trainer_process_loads_the_app_and_its_share(tmp_path: Path):
    said = run(sys.executable, "-m", "lycia.deployment.node.trainer", "rhodes", str(APP), "site 2", cwd=tmp_path)
    assert '{"ready": {"examples": 337.0, "held_out": 112.0}}' in said

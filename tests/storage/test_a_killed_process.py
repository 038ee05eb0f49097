"""A process that is really killed, at any moment: what it acknowledged is there for the next one."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.storage.appender import STORY, place_of
from tests.storage.material import in_bits, known_after, what_it_knows

ROOT = Path(__file__).parents[2]
LIVES = 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the lives of the process are forks of one")
@pytest.mark.parametrize("kept", ["folder", "sqlite", "postgres"])
def test_nothing_that_was_acknowledged_is_missing_after_a_kill(
    tmp_path: Path, kept: str, request: pytest.FixtureRequest
):
    kind = {"folder": "folder", "sqlite": ""}.get(kept)
    if kind is None:
        kind = request.getfixturevalue("postgres").fresh()
    chance = random.Random(kept)
    acknowledged = 0
    command = [sys.executable, "-m", "tests.storage.appender", kind, str(tmp_path / "run")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(LIVES):
            process.stdin.write("live\n")
            process.stdin.flush()
            _, child, found = process.stdout.readline().split()
            assert acknowledged <= int(found) <= acknowledged + 1
            acknowledged = int(found)
            for _ in range(chance.randrange(12)):
                acknowledged = int(process.stdout.readline().split()[1])
            os.kill(int(child), signal.SIGKILL)
            while (line := process.stdout.readline()) != "ended\n":
                acknowledged = int(line.split()[1])
        process.stdin.close()
    place = place_of(kind, str(tmp_path / "run"))
    found_at_last = in_bits(what_it_knows(place))
    place.stop()
    assert found_at_last in [in_bits(known_after(STORY[:calls])) for calls in (acknowledged, acknowledged + 1)]
    assert acknowledged > LIVES

"""`lycia demo`: one command, a whole federation, and nothing left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil


def test_the_demo_trains_survives_a_kill_and_says_where_its_report_is(tmp_path: Path):
    # When a newcomer runs it
    command = [sys.executable, "-m", "lycia.cli", "demo", "--json", "--directory", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    # Then its last line says how it went
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["final"]["accuracy"] > 0.93
    assert said["rounds"] == 20
    assert min(said["bytes_up"], said["bytes_down"]) > 0
    # one node was killed, and every round still heard all four
    assert "is killed (SIGKILL)" in done.stderr
    report = json.loads(Path(said["report"]).with_suffix(".json").read_text())
    records = [record for record in report["records"] if record["purpose"] == "train"]
    assert [len(record["survivors"]) for record in records] == [4] * 20
    # alone no node comes near
    (alone,) = (
        record["evaluation"]["baseline"]["nodes"] for record in report["records"] if record["purpose"] == "epilogue"
    )
    assert max(figures["accuracy"] for figures in alone.values()) < 0.85
    # and no process of it is left
    assert not [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(tmp_path) in " ".join(process.info["cmdline"] or [])
    ]

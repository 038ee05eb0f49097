"""Every script in bench/ keeps the convention that the figures on its page are taken and checked by."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"
FIGURES = {
    "durable_round": {
        "round_10mb_over_limit",
        "round_10mb_s",
        "limit_10mb_s",
        "coordinator_rss_models",
        "node_rss_models",
    },
    "large_model": {"coordinator_anon_gb", "node_anon_gb", "round_s", "gb_s", "model_gb"},
    "memory": {"aggregate_50x100mb_models", "aggregate_gb_s", "model_mb"},
    "round_overhead": {"fixed_cost_s", "round_100mb_s", "cold_start_s"},
}

WITHOUT_PEERS = {"large_model"}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("name", FIGURES)
def test_a_quick_run_closes_with_its_figures_as_one_line_of_json(name: str):
    run = subprocess.run(
        [sys.executable, str(BENCH / f"{name}.py"), "--quick"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout.splitlines()[-1])
    assert said["bench"] == name
    assert said["figures"].keys() == FIGURES[name]
    assert all(value > 0 for value in said["figures"].values())
    assert said["skipped"] == ([] if name in WITHOUT_PEERS else ["flower"])

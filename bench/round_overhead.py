"""What a round costs when training costs nothing: a coordinator and four node processes on this machine, over TLS.

Each node adds a constant to the model. Nothing is evaluated. A round's time is that between its end and the end of the
round before it, as the coordinator wrote both down.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from constant_app import NODES, constant_app
from convention import BENCH, Figure, tell, wanted
from peers.flower import Flower

from lycia.deployment.local import Federation
from lycia.deployment.operator import follow
from lycia.deployment.starting import start_run

_APP = """import sys

sys.path.insert(0, {bench!r})
from constant_app import constant_app

app = constant_app({floats}, {rounds})
"""
_SMALL, _LARGE = 1024 // 4, 100_000_000 // 4  # float32s
_WARM_UP = 5


def main() -> None:
    """Measure, and say so."""
    asked = wanted(__doc__)
    repeats, small_rounds, large_rounds = (1, 30, 2) if asked.quick else (3, 60, 8)
    peer = Flower.installed(asked.peers) if asked.peers else None
    small: list[list[float]] = []
    large: list[list[float]] = []
    their_small: list[list[float]] = []
    their_large: list[list[float]] = []
    with tempfile.TemporaryDirectory(prefix="lycia-bench-rounds-") as scratch:
        for turn in range(repeats):  # one after the other, so that a busy machine is busy for both
            home = Path(scratch) / str(turn)
            small.append(rounds_of(home / "small", _SMALL, _WARM_UP + small_rounds))
            if peer:
                their_small.append(peer.rounds(home / "flower small", nodes=len(NODES), floats=_SMALL, rounds=6))
        large.append(rounds_of(Path(scratch) / "large", _LARGE, 1 + large_rounds))
        if peer:
            their_large.append(peer.rounds(Path(scratch) / "flower large", nodes=len(NODES), floats=_LARGE, rounds=4))
    figures = {
        "fixed_cost_s": Figure(
            between(small, _WARM_UP),
            f"1 KB model: median of {repeats} x {small_rounds} rounds after {_WARM_UP}",
            "≤ 0.05",
        ),
        "round_100mb_s": Figure(
            between(large, 1), f"100 MB model, 4 x 100 MB down and up: median of {large_rounds} rounds after the first"
        ),
        "cold_start_s": Figure(
            first(small), f"1 KB model: from starting the coordinator to the end of round 1; median of {repeats}", "≤ 5"
        ),
    }
    if peer:
        figures |= {
            "flower_fixed_cost_s": Figure(
                between(their_small, 1), f"Flower, the same over TLS: median of {repeats} x 5 rounds"
            ),
            "flower_round_100mb_s": Figure(
                between(their_large, 1), "Flower, 100 MB: median of 3 rounds after the first"
            ),
            "flower_cold_start_s": Figure(first(their_small), f"Flower, the same; median of {repeats}"),
        }
        for name in ("fixed_cost", "round_100mb", "cold_start"):
            ratio = figures[f"flower_{name}_s"].value / figures[f"{name}_s"].value
            figures[f"flower_over_lycia_{name}"] = Figure(ratio, "their seconds over ours, in this run")
    tell(
        "round_overhead",
        asked,
        figures,
        notes=[str(__doc__).strip()],
        peers={"flower": peer.version} if peer else {},
        skipped=[] if peer else ["flower"],
    )


def rounds_of(home: Path, floats: int, rounds: int) -> list[float]:
    """When each round of a new federation ended, in seconds since its coordinator was started."""
    file = app_file(home, floats, rounds)
    began_s = time.time()
    with Federation(home, file) as federation:
        for name in NODES:
            federation.add_node(name, name)
        run = start_run(federation.client, constant_app(floats, rounds))
        follow(federation.client, run, ())
        return ended_in_order(federation.client.get(f"/v1/runs/{run}"), rounds, began_s)


def app_file(home: Path, floats: int, rounds: int) -> Path:
    """A file with the app of constants, in a new folder."""
    home.mkdir(parents=True)
    file = home / "app.py"
    file.write_text(_APP.format(bench=str(BENCH), floats=floats, rounds=rounds))
    return file


def ended_in_order(facts: Mapping[str, Any], rounds: int, began_s: float) -> list[float]:
    """When each round ended, in seconds since `began_s`; ends the script, if a round did not go as it should."""
    ended = [record["ended_s"] - began_s for record in facts["records"]]
    if len(ended) != rounds or any(record["missed"] or record["dropped"] for record in facts["records"]):
        raise SystemExit(f"the run did not go as it should: {facts['state']}, {facts['reason']}.")
    return ended


def between(runs: Sequence[Sequence[float]], warm_up: int) -> float:
    """The median time from the end of one round to the end of the next, over several runs."""
    return float(np.median(np.concatenate([np.diff(ended)[warm_up - 1 :] for ended in runs])))


def first(runs: Sequence[Sequence[float]]) -> float:
    """The median time until the first round had ended."""
    return float(np.median([ended[0] for ended in runs]))


if __name__ == "__main__":
    main()

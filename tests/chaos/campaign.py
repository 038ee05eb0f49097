"""The long campaign: many seeds, and a line of JSON for each run.

    python -m tests.chaos.campaign --rules strict --runs 200
    python -m tests.chaos.campaign --rules default --runs 200 --from-seed 0 --lines campaign.jsonl
    python -m tests.chaos.campaign --rules strict --runs 1 --from-seed 17     one seed again, alone

A run that fails keeps its folder. `python bench/chaos.py` makes the page of figures.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.chaos.apps import Kind, cut_small
from tests.chaos.federation import Zygote
from tests.chaos.playing import play
from tests.chaos.script import script

Line = dict[str, Any]


def main() -> int:
    """0, if every run ended as it should."""
    asked = _arguments()
    lines = asked.lines.open("a", encoding="utf-8") if asked.lines else sys.stdout
    seeds = range(asked.from_seed, asked.from_seed + asked.runs)
    found = campaign(asked.rules, seeds, lambda line: print(json.dumps(line), file=lines, flush=True))
    good = sum(line["good"] for line in found)
    print(f"{good} of {len(found)} runs ended as they should", file=sys.stderr)
    return 0 if good == len(found) else 1


def campaign(rules: Kind, seeds: Sequence[int], told: Callable[[Line], None]) -> list[Line]:
    """A run for each seed; each is told when it has ended."""
    lines = []
    cut_small()
    with Zygote() as zygote:
        for seed in seeds:
            lines.append(_run(zygote, rules, seed))
            told(lines[-1])
    return lines


def _run(zygote: Zygote, rules: Kind, seed: int) -> Line:
    drawn, folder = script(rules, seed), Path(tempfile.mkdtemp(prefix=f"chaos-{rules}-{seed}-"))
    began_s = time.monotonic()
    line: Line = {"rules": rules, "seed": seed, "size": drawn.size, **drawn.told()}
    zygote.events.clear()
    try:
        outcome = play(zygote, drawn, folder)
    except Exception as error:  # noqa: BLE001  # the next seed is another matter
        (folder / "failure.txt").write_text(traceback.format_exc(), encoding="utf-8")
        events = "".join(f"{json.dumps(event)}\n" for event in zygote.events)
        (folder / "events.jsonl").write_text(events, encoding="utf-8")
        again = f"python -m tests.chaos.campaign --rules {rules} --runs 1 --from-seed {seed}"
        print(f"seed {seed} failed: {error}\n  kept in {folder}\n  again: {again}", file=sys.stderr, flush=True)
        wall_s = round(time.monotonic() - began_s, 2)
        return line | {"good": False, "failure": str(error), "folder": str(folder), "wall_s": wall_s}
    shutil.rmtree(folder)
    return line | {
        "good": True, "wall_s": round(outcome.wall_s, 2), "happened": dict(outcome.happened),
        "pauses": outcome.pauses, "missed": outcome.missed, "rounds": len(outcome.digests),
        "trainings": outcome.trainings.total(), "digest": outcome.digests[-1],
    }  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", choices=("strict", "default"), default="strict")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--from-seed", type=int, default=0)
    parser.add_argument("--lines", type=Path, help="where the lines go; default: standard output")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

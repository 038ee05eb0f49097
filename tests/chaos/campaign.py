"""The long campaign: many seeds, a line of JSON for each run, and a table in the end.

python -m tests.chaos.campaign --rules strict --runs 200
python -m tests.chaos.campaign --rules default --runs 200 --from-seed 0 --lines campaign.jsonl
python -m tests.chaos.campaign --rules strict --runs 1 --from-seed 17     one seed again, alone
python -m tests.chaos.campaign --page campaign.jsonl --page more.jsonl    bench/chaos.md, from such lines
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.chaos.federation import Zygote
from tests.chaos.playing import play
from tests.chaos.script import script


def main() -> int:
    """0, if every run ended as it should."""
    asked = _arguments()
    lines = asked.lines.open("a", encoding="utf-8") if asked.lines else sys.stdout
    failed = 0
    with Zygote() as zygote:
        for seed in range(asked.from_seed, asked.from_seed + asked.runs):
            line = _run(zygote, asked.rules, seed)
            failed += not line["good"]
            print(json.dumps(line), file=lines, flush=True)
    if asked.lines:
        lines.close()
    print(f"{asked.runs - failed} of {asked.runs} runs ended as they should", file=sys.stderr)
    return 1 if failed else 0


def _run(zygote: Zygote, rules: Any, seed: int) -> dict[str, Any]:
    drawn, folder = script(rules, seed), Path(tempfile.mkdtemp(prefix=f"chaos-{rules}-{seed}-"))
    began_s = time.monotonic()
    line: dict[str, Any] = {"rules": rules, "seed": seed, "size": drawn.size, **drawn.told()}
    try:
        outcome = play(zygote, drawn, folder)
    except Exception as error:  # noqa: BLE001  # the next seed is another matter
        (folder / "failure.txt").write_text(traceback.format_exc(), encoding="utf-8")
        (folder / "events.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in zygote.events), "utf-8")
        again = f"python -m tests.chaos.campaign --rules {rules} --runs 1 --from-seed {seed}"
        print(f"seed {seed} failed: {error}\n  kept in {folder}\n  again: {again}", file=sys.stderr, flush=True)
        wall_s = time.monotonic() - began_s
        return line | {"good": False, "failure": str(error), "folder": str(folder), "wall_s": round(wall_s, 2)}
    finally:
        zygote.events.clear()
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

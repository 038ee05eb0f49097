"""Federations of real processes under seeded trouble: how many end as they should, and what was done to them.

A coordinator and four or five nodes, over TLS, with SQLite that waits for the disk. A seed decides who is killed, at
which instant or at which write; which links are cut, also in the middle of a body, slowed or stalled; whose clock is
wrong; which calls come twice or late; and when the coordinator's disk is full.

strict: everybody in every round, nobody replaced, a deadline longer than any outage. Such a run is good if each round's
model is, bit for bit, the one of the run in which nothing happens, and no node trains again what it had finished.
default: the default rules. Such a run is good if it ends, and each round's model follows from its record: all updates
of its survivors are computed again, and combined again.

    python bench/chaos.py                           200 runs of each kind
    python bench/chaos.py --quick                   8 of each, and no page
    python bench/chaos.py --lines strict.jsonl …    the page of runs that `python -m tests.chaos.campaign` has held
"""

import argparse
import json
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from convention import BENCH, Figure, tell, wanted

sys.path.insert(0, str(BENCH.parent))

from tests.chaos.campaign import campaign
from tests.chaos.points import MOMENTS, POINTS

_RUNS = 200
_HOW = (
    "The runs were held by `python -m tests.chaos.campaign --rules strict --runs 200 --from-seed 0`, and the same with "
    "`--rules default`, both at once, at low priority, on a machine that others were using; each prints a line of JSON "
    "for each run. CI holds twelve seeds of each, and a run whose lives end at all the named points."
)


def main() -> int:
    """Hold the runs, and say what became of them; 0, if all are good."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--lines", type=Path, nargs="*", default=[])
    ours, others = parser.parse_known_args()
    asked = wanted(__doc__, others)
    if ours.lines:
        lines = [json.loads(line) for path in ours.lines for line in path.read_text(encoding="utf-8").splitlines()]
    else:
        seeds = range(8 if asked.quick else _RUNS)
        lines = [line for rules in ("strict", "default") for line in campaign(rules, seeds, _say)]
    what = str(__doc__).partition("\n\n    ")[0].strip()
    tell("chaos", asked, figures(lines), notes=[what, _HOW, *failures(lines)])
    return 0 if all(line["good"] for line in lines) else 1


def figures(lines: list[dict[str, Any]]) -> dict[str, Figure]:
    """The page's rows."""
    happened: Counter[str] = Counter()
    for line in lines:
        happened.update(line.get("happened", {}))
    points = {key: count for key, count in happened.items() if key.startswith(MOMENTS)}

    def times(*beginnings: str) -> float:
        return float(sum(count for key, count in happened.items() if key.startswith(beginnings)))

    rows: dict[str, Figure] = {}
    for rules in ("strict", "default"):
        of_kind = [line for line in lines if line["rules"] == rules]
        if of_kind:
            good = float(sum(line["good"] for line in of_kind))
            rows[f"{rules}_runs_good"] = Figure(good, f"of so many runs with {rules} rules", f"{len(of_kind)}")
    return {
        **rows,
        "kills_at_an_instant": Figure(times("kill"), "SIGKILLs of coordinators, nodes, agents and trainers"),
        "kills_at_a_point": Figure(float(sum(points.values())), "SIGKILLs before or after a named step or write"),
        "points_reached": Figure(float(len(points)), "different points and moments of these", f"{2 * len(POINTS)}"),
        "links_cut": Figure(times("cut"), "connections reset or ended, most in the middle of a body"),
        "links_slowed": Figure(times("stall", "slow"), "links stalled, or slowed to 0.5 MB/s with a delay"),
        "calls_repeated": Figure(times("repeated"), "calls made twice, or again after a later one"),
        "disks_full": Figure(times("full disk"), "times that the coordinator's disk was full for a while"),
        "rounds_missed": Figure(float(sum(line.get("missed", 0) for line in lines)), "attempts that missed a quorum"),
        "rounds_closed": Figure(float(sum(line.get("rounds", 0) for line in lines)), "models made, each of them held"),
        "run_median_s": Figure(statistics.median(line["wall_s"] for line in lines), "a run with its processes' starts"),
    }  # fmt: skip


def failures(lines: list[dict[str, Any]]) -> list[str]:
    """A paragraph about the runs that were not good, if there are any."""
    bad = [f"{line['rules']} {line['seed']}: {line['failure']}" for line in lines if not line["good"]]
    return [f"Not good: {'; '.join(bad)}."] if bad else []


def _say(line: dict[str, Any]) -> None:
    print(json.dumps(line), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""`write_report`: a run's page, its facts and its metrics as files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lycia.reports.facts import RunFacts
from lycia.reports.figures import metric_lines
from lycia.reports.pages import page
from lycia.storage.disk import in_words, make_folder, replace_file


def write_report(facts: RunFacts | Mapping[str, Any], folder: Path) -> Path:
    """Write `report.html`, `report.json` (all facts) and `metrics.jsonl` into `folder`; returns where the page is.

    Each is written in one step, and takes the place of an earlier one.

    Raises: StorageError, if `facts` are no run's, or the folder cannot be written to.
    """
    run = facts if isinstance(facts, RunFacts) else RunFacts.of(facts)
    lines = "".join(f"{json.dumps(line)}\n" for line in metric_lines(run))
    with in_words(folder):
        make_folder(folder, fsync=False)
    for name, text in (("report.json", run.to_json()), ("metrics.jsonl", lines), ("report.html", page(run))):
        replace_file(folder / name, text.encode(), fsync=False)
    return folder / "report.html"

"""`write_report`: a run's page, its facts and its metrics as files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lycia.errors import StorageError
from lycia.reports.facts import RunFacts
from lycia.reports.figures import metric_lines
from lycia.reports.pages import page


def write_report(facts: RunFacts | Mapping[str, Any], folder: Path) -> Path:
    """Write `report.html`, `report.json` (all facts) and `metrics.jsonl` into `folder`; returns where the page is.

    Each is written in one step, and takes the place of an earlier one.

    Raises: StorageError, if `facts` are no run's, or the folder cannot be written to.
    """
    run = facts if isinstance(facts, RunFacts) else RunFacts.of(facts)
    lines = "".join(f"{json.dumps(line)}\n" for line in metric_lines(run))
    for name, text in (("report.json", run.to_json()), ("metrics.jsonl", lines), ("report.html", page(run))):
        _put(folder / name, text)
    return folder / "report.html"


def _put(path: Path, text: str) -> None:
    half_written = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half_written.write_bytes(text.encode())
        half_written.replace(path)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror or error}.",
            why="the system refused to write there; an earlier report, if there was one, is as it was.",
            do="check the folder, its permissions and the room on its disk, or write the report elsewhere.",
        ) from error

"""What a node has finished and not delivered yet, written down before it is sent: nothing is worked out twice."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lycia.storage.disk import in_words, make_folder, replace_file


@dataclass(frozen=True)
class Finished:
    """Work that is done.

    Attributes:
      ask: what was asked, as it came.
      said: what came of it, as the trainer said it; an update names its file.
    """

    ask: Mapping[str, Any]
    said: Mapping[str, Any]


class NodeJournal:
    """A folder with a file for each task that is finished and not delivered.

    Guarantees: what `finished` wrote is there after a kill at any instant, whole, until `delivered` removes it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with in_words(folder):
            make_folder(folder, fsync=True)
            for half_written in folder.glob("*.part"):
                half_written.unlink(missing_ok=True)

    def finished(self, run: str, task: int, work: Finished) -> None:
        """Write it down."""
        text = json.dumps({"ask": work.ask, "said": work.said})
        replace_file(self._path(run, task), text.encode(), fsync=True)

    def find(self, run: str, task: int) -> Finished | None:
        """What came of a task; None if it is not finished, or was delivered."""
        return _read(self._path(run, task))

    def delivered(self, run: str, task: int) -> None:
        """The other side has it, or does not want it: nothing needs to be kept of it."""
        path = self._path(run, task)
        with in_words(path):
            path.unlink(missing_ok=True)

    def undelivered(self) -> Iterator[Finished]:
        """All that is to be delivered, the oldest first."""
        with in_words(self._folder):
            paths = sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        for path in paths:
            found = _read(path)
            if found is not None:
                yield found

    def _path(self, run: str, task: int) -> Path:
        return self._folder / f"{run}-{task}.json"


def _read(path: Path) -> Finished | None:
    with in_words(path):
        content = path.read_bytes() if path.exists() else b""
    try:
        found = Finished(**json.loads(content))
        return found if isinstance(found.ask, dict) and isinstance(found.said["update"], str) else None
    except (ValueError, TypeError, LookupError, RecursionError):  # damaged since: as if it had never been finished
        return None

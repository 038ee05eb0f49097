"""The two stores, for the tests that hold for both."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storage.material import DatabasePlace, FolderPlace, Place


@pytest.fixture(params=[FolderPlace, DatabasePlace], ids=["folder", "database"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Somewhere to keep a run."""
    found = request.param(tmp_path / "run")
    yield found
    found.stop()

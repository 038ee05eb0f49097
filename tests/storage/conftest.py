"""The stores, and the databases that one of them may stand on, for the tests that hold for all."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lycia.storage.database import Database
from tests.postgres import Cluster
from tests.storage.material import DatabasePlace, FolderPlace, Place, in_a_file


@pytest.fixture(params=["sqlite", "postgres"])
def url_of(request: pytest.FixtureRequest) -> Callable[[Path], str]:
    """Folder → the URL of its database; a test that asks for this holds on both kinds."""
    return in_a_file if request.param == "sqlite" else on(request.getfixturevalue("postgres"))


@pytest.fixture
def url(url_of: Callable[[Path], str], tmp_path: Path) -> str:
    """The URL of a database with nothing in it."""
    return url_of(tmp_path)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """A database that was just made."""
    database = Database(url)
    yield database
    database.close()


@pytest.fixture(params=["folder", "sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Somewhere to keep a run."""
    if request.param == "folder":
        found: Place = FolderPlace(tmp_path / "run")
    elif request.param == "sqlite":
        found = DatabasePlace(tmp_path / "run")
    else:
        found = DatabasePlace(tmp_path / "run", on(request.getfixturevalue("postgres")))
    yield found
    found.stop()


def on(server: Cluster) -> Callable[[Path], str]:
    """Folder → the URL of a database of its own on the server."""
    known: dict[Path, str] = {}
    return lambda path: known.setdefault(path, "") or known.update({path: server.fresh()}) or known[path]

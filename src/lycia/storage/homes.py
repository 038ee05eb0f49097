"""What lies in a coordinator's folder, and which database belongs to it."""

from pathlib import Path

from lycia.errors import NotFound, StorageError
from lycia.storage.dialects import dialect_of
from lycia.storage.disk import in_words, replace_file
from lycia.storage.sqlite import sqlite_url

DATABASE, BLOBS, SPOOL, OUTGOING = "lycia.db", "blobs", "spool", "outgoing"
CERTIFICATE, CERTIFICATE_KEY, OPERATOR_KEY, SESSION_SECRET = (
    "certificate.pem", "certificate.key", "operator.pem", "session.secret",
)  # fmt: skip
KEYS = (CERTIFICATE, CERTIFICATE_KEY, OPERATOR_KEY, SESSION_SECRET)
"""What a coordinator is known by, and its operator. Made once, and never changed."""
RESTORING = "restoring"
"""Lies in a folder while a backup is being put into it."""
_ELSEWHERE = "database"  # holds the URL of the database, without its password, if it is not in the folder


def database_of(home: Path, given: str = "") -> str:
    """The URL of the database that belongs to the folder; `given` is what a user said of it, "" for nothing.

    Raises: StorageError, if the folder belongs to another database, or a restore into it was not finished.
    """
    check_whole(home)
    with in_words(home):
        noted = (home / _ELSEWHERE).read_text(encoding="utf-8").strip() if (home / _ELSEWHERE).exists() else ""
    own = sqlite_url(home / DATABASE)
    told = dialect_of(given).told if given else ""
    found = noted or (own if (home / DATABASE).exists() else "")
    if told and found and told != found:
        raise StorageError(
            f"the folder {home} does not belong to the database {told}.",
            why=f"its runs are kept in {found}; with another database they would seem to be lost.",
            do="give that one; or move the state with `lycia backup` and `lycia restore --database`. If the database "
            f"itself has moved to another address, write that into {home / _ELSEWHERE}.",
        )
    return given or noted or own


def note_database(home: Path, url: str) -> None:
    """Write down in the folder that this database belongs to it, if it does not lie there.

    Raises: StorageError, if the disk is full or fails.
    """
    told = dialect_of(url).told
    if told != sqlite_url(home / DATABASE):
        replace_file(home / _ELSEWHERE, f"{told}\n".encode(), fsync=True)


def check_whole(home: Path) -> None:
    """Do nothing, unless a restore into the folder was begun and not finished.

    Raises: StorageError.
    """
    if (home / RESTORING).exists():
        raise StorageError(
            f"the folder {home} is not whole: a restore into it was not finished.",
            why="what it holds is part of a backup; a coordinator would go on from the wrong place.",
            do=f"run the same `lycia restore … --home {home}` again, which begins anew.",
        )


def check_is_home(home: Path) -> None:
    """Do nothing if a coordinator has served from the folder.

    Raises: NotFound.
    """
    if not any((home / name).exists() for name in (DATABASE, _ELSEWHERE, RESTORING)):
        raise NotFound(
            f"there is no coordinator's state in {home}.",
            why="no coordinator has ever served from this folder.",
            do="name its folder with --home.",
        )

"""What arrives by parts, as the coordinator's database knows it. Each function works inside a `write` or a `read`.

A part is noted here after it is on the disk and before its sender is told, so a sender goes on from what stands here.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import delete, insert, select

from lycia.storage import parts
from lycia.storage.database import Connection
from lycia.storage.spool import upload_id
from lycia.storage.tables import PARTS, UPLOADS

_DIGEST_LENGTH = 64


@dataclass(frozen=True)
class Upload:
    """A file that one sender has announced, for one task of a run.

    Attributes:
      run, task: "" and -1 for what belongs to no run yet.
      parts: the digest of each part.
    """

    run: str
    task: int
    node: str
    size_bytes: int
    parts: tuple[str, ...]

    @property
    def digest(self) -> str:
        """The digest of the whole file."""
        return parts.digest_of(self.size_bytes, self.parts)

    @property
    def id(self) -> str:
        """What names this upload, and the file in the spool."""
        return upload_id(self.run, self.task, self.node, self.digest)


def announce(connection: Connection, upload: Upload) -> tuple[frozenset[int], list[str]]:
    """Expect this upload; returns the parts that are here already, and the uploads in whose place it comes.

    A sender has one upload for a task: one of other bytes takes the place of what came before.
    """
    same = (UPLOADS.c.run == upload.run) & (UPLOADS.c.task == upload.task) & (UPLOADS.c.node == upload.node)
    known = list(connection.scalars(select(UPLOADS.c.id).where(same)))
    replaced = [id for id in known if id != upload.id]
    if replaced:
        forget(connection, replaced)
    if upload.id in known:
        return arrived(connection, upload.id), replaced
    connection.execute(
        insert(UPLOADS).values(
            id=upload.id, run=upload.run, task=upload.task, node=upload.node, size_bytes=upload.size_bytes,
            parts="".join(upload.parts),
        )
    )  # fmt: skip
    return frozenset(), replaced


def get_upload(connection: Connection, id: str) -> tuple[Upload, frozenset[int]] | None:
    """An upload, and which of its parts are here; None if nobody has announced it."""
    row = connection.execute(select(UPLOADS).where(UPLOADS.c.id == id)).one_or_none()
    if row is None:
        return None
    digests = tuple(row.parts[at : at + _DIGEST_LENGTH] for at in range(0, len(row.parts), _DIGEST_LENGTH))
    return Upload(row.run, row.task, row.node, row.size_bytes, digests), arrived(connection, id)


def arrived(connection: Connection, id: str) -> frozenset[int]:
    """Which parts of an upload are here."""
    return frozenset(connection.scalars(select(PARTS.c.number).where(PARTS.c.upload == id)))


def note_part(connection: Connection, id: str, number: int) -> None:
    """A part is on the disk. Noting it again changes nothing; neither does noting it after the upload was forgotten."""
    is_known = connection.scalar(select(UPLOADS.c.id).where(UPLOADS.c.id == id)) is not None
    if is_known and number not in arrived(connection, id):
        connection.execute(insert(PARTS).values(upload=id, number=number))


def uploads_of_run(connection: Connection, run: str, tasks: Collection[int] | None = None) -> list[str]:
    """The uploads for a run; for some of its tasks only, if they are given."""
    chosen = select(UPLOADS.c.id).where(UPLOADS.c.run == run)
    return list(connection.scalars(chosen if tasks is None else chosen.where(UPLOADS.c.task.in_(tasks))))


def all_uploads(connection: Connection) -> list[tuple[str, str]]:
    """(upload, run) of everything that has been announced."""
    return [(row.id, row.run) for row in connection.execute(select(UPLOADS.c.id, UPLOADS.c.run))]


def forget(connection: Connection, ids: Collection[str]) -> None:
    """Do not expect these any more."""
    connection.execute(delete(PARTS).where(PARTS.c.upload.in_(ids)))
    connection.execute(delete(UPLOADS).where(UPLOADS.c.id.in_(ids)))

"""The updates that an open round has heard, as another process left them: are they still what was accepted?"""

from collections.abc import Sequence
from pathlib import Path

from lycia.core import tensorfile
from lycia.core.events import Closed, Event, Heard
from lycia.errors import StorageError, TensorFileError
from lycia.storage import parts
from lycia.storage.blobs import mapped
from lycia.storage.spool import upload_id


def heard_updates(events: Sequence[Event]) -> list[tuple[Heard, str, str]]:
    """(event, node, handle) of each update that the round's close will read; none once its model is made."""
    if any(isinstance(event, Closed) for event in events):
        return []
    heard = (event for event in events if isinstance(event, Heard))
    return [
        (event, node, handle)
        for event in heard
        for node, handle in zip(event.nodes, event.handles, strict=True)
        if handle
    ]


def check_heard(spool: Path, run: str, event: Heard, node: str, handle: str) -> None:
    """Do nothing if an update, or the sum that it is part of, is as it was accepted: its name follows from its bytes.

    Raises: StorageError, if it is gone or has changed.
    """
    content = mapped(spool / handle)
    if content is None:
        raise _damaged(node, handle, "is gone", spool)
    try:
        tensorfile.read(content)
    except TensorFileError as error:
        raise _damaged(node, handle, f"has changed: {error.what}", spool) from error
    is_sum = event.handles.count(handle) > 1
    digest = parts.digest_of(content.nbytes, parts.digests(content))
    if handle != (digest if is_sum else upload_id(run, event.task, node, digest)):
        raise _damaged(node, handle, "has changed", spool)


def check_all_heard(spool: Path, run: str, events: Sequence[Event]) -> None:
    """As `check_heard`, for all that the open round of these events has heard.

    Raises: StorageError.
    """
    checked: set[str] = set()
    for event, node, handle in heard_updates(events):
        if handle not in checked:
            check_heard(spool, run, event, node, handle)
            checked.add(handle)


def _damaged(node: str, handle: str, how: str, spool: Path) -> StorageError:
    return StorageError(
        f"the update {handle[:12]}… of {node!r} {how}.",
        why="it was sound when its node was told that it counts; a model made of it would be a wrong one.",
        do=f"restore {spool / handle} from a copy and resume the run; or stop it and start another from its model.",
    )

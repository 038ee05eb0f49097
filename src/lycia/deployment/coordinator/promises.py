"""Room on disks that was promised to rounds: what comes later must find it still there."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from lycia.storage.disk import disk_of, free_bytes, no_room


@dataclass(frozen=True)
class _Promise:
    """Disk → bytes; what has arrived on the disk `spool` is not free any more, and need not be counted twice."""

    disks: Counter[int]
    spool: int
    arrived_bytes: Callable[[], int]

    def outstanding(self, disk: int) -> int:
        arrived = self.arrived_bytes() if disk == self.spool else 0
        return max(self.disks[disk] - arrived, 0)


class Promises:
    """What the runs of one coordinator have been promised, a round each."""

    def __init__(self, free: Callable[[Path], int] = free_bytes) -> None:
        self._free = free
        self._promised: dict[str, _Promise] = {}

    def promise(self, run: str, needs: Iterable[tuple[Path, int]], arrived_bytes: Callable[[], int]) -> None:
        """Promise a run so many bytes in each folder, in place of what it was promised before.

        Args:
          needs: the first folder is the one that updates arrive in.
          arrived_bytes: how many of them have arrived since.
        Raises: StorageError, if a disk has too little room for it beside what others were promised.
        """
        self.end(run)
        places = [(folder, disk_of(folder), size_bytes) for folder, size_bytes in needs]
        wanted: Counter[int] = Counter()
        for _, disk, size_bytes in places:
            wanted[disk] += size_bytes
        for folder, disk, _ in places:
            free = self._free(folder) - sum(other.outstanding(disk) for other in self._promised.values())
            if free < wanted[disk]:
                raise no_room(folder, wanted[disk], max(free, 0), "the next round")
        self._promised[run] = _Promise(wanted, places[0][1], arrived_bytes)

    def end(self, run: str) -> None:
        """The run is not held any more, or its round is over."""
        self._promised.pop(run, None)

"""Commands in a process that kills itself at its n-th sync to the disk. One life for each line of input: N, command.

Each life is a fork of a process that has imported everything.
"""

import json
import os
import signal
import sys
from itertools import count

from lycia import cli
from lycia.storage import backup, packs, restoring

IMPORTED = (backup, packs, restoring)


def live(last: int, arguments: list[str]) -> None:
    """Run a command, up to its sync number `last`."""
    real, numbers = os.fsync, count()

    def fsync(descriptor: int) -> None:
        if next(numbers) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        real(descriptor)

    os.fsync = fsync
    sys.argv = ["lycia", *arguments]
    os.dup2(2, 1)  # the line that tells how it ended is the only one
    cli.main()


def main() -> None:
    """Says of each life "killed", or its exit status."""
    for line in sys.stdin:
        last, *arguments = json.loads(line)
        child = os.fork()
        if not child:
            status = 1
            try:
                live(last, arguments)
            except SystemExit as ended:
                status = int(ended.code or 0)
            finally:
                os._exit(status)
        _, ended = os.waitpid(child, 0)
        os.write(1, f"{'killed' if os.WIFSIGNALED(ended) else os.WEXITSTATUS(ended)}\n".encode())


if __name__ == "__main__":
    main()

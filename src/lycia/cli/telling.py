"""What commands tell people, programs and the shell that called them."""

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lycia.errors import AppError, LyciaError

out, err = Console(highlight=False), Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """A line of JSON on standard output."""
    sys.stdout.write(f"{json.dumps(value)}\n")
    sys.stdout.flush()


def table_of(*columns: str) -> Table:
    """A plain table with these columns."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def fail(error: LyciaError, status: int) -> NoReturn:
    """Tell an error in three lines, or as JSON, and leave."""
    if "--json" in sys.argv:
        print_json({"error": {"kind": type(error).__name__, "what": error.what, "why": error.why, "do": error.do}})
    else:
        told = f"{escape(error.what)}\n  why: {escape(error.why)}\n  do:  {escape(error.do)}"
        err.print(f"[bold red]error[/]: {told}", soft_wrap=True)
    sys.exit(status)


@contextmanager
def interrupted(what: str, do: str) -> Iterator[None]:
    """Tell whoever interrupts what is going on, and how to go on with it."""
    try:
        yield
    except KeyboardInterrupt:
        fail(LyciaError(f"interrupted; {what}.", why="a Ctrl-C, or a signal, ended this command.", do=do), 130)


def again_in(folder: Path) -> str:
    """This very command, going on in `folder`."""
    rest = sys.argv[1:] if "--directory" in sys.argv else [*sys.argv[1:], "--directory", str(folder)]
    return f"go on with: {shlex.join(['lycia', *rest])}"


def need(extra: str, *packages: str) -> None:
    """Do nothing if these packages are here.

    Raises: AppError, which names the extra that brings them.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise AppError(
            f"this command needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed.",
            why=f"the base install is small; what this needs comes with the extra {extra!r}.",
            do=f"pip install 'lycia[{extra}]'",
        )

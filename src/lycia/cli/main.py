"""The commands in the order in which `lycia --help` lists them, and what becomes of their errors."""

import typer

from lycia.cli.here import data, demo, simulate
from lycia.cli.members import invite, join, nodes, revoke, serve
from lycia.cli.reaching import connections
from lycia.cli.runs import dashboard, model, pause, report, resume, rollback, runs, start, stop, watch
from lycia.cli.telling import fail
from lycia.cli.upkeep import backup, restore, scrub
from lycia.errors import LyciaError

app = typer.Typer(
    name="lycia",
    help="Federated learning: train one model over data that cannot move.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    demo, simulate, data, serve, invite, join, nodes, revoke, start, runs, watch, pause, resume, stop, rollback,
    dashboard, model, report, scrub, backup, restore,
):  # fmt: skip
    app.command()(command)


def main() -> None:
    """The entry point: errors of ours, and of files, are told in three lines, not as tracebacks."""
    try:
        with connections:
            app()
    except LyciaError as error:
        fail(error, 1)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        told = LyciaError(
            f"{place}{error.strerror or error}.",
            why="the system refused to read or write there.",
            do="check the path, its permissions, and the room on its disk.",
        )
        fail(told, 1)
    except Exception as error:  # the app's own code may raise anything
        from lycia.runtime.apps import own_failure

        told_of_app = own_failure(error)
        if told_of_app is None:  # it is ours, and its traceback is needed
            raise
        fail(told_of_app, 1)

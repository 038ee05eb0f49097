"""What commands work on: coordinators, runs on them, runs in a folder, and where their figures go."""

import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lycia import config
from lycia.cli.telling import err, interrupted, out
from lycia.errors import NotFound

if TYPE_CHECKING:
    from lycia.deployment.node.client import Client
    from lycia.observers import Tracker

connections = ExitStack()  # closed when the command is done
UNFINISHED = {"paused": 3, "stopped": 4}  # the exit status of a command whose run ends so


def operator(home: Path | None, on: str | None) -> "Client":
    """A connection to the coordinator, as its operator."""
    from lycia.deployment.operator import OperatorAccess

    client = OperatorAccess.at(home or config.coordinator_home(), on).client(
        lambda text: err.print(text, markup=False, soft_wrap=True)
    )
    connections.callback(client.close)
    return client


def patient_operator(home: Path | None, on: str | None, note: Callable[[str], None]) -> "Client":
    """As `operator`; once the coordinator has been reached, it is waited for however long it is away."""
    from lycia.deployment.identity import Identity
    from lycia.deployment.node.client import Client
    from lycia.deployment.operator import OperatorAccess

    access = OperatorAccess.at(home or config.coordinator_home(), on)
    with closing(access.client(note)) as first:
        first.get("/v1/runs")
    client = Client(
        access.url, access.certificate, access.name, Identity.at(Path(access.key)), give_up_s=None, note=note
    )
    connections.callback(client.close)
    return client


def checked(kind: Any, **values: Any) -> Any:
    """The message with these values, or an error in our words."""
    from pydantic import ValidationError

    from lycia.deployment.wire import first_complaint
    from lycia.errors import AccessError

    try:
        return kind(**values)
    except ValidationError as error:
        raise AccessError(
            f"that cannot be asked of a coordinator: {first_complaint(error)}.",
            why="a node's name is at most 63 letters, digits, dots, dashes and underlines, a letter or digit first; "
            "a URL is https:// with a host and, if need be, a port.",
            do="correct the value.",
        ) from None


def host_and_port(text: str) -> tuple[str, int]:
    """An address to listen on.

    Raises: AccessError, if it is none.
    Example:
      >>> host_and_port("127.0.0.1:9464"), host_and_port("[::1]:9464")
      (('127.0.0.1', 9464), ('::1', 9464))
    """
    from lycia.errors import AccessError

    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise AccessError(
            f"{text!r} is no address to listen on.",
            why="it takes a host and a port, as in 127.0.0.1:9464.",
            do="correct it.",
        )
    return host.removeprefix("[").removesuffix("]"), int(port)


def leave_as(state: str) -> None:
    """Go on if the run has finished, and leave with its exit status if it has not."""
    if state in UNFINISHED:
        sys.exit(UNFINISHED[state])


def follow_run(
    run: str, home: Path | None, on: str | None, observe: list[str] | None, per_node: bool, as_json: bool
) -> None:
    """Watch a run to its end, or to its pause; leaves with the exit status that belongs to it."""
    from lycia.deployment.operator import follow, run_door
    from lycia.terminal import FactLines, RunProgress

    again = interrupted("the run goes on without a watcher", f"lycia watch {run}")
    with again, RunProgress(err if as_json else out, watches=True) as progress:
        trackers = trackers_of(observe, per_node, progress.say)
        client = patient_operator(home, on, progress.say)
        if trackers:
            facts = client.get(run_door(run))
            run = facts["id"]
            for tracker in trackers:
                tracker.describe({**facts, "records": []})  # its rounds are told as they are followed
        state = follow(client, run, [FactLines() if as_json else progress, *trackers])
    leave_as(state)


def trackers_of(observe: list[str] | None, per_node: bool, warn: Callable[[str], None]) -> "list[Tracker]":
    """The observers that were asked for with --observe."""
    from lycia.observers import observer_of

    trackers = [observer_of(text, per_node=per_node) for text in observe or ()]
    for tracker in trackers:
        tracker.warn = warn
    return trackers


def simulated_folder(run: str) -> Path | None:
    """The folder of a simulated run: named by path, id, a beginning of it, or 'latest' where no coordinator is."""
    if (Path(run) / "run.json").exists():
        return Path(run)
    folders = [path for path in config.simulated_runs().glob("*") if (path / "run.json").exists()]
    if run == "latest":
        is_served = (config.coordinator_home() / "operator.json").exists()
        return None if is_served else max(folders, key=lambda path: path.stat().st_mtime, default=None)
    matches = [path for path in folders if path.name == run] or [path for path in folders if path.name.startswith(run)]
    if len(matches) > 1:
        raise NotFound(
            f"{run!r} may be {', '.join(sorted(path.name for path in matches)[:5])}.",
            why="a run is named by its id, or by a beginning of it that no other run has.",
            do="give more of the id.",
        )
    return matches[0] if matches else None


def report_into(facts: Any, folder: Path) -> Path:
    """Write the report of a run into a folder; returns the page."""
    from lycia.reports import write_report

    return write_report(facts, folder)


def summary_of(facts: Any, report_path: Path) -> dict[str, Any]:
    """A run in figures, for --json."""
    from lycia.reports import RunFacts

    return {**RunFacts.of(facts).summary(), "report": str(report_path)}

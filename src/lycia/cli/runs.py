"""Commands about runs: start, watch, steer, and take home what came of them."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from lycia.cli.options import AppFile, AsJson, Home, Observe, On, PerNode, RunName
from lycia.cli.reaching import follow_run, operator, report_into, simulated_folder, summary_of, trackers_of
from lycia.cli.telling import err, out, print_json, table_of

if TYPE_CHECKING:
    from pydantic import BaseModel


def start(
    app_file: AppFile,
    start_from: Annotated[
        Path | None, typer.Option("--from", help="A checkpoint to start from.", show_default=False)
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Instead of the plan's.", show_default=False)] = None,
    follow: Annotated[bool, typer.Option("--watch", help="Watch the run until it ends.")] = False,
    observe: Observe = None,
    per_node: PerNode = False,
    home: Home = None,
    on: On = None,
    as_json: AsJson = False,
) -> None:
    """Start a run of an app on the coordinator's nodes."""
    from dataclasses import replace

    from lycia.deployment.starting import start_run
    from lycia.runtime.apps import load_app

    loaded = load_app(app_file)
    trackers_of(observe, per_node, err.print)  # refused, if at all, before anything starts
    follow = follow or bool(observe)
    if rounds is not None:
        loaded = replace(loaded, plan=replace(loaded.plan, rounds=rounds))
    client = operator(home, on)
    run = start_run(client, loaded, start_from)
    if as_json and not follow:
        return print_json({"run": run})
    if not as_json:
        out.print(f"started [bold]{run}[/]")
        there = sum(node["there"] and node["role"] == "node" for node in client.get("/v1/nodes")["nodes"])
        if there < loaded.plan.rules.least_nodes:
            out.print(f"it waits for nodes: {there} of {loaded.plan.rules.least_nodes} are there")
    return follow_run(run, home, on, observe, per_node, as_json) if follow else None


def runs(home: Home = None, on: On = None, as_json: AsJson = False) -> None:
    """List the coordinator's runs, the newest first."""
    said = operator(home, on).get("/v1/runs")
    if as_json:
        return print_json(said)
    table = table_of("run", "app", "state", "started", "why")
    # An id that is broken over two lines cannot be copied.
    table.columns[0].no_wrap = all(len(run["id"]) <= out.width // 2 for run in said["runs"])
    for run in said["runs"]:
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(run["created_s"]))
        table.add_row(run["id"], escape(run["app"]), run["state"], started, escape(run["reason"]))
    return out.print(table)


def watch(
    run: RunName, observe: Observe = None, per_node: PerNode = False, home: Home = None, on: On = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Watch a run until it ends; the exit status is 3 if it pauses, 4 if it is stopped. --json: one line an event."""
    follow_run(run, home, on, observe, per_node, as_json)


def pause(run: RunName, home: Home = None, on: On = None, as_json: AsJson = False) -> None:
    """Let a run stand still, in the middle of its round, until it is resumed."""
    _turn(run, "pause", home, on, as_json)


def resume(run: RunName, home: Home = None, on: On = None, as_json: AsJson = False) -> None:
    """Go on with a run that is paused, where it was: nobody who was heard is asked again."""
    _turn(run, "resume", home, on, as_json)


def stop(run: RunName, home: Home = None, on: On = None, as_json: AsJson = False) -> None:
    """End a run for good. The models and the report of its rounds stay."""
    _turn(run, "stop", home, on, as_json)


def rollback(
    run: RunName,
    round_number: Annotated[
        int, typer.Argument(metavar="ROUND", min=0, help="After so many rounds; 0 is before the first.")
    ],
    home: Home = None,
    on: On = None,
    as_json: AsJson = False,
) -> None:
    """Put a run back to what it was after ROUND rounds, and pause it there. What came after is kept as undone."""
    from lycia.deployment.wire import RollbackMessage

    _turn(run, "rollback", home, on, as_json, RollbackMessage(round=round_number))


def _turn(
    run: str, how: str, home: Path | None, on: str | None, as_json: bool, message: "BaseModel | None" = None
) -> None:
    from lycia.deployment.operator import run_door

    said = operator(home, on).post(run_door(run, how), message)
    if as_json:
        print_json(said)
    else:
        told = f"{said['run']} is {said['state']}{said['reason'] and ': ' + said['reason']}"
        out.print(told, markup=False, soft_wrap=True)


def dashboard(
    browser: Annotated[bool, typer.Option(help="Open it in this machine's browser.")] = True,
    home: Home = None,
    on: On = None,
    as_json: AsJson = False,
) -> None:
    """Look at the federation in a browser. The address is good for one use within a minute; then it is forgotten."""
    import webbrowser

    from lycia.deployment.operator import dashboard_url

    url, pin = dashboard_url(operator(home, on))
    if as_json:
        return print_json({"url": url, "certificate_sha256": pin})
    is_open = browser and webbrowser.open(url)
    told = "opened in the browser" if is_open else f"open this within a minute:\n{url}"
    return out.print(
        f"{told}\nThe browser will not know the certificate, which the coordinator made itself; it is the right one if "
        f"its SHA-256 fingerprint is\n{pin}",
        markup=False,
        soft_wrap=True,
    )


def model(
    run: RunName,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write the safetensors file.")],
    round_number: Annotated[
        int | None,
        typer.Option("--round", min=0, help="After so many rounds; 0 is the first model.", show_default=False),
    ] = None,
    home: Home = None,
    on: On = None,
    as_json: AsJson = False,
) -> None:
    """Take a run's model: a safetensors file, which `lycia.load_model` puts back into an estimator."""
    from lycia.deployment.operator import download_model

    folder = simulated_folder(run) if home is None and on is None else None
    if folder is not None:
        from lycia.storage.run_folder import model_file

        output.write_bytes(b"".join(model_file(folder, round_number)))
    else:
        download_model(operator(home, on), run, output, round_number)
    if as_json:
        print_json({"model": str(output), "bytes": output.stat().st_size})
    else:
        out.print(f"wrote {output} ({output.stat().st_size} bytes)", markup=False, soft_wrap=True)


def report(
    run: RunName,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The folder to write into.  [default: RUN-report]", show_default=False),
    ] = None,
    home: Home = None,
    on: On = None,
    as_json: AsJson = False,
) -> None:
    """Write what happened in a run: an HTML page that works offline, the same as JSON, and metrics as JSON lines."""
    from lycia.deployment.operator import run_door

    folder = simulated_folder(run) if home is None and on is None else None
    if folder is not None:
        from lycia.storage.run_folder import read_facts

        facts = read_facts(folder)
    else:
        facts = operator(home, on).get(run_door(run))
    written = report_into(facts, output or Path.cwd() / f"{facts['id']}-report")
    if as_json:
        print_json(summary_of(facts, written))
    else:
        out.print(f"report: {written}", markup=False, soft_wrap=True)

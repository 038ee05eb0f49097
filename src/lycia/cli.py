"""The command line. Each command is a few lines over a room that does the work, imported when it is called."""

import json
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from urllib.parse import quote

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lycia import config
from lycia.errors import AppError, LyciaError, NotFound

if TYPE_CHECKING:
    from lycia.deployment.node.client import Client

app = typer.Typer(
    name="lycia",
    help="Federated learning: train one model over data that cannot move.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out, err = Console(highlight=False), Console(stderr=True, highlight=False)
_connections = ExitStack()  # closed when the command is done

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]
Home = Annotated[
    Path | None,
    typer.Option("--home", help="The coordinator's folder.  [default: $LYCIA_HOME/coordinator]", show_default=False),
]
On = Annotated[str | None, typer.Option("--on", help="The coordinator's URL, where the operator knows several.")]
RunName = Annotated[str, typer.Argument(help="A run's id, an unmistakable beginning of it, or 'latest'.")]
AppFile = Annotated[Path, typer.Argument(help="A Python file that defines `app = App(…)`.")]


def main() -> None:
    """The entry point: errors of ours, and of files, are told in three lines, not as tracebacks."""
    try:
        with _connections:
            app()
    except LyciaError as error:
        _fail(error, 1)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        told = LyciaError(
            f"{place}{error.strerror or error}.",
            why="the system refused to read or write there.",
            do="check the path, its permissions, and the room on its disk.",
        )
        _fail(told, 1)


# ----------------------------------------------------------------------------------------------- try it on this machine


@app.command()
def demo(
    nodes: Annotated[int, typer.Option(min=2, max=16, help="How many node processes.")] = 4,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="How many rounds.  [default: as the demo's plan says]", show_default=False)
    ] = None,
    kill: Annotated[bool, typer.Option(help="Kill one node half-way, and restart it.")] = True,
    directory: Annotated[
        Path | None, typer.Option(help="Where to keep everything.  [default: a new folder]", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a whole federation on this machine: a coordinator and node processes over TLS, on real digits."""
    _need("demo", "uvicorn", "starlette", "sqlalchemy", "sklearn")
    from lycia.demo import run_demo

    if directory is not None and (directory / "coordinator").exists():
        raise AppError(
            f"there is a demo in {directory} already.",
            why="its nodes are enrolled there, and a demo begins with a federation of its own.",
            do="give another folder, or leave --directory out.",
        )
    outcome = run_demo(nodes=nodes, rounds=rounds, kill=kill, directory=directory, console=err if as_json else out)
    if as_json:
        _print_json(outcome)


@app.command()
def simulate(
    app_file: AppFile,
    rounds: Annotated[int | None, typer.Option(min=1, help="Instead of the plan's.", show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the plan's.", show_default=False)] = None,
    dropout: Annotated[float, typer.Option(min=0, max=1, help="The chance that an asked node vanishes.")] = 0.0,
    stragglers: Annotated[
        float, typer.Option(min=0, max=1, help="The share of nodes that are ten times slower.")
    ] = 0.0,
    spread: Annotated[float, typer.Option(min=0, help="How uneven the nodes' speeds are; 0 for all alike.")] = 0.0,
    directory: Annotated[
        Path | None,
        typer.Option(
            help="Where to keep the run; one that is there is resumed.  [default: a new folder]", show_default=False
        ),
    ] = None,
    start_from: Annotated[
        Path | None, typer.Option("--from", help="A checkpoint to start from.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train an app over its simulated population, in this process."""
    from lycia.runtime.apps import load_app, run_name
    from lycia.runtime.beginning import run_id
    from lycia.simulation import Faults, Pace
    from lycia.simulation import simulate as simulate_app
    from lycia.terminal import RunProgress

    loaded = load_app(app_file)
    folder = directory or config.simulated_runs() / run_id(run_name(loaded.name))
    faults, pace = Faults(dropout=dropout, stragglers=stragglers), Pace(spread=spread)
    kept = _interrupted(f"the run is kept in {folder}", _again(folder))
    with kept, RunProgress(err if as_json else out) as progress:
        result = simulate_app(
            loaded, directory=folder, rounds=rounds, seed=seed, faults=faults, pace=pace, start=start_from,
            observers=(progress,),
        )  # fmt: skip
    report = _write_report(result.facts, folder)
    result.save(folder / "model.safetensors")
    if as_json:
        _print_json(_summary(result.facts, report) | {"model": str(folder / "model.safetensors")})
    else:
        out.print(f"report: {report}\nmodel:  {folder / 'model.safetensors'}", markup=False, soft_wrap=True)


# ---------------------------------------------------------------------------------------------------------- coordinator


@app.command()
def serve(
    home: Home = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = config.DEFAULT_PORT,
    url: Annotated[str, typer.Option(help="How nodes reach it, if not by host and port.")] = "",
    silence: Annotated[
        float,
        typer.Option(
            min=3, help="Seconds without a sign of life, of which nodes give one every two, until one is lost."
        ),
    ] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Run a coordinator. Its certificate and the operator's key are made on first use."""
    _need("server", "uvicorn", "starlette", "sqlalchemy")
    from lycia.deployment.coordinator.server import Settings
    from lycia.deployment.coordinator.server import serve as serve_coordinator
    from lycia.deployment.wire import InviteMessage

    folder = home or config.coordinator_home()

    def ready(reached: str) -> None:
        if as_json:
            _print_json({"url": reached, "home": str(folder)})
        else:
            told = f"serving at [bold]{reached}[/], kept in {escape(str(folder))}; Ctrl-C ends it"
            out.print(f"{told}\ninvite nodes with: lycia invite NAME", soft_wrap=True)

    reached_by = _checked(InviteMessage, name="anybody", url=url or None).url or ""
    serve_coordinator(Settings(folder, host, port, reached_by.rstrip("/"), silence), ready)


@app.command()
def invite(
    name: Annotated[str, typer.Argument(help="What the node is called.")],
    role: Annotated[str, typer.Option(help="node, evaluator or operator.")] = "node",
    days: Annotated[float, typer.Option(min=0.001, help="How long the invitation is good for.")] = 7.0,
    url: Annotated[
        str | None,
        typer.Option(help="How this node reaches the coordinator, if not by its own URL.", show_default=False),
    ] = None,
    home: Home = None,
    on: On = None,
    as_json: AsJson = False,
) -> None:
    """Make a one-time invitation for a node. It carries the coordinator's certificate pin: hand it over in private."""
    from lycia.deployment.wire import InviteMessage

    message = _checked(InviteMessage, name=name, role=role, valid_s=days * 86400, url=url)
    said = _operator(home, on).post("/v1/invitations", message)
    if as_json:
        _print_json(said)
    else:
        out.print(f"lycia join {said['invitation']} --app APP.py --data NAME", soft_wrap=True, markup=False)


@app.command()
def join(
    invitation: Annotated[str, typer.Argument(help="The line that `lycia invite` printed.")],
    app_file: Annotated[Path, typer.Option("--app", help="A Python file that defines `app = App(…)`.")],
    data: Annotated[str, typer.Option(help="A name in the app's population, FILE.py:FUNCTION, or FILE.npz.")],
    home: Annotated[
        Path | None, typer.Option(help="The node's folder.  [default: $LYCIA_HOME/nodes/NAME]", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Enrol this machine as a node, and serve until interrupted. Joining again with the same folder goes on."""
    from lycia.deployment.identity import Invitation
    from lycia.deployment.node.agent import join as join_federation
    from lycia.runtime.beginning import versions

    known = Invitation.from_text(invitation)

    def note(text: str) -> None:
        if as_json:
            _print_json({"node": known.name, "says": text})
        else:
            err.print(f"{known.name}: {text}", markup=False, soft_wrap=True)

    join_federation(known, app_file, data, home or config.node_home(known.name), versions(), note)


@app.command()
def nodes(home: Home = None, on: On = None, as_json: AsJson = False) -> None:
    """List the nodes that are enrolled."""
    said = _operator(home, on).get("/v1/nodes")
    if as_json:
        return _print_json(said)
    table = _table("name", "role", "state", "there", "examples", "key")
    for node in said["nodes"]:
        there = "" if node["role"] == "operator" else "yes" if node["there"] else "no"
        examples = "" if node["examples"] is None else f"{node['examples']:.0f}"
        table.add_row(node["name"], node["role"], node["state"], there, examples, node["public_key"][:16] + "…")
    return out.print(table)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The node.")], home: Home = None, on: On = None, as_json: AsJson = False
) -> None:
    """Let a node in no more, from its next call on."""
    _operator(home, on).post(f"/v1/nodes/{quote(name, safe='')}/revoke")
    if as_json:
        _print_json({"revoked": name})
    else:
        out.print(f"{name} is revoked: from now on its calls are refused", markup=False)


# ----------------------------------------------------------------------------------------------------------------- runs


@app.command()
def start(
    app_file: AppFile,
    start_from: Annotated[
        Path | None, typer.Option("--from", help="A checkpoint to start from.", show_default=False)
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Instead of the plan's.", show_default=False)] = None,
    follow: Annotated[bool, typer.Option("--watch", help="Watch the run until it ends.")] = False,
    home: Home = None,
    on: On = None,
    as_json: AsJson = False,
) -> None:
    """Start a run of an app on the coordinator's nodes."""
    from dataclasses import replace

    from lycia.deployment.starting import start_run
    from lycia.runtime.apps import load_app

    loaded = load_app(app_file)
    if rounds is not None:
        loaded = replace(loaded, plan=replace(loaded.plan, rounds=rounds))
    client = _operator(home, on)
    run = start_run(client, loaded, start_from)
    if as_json and not follow:
        return _print_json({"run": run})
    if not as_json:
        out.print(f"started [bold]{run}[/]")
        there = sum(node["there"] and node["role"] == "node" for node in client.get("/v1/nodes")["nodes"])
        if there < loaded.plan.rules.least_nodes:
            out.print(f"it waits for nodes: {there} of {loaded.plan.rules.least_nodes} are there")
    return _follow(client, run, as_json) if follow else None


@app.command()
def runs(home: Home = None, on: On = None, as_json: AsJson = False) -> None:
    """List the coordinator's runs, the newest first."""
    said = _operator(home, on).get("/v1/runs")
    if as_json:
        return _print_json(said)
    table = _table("run", "app", "state", "started", "why")
    for run in said["runs"]:
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(run["created_s"]))
        table.add_row(run["id"], escape(run["app"]), run["state"], started, escape(run["reason"]))
    return out.print(table)


@app.command()
def watch(run: RunName, home: Home = None, on: On = None, as_json: AsJson = False) -> None:
    """Watch a run until it ends. With --json, one line for each event."""
    _follow(_operator(home, on), run, as_json)


@app.command()
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
    from lycia.deployment.operator import run_door

    folder = _simulated(run) if home is None and on is None else None
    if folder is not None:
        from lycia.storage.run_folder import model_file

        output.write_bytes(b"".join(model_file(folder, round_number)))
    else:
        chosen = {} if round_number is None else {"round": str(round_number)}
        _operator(home, on).download_to(run_door(run, "model"), output, chosen)
    if as_json:
        _print_json({"model": str(output), "bytes": output.stat().st_size})
    else:
        out.print(f"wrote {output} ({output.stat().st_size} bytes)", markup=False, soft_wrap=True)


@app.command()
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

    folder = _simulated(run) if home is None and on is None else None
    if folder is not None:
        from lycia.storage.run_folder import read_facts

        facts = read_facts(folder)
    else:
        facts = _operator(home, on).get(run_door(run))
    written = _write_report(facts, output or Path.cwd() / f"{facts['id']}-report")
    if as_json:
        _print_json(_summary(facts, written))
    else:
        out.print(f"report: {written}", markup=False, soft_wrap=True)


# ------------------------------------------------------------------------------------------------------------ in common


def _operator(home: Path | None, on: str | None) -> "Client":
    from lycia.deployment.operator import OperatorAccess

    client = OperatorAccess.at(home or config.coordinator_home(), on).client(lambda text: err.print(text, markup=False))
    _connections.callback(client.close)
    return client


def _checked(kind: Any, **values: Any) -> Any:
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


def _follow(client: "Client", run: str, as_json: bool) -> None:
    from lycia.deployment.operator import follow
    from lycia.terminal import FactLines, RunProgress

    with _interrupted("the run goes on without a watcher", f"lycia watch {run}"), RunProgress(out) as progress:
        follow(client, run, [FactLines() if as_json else progress])


@contextmanager
def _interrupted(what: str, do: str) -> Iterator[None]:
    """Tell whoever interrupts what is going on, and how to go on with it."""
    try:
        yield
    except KeyboardInterrupt:
        _fail(LyciaError(f"interrupted; {what}.", why="a Ctrl-C, or a signal, ended this command.", do=do), 130)


def _again(folder: Path) -> str:
    """This very command, going on in `folder`."""
    rest = sys.argv[1:] if "--directory" in sys.argv else [*sys.argv[1:], "--directory", str(folder)]
    return f"go on with: {shlex.join(['lycia', *rest])}"


def _fail(error: LyciaError, status: int) -> NoReturn:
    if "--json" in sys.argv:
        _print_json({"error": {"kind": type(error).__name__, "what": error.what, "why": error.why, "do": error.do}})
    else:
        told = f"{escape(error.what)}\n  why: {escape(error.why)}\n  do:  {escape(error.do)}"
        err.print(f"[bold red]error[/]: {told}", soft_wrap=True)
    sys.exit(status)


def _need(extra: str, *packages: str) -> None:
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise AppError(
            f"this command needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed.",
            why=f"the base install is small; what this needs comes with the extra {extra!r}.",
            do=f"pip install 'lycia[{extra}]'",
        )


def _simulated(run: str) -> Path | None:
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


def _write_report(facts: Any, folder: Path) -> Path:
    from lycia.reports import write_report

    return write_report(facts, folder)


def _summary(facts: Any, report_path: Path) -> dict[str, Any]:
    from lycia.reports import RunFacts

    return {**RunFacts.of(facts).summary(), "report": str(report_path)}


def _print_json(value: Any) -> None:
    sys.stdout.write(f"{json.dumps(value)}\n")
    sys.stdout.flush()


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


if __name__ == "__main__":
    main()

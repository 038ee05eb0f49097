"""Commands that need no coordinator: try it, simulate, look at the data."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from lycia import config
from lycia.cli.options import AppFile, AsJson, Observe, PerNode
from lycia.cli.reaching import leave_as, report_into, summary_of, trackers_of
from lycia.cli.telling import again_in, err, interrupted, need, out, print_json, table_of
from lycia.errors import AppError


def demo(
    nodes: Annotated[
        int | None, typer.Option(min=2, max=16, help="How many node processes.  [default: 4]", show_default=False)
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="How many rounds.  [default: as the demo's plan says]", show_default=False)
    ] = None,
    hospitals: Annotated[
        bool, typer.Option("--hospitals", help="Patients of four real hospitals, not digits.")
    ] = False,
    kill: Annotated[bool, typer.Option(help="Kill one node half-way, and restart it.")] = True,
    directory: Annotated[
        Path | None, typer.Option(help="Where to keep everything.  [default: a new folder]", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a whole federation on this machine: a coordinator and node processes over TLS, on real data."""
    need("demo", "uvicorn", "starlette", "sqlalchemy", "alembic", "sklearn")
    from lycia.demo import digits_demo, hospitals_demo, run_demo

    if hospitals and nodes is not None:
        raise AppError(
            f"the demo cannot run with --hospitals and --nodes {nodes}.",
            why="there are four hospitals, each a node with its own patients.",
            do="leave --nodes out, or --hospitals.",
        )
    if directory is not None and (directory / "coordinator").exists():
        raise AppError(
            f"there is a demo in {directory} already.",
            why="its nodes are enrolled there, and a demo begins with a federation of its own.",
            do="give another folder, or leave --directory out.",
        )
    held = hospitals_demo(rounds) if hospitals else digits_demo(nodes or 4, rounds)
    outcome = run_demo(held, kill=kill, directory=directory, console=err if as_json else out)
    if as_json:
        print_json(outcome)


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
    observe: Observe = None,
    per_node: PerNode = False,
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
    kept = interrupted(f"the run is kept in {folder}", again_in(folder))
    with kept, RunProgress(err if as_json else out) as progress:
        trackers = trackers_of(observe, per_node, progress.say)
        result = simulate_app(
            loaded, directory=folder, rounds=rounds, seed=seed, faults=faults, pace=pace, start=start_from,
            observers=(progress, *trackers),
        )  # fmt: skip
    report = report_into(result.facts, folder)
    result.save(folder / "model.safetensors")
    if as_json:
        print_json(summary_of(result.facts, report) | {"model": str(folder / "model.safetensors")})
    else:
        out.print(f"report: {report}\nmodel:  {folder / 'model.safetensors'}", markup=False, soft_wrap=True)
    leave_as(result.state)


def data(
    app_file: AppFile,
    brought: Annotated[
        str | None,
        typer.Option("--data", help="What `join --data` would load, instead of the population.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Also draw it, on an HTML page.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show who holds what: every node's examples, by label."""
    from dataclasses import replace

    from lycia.data import check_data, load_node_data
    from lycia.reports.holdings import Holdings
    from lycia.runtime.apps import load_app

    loaded = load_app(app_file)
    if brought is not None:
        held = load_node_data(brought, loaded, lambda said: err.print(said, markup=False, soft_wrap=True))
        if loaded.schema is not None:
            check_data(loaded.schema, held)
        loaded = replace(loaded, population={brought: held})
    elif loaded.population is None:
        raise AppError(
            f"the app {loaded.name!r} has no population.",
            why="who holds what is shown of simulated nodes, or of the data that a node would bring.",
            do="check a node's data with --data DATA, or give the app a population.",
        )
    holdings = Holdings.of(loaded)
    page = holdings.save(output) if output is not None else None
    if as_json:
        return print_json(holdings.to_data() | {"page": str(page) if page else None})
    table = table_of("node", "examples", "held out", "labels")
    for row in holdings.rows():
        table.add_row(*map(escape, row))
    out.print(table)
    said = [*holdings.words(), *([f"page: {page}"] if page else [])]
    return out.print(*said, sep="\n", markup=False, soft_wrap=True)

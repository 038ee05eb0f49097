"""Commands about a coordinator and its members."""

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer
from rich.markup import escape

from lycia import config
from lycia.cli.options import AsJson, Home, Kept, LogFormat, On
from lycia.cli.reaching import checked, host_and_port, operator
from lycia.cli.telling import err, need, out, print_json, table_of

_DATA = "A table (CSV, TSV, Parquet), a folder, FILE.npz, FILE.py:FUNCTION, or a name in the app's population."


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
    database: Kept = None,
    grace: Annotated[float, typer.Option(min=0, help="Seconds for what is arriving, when it is told to stop.")] = 30.0,
    keep_rounds: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many of a run's newest rounds to keep, for `rollback` and `model`; the first and the best stay.  "
            "[default: all]",
            show_default=False,
        ),
    ] = None,
    node_rate: Annotated[
        float | None,
        typer.Option(
            min=0.001, help="Megabytes a second to and from each node.  [default: no cap]", show_default=False
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT where Prometheus finds /metrics, without TLS.  [default: nowhere]", show_default=False
        ),
    ] = None,
    log_format: LogFormat = None,
    as_json: AsJson = False,
) -> None:
    """Run a coordinator. Its certificate and the operator's key are made on first use."""
    need("server", "uvicorn", "starlette", "sqlalchemy", "alembic", *(["prometheus_client"] if metrics else []))
    from lycia.deployment.coordinator.server import Settings
    from lycia.deployment.coordinator.server import serve as serve_coordinator
    from lycia.deployment.wire import InviteMessage

    folder = home or config.coordinator_home()

    def ready(reached: str) -> None:
        if as_json:
            print_json({"url": reached, "home": str(folder)})
        else:
            told = f"serving at [bold]{reached}[/], kept in {escape(str(folder))}; Ctrl-C ends it"
            out.print(f"{told}\ninvite nodes with: lycia invite NAME", soft_wrap=True)

    reached_by = checked(InviteMessage, name="anybody", url=url or None).url or ""
    settings = Settings(
        folder, host, port, reached_by.rstrip("/"), silence, database or "", grace, keep_rounds,
        host_and_port(metrics) if metrics else None, log_format, node_rate,
    )  # fmt: skip
    serve_coordinator(settings, ready)


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

    message = checked(InviteMessage, name=name, role=role, valid_s=days * 86400, url=url)
    said = operator(home, on).post("/v1/invitations", message)
    if as_json:
        print_json(said)
    else:
        out.print(f"lycia join {said['invitation']} --app APP.py --data DATA", soft_wrap=True, markup=False)


def join(
    invitation: Annotated[str, typer.Argument(help="The line that `lycia invite` printed.")],
    app_file: Annotated[Path, typer.Option("--app", help="A Python file that defines `app = App(…)`.")],
    data: Annotated[str, typer.Option(help=_DATA)],
    home: Annotated[
        Path | None, typer.Option(help="The node's folder.  [default: $LYCIA_HOME/nodes/NAME]", show_default=False)
    ] = None,
    grace: Annotated[float, typer.Option(min=0, help="Seconds for what is in hand, when it is told to stop.")] = 60.0,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001, help="Megabytes a second of models and updates, at most.  [default: no cap]", show_default=False
        ),
    ] = None,
    log_format: LogFormat = None,
    as_json: AsJson = False,
) -> None:
    """Enrol this machine as a node, and serve until interrupted. Joining again with the same folder goes on."""
    import structlog

    from lycia.deployment.identity import Invitation
    from lycia.deployment.logs import format_for, write_logs
    from lycia.deployment.node.agent import join as join_federation
    from lycia.runtime.beginning import versions

    known, how = Invitation.from_text(invitation), format_for(log_format)
    write_logs(how)
    log = structlog.get_logger()

    def note(text: str) -> None:
        if as_json:
            print_json({"node": known.name, "says": text})
        elif how == "json":
            log.info(text, node=known.name)
        else:
            err.print(f"{known.name}: {text}", markup=False, soft_wrap=True)

    folder = home or config.node_home(known.name)
    join_federation(known, app_file, data, folder, versions(), note, grace, rate and rate * 1e6)


def nodes(home: Home = None, on: On = None, as_json: AsJson = False) -> None:
    """List the nodes that are enrolled."""
    said = operator(home, on).get("/v1/nodes")
    if as_json:
        return print_json(said)
    table = table_of("name", "role", "state", "there", "examples", "key")
    for node in said["nodes"]:
        there = "" if node["role"] == "operator" else "yes" if node["there"] else "no"
        examples = "" if node["examples"] is None else f"{node['examples']:.0f}"
        table.add_row(node["name"], node["role"], node["state"], there, examples, node["public_key"][:16] + "…")
    return out.print(table)


def revoke(
    name: Annotated[str, typer.Argument(help="The node.")], home: Home = None, on: On = None, as_json: AsJson = False
) -> None:
    """Let a node in no more, from its next call on."""
    operator(home, on).post(f"/v1/nodes/{quote(name, safe='')}/revoke")
    if as_json:
        print_json({"revoked": name})
    else:
        out.print(f"{name} is revoked: from now on its calls are refused", markup=False)

"""`lycia demo`: a whole federation on this machine, with everything real but the distance."""

import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lycia.core.plan import App
from lycia.demo_app import demo_app
from lycia.demo_hospitals import hospitals_app
from lycia.deployment.local import Federation
from lycia.deployment.operator import follow
from lycia.deployment.starting import start_run
from lycia.reports import RunFacts, write_report
from lycia.runtime.facts import Fact, RoundEnded
from lycia.runtime.ports import Observer
from lycia.terminal import RunProgress, readable_bytes

_SILENCE_S = 15.0  # longer than a killed node takes to come back on a busy machine


@dataclass(frozen=True)
class Demo:
    """What a demo is about.

    Attributes:
      app: what the operator starts.
      source: the Python file in which nodes find the same app.
      examples: what the nodes hold, in a word for people.
      remark: what is told after the figures.
    """

    app: App
    source: str
    examples: str
    remark: str = ""


def digits_demo(nodes: int = 4, rounds: int | None = None) -> Demo:
    """Handwritten digits, of which every node mostly sees a few.

    Raises: AppError, if there are fewer than two nodes.
    """
    app = demo_app(nodes=nodes) if rounds is None else demo_app(nodes=nodes, rounds=rounds)
    return Demo(app, f"from lycia.demo_app import demo_app\n\napp = demo_app(nodes={nodes})\n", "digits")


def hospitals_demo(rounds: int | None = None) -> Demo:
    """Patients of four real hospitals.

    Raises: DataError, if they are not here and cannot be fetched.
    """
    app = hospitals_app() if rounds is None else hospitals_app(rounds=rounds)
    for name in app.population:
        _ = app.population[name]  # what is missing is told before anything starts, and fetched once
    return Demo(
        app,
        "from lycia.demo_hospitals import hospitals_app\n\napp = hospitals_app()\n",
        "patients",
        "Nearly all patients of Switzerland have the disease: a model that always says so is hard to beat there.",
    )


def run_demo(demo: Demo, *, kill: bool, directory: Path | None, console: Console) -> dict[str, Any]:
    """Hold the demo; returns {"final": {"accuracy": …}, "rounds", "bytes_up", "bytes_down", "report", …}.

    Raises: LyciaError, if a process of it fails.
    """
    home = directory or Path(tempfile.mkdtemp(prefix="lycia-demo-"))
    home.mkdir(parents=True, exist_ok=True)
    app_file = home / "demo_app.py"
    app_file.write_text(demo.source, encoding="utf-8")
    app, nodes = demo.app, len(demo.app.population)
    names = list(app.population.names)
    console.print(f"Starting a coordinator and {nodes} node processes on this machine, over TLS …")
    began = time.monotonic()
    with Federation(home, app_file, ["--silence", str(_SILENCE_S)]) as federation:
        for name in names:
            federation.add_node(name, name)
        federation.wait_nodes(nodes)
        spent_s = time.monotonic() - began
        console.print(
            f"{nodes} nodes have joined {federation.url}, each with {demo.examples} of its own ({spent_s:.1f} s).",
            soft_wrap=True,
        )
        run = start_run(federation.client, app)
        watchers: list[Observer] = [RunProgress(console)]
        if kill:
            watchers.append(_Killer(federation, names[-1], app.plan.rounds // 2, console))
        follow(federation.client, run, watchers)
        raw = federation.client.get(f"/v1/runs/{run}")
    facts = RunFacts.of(raw)
    summary = facts.summary()
    report = write_report(raw, home / "report")
    _show(console, demo, facts, report)
    if directory is None:
        for folder in ("coordinator", "nodes"):
            shutil.rmtree(home / folder, ignore_errors=True)
    return {**summary, "report": str(report), "seconds": round(time.monotonic() - began, 2)}


class _Killer:
    """Kills one node half-way through, and starts it again."""

    def __init__(self, federation: Federation, name: str, after_round: int, console: Console) -> None:
        self._federation, self._name, self._after, self._console = federation, name, after_round, console
        self._done = False

    def notice(self, fact: Fact) -> None:
        """Strike when the round is done."""
        if self._done or not isinstance(fact, RoundEnded) or fact.record["round"] + 1 < self._after:
            return
        self._done = True
        self._federation.kill(self._name)
        self._console.print(f"[bold]{self._name}[/] is killed (SIGKILL) and started again; nothing else is touched.")
        self._federation.restart(self._name)


def _show(console: Console, demo: Demo, facts: RunFacts, report: Path) -> None:
    console.print(f"accuracy on each node's held-out {demo.examples}, trained alone and together:")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("node", "alone", "together"):
        table.add_column(column)
    for row in facts.benefits():
        table.add_row(row.node, _figure(row.alone), _figure(row.together))
    console.print(table)
    if demo.remark:
        console.print(demo.remark)
    summary: Mapping[str, Any] = facts.summary()
    console.print(
        f"accuracy [bold]{summary['final']['accuracy']:.4f}[/] after {summary['rounds']} rounds; "
        f"{readable_bytes(summary['bytes_up'])} went up and {readable_bytes(summary['bytes_down'])} down."
    )
    console.print(f"report: {report}", soft_wrap=True, markup=False)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"

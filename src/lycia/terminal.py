"""What a person sees in the terminal while a run goes on."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from lycia.runtime.facts import Fact, RoundEnded, RoundMoved, RunBegan, RunEnded, fact_to_json

_PREFERRED = ("accuracy", "r2", "loss")


class RunProgress:
    """An observer that draws a live line on a terminal, and prints a line a round elsewhere (logs, CI)."""

    def __init__(self, console: Console, metric: str = "") -> None:
        self._console, self._metric = console, metric
        self._up = self._down = 0
        self._bar = Progress(
            TextColumn("[bold]{task.fields[label]}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TextColumn("{task.fields[nodes]}"), TextColumn("{task.fields[figure]}"), TextColumn("{task.fields[bytes]}"),
            TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn(compact=True),
            console=console, transient=False, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("", label="round", nodes="", figure="", bytes="", total=None)

    def __enter__(self) -> "RunProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()  # also where nothing ends the run, so that the terminal has its cursor again

    def notice(self, fact: Fact) -> None:
        """Show it."""
        match fact:
            case RunBegan():
                self._metric = self._metric or fact.metric
                self._bar.update(self._task, total=fact.rounds, completed=fact.round)
                self._bar.start()
                rounds, nodes = counted(fact.rounds, "round"), counted(fact.population, "node")
                self._console.print(f"run [bold]{fact.run}[/]: {rounds}, {nodes}")
            case RoundMoved():
                self._bar.update(self._task, nodes=f"{fact.exchange} {fact.heard}/{fact.asked} nodes")
            case RoundEnded():
                self._show(fact.record)
            case RunEnded():
                self._bar.stop()
                self._console.print(Text.assemble((fact.state, "bold"), f": {fact.reason}"), soft_wrap=True)

    def _show(self, record: Mapping[str, Any]) -> None:
        self._up += record.get("bytes_up", 0)
        self._down += record.get("bytes_down", 0)
        number, figure = record["round"] + 1, figure_of(record, self._metric)
        traffic = f"↑ {readable_bytes(self._up)} ↓ {readable_bytes(self._down)}"
        if record["purpose"] == "train" and not record["missed"]:
            self._bar.update(self._task, completed=number)
        if figure:
            self._bar.update(self._task, figure=figure)
        self._bar.update(self._task, bytes=traffic)
        if not self._console.is_terminal or record["missed"]:
            self._console.print(round_line(record, figure, traffic), highlight=False, markup=False, soft_wrap=True)
        for trouble in troubles(record):
            # What a node says of itself is shown as it is: it may look like markup, and must not work as such.
            told = f"  round {number}: {trouble}"
            self._console.print(told, style="yellow", highlight=False, markup=False, soft_wrap=True)


class FactLines:
    """An observer that prints a line of JSON for everything that it is told."""

    def notice(self, fact: Fact) -> None:
        """Print it."""
        sys.stdout.write(f"{fact_to_json(fact)}\n")
        sys.stdout.flush()


def figure_of(record: Mapping[str, Any], metric: str = "") -> str:
    """The round's figure in a few characters: the metric asked for, or the first that people look for."""
    for scope in ("evaluate by evaluator", "evaluate"):
        pooled = record["evaluation"].get(scope, {}).get("pooled", {})
        for name in (metric, *_PREFERRED, *sorted(pooled)):
            if name in pooled:
                return f"{name} {pooled[name]:.4f}"
    return ""


def round_line(record: Mapping[str, Any], figure: str, traffic: str) -> str:
    """A round on one line."""
    name = "local-only baseline" if record["purpose"] == "epilogue" else f"round {record['round'] + 1:>3}"
    if record["missed"]:
        return f"{name}: missed, {record['missed']}"
    measured = sum(len(scope["nodes"]) for scope in record["evaluation"].values())
    heard = len(record["survivors"]) if record["purpose"] == "train" else measured
    parts = (name, f"{counted(heard, 'node')} heard", figure, traffic, f"{record['wall_s']:.2f} s")
    return "  ".join(part for part in parts if part)


def troubles(record: Mapping[str, Any]) -> Sequence[str]:
    """One line for each node that did not count in a round, and why."""
    return [
        *(f"{drop['node']} {drop['kind']}: {drop['reason']}" for drop in record["dropped"]),
        *(f"{late['node']} late: {late['reason']}" for late in record["late"]),
    ]


def counted(count: int, thing: str) -> str:
    """So many of a thing, in words.

    Example:
      >>> counted(1, "node"), counted(2, "node")
      ('1 node', '2 nodes')
    """
    return f"{count} {thing}{'' if count == 1 else 's'}"


def readable_bytes(count: float) -> str:
    """A number of bytes as people say it.

    Example:
      >>> readable_bytes(1_234_000)
      '1.2 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")

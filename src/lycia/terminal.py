"""What a person sees in the terminal while a run goes on."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from lycia.runtime.facts import Fact, RoundEnded, RoundMoved, RunBegan, RunEnded, fact_to_json

_PREFERRED = ("accuracy", "r2", "loss")
_EXCHANGES = {"evaluate by evaluator": "evaluator"}  # so that the line fits into 80 columns
_WIDE = 110  # columns for a line that also says how many bytes have travelled, and for how long it is watched
_MOST_PAST = 4  # rounds before the watcher came that are shown one by one
_MOST_TROUBLES = 8  # lines about nodes that did not count in a round
_LAST = 10  # rounds of which the time that is left is guessed


class RunProgress:
    """An observer that draws a live line on a terminal, and prints a line a round elsewhere (logs, CI)."""

    def __init__(self, console: Console, metric: str = "", *, watches: bool = False) -> None:
        """`watches`: it may come to a run under way: rounds until then are told in a few lines, others in one each."""
        self._console, self._metric, self._watches = console, metric, watches
        self._each_round = watches or not console.is_terminal
        self._up = self._down = 0
        self._rounds = 0
        self._took_s: list[float] = []
        self._past: list[Mapping[str, Any]] | None = None
        self._rests = False
        is_wide = console.width >= _WIDE
        columns: list[ProgressColumn] = [
            TextColumn("[bold]{task.fields[label]}"), BarColumn(bar_width=24 if is_wide else 8),
            MofNCompleteColumn(), TextColumn("{task.fields[nodes]}"), TextColumn("{task.fields[figure]}"),
            *([TextColumn("{task.fields[bytes]}"), TimeElapsedColumn()] if is_wide else []),
            TextColumn("{task.fields[eta]}"),
        ]  # fmt: skip
        self._bar = Progress(*columns, console=console, transient=False, disable=not console.is_terminal)
        self._task = self._bar.add_task("", label="round", nodes="", figure="", bytes="", eta="", total=None)

    def __enter__(self) -> "RunProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()  # also where nothing ends the run, so that the terminal has its cursor again

    def say(self, text: str) -> None:
        """Print a line about the watching itself, above the live one."""
        self._console.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)

    def notice(self, fact: Fact) -> None:
        """Show it."""
        if self._rests and isinstance(fact, RoundMoved | RoundEnded):
            self._rests = False
            self._bar.start()
            self._console.print("the run goes on")
        match fact:
            case RunBegan():
                self._metric, self._rounds = self._metric or fact.metric, fact.rounds
                self._past = [] if self._watches else None
                self._bar.update(self._task, total=fact.rounds, completed=fact.round)
                self._bar.start()
                rounds, nodes = counted(fact.rounds, "round"), counted(fact.population, "node")
                self._console.print(f"run [bold]{fact.run}[/]: {rounds}, {nodes}")
            case RoundMoved():
                self._show_past()
                exchange = _EXCHANGES.get(fact.exchange, fact.exchange)
                again = f", attempt {fact.attempt + 1}" if fact.attempt else ""
                self._bar.update(self._task, nodes=f"{exchange} {fact.heard} of {fact.asked}{again}")
            case RoundEnded() if self._past is not None:
                self._past.append(fact.record)
            case RoundEnded():
                self._show(fact.record, aloud=self._each_round)
            case RunEnded():
                self._show_past()
                self._bar.stop()
                self._rests = True
                self._console.print(Text.assemble((fact.state, "bold"), f": {fact.reason}"), soft_wrap=True)

    def _show_past(self) -> None:
        """The rounds that were over before anything was seen to move: briefly, if they are many."""
        past, self._past = self._past or [], None
        shown = past if len(past) <= _MOST_PAST + 1 else past[-_MOST_PAST:]
        before = past[: len(past) - len(shown)]
        for record in before:
            self._count(record)
        if before:
            self._console.print(_summary(before, self._metric), highlight=False, markup=False, soft_wrap=True)
        for record in shown:
            self._show(record, aloud=True)

    def _count(self, record: Mapping[str, Any]) -> tuple[str, str]:
        """Take a round into the sums; returns its figure and what has travelled so far."""
        self._up += record.get("bytes_up", 0)
        self._down += record.get("bytes_down", 0)
        self._took_s = [*self._took_s, record.get("wall_s", 0.0)][-_LAST:]
        figure, traffic = (
            figure_of(record, self._metric),
            f"↑ {readable_bytes(self._up)} ↓ {readable_bytes(self._down)}",
        )
        if record["purpose"] == "train" and not record["missed"]:
            number = record["round"] + 1
            left_s = median(self._took_s) * max(self._rounds - number, 0)
            self._bar.update(self._task, completed=number, eta=f"eta {_clock(left_s)}" if left_s else "")
        if figure:
            self._bar.update(self._task, figure=figure)
        self._bar.update(self._task, bytes=traffic)
        return figure, traffic

    def _show(self, record: Mapping[str, Any], *, aloud: bool) -> None:
        figure, traffic = self._count(record)
        if aloud or record["missed"]:
            self._console.print(round_line(record, figure, traffic), highlight=False, markup=False, soft_wrap=True)
        found = troubles(record)
        more = [f"and {len(found) - _MOST_TROUBLES} more"] if len(found) > _MOST_TROUBLES else []
        for trouble in (*found[:_MOST_TROUBLES], *more):
            # What a node says of itself is shown as it is: it may look like markup, and must not work as such.
            self.say(f"  round {record['round'] + 1}: {trouble}")


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
    asked = len(record.get("asked", {}).get("train", ()))
    nodes = f"{heard} of {counted(asked, 'node')}" if asked > heard else counted(heard, "node")
    late = f"{len(record['late'])} late" if record["late"] else ""
    parts = (name, f"{nodes} heard", late, figure, traffic, f"{record['wall_s']:.2f} s")
    return "  ".join(part for part in parts if part)


def troubles(record: Mapping[str, Any]) -> Sequence[str]:
    """One line for each node that did not count in a round, and why; the gravest first.

    Those who were late are named where the round missed its quorum. Elsewhere they are a number in the round's line:
    more nodes are asked than are needed, so in every healthy round some are late.
    """
    dropped = sorted(record["dropped"], key=lambda drop: drop["kind"] != "quarantined")
    return [
        *(f"{drop['node']} {drop['kind']}: {drop['reason']}" for drop in dropped),
        *(f"{late['node']} late: {late['reason']}" for late in record["late"] if record["missed"]),
    ]


def _summary(records: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Many rounds in one line: how far they came, and how often which kind of thing happened."""
    done = [record for record in records if not record["missed"]]
    first, last = records[0]["round"] + 1, records[-1]["round"] + 1
    figures = [figure for record in done if (figure := figure_of(record, metric))]
    figure = f"{figures[0]} → {figures[-1].split()[-1]}" if len(figures) > 1 else "".join(figures)
    found = Counter(drop["kind"] for record in records for drop in record["dropped"])
    found["late"] = sum(len(record["late"]) for record in records)
    happened = ", ".join(f"{times} {kind}" for kind, times in sorted(found.items()) if times)
    missed = f"{counted(len(records) - len(done), 'attempt')} missed" if len(done) < len(records) else ""
    return "  ".join(part for part in (f"rounds {first} to {last} are done", figure, happened, missed) if part)


def _clock(seconds: float) -> str:
    """Seconds as a clock shows them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


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

"""Write docs/reference.md from the program itself: every command, every setting, every variable of the environment.

    python docs/make_reference.py

A test makes the page anew and compares, so it cannot fall behind.
"""

import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any

import typer

import lycia
from lycia import cli, config
from lycia.data.datasets import DATASETS

PAGE = Path(__file__).with_name("reference.md")
GROUPS = {
    "The app": ("App", "Plan", "RoundRules", "Evaluation", "Stop", "Synchronous", "Buffered", "Normalisation"),
    "Who takes part": ("Everyone", "Uniform", "Poisson", "SizeWeighted"),
    "What is special on the node": ("FedAvg", "FedProx"),
    "How many updates become one": ("ExampleWeightedMean", "UniformMean"),
    "How the model moves": ("SGD", "Adagrad", "Adam", "Yogi"),
    "Trainers": ("NumpyTrainer", "SklearnTrainer", "TorchTrainer", "LightningTrainer"),
    "Local optimizers and schedules": ("LocalAdam", "CosineDecay", "LinearDecay", "StepDecay", "ExponentialDecay"),
    "Data": ("Schema", "Column", "Examples", "NodeData"),
    "Simulation": ("Faults", "Pace"),
}
ARGUMENTS = re.compile(r"^ {2}(?P<names>[a-z_0-9]+(?:, [a-z_0-9]+)*): (?P<text>.*(?:\n {4}.*)*)", re.M)


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The whole page."""
    parts = ["# Reference", "", *_commands(), *_environment(), *_settings(), *_datasets()]
    return "\n".join(parts).rstrip() + "\n"


def undescribed() -> list[str]:
    """Settings, options and variables that nobody has described."""
    settings = [
        f"{name}.{item.name}"
        for names in GROUPS.values()
        for name in names
        for item in fields(getattr(lycia, name))
        if item.init and item.name not in _meanings(getattr(lycia, name))
    ]
    options = [
        f"lycia {command.name} {option.name}"
        for command in _known_commands()
        for option in command.params
        if not getattr(option, "help", "")
    ]
    return settings + options


def unlisted() -> list[str]:
    """Names of the public face that are settings and stand in no group."""
    listed = {name for names in GROUPS.values() for name in names} | {"Holdings", "Key", "Result"}
    return [name for name in lycia.__all__ if is_dataclass(getattr(lycia, name)) and name not in listed]


def _commands() -> Iterator[str]:
    yield from ("## Commands", "", "Every command has `--help`.", "")
    for command in _known_commands():
        arguments = [item for item in command.params if item.param_type_name == "argument"]
        usage = " ".join(["lycia", command.name, *(_argument(item) for item in arguments), "[OPTIONS]"])
        yield from (f"### `{usage}`", "", " ".join((command.help or "").split()), "")
        yield from ("| option | default | meaning |", "|---|---|---|")
        for item in command.params:
            said = " ".join((item.help or "").split())
            default = re.search(r"\s*\[default: (.*)\]$", said)
            shown = "*required*" if item.required else default[1] if default else _shown(item.default)
            flags = ", ".join(f"`{flag}`" for flag in (*item.opts, *item.secondary_opts))
            named = f"`{_argument(item)}`" if item in arguments else flags
            yield f"| {named} | {_cell(shown)} | {_cell(said[: default.start()] if default else said)} |"
        yield ""


def _known_commands() -> list[Any]:
    return list(typer.main.get_command(cli.app).commands.values())  # type: ignore[attr-defined]


def _argument(item: Any) -> str:
    return item.name.upper().removesuffix("_FILE")


def _environment() -> Iterator[str]:
    yield from ("## Environment", "", "| variable | meaning |", "|---|---|")
    yield from (f"| `{name}` | {_cell(meaning)} |" for name, meaning in config.ENVIRONMENT.items())
    yield ""


def _settings() -> Iterator[str]:
    for heading, names in GROUPS.items():
        yield from (f"## {heading}", "")
        for name in names:
            kind = getattr(lycia, name)
            yield from (f"### `lycia.{name}`", "", _summary(kind), "")
            settings = [item for item in fields(kind) if item.init]
            if settings:
                yield from ("| setting | default | meaning |", "|---|---|---|")
                yield from (
                    f"| `{item.name}` | {_cell(_default(item))} | {_cell(_meanings(kind).get(item.name, ''))} |"
                    for item in settings
                )
                yield ""


def _datasets() -> Iterator[str]:
    yield from ("## Data sets", "", "In `lycia.data.datasets`; [data.md](data.md) says where they come from.", "")
    yield from ("| data set | loader | nodes | size | licence |", "|---|---|---|---|---|")
    for known in DATASETS.values():
        loaders = ", ".join(f"`{name}()`" for name in known.loaders)
        megabytes = f"{sum(file.size_bytes for file in known.files) / 1e6:.1f} MB" if known.files else "in scikit-learn"
        cells = (known.title, loaders, known.nodes or "–", megabytes, known.licence)
        yield f"| {' | '.join(map(_cell, cells))} |"
    yield ""


def _summary(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def _meanings(kind: type) -> dict[str, str]:
    """Setting → what its docstring, or that of a class it is made from, says of it."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        for entry in ARGUMENTS.finditer(inspect.cleandoc(base.__doc__ or "")):
            found.update(dict.fromkeys(entry["names"].split(", "), " ".join(entry["text"].split())))
    return found


def _default(item: Field[Any]) -> str:
    if item.default is not MISSING:
        return _shown(item.default) if item.default is not None else "none"
    return "none" if item.default_factory is not MISSING else "*required*"


def _shown(value: Any) -> str:
    if value is None or value is False or value == "":
        return ""
    return f"`{value}`" if isinstance(value, (str, Path)) else f"`{value!r}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()

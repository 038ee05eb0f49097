"""Options and arguments that several commands take."""

from pathlib import Path
from typing import Annotated, Literal

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]
Home = Annotated[
    Path | None,
    typer.Option("--home", help="The coordinator's folder.  [default: $LYCIA_HOME/coordinator]", show_default=False),
]
Kept = Annotated[
    str | None,
    typer.Option(
        "--database",
        help="The coordinator's database, such as postgresql://USER@HOST/NAME; best without the password, which is "
        "found in PGPASSWORD or ~/.pgpass.  [default: the one that was used before, or a SQLite file in its folder]",
        show_default=False,
    ),
]
On = Annotated[str | None, typer.Option("--on", help="The coordinator's URL, where the operator knows several.")]
LogFormat = Annotated[
    Literal["json", "text"] | None,
    typer.Option(help="How to write logs.  [default: text on a terminal, json elsewhere]", show_default=False),
]
RunName = Annotated[str, typer.Argument(help="A run's id, an unmistakable beginning of it, or 'latest'.")]
Observe = Annotated[
    list[str] | None,
    typer.Option(
        "--observe",
        help="Also write the run's figures to tensorboard:DIR, mlflow:URI or wandb:PROJECT; may be repeated.",
    ),
]
PerNode = Annotated[bool, typer.Option("--per-node", help="With --observe: each node's figures too, under its name.")]
AppFile = Annotated[Path, typer.Argument(help="A Python file that defines `app = App(…)`.")]

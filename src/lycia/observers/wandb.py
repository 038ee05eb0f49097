"""`WandB`: a run in Weights & Biases, offline unless you say otherwise."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from lycia.errors import AppError
from lycia.observers.tracking import Ending, Parameters, Series, Tracker

Mode = Literal["offline", "online", "shared", "disabled"]

# Nothing about the machine, its code, its packages or its terminal; only what we log.
_QUIET: Mapping[str, Any] = {
    "console": "off", "silent": True, "save_code": False, "disable_git": True, "disable_code": True,
    "x_disable_stats": True, "x_disable_meta": True, "x_disable_machine_info": True, "x_save_requirements": False,
}  # fmt: skip


class WandB(Tracker):
    """Writes a run to a W&B project; its name is by default the app's.

    The mode is `mode`, else the environment's WANDB_MODE, else offline: then all stays in `directory/wandb`, for
    `wandb sync` to send when you want it. Nothing is asked at the terminal. Online, the records' figures, the plan and
    the versions go to the server that W&B is set to use; names of nodes only with `per_node=True`.

    Raises: AppError, if wandb is not installed, or if the mode is none that it knows.
    """

    service = "Weights & Biases"

    def __init__(
        self, project: str | None = None, *, mode: Mode | None = None, directory: str | Path = ".",
        per_node: bool = False,
    ) -> None:  # fmt: skip
        super().__init__("wandb", per_node=per_node)
        chosen = mode or os.environ.get("WANDB_MODE") or "offline"
        if chosen not in ("offline", "online", "shared", "disabled"):
            raise AppError(
                f"there is no W&B mode {chosen!r}.",
                why="W&B works offline, online, shared or disabled.",
                do="leave `mode` out to write offline, or correct it, or the environment's WANDB_MODE.",
            )
        self._project, self._mode, self._directory = project, cast(Mode, chosen), Path(directory)

    def open(self, run: str, app: str, parameters: Parameters) -> Series:
        """The run under its own id: offline in a folder of its own, online as it was left."""
        if self._mode == "offline":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # which would call home when W&B itself fails
        import wandb

        if self._mode in ("online", "shared") and not wandb.login(prompt=False):
            raise AppError(
                "W&B is to be online, and knows no key.",
                why="what it is sent belongs to an account.",
                do="run `wandb login` once, or set WANDB_API_KEY; or use the mode 'offline'.",
            )
        self._directory.mkdir(parents=True, exist_ok=True)
        known = {name: value for name, value in _QUIET.items() if name in wandb.Settings.model_fields}
        opened = wandb.init(
            project=self._project or app, id=run, name=run, dir=str(self._directory), mode=self._mode,
            resume="allow", reinit="create_new", config=dict(parameters), settings=wandb.Settings(**known),
        )  # fmt: skip
        return _Logged(opened)


class _Logged:
    """One run of W&B. A step is a round; what an earlier process sent online is there up to the run's step."""

    def __init__(self, run: Any) -> None:
        self._run, self.there = run, run.step - 1 if run.resumed else 0

    def add(self, number: int, scalars: Mapping[str, float], at_s: float) -> None:
        """The round's numbers at the round's step."""
        self._run.log({**scalars, "_timestamp": at_s}, step=number)

    def conclude(self, ending: Ending) -> None:
        """The end and its figures in the run's summary."""
        self._run.summary.update(
            {**ending.figures, "state": ending.state, "reason": ending.reason, "rounds": ending.rounds}
        )
        self._run.finish(exit_code=int(ending.state == "failed"))

"""Finding the app in a file."""

import importlib.util
import re
import sys
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from traceback import walk_tb

from lycia.core.plan import App
from lycia.errors import AppError, LyciaError

_OWN_MODULES = ("lycia_app_", "lycia_data_")  # what files of users are called once they are imported


def run_name(app: str) -> str:
    """The app's name as its runs bear it, in paths and URLs: letters, digits, dots, dashes and underlines."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", app).strip("._-")[:60] or "app"


def load_app(path: Path) -> App:
    """The app that the Python file at `path` defines: its variable `app`, or the one App in it.

    Raises: AppError, if there is no such file, if it does not import, or if it has no app.
    """
    if not path.is_file():
        raise AppError(
            f"there is no app file {str(path)!r}.",
            why="an app is a Python file that defines `app = App(…)`.",
            do="check the path; `examples/` has some to begin with.",
        )
    # A name of its own for each file, so that two files called app.py do not meet; kept, so that pickling finds it.
    name = f"lycia_app_{sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise AppError(
            f"{str(path)!r} is not a Python file.",
            why="an app is a Python file that defines `app = App(…)`.",
            do="give it the ending .py.",
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except LyciaError:
        sys.modules.pop(name, None)
        raise
    except (Exception, SystemExit) as error:  # SystemExit: of a file that is a program
        sys.modules.pop(name, None)
        raise AppError(
            f"the app file {str(path)!r} does not import: {type(error).__name__}: {error}.",
            why="it is run once, as Python imports it, to find the app in it.",
            do=f"run `python {path}` to see the whole traceback, and mend it there.",
        ) from error
    finally:
        with suppress(ValueError):  # the file may have changed the path itself
            sys.path.remove(str(path.resolve().parent))
    apps = {key: value for key, value in vars(module).items() if isinstance(value, App)}
    if "app" in apps:
        return apps["app"]
    if len(apps) == 1:
        return next(iter(apps.values()))
    found = f"several apps: {', '.join(sorted(apps))}" if apps else "no app"
    if not apps and "app" in vars(module):
        found = f"an `app` that is a {type(module.app).__name__}, and no App"
    raise AppError(
        f"the app file {str(path)!r} has {found}.",
        why="one file stands for one app.",
        do="call it `app`: app = App(trainer=…, plan=…).",
    )


def own_failure(error: Exception) -> AppError | None:
    """What the code in an app's file or in a data file raised, with its line; None if that code had no part in it.

    The text of the exception is in it, and may quote the data: it is for the machine that has the data.
    """
    lines = [
        f"{frame.f_code.co_filename}, line {line}"
        for frame, line in walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).startswith(_OWN_MODULES)
    ]
    if not lines:
        return None
    return AppError(
        f"the app's own code failed with {type(error).__name__}: {error} ({lines[-1]}).",
        why="its model, its loss, and what loads its data are called while it trains, and may raise anything.",
        do="mend it there.",
    )

"""Every fenced block of the README and the docs runs as it stands, so that they stay true.

A page is run from top to bottom, in an empty folder of its own:

    python              executed; all blocks of a page share one namespace
    python file=app.py  saved under that name for the blocks after it, and executed
    python no-run       only compiled
    bash run            executed, and must succeed
    console run         the same, for the lines that begin with "$ "

Other blocks are left alone. A block keeps the lines that it has on its page, so errors name page and line.
"""

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<info>[^`\n]*)\n(?P<body>.*?)^ *(?P=fence)`* *$", re.M | re.S)
BASH_TIMEOUT_S = 300


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    options: frozenset[str]
    text: str


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run_page(page, tmp_path, monkeypatch)


def test_blocks_of_a_page_run_in_order_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = write_page(
        tmp_path,
        ("python file=app.py", "rounds = 3"),
        ("bash run", "cp app.py copy.py"),
        ("console run", "$ cp copy.py last.py\na line that it prints"),
        (
            "python",
            "from pathlib import Path\nassert rounds == 3\nassert Path('last.py').read_text() == 'rounds = 3\\n'",
        ),
        ("python no-run", "raise SystemExit"),
        ("bash", "exit 1"),
        ("text", "not code"),
    )
    run_page(page, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("info", "text"),
    [
        ("python", "assert 1 == 2"),
        ("python", "raise SystemExit"),
        ("python no-run", "assert 1 ="),
        ("bash run", "false\ntrue"),
        ("console run", "$ missing-command"),
    ],
)
def test_a_block_that_fails_is_named_by_page_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, info: str, text: str
):
    page = write_page(tmp_path, ("python", "fine = True"), (info, text))
    with pytest.raises((AssertionError, SyntaxError, SystemExit)) as failure:
        run_page(page, tmp_path, monkeypatch)
    assert failure.value.__notes__ == [f"in the block at {page}:7"]


def run_page(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    namespace = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", namespace)  # where dataclasses and pickle look for what a block defines
    for block in blocks(page):
        try:
            if block.language == "python":
                run_python(block, namespace)
            elif block.language in {"bash", "console"} and "run" in block.options:
                run_bash(block)
        except BaseException as error:
            error.add_note(f"in the block at {page}:{block.line}")
            raise


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in FENCED.finditer(text):
        language, *options = found["info"].split() or [""]
        line = text.count("\n", 0, found.start()) + 1
        yield Block(page, line, language, frozenset(options), textwrap.dedent(found["body"]))


def run_python(block: Block, namespace: ModuleType) -> None:
    for option in block.options:
        if option.startswith("file="):
            Path(option.removeprefix("file=")).write_text(block.text, encoding="utf-8")
    program = compile("\n" * block.line + block.text, block.page, "exec")
    if "no-run" not in block.options:
        exec(program, namespace.__dict__)


def run_bash(block: Block) -> None:
    script = block.text
    if block.language == "console":
        script = "\n".join(line[2:] if line.startswith("$ ") else "" for line in script.splitlines())
    done = subprocess.run(
        ["bash", "-e", "-c", "\n" * block.line + script, block.page.name],
        env={**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])},
        check=False,
        timeout=BASH_TIMEOUT_S,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout


def write_page(folder: Path, *fenced: tuple[str, str]) -> Path:
    page = folder / "page.md"
    page.write_text("# A page\n\n" + "\n".join(f"```{info}\n{text}\n```\n" for info, text in fenced), encoding="utf-8")
    return page

"""What lies in the tree works on any machine."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEPT_HIDDEN = {".ci", ".github", ".gitignore"}
LEFT_BY_TOOLS = {"__pycache__", "build", "dist", "venv"}
SOMEONES_MACHINE = re.compile(r"(?<![\w.~:/-])(?:/(?:home|Users|root|work|mnt/[a-z])/\w|[A-Za-z]:\\+Users\\)")


def test_no_file_names_a_path_of_someones_machine():
    named = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files(ROOT)
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1)
        if SOMEONES_MACHINE.search(line)
    ]
    assert named == []


@pytest.mark.parametrize("place", ["home", "Users", "root", "work"])
def test_a_path_of_someones_machine_is_recognised(place: str):
    assert SOMEONES_MACHINE.search(f'open("/{place}/ada/data.csv")')
    assert SOMEONES_MACHINE.search("C:" + r"\Users\ada")


@pytest.mark.parametrize("text", ["https://example.org/home/ada", "src/home/ada", "/tmp/run", "../home/ada"])
def test_other_paths_are_left_in_peace(text: str):
    assert not SOMEONES_MACHINE.search(text)


def files(folder: Path) -> Iterator[Path]:
    """All that belongs to the tree: not what tools left behind, nor what hides itself."""
    for path in sorted(folder.iterdir()):
        is_ours = path.name in KEPT_HIDDEN or not (path.name.startswith(".") or path.name in LEFT_BY_TOOLS)
        if is_ours and path.is_dir():
            yield from files(path)
        elif is_ours:
            yield path

"""What a user meets first: the names that `import lycia` gives, and a command line that starts at once."""

import subprocess
import sys
from pathlib import Path

import pytest

import lycia
from lycia.face import ROOMS

FACE = Path(__file__).with_name("public_face.txt")  # one name a line; a change here is a change that users notice
HEAVY = {
    "torch",
    "jax",
    "sklearn",
    "scipy",
    "xgboost",
    "pandas",
    "ray",
    "sqlalchemy",
    "alembic",
    "psycopg",
    "starlette",
    "uvicorn",
}


def test_the_public_face_is_the_one_that_was_agreed():
    assert sorted(lycia.__all__) == sorted(FACE.read_text(encoding="utf-8").split())


def test_a_name_is_taken_from_its_room_when_it_is_used():
    assert sorted(name for names in ROOMS.values() for name in names) == sorted(lycia.__all__)
    program = "import lycia, sys; light = 'numpy' not in sys.modules; lycia.App; print(light, 'numpy' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, encoding="utf-8").stdout
    assert said.split() == ["True", "True"]
    with pytest.raises(AttributeError, match="Apple"):
        lycia.Apple  # noqa: B018


def test_every_name_of_the_public_face_is_there():
    assert [name for name in lycia.__all__ if not hasattr(lycia, name)] == []


def test_the_command_line_starts_without_any_framework():
    listing = subprocess.run(
        [sys.executable, "-c", "import lycia.cli, sys; print(*sys.modules)"],
        check=False,
        capture_output=True,
        encoding="utf-8",
    )
    assert listing.returncode == 0, listing.stderr
    imported = set(listing.stdout.split())
    assert imported & HEAVY == set()

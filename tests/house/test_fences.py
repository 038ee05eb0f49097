"""Which room may import which: the contracts stand in pyproject.toml. That they hold, and that they bite."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_every_import_of_the_house_respects_the_fences():
    fences = lint_imports(ROOT / "src")
    assert fences.returncode == 0, fences.stdout


@pytest.mark.parametrize(
    ("contract", "importer", "imported"),
    [
        ("floors", "lycia.errors", "lycia.core.plan"),
        ("floors", "lycia.core.round", "lycia.aggregators.mean"),
        ("floors", "lycia.aggregators.mean", "lycia.selection"),
        ("floors", "lycia.privacy.noise", "lycia.algorithms.personal"),
        ("floors", "lycia.selection", "lycia.catalogue"),
        ("floors", "lycia.runtime.runner", "lycia.storage.database"),
        ("floors", "lycia.simulation.fleet", "lycia.deployment.wire"),
        ("floors", "lycia.reports.facts", "lycia.cli"),
        ("pure", "lycia.core.round", "time"),
        ("pure", "lycia.aggregators.robust", "threading"),
        ("pure", "lycia.selection", "random"),
        ("pure", "lycia.privacy.noise", "secrets"),
        ("pure", "lycia.errors", "logging"),
        ("coordinator", "lycia.deployment.coordinator.service", "lycia.trainers.sklearn"),
        ("coordinator", "lycia.deployment.coordinator.service", "lycia.data.partition"),
        ("coordinator", "lycia.deployment.coordinator.service", "lycia.core.work"),
        ("node", "lycia.deployment.node.agent", "lycia.deployment.coordinator.mailbox"),
        ("node", "lycia.deployment.node.agent", "lycia.runtime.runner"),
        ("node", "lycia.deployment.node.agent", "lycia.core.round"),
        ("frameworks", "lycia.trainers.torch", "sklearn"),
        ("frameworks", "lycia.core.plan", "torch"),
        ("frameworks", "lycia.simulation.fleet", "sqlalchemy"),
        ("frameworks", "lycia.deployment.coordinator.server", "alembic"),
        ("frameworks", "lycia.storage.database", "psycopg"),
    ],
)
def test_a_fence_refuses(tmp_path: Path, contract: str, importer: str, imported: str):
    build_house(tmp_path, importer, imported)
    fences = lint_imports(tmp_path, "--contract", contract)
    assert fences.returncode == 1
    assert f"{importer} -> {imported}" in fences.stdout


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("lycia.cli", "lycia.simulation.fleet"),
        ("lycia.simulation.fleet", "lycia.trainers.sklearn"),
        ("lycia.core.plan", "numpy.random"),
        ("lycia.trainers.sklearn", "sklearn.linear_model"),
        ("lycia.storage.database", "sqlalchemy.orm"),
        ("lycia.storage.postgres", "psycopg.errors"),
        ("lycia.deployment.coordinator.service", "lycia.runtime.runner"),
        ("lycia.deployment.node.agent", "lycia.core.work"),
    ],
)
def test_the_fences_let_pass(tmp_path: Path, importer: str, imported: str):
    build_house(tmp_path, importer, imported)
    fences = lint_imports(tmp_path)
    assert fences.returncode == 0, fences.stdout


def test_a_room_without_a_floor_is_refused(tmp_path: Path):
    build_house(tmp_path, "lycia.attic", "lycia.errors")
    fences = lint_imports(tmp_path, "--contract", "floors")
    assert fences.returncode == 1
    assert "lycia.attic" in fences.stdout


def build_house(place: Path, importer: str, imported: str) -> None:
    """A package `lycia` of no more than these two modules, of which the first imports the second."""
    for module in (imported, importer):
        *packages, name = module.split(".")
        if packages[:1] == ["lycia"]:
            folder = place.joinpath(*packages)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.py").touch()
    for package in (place / "lycia").glob("**/"):
        (package / "__init__.py").touch()
    place.joinpath(*importer.split(".")).with_suffix(".py").write_text(f"import {imported}\n", encoding="utf-8")


def lint_imports(source: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """import-linter's verdict over the package `lycia` that lies in `source`."""
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    contracts = str(ROOT / "pyproject.toml")
    return subprocess.run(
        [sys.executable, "-c", program, "--no-logo", "--no-cache", "--config", contracts, *options],
        cwd=source,
        env={**os.environ, "PYTHONPATH": str(source), "COLUMNS": "300", "PYTHONUTF8": "1"},
        check=False,
        capture_output=True,
        encoding="utf-8",
    )

"""A warm process for the tests of one worker."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import apps
from tests.chaos.federation import Zygote

if not hasattr(os, "fork"):
    collect_ignore = ["test_crash_points.py", "test_seeds.py", "test_tools.py"]  # their processes are forks of one


@pytest.fixture(scope="session")
def warm() -> Iterator[Zygote]:
    """One for all tests."""
    with Zygote() as zygote:
        yield zygote


@pytest.fixture
def zygote(warm: Zygote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Zygote]:
    """The same, with nothing said yet; what was said stays in the test's folder."""
    apps.cut_small(monkeypatch.setattr)
    warm.events.clear()
    yield warm
    lines = "".join(f"{json.dumps(event)}\n" for event in warm.events)
    (tmp_path / "events.jsonl").write_text(lines, encoding="utf-8")

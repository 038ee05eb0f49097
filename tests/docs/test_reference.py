"""The reference is made from the program: it is complete, and cannot fall behind."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from lycia import config

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_program_says(reference: ModuleType):
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), "run: python docs/make_reference.py"


def test_every_setting_and_every_option_is_described(reference: ModuleType):
    assert reference.undescribed() == []


def test_every_setting_of_the_public_face_is_on_the_page(reference: ModuleType):
    assert reference.unlisted() == []


def test_every_variable_that_is_read_is_on_the_page():
    read = {name for path in SOURCES for name in re.findall(r"\bLYCIA_[A-Z]+\b", path.read_text(encoding="utf-8"))}
    assert read == {name for name in config.ENVIRONMENT if name.startswith("LYCIA_")}
